"""Generators of a new run that are those of another one."""

import dataclasses

import numpy as np
import pytest

from cyclescan.artifacts import checkpoints, runs, shipped
from cyclescan.artifacts.direction import Direction
from cyclescan.common.errors import InputError
from cyclescan.config import Config
from cyclescan.models import texture
from cyclescan.training import beginning, trainer
from cyclescan.training.cyclegan import CycleGAN

CONFIG = Config(
    patch_shape=(8, 16, 16),
    generator_levels=2,
    generator_filters=2,
    generator_max_filters=4,
    generator_full_resolution_filters=2,
    discriminator_levels=1,
    discriminator_filters=2,
    lambda_pair=1.0,
    lambda_cycle=0.0,
    warmup=1.0,
    average_decay=0.5,
    learning_rate=1e-2,
    steps=3,
)


@pytest.fixture(scope="module")
def begun(tiny_records, tmp_path_factory):
    return trainer.train(tiny_records, tmp_path_factory.mktemp("begun") / "run", CONFIG, seed=1)


def test_generators_and_their_averages_are_the_other_runs(begun):
    """Also where this run carries texture, which the other has none of: it begins with none."""
    model = CycleGAN(dataclasses.replace(CONFIG, texture="a"), seed=2)
    volumes = np.random.default_rng(0).uniform(-1, 1, (1, 8, 16, 16, 1)).astype(np.float32)
    before = np.asarray(model.translators["b2a"](volumes))
    beginning.take_over(model, beginning.read(begun.path, CONFIG))
    for direction in ("a2b", "b2a"):
        expected = np.asarray(checkpoints.load_generator(begun, direction)(volumes))
        for network in (model.generators[direction], model.translators[direction]):
            np.testing.assert_allclose(network(volumes), expected, atol=1e-5)
    assert np.abs(np.asarray(model.translators["b2a"](volumes)) - before).max() > 0.01
    assert texture.heads(model.generators["b2a"])


def test_a_run_begins_there_and_says_so(begun, tiny_records, tmp_path):
    """With a rate of almost 0, a step later it is still there."""
    config = dataclasses.replace(CONFIG, learning_rate=1e-9, steps=1)
    run = trainer.train(tiny_records, tmp_path / "run", config, seed=2, start_from=begun.path)
    assert runs.read_run(run.path).started_from == "run"
    theirs, ours = (checkpoints.load_generator(r, "a2b").get_weights() for r in (begun, run))
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_other_generators_are_refused_with_the_setting_that_would_do(begun):
    with pytest.raises(InputError, match=r"has generator_levels=2 and this run 3; .*--set generator_levels=2"):
        beginning.read(begun.path, dataclasses.replace(CONFIG, generator_levels=3))
    with pytest.raises(InputError, match="There is no model at nowhere"):
        beginning.read("nowhere", CONFIG)


def test_a_run_that_goes_on_from_its_beginning_asks_for_the_same_generators(begun, tiny_records, tmp_path):
    config = dataclasses.replace(CONFIG, steps=1)
    run = trainer.train(tiny_records, tmp_path / "run", config, start_from=begun.path)
    with pytest.raises(InputError, match=r"began with the generators of run .*; give that model with --start-from"):
        trainer.train(tiny_records, run.path, config, resume_from=0)
    assert list(run.checkpoints) == [1]  # nothing was lost


def test_other_records_are_said(begun, caplog):
    names = {"a": {"name": "ciss"}, "b": {"name": "dess"}}
    beginning.read(begun.path, CONFIG, {"spacing_mm": [3.0, 2.0, 2.05], "domains": names})
    assert caplog.messages == []
    swapped = {"a": names["b"], "b": names["a"]}
    beginning.read(begun.path, CONFIG, {"spacing_mm": [1.0, 1.0, 1.0], "domains": swapped})
    assert caplog.messages == [
        "run learned from voxels of 3 x 2 x 2 mm and these records have 1 x 1 x 1 mm: it must learn their size anew, "
        "which takes longer than records built with its --spacing-mm.",
        "run translates ciss to dess as a2b, and here a is dess: build the records with --a and --b exchanged.",
    ]


def test_a_model_that_comes_with_cyclescan_can_be_begun_with():
    config = shipped_config()
    found = beginning.read("digital-knee", config)
    assert found.name == "digital-knee" and found.data["domains"]["a"]["name"] == "ciss"
    assert found.load(Direction.parse("a2b")).count_params() > 1e5


def shipped_config():
    return runs.read_run(shipped.find("digital-knee")).config
