"""A run whose generators begin with those of another one, such as a model trained on many makes of knees."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cyclescan.artifacts import checkpoints, exports, runs, shipped
from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.common.errors import InputError
from cyclescan.config import Config
from cyclescan.training.cyclegan import CycleGAN

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

SAME_SPACING = 0.05  # relative: less is the rounding of headers


@dataclasses.dataclass(frozen=True)
class Model:
    """What a run begins with.

    Attributes:
        name: of its folder.
        config: its settings.
        data: domains and spacing of its records, see `runs.Run`.
        load: makes the generator of a direction, a Keras model.
    """

    name: str
    config: Config
    data: dict
    load: Callable[[Direction], keras.Model]


def read(model: str | Path, config: Config, data: dict | None = None) -> Model:
    """Find the model to begin with, and say where its records were other ones.

    Args:
        model: the folder of a run or of an exported model, or the name of a model that comes with cyclescan.
        config: of the run that begins.
        data: domains and spacing of its records; None for not to compare them.

    Raises:
        InputError: there is none, or its generators have other settings.
    """
    found = _find(model)
    theirs, ours = found.config.to_dict(), config.to_dict()
    for key in ours:
        if key.startswith("generator_") and theirs[key] != ours[key]:
            raise InputError(
                f"{model} has {key}={theirs[key]} and this run {ours[key]}; generators that begin with others must be "
                f"like them: --set {key}={theirs[key]}."
            )
    if data is not None:
        _compare(found, data)
    return found


def _find(model: str | Path) -> Model:
    path = Path(model) if Path(model).is_dir() else shipped.find(str(model))
    if not (path / "config.json").exists() and exports.find(path, DIRECTIONS[0]) is not None:
        found = {direction: exports.find(path, direction) for direction in DIRECTIONS}
        return _exported(path, {direction: each for direction, each in found.items() if each is not None})
    run = runs.read_run(path)
    return Model(run.path.name, run.config, run.data, lambda direction: checkpoints.load_generator(run, direction))


def _exported(path: Path, found: dict[Direction, tuple[Path, dict]]) -> Model:
    folder, card = found[DIRECTIONS[0]]
    config = runs.known_config(card["config"], folder / exports.OWN_CARD, card["cyclescan_version"])

    def load(direction: Direction) -> keras.Model:
        from cyclescan.models import build_generator
        from cyclescan.models.graph import precision

        if direction not in found:
            raise InputError(f"The exported model {path} has no {direction}; a run begins with both directions.")
        with precision("float32"):
            generator = build_generator(config, direction)
        generator.set_weights(exports.weights(found[direction][0]))
        return generator

    return Model(path.name, config, card["data"], load)


def _compare(model: Model, data: dict) -> None:
    """Say what differs between the records that a model learned from and those that it will learn from."""
    theirs, ours = model.data["spacing_mm"], data["spacing_mm"]
    if not np.allclose(theirs, ours, rtol=SAME_SPACING):
        log.warning(
            "%s learned from voxels of %s mm and these records have %s mm: it must learn their size anew, which takes "
            "longer than records built with its --spacing-mm.", model.name, _by(theirs), _by(ours),
        )  # fmt: skip
    names = [{d: about["name"] for d, about in of["domains"].items()} for of in (model.data, data)]
    if names[0] == {"a": names[1]["b"], "b": names[1]["a"]}:
        log.warning(
            "%s translates %s to %s as a2b, and here a is %s: build the records with --a and --b exchanged.",
            model.name, names[0]["a"], names[0]["b"], names[1]["a"],
        )  # fmt: skip


def _by(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in spacing_mm)


def take_over(model: CycleGAN, begun: Model) -> None:
    """Give the generators, and their running averages, the weights that those of another model translate with.

    Amplitudes of texture, of which either may have none, stay at their beginning; so do optimizers and discriminators.
    """
    for direction in DIRECTIONS:
        given = begun.load(direction)
        named = {layer.name: layer for layer in given.layers}
        for network in {id(n): n for n in (model.generators[direction], model.translators[direction])}.values():
            for layer in network.layers:
                if layer.weights and layer.name in named:
                    layer.set_weights(named[layer.name].get_weights())
