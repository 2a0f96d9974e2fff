"""The loop: what a run leaves on disk, clear errors; test_resume.py has what happens when it does not end well."""

import csv
import dataclasses
import itertools
import logging
import types

import numpy as np
import pytest
import tensorflow as tf

from cyclescan import records
from cyclescan import train as train_command
from cyclescan.artifacts import checkpoints as stored
from cyclescan.artifacts import runs
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.config import Config
from cyclescan.training import checkpoints, loop, source, trainer
from cyclescan.training.cyclegan import CycleGAN
from cyclescan.training.schedule import Schedule
from tests.conftest import SETTINGS, without_graphs, write_records
from tests.training.plain import plain_step

CONFIG = Config(steps=6, lambda_pair=1.0, warmup=0.5, lambda_identity=0.5, texture="a").with_settings(SETTINGS)


def final_weights(run):
    """Everything that the last checkpoint holds."""
    reader = tf.train.load_checkpoint(str(runs.find(run) / "state"))
    names = (n for n in sorted(reader.get_variable_to_shape_map()) if not n.startswith("_CHECKPOINTABLE"))
    return [reader.get_tensor(name) for name in names]


@pytest.fixture(scope="module")
def whole(tiny_records, tmp_path_factory):
    return trainer.train(
        tiny_records, tmp_path_factory.mktemp("run") / "run", CONFIG, preset="demo", checkpoint_every=2
    )


def test_a_run_leaves_everything(whole):
    assert sorted(whole.checkpoints) == [2, 4, 6]
    assert runs.read_run(whole.path) == whole
    rows = list(csv.DictReader(open(whole.path / "history.csv", encoding="utf-8")))
    assert [int(r["step"]) for r in rows] == [6]
    assert {"pair_a2b", "cycle_aba", "texture_b2a", "adversarial_b2a", "discriminator_a", "seconds"} <= set(rows[0])
    assert all(np.isfinite(float(v)) for v in rows[0].values())
    events = list((whole.path / "tensorboard").iterdir())
    tags = {v.tag for e in events for s in tf.compat.v1.train.summary_iterator(str(e)) for v in s.summary.value}
    assert "loss/cycle_aba" in tags
    assert any("fake_b" in tag for tag in tags)


@pytest.mark.usefixtures("eagerly")
def test_checkpoints_at_given_minutes(tiny_records, tmp_path):
    """The first step is sure to take more than the two first times, and none to take an hour."""
    run = trainer.train(tiny_records, tmp_path / "run", CONFIG, checkpoint_every=1000, checkpoint_at=[1e-4, 2e-4, 60])
    assert sorted(run.checkpoints) == [1, 6]


def test_same_seed_same_weights_other_seed_other_weights(whole, tiny_records, tmp_path):
    same = trainer.train(tiny_records, tmp_path / "same", CONFIG, preset="demo", seed=0)
    expected = final_weights(whole)
    assert all(np.array_equal(a, b) for a, b in zip(expected, final_weights(same), strict=True))
    with without_graphs():  # which changes last bits, and no more
        config = CONFIG.with_settings(["steps=2"])
        other = trainer.train(tiny_records, tmp_path / "other", config, preset="demo", seed=1)
    kernels = [np.stack(pair) for pair in zip(expected, final_weights(other), strict=True) if np.ndim(pair[0]) == 5]
    assert len(kernels) > 10
    assert any(np.abs(a - b).mean() > 0.1 * a.std() for a, b in kernels)


def test_minutes_end_the_run_with_a_checkpoint(tiny_records, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Loop, "learn", plain_step)
    config = CONFIG.with_settings(["steps=100000"])
    run = trainer.train(tiny_records, tmp_path / "run", config, minutes=0.05)
    assert 0 < max(run.checkpoints) < 100000


def test_a_run_by_the_clock_has_a_checkpoint_each_tenth_of_its_time(tiny_records, tmp_path, monkeypatch):
    """A look at the clock takes half a second of two minutes here; a step looks five times, a save about as much."""
    monkeypatch.setattr(loop.Loop, "learn", plain_step)
    ticks = itertools.count(0, 0.5)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    run = trainer.train(tiny_records, tmp_path / "run", CONFIG.with_settings(["steps=1000"]), minutes=2)
    seconds = [read_json(path / "checkpoint.json")["seconds"] for path in run.checkpoints.values()]
    assert len(seconds) == 10 and max(run.checkpoints) < 100
    assert np.allclose(seconds, np.arange(12, 121, 12), atol=6)


def test_the_finest_plane():
    assert source.finest_plane([3.0, 0.4, 0.4]) == (2, 3)
    assert source.finest_plane([0.8, 4.0, 0.8]) == (1, 3)
    assert source.finest_plane([1.0, 1.0, 1.0]) == (2, 3)


def test_translation_gets_the_trained_generator(whole):
    generator = stored.load_generator(whole, "b2a", 4)
    model = CycleGAN(whole.config, 5)
    checkpoints.restore(runs.find(whole, 4), model.state(), whole.config)
    x = np.random.default_rng(0).normal(size=(1, 8, 16, 16, 1)).astype("f4")
    np.testing.assert_array_equal(generator(x), model.generators["b2a"](x))


@pytest.mark.usefixtures("eagerly")
def test_not_finite_stops_and_names_term_and_step(tiny_records, tmp_path):
    config = CONFIG.with_settings(["learning_rate=1e30"])
    with pytest.raises(loop.NotFiniteError, match=r"The (loss|translation) \w+ is (nan|inf) at step \d"):
        trainer.train(tiny_records, tmp_path / "run", config, checkpoint_every=1)
    assert not list(tmp_path.glob("run/checkpoints/step-*"))  # none that cannot translate


def test_learning_rate_falls_linearly():
    falling, level = (Schedule(Config(learning_rate=2.0, decay_from=begin)) for begin in (0.5, 1.0))
    assert [falling.at(progress).learning_rate for progress in (0, 0.5, 0.75, 1.0)] == [2.0, 2.0, 1.0, 0.0]
    assert level.at(1.0).learning_rate == 2.0


def test_progress_is_by_steps_or_by_time_whichever_is_more():
    by_steps, by_time = (Schedule(Config(steps=10), minutes) for minutes in (None, 2))
    assert [by_steps.progress(step, 1e9) for step in (0, 5, 10, 11)] == [0, 0.5, 1, 1]
    assert [by_time.progress(1, seconds) for seconds in (0, 30, 120, 999)] == [0.1, 0.25, 1, 1]
    assert [by_time.over(9, 119.9), by_time.over(9, 120.0), by_time.over(10, 0.0)] == [False, True, True]
    assert not by_steps.out_of_time(1e9)


def test_when_checkpoints_are_due():
    every_third = loop.Due(Schedule(Config(steps=10)), 3, (), 0, 0.0)
    assert [step for step in range(1, 11) if every_third.after(step, 0.0)] == [3, 6, 9]
    tenths = loop.Due(Schedule(Config(steps=1000), minutes=10), None, (2.5,), 0, 30.0)
    due = []
    for step, seconds in enumerate(range(40, 600, 10), 1):
        if tenths.after(step, seconds):
            due.append(seconds)
            tenths.saved(step, seconds, seconds + 9)
    # each minute, a tenth of the time; and after two and a half
    assert due == [60, 120, 150, 180, 240, 300, 360, 420, 480, 540]


def test_weights_that_do_not_exist(whole):
    with pytest.raises(InputError, match="last, best and the steps 2, 4, 6"):
        runs.find(whole, "5")
    with pytest.raises(InputError, match="allowed is a2b or b2a"):
        stored.load_generator(whole, "a2c")


def command(capsys, *arguments):
    code = train_command.main([str(a) for a in arguments])
    return code, capsys.readouterr().err


@pytest.mark.usefixtures("eagerly")
def test_the_command_trains_and_resumes(tiny_records, tmp_path, capsys):
    run = tmp_path / "run"
    common = ["--data", tiny_records, "--run", run]
    settings = ["--preset", "demo", "--set", *SETTINGS]
    # a run that is not there is begun: what is restarted needs no other command line
    assert command(capsys, *common, *settings, "--steps", 2, "--resume")[0] == 0
    code, text = command(capsys, *common, *settings, "--steps", 2)
    assert code == 2 and "--resume" in text
    assert command(capsys, *common, "--resume")[0] == 0
    code, text = command(capsys, *common, "--resume", "--set", "lambda_cycle=3")
    assert code == 2 and "lambda_cycle = 0.0, not 3.0" in text
    code, text = command(capsys, *common, "--resume", "--seed", 3)
    assert code == 2 and "--seed 0, not 3" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "bear"], "There is no preset 'bear'; allowed are knee"),
        (["--set", "bear=1"], "There is no setting 'bear'"),
        (["--set", "patch_shape=12,64,64"], "multiple of 16"),
        (["--set", *SETTINGS, "patch_shape=64,64,64"], "more than twice the volumes"),
        (["--steps", "0"], "--steps is 0"),
        (["--resume-from", "2"], "is not a training run"),
    ],
)
def test_wrong_input_is_one_sentence(tiny_records, tmp_path, capsys, arguments, sentence):
    code, text = command(capsys, "--data", tiny_records, "--run", tmp_path / "run", *arguments)
    assert code == 2
    assert sentence in text and text.count("\n") == 1


def test_missing_pairs_are_explained(tmp_path, capsys):
    folder = write_records(tmp_path / "records")
    (folder / "pairs").rename(tmp_path / "aside")
    code, text = command(capsys, "--data", folder, "--run", tmp_path / "run", "--preset", "demo", "--set", *SETTINGS)
    assert code == 2 and "python -m data_prep pair" in text


def test_run_folder_that_cannot_be_made(tiny_records, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, text = command(capsys, "--data", tiny_records, "--run", tmp_path / "file" / "run", "--set", *SETTINGS)
    assert code == 2 and "cannot be written" in text


@pytest.mark.usefixtures("eagerly")
def test_pairs_of_before_are_explained(tmp_path, capsys):
    folder = write_records(tmp_path / "records")
    for path in records.shards(folder / "pairs"):
        records.write_shard(path, [dataclasses.replace(r, partner_detail=None) for r in records.read_shard(path)])
    command_line = ["--data", folder, "--run", tmp_path / "run", "--preset", "demo", "--set", *SETTINGS]
    code, text = command(capsys, *command_line)
    assert code == 2 and not (tmp_path / "run").exists()
    assert f"`python -m data_prep pair {folder}`" in text and "--set lambda_detail=0 texture=none" in text
    code, _ = command(capsys, *command_line, "lambda_detail=0", "texture=none", "steps=1")
    assert code == 0


@pytest.mark.usefixtures("eagerly")
def test_that_few_partners_may_give_no_texture_is_said(tiny_records, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer.train(tiny_records, tmp_path / "run", CONFIG.with_settings(["steps=1"]))
        trainer.train(tiny_records, tmp_path / "none", CONFIG.with_settings(["steps=1", "texture=none"]))
    (said,) = [line for line in caplog.messages if "Texture" in line]
    assert f"In {tiny_records}/pairs it is one of 1, " in said and "of domain a may get" in said


@pytest.mark.parametrize(
    ("fraction", "settings", "kind"),
    [
        (0.0, [], "warmup"),
        (0.29, [], "warmup"),
        (0.31, [], "warmup with discriminators"),
        (0.5, [], "adversarial and back"),
        (0.5, ["back_from=0.6"], "adversarial"),
        (0.31, ["lambda_adversarial=0"], "warmup"),
        (0.95, ["warmup=1", "discriminator_warmup=0.5", "back_from=1"], "warmup"),  # nothing to learn for
        (0.0, ["lambda_pair=0", "texture=none"], "adversarial"),
        (0.09, ["back_from=0.1"], "warmup"),
        (0.11, ["back_from=0.1"], "warmup and back"),
    ],
)
def test_which_step_each_part_of_the_run_takes(fraction, settings, kind):
    config = CONFIG.with_settings(["discriminator_warmup=0.2", "back_from=0.4", *settings])
    phase = Schedule(config).at(fraction).phase
    words = ["warmup" if phase.warmup else "adversarial"] + ["and back"] * phase.late
    words += ["with discriminators"] * (phase.warmup and phase.discriminators)
    assert " ".join(words) == kind
    assert phase.adversarial == (not phase.warmup and config.lambda_adversarial > 0)


@pytest.mark.usefixtures("eagerly")
def test_records_that_are_replaced_meanwhile_end_the_run(tmp_path):
    """As `data_prep pair` does it; what the shards say of themselves is sound, but it is other volumes."""
    folder = write_records(tmp_path / "records")

    def replace(step, model):
        path = folder / "pairs" / "a-00000-of-00001.tfrecord"
        records.write_shard(path, [dataclasses.replace(r, voxels=-r.voxels) for r in records.read_shard(path)])

    with pytest.raises(InputError, match=r"a-00000-of-00001.tfrecord was replaced or damaged while it was in use"):
        trainer.train(folder, tmp_path / "run", CONFIG.with_settings(["steps=40"]), on_checkpoint=replace)
