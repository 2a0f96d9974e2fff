"""A repeated run does only what is missing or has changed; a killed run continues."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from data_prep import beam, workspace
from data_prep.build import build, shards
from data_prep.verify import verify
from tests.data_prep.scan_files import save, save_domain, save_domains, voxels

ROOT = Path(__file__).parents[2]
SUBJECTS = [f"{i:02d}" for i in range(24)]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The subjects of every shard that is made from now on, one list for each run of the pipeline."""
    runs = []
    original = beam.run

    def run(function, jobs, *arguments, **options):
        runs.append([{source.subject for source in task.sources} for _, _, task in jobs])
        return original(function, jobs, *arguments, **options)

    monkeypatch.setattr(beam, "run", run)
    return runs


@pytest.fixture
def again(tmp_path):
    """Call `build` with the same arguments every time."""
    domains = save_domains(tmp_path, SUBJECTS)

    def call(**changes):
        options = {"spacing_mm": (3, 2, 1.5), "key_file": tmp_path / "key", "workers": 1} | changes
        out = options.pop("out", tmp_path / "records")
        return build(*domains, out, **options)

    return call


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_repeated_run_does_nothing(tmp_path, again, made):
    first = again()

    def state():
        # not when it was read: listing a folder changes that
        status = {path: path.stat() for path in (tmp_path / "records").rglob("*")}
        return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in status.items()}

    before = state()
    assert again() == first
    assert len(made) == 1
    assert state() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ciss", "dess", "key", "records"]


def test_only_the_shard_of_a_changed_scan_is_made_again(tmp_path, again, made):
    first = again()
    save(tmp_path / "ciss" / "sub-07.nii.gz", voxels(999))
    second = again()
    (shard,) = made[1]
    assert "sub-07" in shard
    changed = [name for name in first["shards"] if first["shards"][name] != second["shards"][name]]
    assert len(changed) == 1
    assert changed[0].split("/")[1].startswith("a-")
    assert verify(tmp_path / "records")["problems"] == []
    assert content(tmp_path / "records") == content_of_a_fresh_build(tmp_path, again)


def content_of_a_fresh_build(tmp_path, again):
    again(out=tmp_path / "fresh")
    return content(tmp_path / "fresh")


def test_a_new_scan_changes_few_shards(tmp_path, again, made):
    again()
    save_domain(tmp_path / "ciss", ["new"])
    again()
    assert len(made[0]) > 8
    # its own shard; and where it moves the borders of the splits, those of the subjects that go over
    assert 1 <= len(made[1]) <= 5
    assert any("sub-new" in shard for shard in made[1])
    assert content(tmp_path / "records") == content_of_a_fresh_build(tmp_path, again)


def test_a_shard_that_is_gone_or_cut_is_made_again(tmp_path, again, made):
    first = again()
    before = content(tmp_path / "records")
    gone, cut, *_ = first["shards"]
    (tmp_path / "records" / gone).unlink()
    os.truncate(tmp_path / "records" / cut, 100)
    assert again() == first
    assert len(made[1]) == 2
    assert content(tmp_path / "records") == before


def test_pairs_stay_while_the_training_scans_do(tmp_path, again, caplog):
    first = again()
    (tmp_path / "records" / "pairs").mkdir()
    (tmp_path / "records" / "pairs" / "pairs.json").write_text("{}")
    test_subject = first["splits"]["test"]["a"][0]
    name = next(n for n, f in first["shards"].items() if n[:6] == "test/a" and f["scans"][0]["subject"] == test_subject)
    (tmp_path / "records" / name).unlink()
    again()
    assert (tmp_path / "records" / "pairs" / "pairs.json").read_text() == "{}"
    for subject in SUBJECTS:
        (tmp_path / "dess" / f"sub-{subject}.nii.gz").touch()
    again()  # every scan is new by its time, the same by its content
    assert (tmp_path / "records" / "pairs").exists()
    save_domain(tmp_path / "ciss", [f"n{i}" for i in range(8)])
    again()
    assert not (tmp_path / "records" / "pairs").exists()
    assert "were of other training scans; make new ones" in caplog.text


def test_other_arguments_need_overwrite_and_keep_what_they_can(tmp_path, again, made):
    first = again()
    with pytest.raises(InputError, match="made with other arguments; give --overwrite"):
        again(seed=1)
    with pytest.raises(InputError, match="made with other arguments; give --overwrite"):
        again(scaling_b="percentile:1,99")
    second = again(scaling_b="percentile:1,99", overwrite=True)
    assert all(name.startswith(("train/b", "val/b", "test/b")) == (first["shards"][name] != facts)
               for name, facts in second["shards"].items())  # fmt: skip
    assert len(made[1]) == sum(name.split("/")[1].startswith("b") for name in second["shards"])


def test_a_scan_that_failed_is_tried_again(tmp_path, again, made):
    sound = (tmp_path / "ciss" / "sub-03.nii.gz").read_bytes()
    (tmp_path / "ciss" / "sub-03.nii.gz").write_bytes(sound[:-30])
    assert len(again()["failed"]) == 1
    assert len(again()["failed"]) == 1
    (tmp_path / "ciss" / "sub-03.nii.gz").write_bytes(sound)
    assert again()["failed"] == []
    for remade in made[1:]:
        (shard,) = remade
        assert "sub-03" in shard
    assert content(tmp_path / "records") == content_of_a_fresh_build(tmp_path, again)


def test_what_is_done_is_kept_when_a_run_fails(tmp_path, again, made, monkeypatch):
    """The disk is full at the third shard; the next run makes the others alone."""
    original, calls = shards.records.write_shard, []

    def fills(path, records):
        calls.append(path)
        if len(calls) >= 3:
            raise InputError(f"{path} cannot be written: No space left on device.")
        original(path, records)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left on device"):
        patch.setattr(shards.records, "write_shard", fills)
        again()
    assert not (tmp_path / "records").exists()
    assert len(list((tmp_path / "records.partial").glob("*.tfrecord"))) == 2
    again()
    assert len(made[1]) == len(made[0]) - 2
    assert not (tmp_path / "records.partial").exists()
    assert content(tmp_path / "records") == content_of_a_fresh_build(tmp_path, again)


def test_a_killed_run_leaves_no_half_shard_and_continues(tmp_path):
    subjects = [f"{i:03d}" for i in range(36)]
    a, b = (save_domain(tmp_path / d, subjects, gain, (24, 48, 48)) for d, gain in (("a", 1), ("b", 3)))
    out, partial = tmp_path / "records", tmp_path / "records.partial"
    command = ["-m", "data_prep", "build", "--a", f"x={a}", "--b", f"y={b}", "--key-file", tmp_path / "key"]
    command = [sys.executable, *map(str, command), "--spacing-mm", "3", "1.2", "0.9", "--workers", "2", "--out"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*command, str(out)], cwd=ROOT, stderr=log)
        deadline = time.monotonic() + 120
        while len(list(partial.glob("*.json"))) < 3:
            assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    # every shard with facts is whole; another run is let in at once, and the workers have ended with their parent
    time.sleep(2.5)
    facts = {path.stem: read_json(path) for path in partial.glob("*.json")}
    finished = {name: (partial / f"{name}.tfrecord").stat() for name in facts}
    assert len(finished) >= 3
    assert all(finished[name].st_size == facts[name]["bytes"] for name in facts)
    time.sleep(1)
    assert len(list(partial.glob("*.json"))) == len(finished)
    done = subprocess.run([*command, str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not partial.exists()
    assert len(finished) < len(read_json(out / "dataset.json")["shards"])
    kept = {path.stat().st_ino for path in out.rglob("*.tfrecord")}
    assert {status.st_ino for status in finished.values()} <= kept
    assert verify(out)["problems"] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "key", "log", "records"]
    options = {"spacing_mm": (3, 1.2, 0.9), "key_file": tmp_path / "key", "workers": 1}
    build(("x", a), ("y", b), tmp_path / "fresh", **options)
    assert {p: c for p, c in content(out).items() if p.suffix != ".json"} == {
        p: c for p, c in content(tmp_path / "fresh").items() if p.suffix != ".json"
    }


def test_a_run_killed_while_the_data_sets_changed_places(tmp_path, again):
    """The old one is aside, the new one has its temporary name still."""
    first = again()
    shutil.copytree(tmp_path / "records", tmp_path / ".0123abcd.tmp.records")
    (tmp_path / "records").rename(tmp_path / ".89abcdef.old.records")
    (tmp_path / ".89abcdef.old.records2").mkdir()  # of another data set
    with workspace.opened(tmp_path / "records"):
        assert read_json(tmp_path / "records" / "dataset.json") == first
    assert again() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == [".89abcdef.old.records2", "ciss", "dess", "key", "records"]


def test_outcomes_that_cannot_be_written(tmp_path, again, monkeypatch):
    """The shards just fit on the disk, and the list of what was done does not."""
    original = beam.write_text

    def full(path, text):
        if str(path).endswith(beam.OUTCOMES):
            raise InputError("No space left on device.")
        original(path, text)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot be written by the runner's workers"):
        patch.setattr(beam, "write_text", full)
        again()
    assert not (tmp_path / "records").exists()
    monkeypatch.setattr(beam, "run", None)  # all shards are there
    again()
    assert verify(tmp_path / "records")["problems"] == []


def test_two_runs_at_once(tmp_path, again):
    with workspace.opened(tmp_path / "records"), pytest.raises(InputError, match="Another run is building"):
        again()
    again()


def test_a_file_system_without_links(tmp_path, again, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    again(key_file=save_key(tmp_path))
    assert verify(tmp_path / "records")["problems"] == []


def save_key(tmp_path):
    (tmp_path / "own.key").write_bytes(bytes(32))  # a new key is made by a link
    return tmp_path / "own.key"


def test_the_arguments_that_change_no_byte(tmp_path, again, made):
    """The number of workers, for instance, is no reason to refuse."""
    first = again()
    assert again(workers=3, runner="BundleBasedDirectRunner") == first
    assert len(made) == 1


def test_what_else_lies_in_the_data_set_is_not_lost(tmp_path, again):
    """The lists of `data_prep qc` stay; a folder, a training run perhaps, is refused before any work is done."""
    out = tmp_path / "records"
    again()
    (out / "qc.txt").write_text("s0-1\n")
    save(tmp_path / "ciss" / "sub-99.nii.gz", voxels(99))
    again()
    assert (out / "qc.txt").read_text() == "s0-1\n"
    (out / "run" / "checkpoints").mkdir(parents=True)
    save(tmp_path / "ciss" / "sub-98.nii.gz", voxels(98))
    with pytest.raises(InputError, match="holds the folder run, which is no part of a data set and would be lost"):
        again()
    assert (out / "run" / "checkpoints").is_dir()


def test_a_folder_of_others_is_no_working_folder(tmp_path, again):
    for name in ("thesis.json", ".git/config", "sub/0123456789abcdef0123456789abcdef.json"):
        path = tmp_path / "records.partial" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        with pytest.raises(InputError, match="which no build made; move it away"):
            again()
        assert path.read_text() == "mine"
        shutil.rmtree(tmp_path / "records.partial")


def test_a_scan_that_kept_its_size_and_time_is_made_again(tmp_path, again, made):
    """Only the time that the system notes (ctime) tells that it changed; its shard is made again, and then kept."""
    path = tmp_path / "ciss" / "sub-03.nii"
    data = bytearray(gzip.decompress(path.with_suffix(".nii.gz").read_bytes()))
    path.with_suffix(".nii.gz").unlink()
    path.write_bytes(data)
    first = again()
    for number in range(2):
        before = path.stat()
        data[-900:-880] = bytes(20)
        data[-1000 - number] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        second = again()
        (shard,) = made[-1]
        assert "sub-03" in shard
        changed = [name for name in first["shards"] if first["shards"][name] != second["shards"][name]]
        assert len(changed) == 1
        first = second
        assert again() == second
        assert len(made) == 2 + number
    assert verify(tmp_path / "records")["problems"] == []


def test_a_data_set_and_scans_that_were_copied_are_kept(tmp_path, again, made):
    """Copies are younger than the shards by the time that the system notes; they are read, found the same, and kept."""
    first = again()
    old = time.time_ns() - 10**12
    for path in (tmp_path / "records").rglob("*.tfrecord"):
        os.utime(path, ns=(old, old))
    before = {path: path.stat().st_ino for path in (tmp_path / "records").rglob("*.tfrecord")}
    assert again() == first
    assert len(made) == 1
    assert {path: path.stat().st_ino for path in (tmp_path / "records").rglob("*.tfrecord")} == before
    assert all(path.stat().st_mtime_ns > old for path in before)  # so that they are not read each time
