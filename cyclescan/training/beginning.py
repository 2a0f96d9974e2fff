"""A run whose generators begin with those of another one, such as a model trained on many makes of knees."""

from __future__ import annotations

from pathlib import Path

from cyclescan.artifacts import checkpoints, runs, shipped
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.runs import Run
from cyclescan.common.errors import InputError
from cyclescan.config import Config
from cyclescan.training.cyclegan import CycleGAN


def read(model: str | Path, config: Config) -> Run:
    """Find the run to begin with.

    Args:
        model: its folder, or the name of a model that comes with cyclescan.
        config: of the run that begins.

    Raises:
        InputError: there is none, or its generators have other settings.
    """
    run = runs.read_run(model if Path(model).is_dir() else shipped.find(str(model)))
    theirs, ours = run.config.to_dict(), config.to_dict()
    for key in ours:
        if key.startswith("generator_") and theirs[key] != ours[key]:
            raise InputError(
                f"{model} has {key}={theirs[key]} and this run {ours[key]}; generators that begin with others must be "
                f"like them: --set {key}={theirs[key]}."
            )
    return run


def take_over(model: CycleGAN, begun: Run) -> None:
    """Give the generators, and their running averages, the weights that those of another run translate with.

    Amplitudes of texture, of which either may have none, stay at their beginning.
    """
    for direction in DIRECTIONS:
        given = checkpoints.load_generator(begun, direction)
        named = {layer.name: layer for layer in given.layers}
        for network in {id(n): n for n in (model.generators[direction], model.translators[direction])}.values():
            for layer in network.layers:
                if layer.weights and layer.name in named:
                    layer.set_weights(named[layer.name].get_weights())
