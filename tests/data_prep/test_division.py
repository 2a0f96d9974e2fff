"""Splits through `build`: by site, from a file, and no scan in two of them."""

import dataclasses
import shutil

import pytest

from cyclescan import records
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, sha256, write_json
from data_prep.__main__ import main
from data_prep.build import build
from data_prep.verify import verify
from tests.data_prep.scan_files import AFFINE, save, save_domains, voxels

SUBJECTS = [f"{i:02d}" for i in range(12)]
SITES = {s: ("Mayo", "Charité", "Kyoto")[i % 3] for i, s in enumerate(SUBJECTS)}


@pytest.fixture(autouse=True)
def key_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path / "keys" / "key"))


@pytest.fixture
def domains(tmp_path):
    return save_domains(tmp_path, SUBJECTS)


def with_sites(tmp_path, domains, sites=SITES):
    """Tables of both domains with the column site."""
    for name, folder in domains:
        rows = [f"sub-{s},{folder.name}/sub-{s}.nii.gz,{site}\n" for s, site in sites.items()]
        (tmp_path / f"{name}.csv").write_text("subject,path,site\n" + "".join(rows), encoding="utf-8")
    return [(name, tmp_path / f"{name}.csv") for name, _ in domains]


def rows_of(out):
    head, *rows = (line.split("\t") for line in (out / "splits.tsv").read_text(encoding="utf-8").splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_each_split_has_scans_of_each_site(tmp_path, domains):
    tables = with_sites(tmp_path, domains)
    info = build(*tables, tmp_path / "records", split=(6, 3, 3), workers=1)
    rows = rows_of(tmp_path / "records")
    assert len({row["site"] for row in rows}) == 3
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        found = [row["site"] for row in rows if row["split"] == split]
        assert sorted(info["splits"][split]["a"]) == sorted(row["subject"] for row in rows if row["split"] == split)
        assert {found.count(site) for site in set(found)} == {count}
    for path in (tmp_path / "records").rglob("*.*"):
        assert not any(name.encode() in path.read_bytes() for name in (*SITES.values(), "sub-"))


def test_whole_sites(tmp_path, domains):
    tables = with_sites(tmp_path, domains)
    info = build(*tables, tmp_path / "records", split=(1, 1, 1), split_by="site", workers=1)
    assert {s: len(info["splits"][s]["a"]) for s in info["splits"]} == {"train": 4, "val": 4, "test": 4}
    by_split = {s: {row["site"] for row in rows_of(tmp_path / "records") if row["split"] == s} for s in info["splits"]}
    assert sorted(map(len, by_split.values())) == [1, 1, 1]
    assert len(set().union(*by_split.values())) == 3


@pytest.mark.parametrize("disjoint", [False, True])
def test_the_file_gives_the_same_division(tmp_path, domains, disjoint):
    """Also with another seed, and for the subjects that are left out."""
    first = build(*domains, tmp_path / "one", split=(6, 2, 2), disjoint=disjoint, seed=5, workers=1)
    path = shutil.copy(tmp_path / "one" / "splits.tsv", tmp_path / "kept.tsv")
    assert sum(row["split"] == "none" for row in rows_of(tmp_path / "one")) == 2
    second = build(*domains, tmp_path / "two", split_file=path, seed=6, workers=1)
    for split in first["splits"]:
        for domain in "ab":
            assert sorted(first["splits"][split][domain]) == sorted(second["splits"][split][domain])
    assert (tmp_path / "one" / "splits.tsv").read_text() == (tmp_path / "two" / "splits.tsv").read_text()


def test_a_file_of_the_users_own_names(tmp_path, domains):
    path = tmp_path / "own.csv"
    path.write_text("subject,split\n" + "".join(f"sub-{s},{'train' if s < '08' else 'test'}\n" for s in SUBJECTS))
    info = build(*domains, tmp_path / "records", split_file=path, workers=1)
    assert {s: len(info["splits"][s]["b"]) for s in info["splits"]} == {"train": 8, "val": 0, "test": 4}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--split-by", "site"], "The subject sub-00 has no site; --split-by site needs one site for each subject"),
        (["--split-file", "{own}"], "does not list the subject sub-01, nor its pseudonym of this key (11 of 12 are"),
        (["--split-file", "{own}", "--split", "1", "0", "0"], "--split-file is given and --split is given; only one"),
        (["--split-file", "{own}", "--split-by", "site"], "--split-file is given and --split-by is site; only one"),
        (["--split-file", "{missing}"], "The table {missing} cannot be read: No such file or directory"),
        (["stray"], "The runner's options are not understood: 'stray' does not begin with --"),
    ],
)
def test_divisions_that_cannot_be(tmp_path, domains, capsys, arguments, sentence):
    places = {"own": tmp_path / "own.csv", "missing": tmp_path / "none.csv"}
    places["own"].write_text("subject,split\nsub-00,train\n")
    (_, a), (_, b) = domains
    command = ["build", "--a", f"ciss={a}", "--b", f"dess={b}", "--out", str(tmp_path / "records"), "--workers", "1"]
    assert main([*command, *(text.format(**places) for text in arguments)]) == 2
    assert sentence.format(**places) in capsys.readouterr().err
    assert not (tmp_path / "records").exists()


def test_a_subject_of_two_sites(tmp_path, domains):
    """Of no use for whole sites; a stratum of its own otherwise."""
    tables = with_sites(tmp_path, domains)
    text = (tmp_path / "dess.csv").read_text(encoding="utf-8")
    (tmp_path / "dess.csv").write_text(text.replace("sub-00.nii.gz,Mayo", "sub-00.nii.gz,Kyoto"), encoding="utf-8")
    with pytest.raises(InputError, match="The subject sub-00 is of the sites Kyoto, Mayo; --split-by site needs one"):
        build(*tables, tmp_path / "records", split_by="site", workers=1)
    build(*tables, tmp_path / "records", split=(10, 1, 1), workers=1)


def test_one_scan_under_two_names_in_two_splits(tmp_path, domains, capsys):
    """The copy is of another file format, voxel type and orientation."""
    (name, a), (_, b) = domains
    mirrored = AFFINE.copy()
    mirrored[0] = -3, 0, 0, 12
    save(tmp_path / "more" / "copy.nii", voxels(int.from_bytes(b"00", "big"))[::-1].astype(float), mirrored)
    rows = [f"sub-{s},{a.name}/sub-{s}.nii.gz,train\n" for s in SUBJECTS] + ["sub-99,more/copy.nii,test\n"]
    (tmp_path / "a.csv").write_text("subject,path,split\n" + "".join(rows))
    command = ["build", "--a", f"{name}={tmp_path / 'a.csv'}", "--b", f"dess={b}", "--out", str(tmp_path / "records")]
    assert main([*command, "--workers", "1"]) == 2
    assert capsys.readouterr().err == (
        f"error: {a}/sub-00.nii.gz and {tmp_path}/more/copy.nii hold the same voxels, as the subject sub-00 in train "
        "and sub-99 in test; a person may be in one split only: give both the same subject in a table, or take one "
        "away.\n"
    )
    assert not (tmp_path / "records").exists()
    # in one split it is odd but no leak
    (tmp_path / "a.csv").write_text("subject,path,split\n" + "".join(rows).replace(",test\n", ",train\n"))
    assert main([*command, "--workers", "1"]) == 0
    assert verify(tmp_path / "records")["problems"] == []


def test_one_scan_in_both_domains(tmp_path, domains):
    (_, a), (_, b) = domains
    shutil.copy(a / "sub-04.nii.gz", b / "sub-04.nii.gz")
    with pytest.raises(InputError, match=r"sub-04.nii.gz hold the same voxels, as ciss and as dess; a scan is of one"):
        build(*domains, tmp_path / "records", scaling_b="window_hu:0,3000", workers=1)


def test_verify_finds_both_leaks(tmp_path, domains):
    """By the voxels of the records where they are equal, by what dataset.json says where the scaling differs."""
    info = build(*domains, tmp_path / "records", split=(10, 1, 1), workers=1)
    folder = tmp_path / "records"
    stated = read_json(folder / "dataset.json")
    first, second = "train/a-00000-of-00002.tfrecord", "test/b-00000-of-00001.tfrecord"
    stated["shards"][second]["scans"][0]["content"] = info["shards"][first]["scans"][1]["content"]
    write_json(folder / "dataset.json", stated)
    assert verify(folder)["problems"] == [f"{second}, record 0, and {first}, record 1, are of one scan."]
    write_json(folder / "dataset.json", info)
    other = "val/a-00000-of-00001.tfrecord"
    (own,), source = records.read_shard(folder / other), next(records.read_shard(folder / first))
    records.write_shard(folder / other, [dataclasses.replace(own, voxels=source.voxels)])
    path = folder / other
    info["shards"][other] |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / "dataset.json", info)
    assert verify(folder)["problems"] == [f"{first}, record 0, and {other}, record 0, are of one scan."]
