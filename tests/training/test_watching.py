"""What a run tells about itself while it goes on, and when it ends early."""

import csv
import logging

import numpy as np
import pytest
import tensorflow as tf

from cyclescan import train as train_command
from cyclescan.artifacts import checkpoints, runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.files import read_json
from cyclescan.config import Config
from cyclescan.training import board, loop, trainer, validation
from cyclescan.training.loop import Loop
from cyclescan.training.validation import Validation
from tests.conftest import SETTINGS
from tests.training.test_board import events_of_trace, values, written

# a run of the pair term alone, whose one graph is soon built
PAIRS_ONLY = Config(steps=8, lambda_pair=1.0, warmup=1.0).with_settings(SETTINGS)
CONFIG = Config(steps=6, lambda_pair=1.0, warmup=0.5, decay_from=0.5).with_settings(SETTINGS)


@pytest.fixture(scope="module")
def watched(tiny_records, tmp_path_factory):
    """A run of 6 steps, the last 3 adversarial, with a checkpoint at 3 and at 6, looked at in windows of 2 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 2)
        folder = tmp_path_factory.mktemp("watched") / "run"
        return trainer.train(tiny_records, folder, CONFIG, preset="demo", checkpoint_every=3, profile=True)


@pytest.fixture(scope="module")
def events(watched):
    return written(watched.path / "tensorboard")


def test_curves_have_the_values_of_the_history(watched, events):
    rows = list(csv.DictReader(open(watched.path / "history.csv", encoding="utf-8")))
    for name in ("pair_a2b", "cycle_aba", "adversarial_b2a", "discriminator_a"):
        expected = {int(row["step"]): float(row[name]) for row in rows if row[name]}
        assert values(events, f"loss/{name}") == pytest.approx(expected, rel=1e-6)
    assert list(values(events, "loss/cycle_aba")) == [4, 6]


@pytest.mark.usefixtures("eagerly")
def test_loss_scale_and_norms_of_a_run_in_float16(tiny_records, tmp_path):
    config = PAIRS_ONLY.with_settings(["precision=mixed_float16", "steps=2"])
    run = trainer.train(tiny_records, tmp_path / "run", config)
    events = written(run.path / "tensorboard")
    assert values(events, "measure/loss_scale_generators") == {2: 2.0**15}
    assert 0 < values(events, "measure/gradient_norm_generators")[2] < 1e3


def test_schedule_and_speed(events):
    rates = values(events, "schedule/learning_rate")
    assert rates == pytest.approx({2: 2e-4, 4: 2e-4, 6: 2e-4 / 3}, rel=1e-6)
    steps, voxels = (values(events, f"speed/{kind}_per_second") for kind in ("steps", "voxels"))
    assert all(rate > 0 for rate in steps.values())
    assert {s: v / steps[s] for s, v in voxels.items()} == pytest.approx(dict.fromkeys((2, 4, 6), 2 * 8 * 16 * 16))
    waited = values(events, "speed/input_seconds")
    assert all(0 < waited[step] < 1 / steps[step] for step in (2, 4, 6))


def test_scores_are_those_of_the_checkpoints(watched, events, tiny_records):
    facts = {step: read_json(path / "checkpoint.json") for step, path in watched.checkpoints.items()}
    assert values(events, "validation/score") == pytest.approx({s: f["score"] for s, f in facts.items()}, rel=1e-6)
    for direction in DIRECTIONS:
        expected = {step: f["measures"][direction]["shared"] for step, f in facts.items()}
        assert values(events, f"validation/shared_{direction}") == pytest.approx(expected, rel=1e-6)
    assert [f["progress"] for f in facts.values()] == pytest.approx([2 / 6, 5 / 6])
    # and both are those of the networks that the checkpoint holds
    generators = {d: checkpoints.load_generator(watched, d, 3) for d in DIRECTIONS}
    seen = Validation(tiny_records, CONFIG).look(generators)
    assert validation.score(seen) == pytest.approx(facts[3]["score"], rel=1e-5)


def test_pictures_and_distributions(watched, events, tiny_records):
    generators = {d: checkpoints.load_generator(watched, d, 6) for d in DIRECTIONS}
    looking = Validation(tiny_records, CONFIG)
    for direction, what in looking.look(generators).items():
        columns = [what.example[name] for name in ("source", "translated", "cycled", "partner")]
        expected = board.triplanar(columns, watched.data["spacing_mm"])
        pictures = values(events, direction)
        assert set(pictures) == {3, 6}
        shown = tf.image.decode_png(pictures[6][2]).numpy()[..., 0]
        np.testing.assert_allclose(shown, 255 * expected, atol=1.5)
        source, target = watched.names(direction)
        text = events.SummaryMetadata(direction).summary_description
        assert (
            text == f"{source} | translated to {target} | and back to {source} | registered {target} of another subject"
        )
        for name, volumes in (
            (f"real_{direction[0]}", looking.sources[direction[0]]),
            (f"fake_{direction[2]}", what.translated),
        ):
            low, high, counts = values(events, f"intensity/{name}")[6].T
            assert (low[0], high[-1]) == pytest.approx((volumes.min(), volumes.max()), abs=1e-4)
            assert counts.sum() == volumes.size
            middle = (low + high) / 2
            assert (middle * counts).sum() / counts.sum() == pytest.approx(volumes.mean(), abs=0.02)


def test_the_trace_is_of_the_runs_steps(watched):
    names, steps = events_of_trace(watched.path / "tensorboard")
    assert steps == {2, 3, 4, 5, 6}
    assert any("Conv3D" in name for name in names)


@pytest.mark.usefixtures("eagerly")
def test_measures_are_logged_by_name_whatever_they_are(tiny_records, tmp_path, monkeypatch):
    """An infinite norm, as float16 makes it, is no end of the run and no part of the mean."""
    learn, taken = Loop.learn, []

    def with_measures(*arguments):
        losses, _ = learn(*arguments)
        taken.append(float("inf") if not taken else 2.0 + len(taken))
        return losses, {"gradient_norm_generators": taken[-1], "accuracy_a": 0.5}

    monkeypatch.setattr(Loop, "learn", with_measures)
    run = trainer.train(tiny_records, tmp_path / "run", PAIRS_ONLY.with_settings(["steps=3"]))
    read = written(run.path / "tensorboard")
    assert values(read, "measure/gradient_norm_generators") == {3: 3.5}
    assert values(read, "measure/accuracy_a") == {3: 0.5}
    (row,) = csv.DictReader(open(run.path / "history.csv", encoding="utf-8"))
    assert float(row["gradient_norm_generators"]) == 3.5


@pytest.fixture
def scripted(monkeypatch):
    """Checkpoints get these scores, one after the other."""

    def script(*scores):
        left = list(scores)
        monkeypatch.setattr(validation, "score", lambda seen: left.pop(0))

    return script


@pytest.mark.usefixtures("eagerly")
def test_a_run_ends_when_it_gets_no_better(tiny_records, tmp_path, scripted, caplog):
    """Resumed, it knows what it knew."""

    class StopError(Exception):
        pass

    def stop(step, _):
        if step == 2:
            raise StopError

    scripted(5.0, 6.0)
    with pytest.raises(StopError):
        trainer.train(tiny_records, tmp_path / "run", PAIRS_ONLY, on_checkpoint=stop, checkpoint_every=1, patience=2)
    scripted(4.0, 6.0, 4.0, 1.0)
    with caplog.at_level(logging.INFO):
        run = trainer.train(tiny_records, tmp_path / "run", PAIRS_ONLY, resume=True)
    assert max(run.checkpoints) == 5
    assert "stopped at step 5: 2 checkpoints had no better score" in caplog.text
    assert runs.find(run, "best").name == "step-00000003"
    with caplog.at_level(logging.INFO):
        trainer.train(tiny_records, tmp_path / "run", PAIRS_ONLY, resume=True)
    assert "nothing is left to do" in caplog.text
    assert max(run.checkpoints) == 5


@pytest.mark.usefixtures("eagerly")
def test_the_commands_options(tiny_records, tmp_path, capsys):
    common = [
        "--data",
        str(tiny_records),
        "--run",
        str(tmp_path / "run"),
        "--preset",
        "demo",
        "--set",
        *SETTINGS,
        "warmup=1",
    ]
    assert train_command.main([*common, "--patience", "-1"]) == 2
    assert "--patience is -1; it must be at least 0." in capsys.readouterr().err
    assert train_command.main([*common, "--steps", "1", "--patience", "3", "--profile"]) == 0
    assert runs.read_run(tmp_path / "run").patience == 3
    assert events_of_trace(tmp_path / "run" / "tensorboard")[1] == {1}
