"""Runs that do not end well: killed, stopped, damaged, on a full disk. What is bit-equal is so on one machine with one
set of packages and the same number of threads."""

import contextlib
import csv
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cyclescan import records
from cyclescan import train as train_command
from cyclescan.artifacts import checkpoints as stored
from cyclescan.artifacts import runs
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, write_json
from cyclescan.config import Config
from cyclescan.inference import usual
from cyclescan.inference.translator import Translator
from cyclescan.training import checkpoints, journal, loop, stopping, trainer, validation
from cyclescan.training.loop import Loop
from cyclescan.training.schedule import Schedule
from tests.conftest import SETTINGS, scan, write_records
from tests.training.plain import plain_step

ROOT = Path(__file__).parents[2]
# dropout, a pool that is full, an average, pairs, both kinds of step, augmentation, batches of two, a loss scale
CONFIG = Config(
    steps=24,
    lambda_pair=1.0,
    warmup=0.5,
    lambda_identity=0.5,
    average_decay=0.9,
    batch_size=2,
    precision="mixed_float16",
).with_settings(SETTINGS)
EVERY = 4
KILL_AFTER_WRITING = """
import os, signal, sys
from cyclescan.training import checkpoints
checkpoints.sha256 = lambda path: os.kill(os.getpid(), signal.SIGKILL)
from cyclescan import train
sys.exit(train.main(sys.argv[1:]))
"""


def variables(path):
    """Every variable in a checkpoint: networks, averages, optimizers, loss scale, pools, step."""
    reader = tf.train.load_checkpoint(str(path / "state"))
    return {k: reader.get_tensor(k) for k in reader.get_variable_to_shape_map() if not k.startswith("_CHECKPOINTABLE")}


def assert_equal_states(expected, got):
    expected, got = variables(expected), variables(got)
    assert expected.keys() == got.keys()
    parts = ("generator_optimizer/_trainable_variables/0", "step", "pool_a/patches", "translator_a2b")
    assert all(any(name.startswith(part) for name in got) for part in parts)
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)


def history(run):
    return [
        {k: v for k, v in row.items() if k != "seconds"}
        for row in csv.DictReader(open(run.path / "history.csv", encoding="utf-8"))
    ]


def events(run):
    """(step, tag) of everything that TensorBoard shows, in order."""
    files = sorted((run.path / "tensorboard").iterdir())
    told = (e for path in files for e in tf.compat.v1.train.summary_iterator(str(path)))
    return sorted((e.step, v.tag) for e in told for v in e.summary.value)


def assert_same_run(expected, got, every=EVERY):
    """Both ended alike: the last state bit for bit, the losses of every row, each event once, scores, translations."""
    assert_equal_states(runs.find(expected), runs.find(got))
    assert history(got) == history(expected)
    assert events(got) == events(expected)
    scores = [
        {s: read_json(p / "checkpoint.json")["score"] for s, p in run.checkpoints.items() if s % every == 0}
        for run in (expected, got)
    ]
    assert scores[0] == scores[1]
    assert not [p for p in got.path.rglob(".*")]


def train(data, run, **options):
    return trainer.train(data, run, options.pop("config", CONFIG), preset="demo", checkpoint_every=EVERY, **options)


@pytest.fixture(scope="module")
def plainly():
    """For what surrounds the steps: plain ones, and a quick score."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "learn", plain_step)
        patch.setattr(validation, "SOURCES", 1)
        patch.setattr(usual, "add_limits", lambda run, data: run)  # translates for seconds
        yield


@pytest.fixture(scope="module")
def whole(tiny_records, tmp_path_factory, plainly):
    """The run that nobody disturbed."""
    return train(tiny_records, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return runs.read_run(tmp_path / "run")


def arguments(data, run, config=CONFIG, every=EVERY):
    settings = [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in config.to_dict().items()]
    common = ["--data", data, "--run", run, "--preset", "demo", "--checkpoint-every", every]
    return [*map(str, common), "--set", *settings]


@contextlib.contextmanager
def started(*words, code=None):
    """A process of the real command, or of `code`; killed if the block fails."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "cyclescan.train"]), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def steps_of(run):
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*"))


def wait_for(process, condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_killed_the_run_ends_as_if_nothing_had_happened(tiny_records, tmp_path):
    """Killed inside its first save: a real process, then all of its steps. `test_twenty_kills` kills it anywhere."""
    # one kind of step, and few terms: its tracing takes seconds
    config = CONFIG.with_settings(["warmup=0", "steps=8", "lambda_identity=0", "lambda_cycle=0"])
    whole = train(tiny_records, tmp_path / "whole", config=config)
    assert any("dynamic_scale" in name for name in variables(runs.find(whole)))
    folder = tmp_path / "run"
    common = arguments(tiny_records, folder, config)
    with started(*common, code=KILL_AFTER_WRITING) as process:
        assert process.wait(600) == -signal.SIGKILL
    left = [p.name for p in (folder / "checkpoints").iterdir()]
    assert len(left) == 1 and left[0].startswith(".") and left[0].endswith(".tmp.step-00000004")
    assert_same_run(whole, train(tiny_records, folder, config=config, resume=True))
    volume = scan(5, "a")
    expected, got = (Translator.load(path, "a2b").translate_array(volume) for path in (whole.path, folder))
    np.testing.assert_array_equal(expected, got)


@pytest.mark.slow
def test_a_terminated_process_ends_with_0(tiny_records, tmp_path):
    """SIGTERM to the real command, while it trains."""
    common = arguments(tiny_records, tmp_path / "run", CONFIG.with_settings(["steps=1000"]))
    with started(*common) as process:
        wait_for(process, lambda: 4 in steps_of(tmp_path / "run"))
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=600)[1]
    assert process.returncode == 0, text
    reached = steps_of(tmp_path / "run")[-1]
    assert 4 <= reached < 1000
    assert f"SIGTERM: step {reached} of 1000 is done and {tmp_path / 'run'} is saved; continue it with" in text


@pytest.mark.slow
def test_twenty_kills(tmp_path, tiny_records):
    """Kill -9 at 20 random moments: at any time, soon after a checkpoint, or as soon as a save has begun."""
    chance = random.Random(0)
    config = CONFIG.with_settings(["steps=1000", "precision=float32"])
    run, saves = tmp_path / "run", tmp_path / "run" / "checkpoints"
    common = arguments(tiny_records, run, config, 10)
    moments = []
    for number in range(20):
        before = steps_of(run)
        with started(*common, *(["--resume"] if number else [])) as process:
            if number % 3 == 0:
                wait_for(process, (run / "config.json").exists)
                time.sleep(chance.uniform(0, 12))
            else:
                wait_for(process, lambda before=before: steps_of(run) != before)
                if number % 3 == 1:
                    time.sleep(chance.uniform(0, 1.5))
                else:
                    wait_for(process, lambda: any(saves.glob(".*.tmp.*")))
                    time.sleep(chance.uniform(0, 0.01))  # a save of tiny networks takes little more
            process.kill()
            assert process.wait(600) == -signal.SIGKILL
        moments.append((max(steps_of(run), default=0), len(list(run.rglob(".*.tmp.*")))))
    sys.stderr.write(f"\nlast checkpoint and half-written files at each kill: {moments}\n")
    assert sum(left > 0 for _, left in moments) >= 3
    with started(*common, "--resume") as process:
        text = process.communicate(timeout=1200)[1]
        assert process.returncode == 0, text
    whole = trainer.train(tiny_records, tmp_path / "whole", config, preset="demo", checkpoint_every=10)
    assert_same_run(whole, runs.read_run(run), 10)


class StopError(Exception):
    pass


def stop_at(number):
    def stop(step, _):
        if step == number:
            raise StopError

    return stop


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # handlers run between two instructions of the main thread


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_in_hand(tiny_records, tmp_path, whole, monkeypatch, caplog, number, code):
    """Also one that comes while the score is computed, which the resumed run makes up for."""
    learn, score, folder = Loop.learn, validation.score, tmp_path / "run"
    taken, scored = [], []

    def interrupted(*given):
        taken.append(None)
        if len(taken) == 6:
            send(number)
        return learn(*given)

    def broken_off(*given):
        if len(taken) == 12 and not scored:
            scored.append(None)
            send(number)
        return score(*given)

    monkeypatch.setattr(Loop, "learn", interrupted)
    monkeypatch.setattr(validation, "score", broken_off)
    common = arguments(tiny_records, folder)
    with caplog.at_level("INFO"):
        assert train_command.main(common) == code
        name = signal.Signals(number).name
        assert f"{name}: step 6 of 24 is done and {folder} is saved; continue it with --resume" in caplog.text
        assert read_json(folder / "checkpoints/step-00000006/checkpoint.json").keys() >= {"unplanned", "recent"}
        assert train_command.main([*common, "--resume"]) == code
        assert read_json(folder / "checkpoints/step-00000012/checkpoint.json")["score"] is None
        assert train_command.main([*common, "--resume"]) == 0
    assert len(taken) == 24
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_same_run(whole, runs.read_run(folder))
    assert sorted(runs.read_run(folder).checkpoints) == [4, 8, 12, 16, 20, 24]  # the one at 6 went


def test_a_second_interrupt_is_obeyed_at_once():
    with stopping.requests() as stop:
        send(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_work_is_broken_off_by_a_signal():
    with stopping.requests() as stop:
        assert stop.unless_asked(lambda: 3) == 3
        assert stop.unless_asked(lambda: send(signal.SIGTERM) or 3) is None
        assert stop.unless_asked(lambda: 3) is None
        with pytest.raises(stopping.Terminated) as caught:
            stop.obey()
        assert caught.value.code == 143  # as the shell would see the signal, where nobody catches it


def test_in_a_thread_signals_stay_as_they_are():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with stopping.requests():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def damage(path, kind):
    data = path / "state.data-00000-of-00001"
    if kind == "truncated":
        data.write_bytes(data.read_bytes()[:1000])
    elif kind == "altered":
        content = bytearray(data.read_bytes())
        content[5000] ^= 1
        data.write_bytes(content)
    elif kind == "missing":
        data.unlink()
    elif kind == "no description":
        (path / "checkpoint.json").unlink()
    elif kind == "cut description":
        (path / "checkpoint.json").write_text('{"step": 24, "config"')
    elif kind == "of another step":
        shutil.rmtree(path)
        shutil.copytree(path.with_name("step-00000020"), path)
    elif kind == "of another config":
        facts = read_json(path / "checkpoint.json")
        facts["config"]["lambda_cycle"] = 3.0
        write_json(path / "checkpoint.json", facts)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("truncated", "step-00000024 is damaged: state.data-00000-of-00001 is missing, truncated or altered"),
        ("altered", "step-00000024 is damaged: state.data-00000-of-00001 is missing, truncated or altered"),
        ("missing", "step-00000024 is damaged: state.data-00000-of-00001 is missing, truncated or altered"),
        ("no description", "step-00000024/checkpoint.json cannot be read: No such file"),
        ("cut description", "step-00000024/checkpoint.json is not valid JSON"),
        ("of another step", "step-00000024 is damaged: it is of step 20"),
        ("of another config", "was made with another config: lambda_cycle is 3.0 there and 10.0 here"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_last_good_one(copy, kind, sentence):
    damage(runs.find(copy), kind)
    damage(copy.checkpoints[20], "altered")
    with pytest.raises(InputError) as caught:
        checkpoints.resume(copy, None)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(
        "The last good checkpoint is step 16: --resume-from 16 goes on there and removes later ones."
    )
    assert sorted(copy.checkpoints) == [4, 8, 12, 16, 20, 24]  # nothing was touched
    with pytest.raises(InputError, match=r"The last good checkpoint is step 16: --weights 16\."):
        stored.load_generator(copy, "a2b")


def test_resume_from_goes_back_exactly(copy, whole, tiny_records, capsys):
    damage(runs.find(copy), "truncated")
    common = arguments(tiny_records, copy.path)
    assert train_command.main([*common, "--resume"]) == 2
    text = capsys.readouterr().err
    assert "--resume-from 20 goes on there" in text and text.count("\n") == 1
    assert train_command.main([*common, "--resume-from", "20"]) == 0
    assert_same_run(whole, copy)


def test_resume_from_the_beginning(copy, whole, tiny_records):
    for path in list(copy.checkpoints.values())[3:]:
        damage(path, "altered")
    with pytest.raises(InputError, match="No checkpoint of the run can be resumed; --resume-from 0 begins it again"):
        checkpoints.resume(copy, None)
    assert_same_run(whole, train(tiny_records, copy.path, resume_from=0))


def test_a_step_without_a_checkpoint_or_with_a_reduced_one(copy):
    with pytest.raises(InputError, match=r"has no checkpoint at step 7\. The last good checkpoint is step 24"):
        checkpoints.resume(copy, None, 7)
    with pytest.raises(InputError, match=r"step-00000008 is an old one, of which only .* The last good .* step 24"):
        checkpoints.resume(copy, None, 8)


def test_old_checkpoints_keep_the_networks_that_translate(tiny_records, tmp_path, whole):
    """The same weights and the same identity in a part of the bytes."""
    before = {}

    def look(step, model):
        path = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        size = sum(p.stat().st_size for p in path.iterdir())
        before[step] = (model.translators["b2a"].get_weights(), size, stored.checksums(path))

    run = train(tiny_records, tmp_path / "run", keep_states=2, on_checkpoint=look, config=CONFIG)
    whole_ones = [s for s, p in run.checkpoints.items() if read_json(p / "checkpoint.json").get("whole", True)]
    assert whole_ones == [20, 24]
    assert runs.read_run(run.path).keep_states == 2
    for step, (weights, size, checksums) in before.items():
        path = run.checkpoints[step]
        for expected, got in zip(weights, stored.load_generator(run, "b2a", step).get_weights(), strict=True):
            np.testing.assert_array_equal(expected, got)
        if step not in whole_ones:
            assert sum(p.stat().st_size for p in path.iterdir()) < 0.4 * size
        assert stored.checksums(path) == checksums
    scores = {s: read_json(p / "checkpoint.json")["score"] for s, p in run.checkpoints.items()}
    assert runs.find(run, "best") == run.checkpoints[min(scores, key=scores.get)]


def test_a_folder_moved_aside_by_a_killed_process_comes_back(copy):
    """Killed while a checkpoint was being reduced, between two renames."""
    path = copy.checkpoints[20]
    path.rename(path.with_name(".01234567.old.step-00000020"))
    (path.parent / ".89abcdef.tmp.step-00000020").mkdir()
    (path.parent / ".89abcdef.tmp.step-00000020" / "state.index").write_bytes(b"half")
    with pytest.raises(InputError, match="no checkpoint at step 7"):
        checkpoints.resume(copy, None, 7)
    assert sorted(copy.checkpoints) == [4, 8, 12, 16, 20, 24]
    assert not list(path.parent.glob(".*"))


def test_a_run_without_a_checkpoint_begins_again(copy, whole, tiny_records):
    shutil.rmtree(copy.path / "checkpoints")
    assert_same_run(whole, train(tiny_records, copy.path, resume=True))


def test_a_complete_run_says_so(copy, tiny_records, caplog):
    common = ["--data", str(tiny_records), "--run", str(copy.path), "--resume"]
    files = {p: p.stat().st_mtime_ns for p in copy.path.rglob("*")}
    with caplog.at_level("INFO"):
        assert train_command.main(common) == 0
    assert f"{copy.path} is complete: nothing is left to do" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in copy.path.rglob("*")} == files
    with pytest.raises(InputError, match=r"begun with steps = 24, not 30; the schedule depends on it"):
        train(tiny_records, copy.path, resume=True, config=CONFIG.with_settings(["steps=30"]))


def test_minutes_and_other_options_are_kept(tiny_records, tmp_path, monkeypatch, plainly):
    """A run by the clock that was stopped goes on by the clock, from the time that its checkpoint had."""
    ticks = itertools.count(0, 0.5)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    config, run = CONFIG.with_settings(["steps=1000"]), tmp_path / "run"
    with pytest.raises(StopError):
        trainer.train(tiny_records, run, config, minutes=0.5, checkpoint_every=2, on_checkpoint=stop_at(2))
    progress, seen = Schedule.progress, []
    monkeypatch.setattr(Schedule, "progress", lambda *given: seen.append(given) or progress(*given))
    trainer.train(tiny_records, run, config, resume=True)
    facts = {s: read_json(p / "checkpoint.json") for s, p in runs.read_run(run).checkpoints.items()}
    assert {schedule.minutes for schedule, *_ in seen} == {0.5}
    assert list(facts)[:3] == [2, 4, 6]  # every second step, as it was begun
    assert 0 < facts[2]["seconds"] <= seen[0][2] <= facts[2]["seconds"] + 2
    before, last = sorted(facts)[-2:]
    assert last < 1000 and facts[last]["seconds"] >= 30 > facts[before]["seconds"]
    # asked again it goes on to its last step, unless it is told the time again
    assert max(trainer.train(tiny_records, run, config, minutes=0.5, resume=True).checkpoints) == last
    monkeypatch.setattr(Schedule, "progress", lambda *given: seen.append(given) or 1.0)
    with pytest.raises(StopError):
        trainer.train(tiny_records, run, config, resume=True, on_checkpoint=stop_at(last + 2 - last % 2))
    assert seen[-1][0].minutes is None


def test_other_records_are_refused(copy, tmp_path):
    other = write_records(tmp_path / "records", {"train": 3, "val": 1, "test": 1})
    with pytest.raises(InputError, match="begun on other records than those"):
        train(other, copy.path, resume=True)


def test_records_have_a_fingerprint(tmp_path, tiny_records):
    def fingerprint(folder, split="train"):
        entries = records.entries(folder, split, "a")
        return records.fingerprint(entries, records.checksums(entries))

    twin = tmp_path / "twin"
    shutil.copytree(tiny_records, twin)
    assert fingerprint(twin) == fingerprint(tiny_records) != fingerprint(tiny_records, "pairs")
    (shard,) = records.shards(twin / "train", "a")
    records.write_shard(shard, reversed(list(records.read_shard(shard))))
    assert fingerprint(twin) != fingerprint(tiny_records)


def test_a_run_in_use_is_left_alone(copy, tiny_records):
    with (
        checkpoints_in_use(copy.path),
        pytest.raises(InputError, match=r"Another process is training .*run; wait for it"),
    ):
        train(tiny_records, copy.path, resume=True)


@contextlib.contextmanager
def checkpoints_in_use(folder):
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(); input()"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate(b"\n")


def change(path, **values):
    write_json(path, read_json(path) | values)


def test_another_version_goes_on_and_says_so(copy, tiny_records, caplog):
    for path in copy.checkpoints.values():
        change(path / "checkpoint.json", versions={"cyclescan": "0.0.9", "tensorflow": "2.20.0"})
    train(tiny_records, copy.path, resume=True)
    assert "Step 24 was saved with cyclescan 0.0.9, tensorflow 2.20.0, this is cyclescan " in caplog.text


def test_settings_of_another_version(copy):
    """New settings have their defaults; a setting that is not known is named with the version that wrote it."""
    values = read_json(copy.path / "config.json")
    del values["config"]["average_decay"], values["fingerprint"], values["keep_states"]
    write_json(copy.path / "config.json", values)
    run = runs.read_run(copy.path)
    assert (run.config.average_decay, run.fingerprint, run.keep_states) == (0.0, "", runs.KEEP_STATES)
    facts = read_json(runs.find(copy) / "checkpoint.json")
    del facts["config"]["beta_1"]
    write_json(runs.find(copy) / "checkpoint.json", facts)
    assert stored.last_good(copy) == 24
    change(copy.path / "config.json", config={**copy.config.to_dict(), "magic": 1}, cyclescan_version="9.9")
    with pytest.raises(InputError, match=r"config.json has the setting 'magic'.*written by cyclescan 9\.9"):
        runs.read_run(copy.path)
    (copy.path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        runs.read_run(copy.path)


def test_a_state_that_does_not_fit_is_one_sentence(copy):
    """As a version with other variables would find it."""
    change(runs.find(copy) / "checkpoint.json", versions={"cyclescan": "0.0.9"})
    state = tf.train.Checkpoint(step=tf.Variable(0, dtype=tf.int64), more=tf.Variable(1.0))
    with pytest.raises(InputError, match=r"does not hold the whole state .* saved with cyclescan 0\.0\.9"):
        checkpoints.resume(copy, state)


@contextlib.contextmanager
def files_of_at_most(size):
    """The system refuses to let a file grow beyond `size` bytes, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("what", ["checkpoint", "journal"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tiny_records, tmp_path, whole, what):
    folder = tmp_path / "run"
    with contextlib.ExitStack() as full:

        def fill(step, _):
            if step == 8:
                if what == "journal":  # the events outgrow a checkpoint, which then has room where they have none
                    tf.summary.text("padding", "x" * 400_000, step)
                    tf.summary.flush()
                sizes = [p.stat().st_size for p in (folder / "tensorboard").iterdir()]
                full.enter_context(files_of_at_most(100_000 if what == "checkpoint" else max(sizes)))

        with pytest.raises(InputError) as caught:
            train(tiny_records, folder, on_checkpoint=fill)
    text = str(caught.value)
    assert f"{folder} cannot be written: " in text
    assert "File too large" in text or "No space left on device" in text
    assert ". A checkpoint needs 21" in text
    assert text.endswith("are free; the last good checkpoint is step 8. Make room and continue with --resume.")
    run = runs.read_run(folder)
    assert sorted(run.checkpoints) == [4, 8]
    assert not list((folder / "checkpoints").glob(".*"))
    resumed = train(tiny_records, folder, resume=True)
    assert_equal_states(runs.find(whole), runs.find(resumed))
    assert history(resumed) == history(whole)
    assert [e for e in events(resumed) if e[1] != "padding"] == events(whole)


def test_events_that_a_full_disk_did_not_take_are_noticed(tmp_path):
    """TensorFlow's writer says nothing."""
    book = journal.Journal(tmp_path, 0)
    with book.writing():
        with files_of_at_most(100_000):
            tf.summary.text("long", "x" * 200_000, 10)
            with pytest.raises(OSError, match=r"No space left.*tensorboard"):
                book.add({"step": 10})


def test_disk_use_is_said_before_the_run_begins(tiny_records, tmp_path, whole, monkeypatch, caplog):
    usage = shutil.disk_usage(tmp_path)
    data = runs.find(whole) / "state.data-00000-of-00001"
    with caplog.at_level("INFO"):
        state = trainer.CycleGAN(CONFIG, 0).state()
        size = checkpoints.size(state)
        assert 0.8 < size / data.stat().st_size < 1  # the names of the variables take the rest
        checkpoints.check_room(whole, state, 0, EVERY)
        translating = checkpoints.size(state.translator_a2b, state.translator_b2a)
        total = 4 * size + 2 * translating
        assert f"checkpoints: 6 of {checkpoints._bytes(size)}, whole states of the last 3, " in caplog.text
        assert f" {checkpoints._bytes(total)} in all" in caplog.text
        assert "may be full" not in caplog.text
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=total - 1))
        checkpoints.check_room(whole, state, 0, EVERY)
        assert "may be full before the run ends" in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    with pytest.raises(InputError, match=r"No space left on device.*the last good checkpoint is step 24"):
        checkpoints.check_room(whole, state, 20, EVERY)
    checkpoints.check_room(whole, state, 24, EVERY)  # nothing is left to write


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (tf.errors.ResourceExhaustedError(None, None, "state; No space left on device"), "No space left on device"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), None),
        (tf.errors.DataLossError(None, None, "corrupted record"), None),
        (FileNotFoundError(2, "No such file"), None),
        (InputError("the mouse is wrong"), None),
    ],
)
def test_which_errors_are_about_the_disk(error, reason):
    assert checkpoints.disk_trouble(error) == reason
    wrapped = InputError("outer")
    wrapped.__cause__ = error
    assert checkpoints.disk_trouble(wrapped) == reason


def test_the_journal_is_cut_back_to_whole_lines_of_earlier_steps(tmp_path):
    book = journal.Journal(tmp_path, 0)
    with book.writing():
        for step in (10, 20, 30):
            tf.summary.scalar("loss/x", step, step)
            book.add({"step": step, "x": float(step)})
        book.sync()
    history_path = tmp_path / "history.csv"
    with open(history_path, "a", encoding="utf-8") as stream:
        stream.write("1")  # of step 10..19, cut off by a kill
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes() + b"\x30\0\0")
    book = journal.Journal(tmp_path, 20)
    assert history_path.read_text().split() == ["step,x", "10,10.0", "20,20.0"]
    assert [e.step for e in tf.compat.v1.train.summary_iterator(str(file)) if e.summary.value] == [10, 20]
    with book.writing():
        tf.summary.scalar("loss/x", 30, 30)
        book.add({"step": 30, "x": 30.0, "y": 1.0})
    assert history_path.read_text().split() == ["step,x,y", "10,10.0,", "20,20.0,", "30,30.0,1.0"]
    journal.Journal(tmp_path, 0)
    assert not history_path.exists()
    assert not list((tmp_path / "tensorboard").iterdir())


def test_facts_are_plain_json(whole):
    """Also where a term is not finite: JSON has no word for it."""
    for path in whole.checkpoints.values():
        json.loads((path / "checkpoint.json").read_text(), parse_constant=pytest.fail)
