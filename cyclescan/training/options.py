"""What is asked of a training run beside its settings, and how a command line asks for it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cyclescan.common.errors import InputError

LEAST = {"seed": 0, "checkpoint_every": 1, "keep_states": 0, "patience": 0, "resume_from": 0}


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What `trainer.train` is asked for beside data, folder and settings.

    Attributes:
        preset: the name under which the settings were chosen, for the record.
        seed: of weights, order, patches, augmentation, dropout and pools; by default 0, or that of the resumed run.
        minutes: stop after this time (all sessions of the run together); the schedule is shortened to fit. A resumed
            run keeps what it was begun with, unless that time is over: then it goes on to its last step.
        checkpoint_every: steps between checkpoints; by default a tenth of the run, of its time if that ends it. The
            last step always has one. A resumed run keeps what it was begun with.
        resume: continue from the last checkpoint, or from the beginning where there is none yet. A run that does not
            exist is begun: so the same call begins a run and restarts it.
        on_checkpoint: called with the step and the networks (a `CycleGAN`) after each checkpoint.
        resume_from: continue from the checkpoint of this step, 0 for the beginning; later ones are removed.
        keep_states: of how many checkpoints, the last ones, the whole state is kept, 0 for all; of those before, the
            networks that translate. By default `runs.KEEP_STATES`, or what the resumed run was begun with.
        patience: stop when so many checkpoints had no better score, see `validation.stalled`; 0 for never, the default,
            since a run that is cut short never gets the small learning rate of its end, and the best checkpoint can be
            chosen without. A resumed run keeps what it was begun with.
        profile: record a few steps of this session with TensorFlow's profiler, see `board.traced`.
        checkpoint_at: minutes, counted as `minutes` is, after which there are checkpoints as well.
        start_from: a run, an exported model, or one that comes with cyclescan, whose generators a new run begins with.
    """

    preset: str = ""
    seed: int | None = None
    minutes: float | None = None
    checkpoint_every: int | None = None
    resume: bool = False
    on_checkpoint: Callable[[int, Any], None] | None = None
    resume_from: int | None = None
    keep_states: int | None = None
    patience: int | None = None
    profile: bool = False
    checkpoint_at: Sequence[float] = ()
    start_from: str | Path | None = None

    @property
    def resuming(self) -> bool:
        """Return whether an existing run is to be continued."""
        return self.resume or self.resume_from is not None

    @property
    def of_run(self) -> dict[str, Any]:
        """Return what was asked for of that which config.json keeps and a resumed run may change."""
        asked = {key: getattr(self, key) for key in ("minutes", "checkpoint_every", "keep_states", "patience")}
        return {key: value for key, value in asked.items() if value is not None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a training command that are `TrainOptions`."""
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time, with the schedule shortened")
    parser.add_argument("--checkpoint-every", type=int, default=None, help="steps; default: a tenth of the run")
    parser.add_argument(
        "--keep-states",
        type=int,
        default=None,
        metavar="N",
        help="keep the last N checkpoints whole, of those before only the networks that translate; 0 keeps all whole "
        "(default: 3)",
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=None,
        metavar="N",
        help="stop when N checkpoints after the warm-up had no better validation score; 0: never (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=None, help="default 0, or that of the resumed run")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run from its last checkpoint, with the options it was begun with; begin it if the folder is "
        "empty",
    )
    parser.add_argument(
        "--resume-from",
        type=int,
        default=None,
        metavar="STEP",
        help="continue it from the checkpoint of this step (0: from the beginning) and remove the later ones",
    )
    parser.add_argument(
        "--start-from",
        default=None,
        metavar="MODEL",
        help="a run, an exported model, or one that comes with cyclescan, whose generators a new run begins with; its "
        "generator_ settings must be the same",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="record a few steps with TensorFlow's profiler in RUN/tensorboard/plugins/profile",
    )


def from_arguments(arguments: argparse.Namespace) -> TrainOptions:
    """Read what `add_arguments` added, and `preset`.

    Raises:
        InputError: a number is too small.
    """
    for name, least in LEAST.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}.")
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise InputError(f"--minutes is {arguments.minutes}; it must be positive.")
    names = [field.name for field in dataclasses.fields(TrainOptions) if hasattr(arguments, field.name)]
    given = {name: getattr(arguments, name) for name in names}
    return TrainOptions(**{**given, "preset": arguments.preset or "knee"})
