"""Reading the checkpoints of a run, and handing its networks on.

RUN/checkpoints/step-00000100/ holds the whole state at that step (networks, optimizers and their loss scale, image
pool, counters), or the networks that translate alone: checkpoint.json then says `"whole": false`.
`training.checkpoints` writes and resumes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclescan import NOTICE
from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.artifacts.runs import Run, find, known_config
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, replacing, sha256, write_json
from cyclescan.config import Config

if TYPE_CHECKING:
    import keras


def checksums(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a checkpoint as it was first written, which says what its networks are."""
    facts = facts_of(path)
    return facts.get("sha256_when_whole", facts["sha256"])


def load_generator(run: Run, direction: str, weights: str | int = "last") -> keras.Model:
    """Return the trained generator of one direction as a Keras model: the running average where the run keeps one.

    It computes in float32, also where it was trained in mixed precision and whatever Keras' global policy is, so
    that a translated volume does not depend on either.

    Args:
        run: from `read_run`.
        direction: "a2b" or "b2a".
        weights: "last", "best" or a step.

    Raises:
        InputError: there is no such checkpoint, or it cannot be used; the message then names the last that can.
    """
    direction = Direction.parse(direction)
    path = find(run, weights)
    try:
        return load_translator(path, run.config, direction)
    except InputError as error:
        good = last_good(run, whole=False)
        if good is None or run.checkpoints[good] == path:
            raise
        raise InputError(f"{error} The last good checkpoint is step {good}: --weights {good}.") from error


def last_good(run: Run, whole: bool = True) -> int | None:
    """Return the step of the last checkpoint that is not damaged, if `whole` one to resume from; None when there is
    none.
    """
    for step, path in sorted(run.checkpoints.items(), reverse=True):
        try:
            facts = sound_facts(path, run.config)
        except InputError:
            continue
        if facts.get("whole", True) or not whole:
            return step
    return None


def publish(run: Run, folder: str | Path, weights: str | int = "last", directions: Sequence[str] = DIRECTIONS) -> Path:
    """Write a run for others to translate with: its settings and the generators of one checkpoint, in 16 bits.

    A generator of the preset `demo` takes 6 MB so. The folder of its records, which tells of this machine, is left out.

    Args:
        run: from `read_run`.
        folder: a new folder, which `Translator.load` and `translate --model` take.
        weights: "last", "best" or a step.
        directions: which generators.

    Raises:
        InputError: there is no such checkpoint, or the folder exists.
    """
    import numpy as np

    chosen, folder = find(run, weights), Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists already; name a new folder.")
    facts = facts_of(chosen)
    with replacing(folder) as temporary:
        path = temporary / "checkpoints" / chosen.name
        path.mkdir(parents=True)
        for direction in directions:
            values = [np.float16(v.numpy()) for v in load_generator(run, direction, weights).weights]
            np.savez_compressed(path / _published(direction), *values)
        files = {file.name: sha256(file) for file in sorted(path.iterdir())}
        kept = {key: facts[key] for key in ("step", "versions", "config")}
        about = {"notice": NOTICE, **kept, "published": True, "whole": False, "sha256": files}
        write_json(path / "checkpoint.json", about)
        dataclasses.replace(run, path=temporary, records="").write()
    return folder


def load_translator(path: Path, config: Config, direction: str) -> keras.Model:
    """Return the network of one checkpoint that translates in one direction: a Keras model in float32.

    Raises:
        InputError: the checkpoint is damaged, of another config, or has no such network.
    """
    import tensorflow as tf

    from cyclescan.models import build_generator
    from cyclescan.models.graph import precision

    facts = sound_facts(path, config)
    with precision("float32"):
        generator = build_generator(config, direction)
    if facts.get("published"):
        return _with_published(generator, path / _published(direction))
    state = tf.train.Checkpoint(**{f"translator_{direction}": generator})
    try:
        status = state.read(str(path / "state"))
        status.expect_partial()
        status.assert_existing_objects_matched()
    except tensorflow_errors() as error:
        raise InputError(f"The checkpoint {path} has no {direction} generator ({first_line(error)}).") from error
    return generator


def _published(direction: str) -> str:
    return f"generator_{direction}.npz"


def _with_published(generator: keras.Model, file: Path) -> keras.Model:
    import numpy as np

    if not file.exists():
        raise InputError(
            f"The model {file.parents[2]} does not translate {file.stem[-3:]}; its other direction it does."
        )
    with np.load(file) as values:
        generator.set_weights([values[name].astype(np.float32) for name in values.files])
    return generator


def facts_of(path: Path) -> dict:
    """Return what a checkpoint says about itself."""
    facts = read_json(path / "checkpoint.json")
    if not (
        isinstance(facts, dict) and isinstance(facts.get("config"), dict) and isinstance(facts.get("sha256"), dict)
    ):
        raise InputError(f"The checkpoint {path} is damaged: checkpoint.json lacks its entries.")
    return facts


def sound_facts(path: Path, config: Config) -> dict:
    """Return the facts of a checkpoint whose files are what was written, for these settings."""
    facts = facts_of(path)
    version = facts.get("versions", {}).get("cyclescan", "of an earlier version")
    mine, its = config.to_dict(), known_config(facts["config"], path / "checkpoint.json", version).to_dict()
    differing = [key for key in mine if mine[key] != its[key]]
    if differing:
        key = differing[0]
        raise InputError(
            f"The checkpoint {path} was made with another config: {key} is {its[key]} there and {mine[key]} here."
        )
    if facts.get("step") != int(path.name[5:]):
        raise InputError(f"The checkpoint {path} is damaged: it is of step {facts.get('step')}.")
    for name, digest in facts["sha256"].items():
        if not (path / name).exists() or sha256(path / name) != digest:
            raise InputError(f"The checkpoint {path} is damaged: {name} is missing, truncated or altered.")
    return facts


def tensorflow_errors() -> tuple[type[Exception], ...]:
    """Return what TensorFlow raises where a state cannot be read, or does not fit the networks that it is read into."""
    import tensorflow as tf

    return AssertionError, ValueError, tf.errors.OpError


def first_line(error: Exception) -> str:
    """Return the first line of an error that is told in many, at most 200 characters."""
    return str(error).strip().splitlines()[0][:200]
