import dataclasses
import json
import shutil

import numpy as np
import pytest

from cyclescan import records
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, sha256, write_json
from data_prep.__main__ import main
from data_prep.build import build
from data_prep.verify import verify
from tests.data_prep.scan_files import save_domain

TRAIN_A = "train/a-00000-of-00001.tfrecord"
TRAIN_B = "train/b-00000-of-00001.tfrecord"
TEST_A = "test/a-00000-of-00001.tfrecord"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    a, b = (save_domain(folder / d, [f"{i}" for i in range(6)], gain) for d, gain in (("ciss", 1), ("dess", 2)))
    options = {"split": (4, 1, 1), "disjoint": True, "shape": (10, 12, 14), "workers": 1}
    build(("ciss", a), ("dess", b), folder / "records", key_file=folder / "key", **options)
    return folder / "records"


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "records")


def rewrite(folder, name, change, restate=True):
    """Change the records of a shard and, so that only the change itself is wrong, what is stated about its bytes."""
    found = [change(r) for r in records.read_shard(folder / name)]
    records.write_shard(folder / name, found)
    if restate:
        source = folder / ("pairs/pairs.json" if name.startswith("pairs") else "dataset.json")
        info = read_json(source)
        path = folder / name
        info["shards"][name] = {"records": len(found), "bytes": path.stat().st_size, "sha256": sha256(path)}
        write_json(source, info)


def restated(folder, change):
    info = read_json(folder / "dataset.json")
    change(info)
    write_json(folder / "dataset.json", info)


def add_pairs(folder, change=lambda r: r):
    a, b = (list(records.read_shard(folder / name)) for name in (TRAIN_A, TRAIN_B))
    pair = change(dataclasses.replace(a[0], partner=b[0].voxels, partner_subjects=(b[0].subject,), weight=0.5))
    path = folder / "pairs" / "a-00000-of-00001.tfrecord"
    records.write_shard(path, [pair])
    facts = {"records": 1, "bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / "pairs" / "pairs.json", {"shards": {f"pairs/{path.name}": facts}})


def problem(folder):
    """The one problem of a data set."""
    (found,) = verify(folder)["problems"]
    return found


def test_a_sound_data_set(folder, caplog):
    caplog.set_level("INFO")
    found = verify(folder)
    size = sum(p.stat().st_size for p in folder.rglob("*.tfrecord"))
    assert found == {"problems": [], "records": 8, "subjects": 6, "shards": 6, "bytes": size}
    assert main(["verify", str(folder)]) == 0
    assert "is sound: 8 records of 6 subjects in 6 shards" in caplog.text


def test_every_flipped_byte_is_found(folder):
    data = (folder / TEST_A).read_bytes()
    for place in np.random.default_rng(0).integers(0, len(data), 20):
        damaged = bytearray(data)
        damaged[place] ^= 64
        (folder / TEST_A).write_bytes(damaged)
        assert verify(folder)["problems"], place
    (folder / TEST_A).write_bytes(data)
    assert verify(folder)["problems"] == []


def test_a_flipped_byte_is_told_and_is_exit_code_2(folder, capsys, caplog):
    data = bytearray((folder / TEST_A).read_bytes())
    data[-10] ^= 1
    (folder / TEST_A).write_bytes(data)
    assert main(["verify", str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {folder} has 2 problems.\n"
    assert "the checksum of its record 0 is wrong" in caplog.text
    assert f"{TEST_A} has {len(data)} bytes with the SHA-256" in caplog.text


def test_a_truncated_shard(folder):
    data = (folder / TRAIN_A).read_bytes()
    (folder / TRAIN_A).write_bytes(data[:-5])
    assert any("truncated: its record 1 ends beyond the file" in p for p in verify(folder)["problems"])


def test_a_missing_and_a_foreign_shard(folder):
    shutil.copy(folder / TEST_A, folder / "val" / "a-00007-of-00008.tfrecord")
    (folder / TRAIN_B).unlink()
    assert verify(folder)["problems"] == [
        "val/a-00007-of-00008.tfrecord is not listed in the data set's JSON.",
        f"{TRAIN_B} is missing.",
    ]


def test_a_record_that_was_taken_out(folder):
    first = next(records.read_shard(folder / TRAIN_A))
    records.write_shard(folder / TRAIN_A, [first])
    problems = verify(folder)["problems"]
    assert f"{TRAIN_A} has 1 records; 2 are stated." in problems
    assert any("of train, domain a, has no record" in p for p in problems)


def test_a_subject_in_two_splits(folder):
    leaked = next(records.read_shard(folder / TRAIN_A)).subject
    rewrite(folder, TEST_A, lambda r: dataclasses.replace(r, subject=leaked))
    restated(folder, lambda info: info["splits"]["test"].update(a=[leaked]))
    assert problem(folder) == f"The subject {leaked} is in two splits, train and test."


def test_a_subject_in_a_split_that_is_not_its_own(folder):
    """The lists are clean, the record is not."""
    leaked = next(records.read_shard(folder / TRAIN_A)).subject
    own = next(records.read_shard(folder / TEST_A)).subject
    rewrite(folder, TEST_A, lambda r: dataclasses.replace(r, subject=leaked))
    problems = verify(folder)["problems"]
    assert f"{TEST_A}, record 0, is of the subject {leaked}, who is not listed for test, domain a." in problems
    assert own not in {leaked}


def test_disjoint_training_that_is_not(folder):
    shared = next(records.read_shard(folder / TRAIN_A)).subject
    subjects = iter([shared, None])
    rewrite(folder, TRAIN_B, lambda r: dataclasses.replace(r, subject=next(subjects) or r.subject))
    ids = [r.subject for r in records.read_shard(folder / TRAIN_B)]
    restated(folder, lambda info: info["splits"]["train"].update(b=ids))
    assert (
        problem(folder)
        == f"The training subject {shared} is in both domains of a data set that is said to be disjoint."
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"domain": "b", "domain_name": "dess"}, "is of domain b (dess), in a shard of domain a"),
        ({"domain_name": "t1"}, "is of domain a (t1), in a shard of domain a"),
        ({"mask": np.zeros((10, 12, 14), np.uint8)}, "has a mask without a body"),
        (
            {"voxels": np.zeros((10, 12, 13), np.float32), "mask": None},
            "has the shape [10, 12, 13]; [10, 12, 14] is stated",
        ),
        ({"affine": np.eye(4)}, "has the spacing [1.0, 1.0, 1.0] mm; [3.0, 2.0, 1.5] is stated"),
        ({"partner_detail": np.full((5, 6, 7, 2), -0.1, "f4")}, "has partners whose detail is below 0"),
        ({"partner": np.zeros((10, 12, 14), np.float32)}, "is a pair, in the folder test"),
    ],
)
def test_a_record_that_is_not_what_is_stated(folder, change, sentence):
    rewrite(folder, TEST_A, lambda r: dataclasses.replace(r, **change))
    assert problem(folder) == f"{TEST_A}, record 0, {sentence}."


def test_voxels_out_of_range(folder, monkeypatch):
    monkeypatch.setattr(records, "_pack", lambda voxels: np.full(voxels.shape, -32768, "<i2").tobytes())
    rewrite(folder, TEST_A, lambda r: r)
    assert problem(folder) == f"{TEST_A}, record 0, has voxels outside [-1, 1]."


def test_pairs_are_read_as_well(folder):
    add_pairs(folder)
    assert verify(folder)["problems"] == []
    assert verify(folder)["shards"] == 7
    path = folder / "pairs" / "a-00000-of-00001.tfrecord"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    assert len(verify(folder)["problems"]) == 2


def test_a_pair_with_a_test_subject_or_with_itself(folder):
    outsider = next(records.read_shard(folder / TEST_A)).subject
    add_pairs(folder, lambda r: dataclasses.replace(r, partner_subjects=(outsider,)))
    assert problem(folder).endswith(f"of the subject {outsider}, who is not a training subject of domain b.")
    add_pairs(folder, lambda r: dataclasses.replace(r, partner_subjects=(r.subject,)))
    assert any("with itself" in p for p in verify(folder)["problems"])
    add_pairs(folder, lambda r: dataclasses.replace(r, partner_subjects=()))
    assert problem(folder).endswith("is a pair that names no partner.")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "dataset.json cannot be read"),
        ("{", "is not valid JSON"),
        ("[]", "is not of a data set"),
        (
            '{"splits": {}}',
            "is not of a data set: it lacks disjoint, domains, schema_version, shape, shards, spacing_mm",
        ),
    ],
)
def test_a_folder_that_is_no_data_set(tmp_path, capsys, text, sentence):
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    assert main(["verify", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_another_schema_version(folder):
    restated(folder, lambda info: info.update(schema_version=7))
    with pytest.raises(InputError, match="schema version 7; this program reads 1 and 2"):
        verify(folder)


def test_the_fixture_is_disjoint(original):
    train = json.loads((original / "dataset.json").read_text())["splits"]["train"]
    assert len(train["a"]) == len(train["b"]) == 2
    assert not set(train["a"]) & set(train["b"])
