"""One table of everything that can be wrong with NIfTI files, tables, arguments, disks and records.

Each kind goes through the real command lines: one sentence, the exit code, and what is sound is done.
"""

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cyclescan import records
from cyclescan.common.files import read_json, write_json
from cyclescan.scans import volume
from data_prep.__main__ import main
from data_prep.verify import verify
from tests.data_prep.scan_files import BROKEN, save, save_domain, voxels

ROOT = Path(__file__).parents[2]
SUBJECTS = ["s1", "s2", "s3"]


@pytest.fixture(autouse=True)
def key_file(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path_factory.mktemp("keys") / "key"))


def build(world: Path, *more, a=None, b=None) -> int:
    command = ["build", "--a", f"ciss={a or world / 'a'}", "--b", f"dess={b or world / 'b'}"]
    command += ["--out", world / "records", "--split", "1", "0", "0", "--workers", "1", *more]
    return main([str(argument) for argument in command])


@pytest.fixture
def world(tmp_path):
    """Two sound domains of three subjects."""
    save_domain(tmp_path / "a", SUBJECTS)
    save_domain(tmp_path / "b", SUBJECTS, gain=3)
    return tmp_path


def one_sentence(said: str) -> str:
    assert re.fullmatch(r"error: [^\n]+\.\n", said), said
    return said


# 1. Scans. All stand in one folder beside three sound ones: exit code 1, each is named, the others are done.


def _loop(path):
    path.symlink_to(path.with_name("other-loop.nii.gz"))
    path.with_name("other-loop.nii.gz").symlink_to(path)


def _socket(path):
    """Named through its folder: a socket's address has 107 bytes at most."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


SPECIAL = {
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "does not exist"),
    "a loop of links": (_loop, "cannot be read: Too many levels of symbolic links"),
    "a pipe": (os.mkfifo, "is no regular file"),
    "a socket": (_socket, "is no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
}
SCANS = BROKEN | SPECIAL


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """What the command said about a folder with one scan of each kind, and dataset.json."""
    world = tmp_path_factory.mktemp("batch")
    save_domain(world / "a", SUBJECTS)
    save_domain(world / "b", SUBJECTS, gain=3)
    for i, (write, _) in enumerate(SCANS.values()):
        write(world / "a" / f"sub-broken{i}.nii.gz")
    command = [sys.executable, "-m", "data_prep", "build", "--a", f"ciss={world}/a", "--b", f"dess={world}/b"]
    command += ["--out", f"{world}/records", "--split", "1", "0", "0", "--workers", "1", "--key-file", f"{world}/key"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    return world, done, read_json(world / "records" / "dataset.json")


@pytest.mark.parametrize("kind", SCANS)
def test_a_scan_that_cannot_be_used(batch, kind):
    world, done, info = batch
    path = world / "a" / f"sub-broken{list(SCANS).index(kind)}.nii.gz"
    (said,) = [line for line in done.stderr.splitlines() if f"{path} " in line]
    assert re.match(f"failed: .*{SCANS[kind][1]}", said)
    assert any(re.search(SCANS[kind][1], failed["reason"]) for failed in info["failed"])


def test_the_others_are_done(batch):
    world, done, info = batch
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(info["splits"]["train"]["a"]) == len(info["splits"]["train"]["b"]) == 3
    # the other end of the loop is a scan by its name as well
    assert len(info["failed"]) == len(SCANS) + 1
    assert not {f["file"] for f in info["failed"]} & set(info["splits"]["train"]["a"])
    assert verify(world / "records")["problems"] == []
    for path in (world / "records").rglob("*"):
        assert not path.is_file() or b"broken" not in path.read_bytes()


def test_no_claim_is_allocated(tmp_path):
    """Half a gigabyte of address space is enough to refuse 2 GB that a header claims, and 70 TB."""
    for kind in ("2 GB in 3 kB", "gigantic"):
        BROKEN[kind][0](tmp_path / "scan.nii.gz")
        code = (
            "import resource, sys; from cyclescan import volume; from cyclescan.common.errors import InputError\n"
            "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))\n"
            "try: volume.read(sys.argv[1])\nexcept InputError: sys.exit(0)\nsys.exit(1)"
        )
        assert (
            subprocess.run([sys.executable, "-c", code, tmp_path / "scan.nii.gz"], cwd=ROOT, check=False).returncode
            == 0
        )


# 2. What looks wrong and is not.


def _big_endian(path):
    import nibabel as nib

    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(voxels(), np.diag([3.0, 2, 1.5, 1]), header), path)
    assert nib.load(path).header.endianness == ">"


def _behind_a_loop(path):
    (path.parent / "loop").symlink_to(path.parent)
    save(path)


SOUND = {
    "big-endian": ("sub-x.nii", _big_endian),
    "names that are not ASCII": ("sub-x Größe 膝.nii.gz", save),
    "names that are no text at all": (os.fsdecode(b"latin-\xe9.nii.gz"), save),
    "a loop of folders": ("sub-x.nii.gz", _behind_a_loop),
    "bytes behind the voxels": ("sub-x.nii", lambda p: p.write_bytes(save(p).read_bytes() + b"more")),
    "a name with commas and quotes": ("sub-x,'\".nii.gz", save),
}


@pytest.mark.parametrize("kind", SOUND)
def test_what_looks_wrong_and_is_not(world, kind):
    name, write = SOUND[kind]
    write(world / "a" / name)
    assert build(world) == 0
    info = read_json(world / "records" / "dataset.json")
    assert (len(info["splits"]["train"]["a"]), info["failed"]) == (4, [])
    for path in (world / "records").rglob("*"):
        assert not path.is_file() or os.fsencode(name)[:6] not in path.read_bytes()


def test_big_endian_voxels_are_the_same(tmp_path):
    _big_endian(tmp_path / "x.nii")
    np.testing.assert_array_equal(volume.read(tmp_path / "x.nii").array, voxels())


# 3. Tables.


def _rows(world):
    return "".join(f"sub-{s},a/sub-{s}.nii.gz\n" for s in SUBJECTS)


# kind: (the table, or what makes it; the sentence; the exit code)
TABLES = {
    "an empty table": ("", r"has the columns \(none\); path and subject must be among them", 2),
    "a missing column": ("subject,file\nx,a/sub-s1.nii.gz\n", "subject, file; path must be among them", 2),
    "no scans": ("subject,path\n", "lists no scans", 2),
    "a row without a path": ("subject,path\nx,\n", "Line 2 of the table .* has no path", 2),
    "a row without a subject": ("subject,path\n,a/sub-s1.nii.gz\n", "Line 2 of the table .* has no subject", 2),
    "a file twice": (lambda w: f"subject,path\n{_rows(w)}x,b/../a/sub-s1.nii.gz\n", "Line 5 .* a second time", 2),
    "an unknown split": ("subject,path,split\nx,a/sub-s1.nii.gz,dev\n", "the split 'dev'; allowed are train", 2),
    "an open quote": ('subject,path\n"x,a/sub-s1.nii.gz\n', "is not understood", 2),
    "no text": (b"subject,path\n\xff\xfe,x\n", "is not understood", 2),
    "a NUL character": (b"subject,path\nx,a\0b.nii\n", "is not understood: line", 2),
    "a cell without end": ("subject,path\nx," + "y" * 200000 + "\n", "is not understood", 2),
    "a path to nothing": (lambda w: f"subject,path\n{_rows(w)}x,a/none.nii.gz\n", "a/none.nii.gz does not exist", 1),
    "a path to a folder": (lambda w: f"subject,path\n{_rows(w)}x,x.nii\n", "x.nii is a folder", 1),
    "a path to a password file": (
        lambda w: f"subject,path\n{_rows(w)}x,../../../../../../../etc/passwd\n",
        "passwd is not a NIfTI file; its name must end",
        1,
    ),
    "a path that is too long": (lambda w: f"subject,path\n{_rows(w)}x,{'y' * 300}.nii\n", "File name too long", 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_is_wrong(world, capsys, caplog, kind):
    text, sentence, code = TABLES[kind]
    text = text(world) if isinstance(text, Callable) else text
    (world / "x.nii").mkdir()
    (world / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert build(world, a=world / "t.csv") == code
    if code == 1:
        (said,) = [m for m in caplog.messages if m.startswith("failed: ")]
        assert len(read_json(world / "records" / "dataset.json")["splits"]["train"]["a"]) == 3
        assert verify(world / "records")["problems"] == []
    else:
        said = one_sentence(capsys.readouterr().err)
        assert not (world / "records").exists()
    assert re.search(sentence, said)


def test_names_that_climb_out_of_the_folder(world):
    """Subjects and sites named like paths: nothing is written but the data set, and it does not name them."""
    climbing = ["../../evil", "/etc/evil", "..", "C:\\evil\n\r", "$(evil)"]
    rows = "".join(f'"{name}",a/sub-{s}.nii.gz,"{name}"\n' for name, s in zip(climbing, SUBJECTS, strict=False))
    (world / "t.csv").write_text(f"subject,path,site\n{rows}")
    before = set(world.rglob("*"))
    assert build(world, a=world / "t.csv") == 0
    new = set(world.rglob("*")) - before
    assert all(p.is_relative_to(world / "records") for p in new)
    assert not any(b"evil" in p.read_bytes() for p in new if p.is_file())
    assert not [p for p in world.parent.rglob("*evil*")]


# 4. Arguments, places and disks: exit code 2, and what was there stays.

ARGUMENTS = {
    "no name": (["--a", "ciss"], "--a is 'ciss'; it must be NAME=PATH"),
    "one name for both": (["--a", "dess={a}"], "Both domains are named 'dess'; they need different names"),
    "a name that climbs": (["--a", "../x={a}"], "The domain name '../x' is not allowed"),
    "a folder that is not there": (["--a", "ciss={missing}"], "{missing} does not exist"),
    "an empty folder": (["--a", "ciss={empty}"], "The folder {empty} holds no NIfTI file"),
    "an empty folder for b": (["--b", "dess={empty}"], "The folder {empty} holds no NIfTI file"),
    "fractions beyond 1": (["--split", "0.5", "0.5", "0.5"], "The split 0.5 0.5 0.5 is not allowed"),
    "too many subjects": (["--split", "5", "1", "1"], "asks for 7 subjects; there are 3"),
    "nobody left": (["--split", "1", "2", "0", "--disjoint"], "The domain dess has no training scan"),
    "a shape of nothing": (["--shape", "8", "0", "8"], "The shape 8 x 0 x 8 is not allowed; it must be three positive"),
    "a shape too large": (
        ["--shape", "8", "25", "8"],
        "The shape 8 x 25 x 8 is not reachable: along height the largest scan has 12 voxels of 2 mm, "
        "and at most 24 are allowed",
    ),
    "a spacing of nothing": (["--spacing-mm", "1", "0", "1"], "The spacing 1 x 0 x 1 mm is not allowed; it must be"),
    "no spacing": (["--spacing-mm", "1", "nan", "1"], "The spacing 1 x nan x 1 mm is not allowed"),
    "a spacing too large": (["--spacing-mm", "1", "1", "500"], "of 500 mm along width is larger than any scan"),
    "a spacing too fine": (["--spacing-mm", "0.01", "0.01", "0.01"], "voxels; at most 2147483648 are allowed"),
    "an unknown scaling": (["--scaling-a", "minmax"], "The intensity scaling 'minmax' is not understood"),
    "percentiles in disorder": (["--scaling-b", "percentile:9,1"], "scaling 'percentile:9,1' is not allowed"),
    "no workers": (["--workers", "0"], "--workers is 0; at least 1 is needed"),
    "a negative volume": (["--volume", "-1"], "--volume is -1; volumes are counted from 0"),
    "an unknown runner": (["--runner", "Sprinter"], "The runner 'Sprinter' cannot be used: Unexpected pipeline runner"),
    "a stray word": (["stray"], "options are not understood: 'stray' does not begin with --"),
    "a runner's option that is wrong": (
        ["--", "--direct_num_workers=many"],
        "runner's options are not understood: argument --direct_num_workers: invalid int value: 'many'",
    ),
    "a file in the way": (["--out", "{file}"], "{file} is a file; --out must be a folder"),
    "a file above": (["--out", "{file}/records"], "The folder {file} cannot be written"),
    "another folder in the way": (["--out", "{a}"], "{a} holds files that are no data set; give another --out"),
    "a read-only file system": (["--out", "/proc/records"], "/proc/records.partial cannot be written"),
    "the key in the data set": (["--key-file", "{out}/key"], "The key file {out}/key lies in the data set {out}"),
    "no key": (["--key-file", "{file}"], "The key file {file} holds 12 bytes; a key has 32"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_wrong_arguments(world, capsys, kind):
    arguments, sentence = ARGUMENTS[kind]
    (world / "empty").mkdir()
    (world / "file").write_text("in the way\n.")
    places = {name: world / name for name in ("a", "b", "empty", "missing", "file")} | {"out": world / "records"}
    before = sorted(world.rglob("*"))
    assert build(world, *(text.format(**places) for text in arguments)) == 2
    assert sentence.format(**places) in one_sentence(capsys.readouterr().err)
    assert sorted(world.rglob("*")) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk(world, capsys, small_disk):
    """One sentence; then, with more room, the run goes on from what was written."""
    a, b = (save_domain(world / f"large {d}", SUBJECTS * 4, gain, (24, 48, 48)) for d, gain in (("a", 1), ("b", 3)))
    for i in range(12):
        save(a / f"sub-t{i}.nii.gz", voxels(i, (24, 48, 48)))
    assert build(world, "--out", small_disk / "records", a=a, b=b) == 2
    said = one_sentence(capsys.readouterr().err)
    assert re.search(r"/disk/records.partial/\w+.tfrecord cannot be written: No space left on device", said)
    assert [p.name for p in small_disk.iterdir()] == ["records.partial"]
    assert not list((small_disk / "records.partial").glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert build(world, "--out", small_disk / "records", a=a, b=b) == 0
    assert verify(small_disk / "records")["problems"] == []


# 5. Records, by `verify` and by a reader: exit code 2.

SHARD = "train/a-00000-of-00001.tfrecord"


def _change(change):
    def apply(folder):
        path = folder / SHARD
        data = bytearray(path.read_bytes())
        path.write_bytes(change(data) or data)

    return apply


def _state(change):
    def apply(folder):
        info = read_json(folder / "dataset.json")
        write_json(folder / "dataset.json", change(info) or info)

    return apply


def _set(data, place, value):
    data[place] = value


def _rewrite(**changes):
    def apply(folder):
        found = [dataclasses.replace(r, **changes) for r in records.read_shard(folder / SHARD)]
        records.write_shard(folder / SHARD, found)

    return apply


# kind: (damage, what verify says)
RECORDS = {
    "no dataset.json": (lambda f: (f / "dataset.json").unlink(), "dataset.json cannot be read: No such file"),
    "half a dataset.json": (lambda f: os.truncate(f / "dataset.json", 200), "dataset.json is not valid JSON"),
    "another JSON": (lambda f: (f / "dataset.json").write_text("[1]"), "dataset.json is not of a data set: it lacks"),
    "JSON of another kind": (_state(lambda i: i | {"shards": [1, 2]}), "dataset.json is not of a data set: shards"),
    "JSON without facts": (_state(lambda i: i | {"shards": {SHARD: {}}}), "dataset.json is not of a data set: shards"),
    "JSON without splits": (_state(lambda i: i | {"splits": {"train": 1}}), "is not of a data set: splits"),
    "JSON without domains": (_state(lambda i: i | {"domains": {}}), "is not of a data set: domains"),
    "dataset.json that is no text": (lambda f: (f / "dataset.json").write_bytes(b"\xff\xfe{}"), "is not valid JSON"),
    "another schema": (_state(lambda i: i | {"schema_version": 9}), "has schema version 9; this program reads 1"),
    "a shard that is gone": (lambda f: (f / SHARD).unlink(), f"{SHARD} is missing"),
    "a shard that is a folder": (lambda f: ((f / SHARD).unlink(), (f / SHARD).mkdir()), f"{SHARD} is missing"),
    "a cut shard": (_change(lambda d: d[:-1]), "truncated: its record 2 ends beyond the file"),
    "an empty shard": (_change(lambda d: bytes(1)), "truncated: its record 0 ends beyond the file"),
    "a flipped bit": (_change(lambda d: _set(d, 500, d[500] ^ 1)), "the checksum of its record 0 is wrong"),
    "a length without end": (_change(lambda d: _set(d, 7, 255)), "truncated: its record 0 ends beyond the file"),
    "bytes behind": (_change(lambda d: bytes(d) + bytes(16)), "the checksum of its record 3 is wrong"),
    "another subject": (_rewrite(subject="s000000000000"), "is of the subject s000000000000, who is not listed"),
    "another shape": (_rewrite(voxels=np.zeros((2, 2), np.float32), mask=None), "has the shape"),
    "a stranger's shard": (lambda f: shutil.copy(f / SHARD, f / "val/a-00000-of-00001.tfrecord"), "is not listed in"),
    "a name that climbs out": (
        _state(lambda i: i["shards"].update({"../../etc/passwd": i["shards"][SHARD]})),
        "'../../etc/passwd' is not the name of a shard",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    world = tmp_path_factory.mktemp("sound")
    save_domain(world / "a", SUBJECTS)
    save_domain(world / "b", SUBJECTS, gain=3)
    assert build(world, "--key-file", world / "key") == 0
    return world / "records"


@pytest.mark.parametrize("kind", RECORDS)
def test_records_that_are_damaged(sound, tmp_path, capsys, caplog, kind):
    folder = shutil.copytree(sound, tmp_path / "records")
    damage, sentence = RECORDS[kind]
    damage(folder)
    assert main(["verify", str(folder)]) == 2
    assert sentence in one_sentence(capsys.readouterr().err) + caplog.text


def test_the_table_is_long_enough():
    kinds = [*SCANS, *SOUND, *TABLES, *ARGUMENTS, *RECORDS]
    assert len(kinds) == len(set(kinds)) >= 100
