import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import pytest

from cyclescan import NOTICE, records
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, sha256
from cyclescan.preprocessing import prepare, restore
from cyclescan.scans import volume
from data_prep import listing, scans
from data_prep.__main__ import main
from data_prep.build import build, shards
from data_prep.verify import verify
from tests.data_prep.scan_files import AFFINE, BROKEN, SHAPE, save, save_domain, save_domains, save_forms, voxels

ROOT = Path(__file__).parents[2]
SUBJECTS = ["01", "02", "03", "04", "05", "06"]
HEAD = sorted(Path(nilearn.__file__).parent.glob("datasets/data/mni_icbm152_t1_*.nii.gz"))[0]
HEAD_MASK = sorted(Path(nilearn.__file__).parent.glob("datasets/data/mni_icbm152_gm_*.nii.gz"))[0]
SERIES = Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz"


@pytest.fixture(autouse=True)
def key_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path / "keys" / "key"))


@pytest.fixture
def domains(tmp_path):
    """Six subjects, each with both domains."""
    return save_domains(tmp_path, SUBJECTS)


def command(a, b, out, *more):
    arguments = ["build", "--a", f"ciss={a}", "--b", f"dess={b}", "--out", str(out), "--workers", "1", *more]
    return main([str(argument) for argument in arguments])


def every_record(out):
    return {
        path.relative_to(out).as_posix(): list(records.read_shard(path))
        for path in sorted(Path(out).rglob("*.tfrecord"))
    }


def test_the_data_set_is_what_the_contract_says(domains, tmp_path):
    out = tmp_path / "records"
    info = build(*domains, out, split=(3, 1, 2), seed=4, workers=1)
    assert info == read_json(out / "dataset.json")
    keys = "axes cyclescan_version disjoint domains failed notice request schema_version seed shape shards spacing_mm"
    assert sorted(info) == [*keys.split(), "split_by", "splits"]
    assert (info["axes"], info["shape"], info["failed"]) == (["R", "S", "A"], None, [])
    assert (info["seed"], info["disjoint"], info["notice"]) == (4, False, NOTICE)
    assert info["spacing_mm"] == pytest.approx([3, 2, 1.5])
    assert {s: len(info["splits"][s]["a"]) for s in info["splits"]} == {"train": 3, "val": 1, "test": 2}
    assert sorted(info["shards"]) == [
        f"{s}/{d}-00000-of-00001.tfrecord" for s in ("test", "train", "val") for d in "ab"
    ]
    for name, facts in info["shards"].items():
        split, domain = name[: name.index("/")], name[name.index("/") + 1]
        assert sorted(facts) == ["bytes", "fingerprint", "records", "scans", "sha256"]
        assert facts["records"] == len(info["splits"][split]["a"])
        assert (facts["bytes"], facts["sha256"]) == ((out / name).stat().st_size, sha256(out / name))
        assert [about["subject"] for about in facts["scans"]] == info["splits"][split][domain]
    assert sorted(p.name for p in out.iterdir()) == ["dataset.json", "splits.tsv", "test", "train", "val"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ciss", "dess", "keys", "records"]


def test_records_hold_the_prepared_scans(domains, tmp_path):
    out = tmp_path / "records"
    info = build(*domains, out, split=(4, 1, 1), shape=(8, 12, 20), workers=1)
    lows = {"a": [], "b": []}
    for split in info["splits"]:
        for domain, (name, folder) in zip("ab", domains, strict=True):
            expected = [
                prepare(volume.read(p), "percentile:0.5,99.5", (3, 2, 1.5), (8, 12, 20)) for p in folder.iterdir()
            ]
            for record in records.read_shard(out / split / f"{domain}-00000-of-00001.tfrecord"):
                assert (record.domain, record.domain_name, record.voxels.shape) == (domain, name, (8, 12, 20))
                errors = [np.abs(record.voxels - scan.array).max() for scan, _ in expected]
                best = int(np.argmin(errors))
                assert errors[best] <= 0.51 / records.UNIT
                assert record.preprocessing == json.loads(json.dumps(expected[best][1]))
                np.testing.assert_allclose(record.affine, expected[best][0].affine, atol=1e-5)
                assert restore(record.voxels, record.preprocessing).shape == SHAPE
                if split == "train":
                    lows[domain] += [r["low"] for r in record.preprocessing if r["step"] == "intensity"]
    for domain in "ab":
        assert info["domains"][domain]["intensity"]["low"] == pytest.approx(np.median(lows[domain]))


def test_a_shape_that_keeps_little_of_the_scans_is_said(domains, tmp_path, caplog):
    build(*domains, tmp_path / "most", shape=(8, 12, 14), workers=1)
    assert "keeps the middle" not in caplog.text
    build(*domains, tmp_path / "little", shape=(6, 12, 14), workers=1)
    assert "--shape 6 x 12 x 14 keeps the middle 18 x 24 x 21 mm of scans of 30 x 24 x 21 mm (median)" in caplog.text


def test_paired_subjects_stay_together_unless_disjoint(domains, tmp_path):
    together = build(*domains, tmp_path / "one", split=(4, 1, 1), workers=1)["splits"]
    apart = build(*domains, tmp_path / "two", split=(4, 1, 1), disjoint=True, workers=1)["splits"]
    for split in together:
        assert together[split]["a"] == together[split]["b"]
    assert len(apart["train"]["a"]) == len(apart["train"]["b"]) == 2
    assert set(apart["train"]["a"]) | set(apart["train"]["b"]) == set(together["train"]["a"])
    assert (apart["val"], apart["test"]) == (together["val"], together["test"])


def test_the_number_of_workers_changes_no_byte(domains, tmp_path):
    """Through the real command line, with two processes; and the same folder again with one."""
    arguments = [sys.executable, "-m", "data_prep", "build", "--split", "4", "1", "1", "--shape", "10", "12", "14"]
    for workers in ("2", "1"):
        more = ["--a", f"ciss={domains[0][1]}", "--b", f"dess={domains[1][1]}", "--out", tmp_path / workers]
        done = subprocess.run(
            [*arguments, *more, "--workers", workers], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        *said, following = done.stderr.splitlines()
        assert following.startswith("next: look for outliers")
        assert said == [
            "Subjects: 6 of ciss, 6 of dess, 6 in both, told by the BIDS entity sub- (12 scans).",
            "train 4 ciss, 4 dess, subjects in both: 4",
            "val   1 ciss, 1 dess, subjects in both: 1",
            "test  1 ciss, 1 dess, subjects in both: 1",
            f"{tmp_path / workers} is complete, 0 scans failed",
        ]
    files = [{p.relative_to(tmp_path / w): p.read_bytes() for p in (tmp_path / w).rglob("*.*")} for w in ("1", "2")]
    assert len(files[0]) == 8
    assert files[0] == files[1]


def test_another_key_changes_the_ids_alone(domains, tmp_path):
    first = build(*domains, tmp_path / "one", key_file=tmp_path / "key1", workers=1)
    second = build(*domains, tmp_path / "two", key_file=tmp_path / "key2", workers=1)
    ids = [{i for split in info["splits"].values() for i in split["a"]} for info in (first, second)]
    assert not ids[0] & ids[1]
    one, two = every_record(tmp_path / "one"), every_record(tmp_path / "two")
    assert list(one) == list(two)
    for name in one:
        for x, y in zip(one[name], two[name], strict=True):
            assert x.subject != y.subject
            np.testing.assert_array_equal(x.voxels, y.voxels)
            np.testing.assert_array_equal(x.mask, y.mask)
            plain = [dataclasses.replace(r, voxels=None, affine=None, subject="", mask=None) for r in (x, y)]
            assert plain[0] == plain[1]


def test_another_seed_divides_otherwise(domains, tmp_path):
    splits = [build(*domains, tmp_path / str(s), split=(2, 2, 2), seed=s, workers=1)["splits"] for s in (0, 1)]
    assert splits[0] != splits[1]


def test_no_output_byte_names_a_subject_or_a_file(tmp_path):
    a = save_domain(tmp_path / "hospital" / "ciss", ["annasmith", "benjones", "carlabaker"])
    b = save_domain(tmp_path / "hospital" / "dess", ["annasmith", "benjones"], gain=2)
    save(a / "sub-daviddoe.nii.gz", np.full(SHAPE, 3, np.int16))
    BROKEN["zero spacing"][0](a / "sub-erikfox.nii.gz")
    info = build(("ciss", a), ("dess", b), tmp_path / "records", split=(1, 0, 0), workers=1)
    assert len(info["failed"]) == 2
    for path in (tmp_path / "records").rglob("*"):
        content = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        for word in (
            b"annasmith",
            b"benjones",
            b"carla",
            b"david",
            b"erik",
            b"hospital",
            str(tmp_path).encode(),
            b".nii",
        ):
            assert word not in content, path


def test_many_scans_make_several_shards(tmp_path):
    subjects = [f"{i:02d}" for i in range(17)]
    a, b = (save_domain(tmp_path / d, subjects, gain=gain, shape=(3, 4, 5)) for d, gain in (("a", 1), ("b", 2)))
    info = build(("x", a), ("y", b), tmp_path / "records", split=(1, 0, 0), workers=1)
    found = every_record(tmp_path / "records")
    assert list(found) == [f"train/{d}-0000{i}-of-00004.tfrecord" for d in "ab" for i in range(4)]
    assert [sum(len(found[name]) for name in found if name[6] == d) for d in "ab"] == [17, 17]
    assert min(map(len, found.values())) >= 1
    assert [r.subject for name in list(found)[:4] for r in found[name]] == info["splits"]["train"]["a"]
    assert not list((tmp_path / "records" / "val").iterdir())
    assert verify(tmp_path / "records")["problems"] == []


def test_a_table_may_state_the_split(domains, tmp_path):
    (_, a), (_, b) = domains
    where = dict(zip(SUBJECTS, ["train", "train", "train", "val", "test", "test"], strict=True))
    table = tmp_path / "a.csv"
    table.write_text(
        "subject,path,split\n" + "".join(f"sub-{s},{a.name}/sub-{s}.nii.gz,{where[s]}\n" for s in SUBJECTS)
    )
    info = build(("ciss", table), ("dess", b), tmp_path / "records", workers=1)
    assert {s: len(info["splits"][s]["b"]) for s in info["splits"]} == {"train": 3, "val": 1, "test": 2}
    with pytest.raises(InputError, match="only one of the two is allowed"):
        build(("ciss", table), ("dess", b), tmp_path / "other", split=(1, 0, 0), workers=1)
    save(b / "sub-99.nii.gz")
    with pytest.raises(InputError, match="but none for the subject sub-99; all need one"):
        build(("ciss", table), ("dess", b), tmp_path / "other", workers=1)
    (tmp_path / "b.tsv").write_text(f"subject\tpath\tsplit\nsub-01\t{b.name}/sub-01.nii.gz\ttest\n")
    assert command(table, tmp_path / "b.tsv", tmp_path / "other") == 2


def test_a_subject_in_two_splits_is_named(domains, tmp_path, capsys):
    (_, a), (_, b) = domains
    for name, split in (("a", "train"), ("b", "test")):
        (tmp_path / f"{name}.csv").write_text(
            f"subject,path,split\nsub-01,{a if name == 'a' else b}/sub-01.nii.gz,{split}\n"
        )
    assert command(tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "records") == 2
    assert capsys.readouterr().err == "error: The subject sub-01 is in two splits, train and test; one is allowed.\n"


def test_ct_has_a_fixed_window(tmp_path):
    a, b = save_domain(tmp_path / "mr", ["1"]), save_domain(tmp_path / "ct", ["1"], gain=2)
    info = build(("mr", a), ("CT", b), tmp_path / "records", workers=1)
    assert [info["domains"][d]["scaling"] for d in "ab"] == ["percentile:0.5,99.5", "window_hu:-1000,1500"]
    assert (info["domains"]["b"]["intensity"]["low"], info["domains"]["b"]["intensity"]["high"]) == (-1000, 1500)
    (record,) = records.read_shard(tmp_path / "records/train/b-00000-of-00001.tfrecord")
    scan = volume.read(b / "sub-1.nii.gz").array
    np.testing.assert_allclose(record.voxels, np.clip((scan + 1000) / 1250 - 1, -1, 1), atol=1e-4)
    info = build(("mr", a), ("ct", b), tmp_path / "own", scaling_b="window_hu:0,2000", workers=1)
    assert info["domains"]["b"]["intensity"]["high"] == 2000


def test_the_working_spacing_is_the_median_of_the_canonical_axes(tmp_path):
    spacings = [(3, 1, 1), (4, 2, 2), (5, 3, 9)]
    a, b = tmp_path / "a", tmp_path / "b"
    for i, spacing in enumerate(spacings):
        save(a / f"{i}.nii.gz", affine=np.diag([*spacing, 1.0]))  # axes R, A, S: height is the third
    save(b / "0.nii.gz", affine=AFFINE)
    save(b / "1.nii.gz", affine=np.diag([-4.0, -2, 2, 1]))
    info = build(("x", a), ("y", b), tmp_path / "records", workers=1)
    assert info["spacing_mm"] == [4, 2, 2]  # of depths 3 4 5 3 4, heights 1 2 9 2 2, widths 1 2 3 1.5 2
    assert {r.voxels.shape for each in every_record(tmp_path / "records").values() for r in each} == {
        (8, 7, 6), (10, 14, 12), (12, 63, 18), (8, 12, 10),
    }  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_scan_alone_is_refused(tmp_path, capsys, kind):
    write, sentence = BROKEN[kind]
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "sub-1.nii.gz")
    b = save_domain(tmp_path / "b", ["1"])
    assert command(tmp_path / "a", b, tmp_path / "records") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(f"^error: No (training )?scan of ciss can be used; the last of 1: .*{sentence}", said)
    # what is done of the other domain may wait for the next run
    assert {p.name for p in tmp_path.iterdir()} - {"records.partial"} == {"a", "b", "keys"}


def test_an_existing_data_set_is_replaced_only_when_asked(domains, tmp_path, capsys):
    (_, a), (_, b) = domains
    out = tmp_path / "records"
    out.mkdir()
    assert command(a, b, out) == 0  # an empty folder is in nobody's way
    before = read_json(out / "dataset.json")
    (out / "pairs").mkdir()
    assert command(a, b, out, "--seed", "1") == 2
    assert (
        "already holds a data set, made with other arguments; give --overwrite to replace it" in capsys.readouterr().err
    )
    flat = save(tmp_path / "flat.nii.gz", np.zeros(SHAPE, np.int16))
    assert command(flat, b, out, "--seed", "1", "--overwrite") == 2
    assert read_json(out / "dataset.json") == before  # a run that fails leaves the old one
    assert command(a, b, out, "--seed", "1", "--overwrite") == 0
    assert read_json(out / "dataset.json")["seed"] == 1
    assert not (out / "pairs").exists()


@pytest.mark.parametrize("place", [(scans, "read_header"), (shards, "prepare"), (shards.guard, "measure")])
def test_a_scan_that_fails_unforeseen_leaves_the_others(domains, tmp_path, monkeypatch, caplog, place):
    real, calls = getattr(*place), []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise IndexError("Doe^Jane")
        return real(*arguments, **options)

    monkeypatch.setattr(*place, failing)
    info = build(*domains, tmp_path / "records", split=(6, 0, 0), workers=1)
    assert sum(shard["records"] for shard in info["shards"].values()) == 11
    (failed,) = info["failed"]
    assert "failed in a way that was not foreseen (IndexError, test_build.py line" in failed["reason"]
    assert "Doe" not in caplog.text
    assert any(re.match(r"failed: \S+\.nii(\.gz)? failed in a way", m) for m in caplog.messages)


def test_a_disk_that_fails_is_one_sentence(domains, tmp_path, monkeypatch):
    def full(path, serialized):
        raise InputError(f"{path} cannot be written: No space left on device.")

    monkeypatch.setattr(records, "write_serialized", full)
    with pytest.raises(InputError, match="No space left on device"):
        build(*domains, tmp_path / "records", workers=1)
    assert not (tmp_path / "records").exists()


def test_another_runner_of_beam_writes_the_same(domains, tmp_path):
    infos = [build(*domains, tmp_path / r, runner=r, workers=1) for r in ("DirectRunner", "BundleBasedDirectRunner")]
    assert infos[0] == infos[1]


def test_a_real_head(tmp_path):
    """The averaged T1 of nilearn's wheel, 1 mm, onto 4 mm: where it was, finite, and back on its grid."""
    out = tmp_path / "records"
    arguments = ["--a", f"t1={HEAD}", "--b", f"gm={HEAD_MASK}", "--out", out, "--spacing-mm", 4, 4, 4, "--workers", 1]
    assert main(["build", *map(str, arguments)]) == 0
    head = volume.read(HEAD)
    (record,) = records.read_shard(out / "train/a-00000-of-00001.tfrecord")
    assert np.isfinite(record.voxels).all()
    assert record.voxels.shape == tuple(round(n / 4) for n in np.array(head.shape)[[0, 2, 1]])
    assert volume.spacing_of(record.affine) == pytest.approx((4, 4, 4))
    corners = [
        v.affine[:3, :3] @ ((np.array(v.shape) - 1) / 2) + v.affine[:3, 3]
        for v in (head, volume.Volume(record.voxels, record.affine))
    ]
    np.testing.assert_allclose(*corners, atol=1e-3)  # the same centre in mm
    back = restore(record.voxels, record.preprocessing)
    assert back.shape == head.shape
    np.testing.assert_allclose(back.affine, head.affine, atol=1e-5)
    assert np.isfinite(back.array).all()
    assert np.corrcoef(back.array[::4, ::4, ::4].ravel(), head.array[::4, ::4, ::4].ravel())[0, 1] > 0.97
    assert verify(out)["problems"] == []


def test_a_real_series_is_refused_until_one_volume_is_chosen(tmp_path, capsys):
    b = save_domain(tmp_path / "b", ["1"])
    assert command(SERIES, b, tmp_path / "records") == 2
    assert "is 4-D (128x96x24x2); choose one of its 2 volumes with --volume 0 to 1" in capsys.readouterr().err
    assert command(SERIES, b, tmp_path / "records", "--volume", "2") == 2
    assert "has no volume 2; allowed are 0 to 1" in capsys.readouterr().err
    # b is 3-D: the choice is about series alone
    assert command(SERIES, b, tmp_path / "records", "--volume", "1", "--spacing-mm", "2.2", "4", "4") == 0
    (record,) = records.read_shard(tmp_path / "records/train/a-00000-of-00001.tfrecord")
    expected, _ = prepare(volume.read(SERIES, 1), "percentile:0.5,99.5", (2.2, 4, 4))
    other, _ = prepare(volume.read(SERIES, 0), "percentile:0.5,99.5", (2.2, 4, 4))
    assert np.abs(record.voxels - expected.array).max() < 1e-4
    assert np.abs(record.voxels - other.array).max() > 1e-2


def test_the_help_is_understood_without_beam():
    code = "from data_prep.__main__ import main; import sys\ntry: main(['build', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('apache_beam' in sys.modules or 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for option in ("--a", "--spacing-mm", "--shape", "--split", "--disjoint", "--seed", "--workers", "--runner"):
        assert option in done.stdout


def test_the_test_scans_are_not_all_alike():
    assert np.abs(voxels(0).astype(float) - voxels(1)).mean() > 50


def test_scans_whose_place_is_in_doubt_are_named(domains, tmp_path, caplog):
    flipped = AFFINE @ np.diag([1, 1, -1, 1])
    for subject in ("02", "05"):
        path = tmp_path / "ciss" / f"sub-{subject}.nii.gz"
        save_forms(path, flipped, AFFINE, (1, 2), np.asanyarray(nibabel.load(path).dataobj))
    path = tmp_path / "dess" / "sub-03.nii.gz"
    save_forms(path, AFFINE, AFFINE, (0, 0), np.asanyarray(nibabel.load(path).dataobj))
    build(*domains, tmp_path / "records", workers=1)
    warned = [r.getMessage() for r in caplog.records if " lie" in r.getMessage()]
    assert [Path(w.split(" ")[0]).name for w in warned] == ["sub-02.nii.gz", "sub-03.nii.gz"]
    assert "lies at two places" in warned[0]
    assert "(one of 2 scans of ciss whose place is in doubt)" in warned[0]
    assert "does not say where it lies" in warned[1]
    (listed,) = [line for line in listing.table(str(tmp_path / "dess")).splitlines() if "sub-03" in line]
    assert "does not say where it lies" in listed
