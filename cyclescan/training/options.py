"""How a run is trained beside its settings: what a resumed run may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What `trainer.train` is asked for beside data, folder and settings.

    Attributes:
        preset: the name under which the settings were chosen, for the record.
        seed: of weights, order, patches, augmentation, dropout and pools.
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
        start_from: a run, or a model that comes with cyclescan, whose generators a new run begins with.
    """

    preset: str = ""
    seed: int = 0
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
        """Whether an existing run is to be continued."""
        return self.resume or self.resume_from is not None

    @property
    def of_run(self) -> dict[str, float]:
        """What was asked for of that which config.json keeps and a resumed run may change."""
        asked = {key: getattr(self, key) for key in ("minutes", "checkpoint_every", "keep_states", "patience")}
        return {key: value for key, value in asked.items() if value is not None}
