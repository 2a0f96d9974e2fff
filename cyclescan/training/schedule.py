"""What changes while a run goes from 0 to 1: the learning rate, and which terms count."""

from __future__ import annotations

import dataclasses

from cyclescan.config import Config
from cyclescan.training import terms
from cyclescan.training.terms import Phase


@dataclasses.dataclass(frozen=True)
class Moment:
    """What holds at one point of a run.

    Attributes:
        progress: the point, from 0 to 1.
        learning_rate: of both optimizers.
        phase: says which terms count.
    """

    progress: float
    learning_rate: float
    phase: Phase


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The plan of a run.

    Args:
        config: its settings.
        minutes: when it ends by the clock; the plan is shortened to fit. None for not at all.
    """

    config: Config
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Say how much of the run is over, by steps or by time, whichever is more."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.config.steps, by_time))

    def out_of_time(self, seconds: float) -> bool:
        """Say whether the clock ends the run."""
        return self.minutes is not None and seconds >= 60 * self.minutes

    def over(self, step: int, seconds: float) -> bool:
        """Say whether nothing is left to do after a step."""
        return step >= self.config.steps or self.out_of_time(seconds)

    def at(self, progress: float) -> Moment:
        """Return the rate and the phase at a point of the run, from 0 to 1."""
        return Moment(progress, self._learning_rate(progress), self._phase(progress))

    def _learning_rate(self, progress: float) -> float:
        """Return the setting until `decay_from`, then what falls linearly to 0 at progress 1 (Zhu et al. 2017)."""
        base, decay_from = self.config.learning_rate, self.config.decay_from
        if progress <= decay_from:
            return base
        return base * max(0.0, 1.0 - (progress - decay_from) / (1.0 - decay_from))

    def _phase(self, progress: float) -> Phase:
        config = self.config
        whole = Phase.whole(config, late=progress >= config.back_from)
        if not (progress < config.warmup and terms.has_warmup(config)):
            return whole
        # discriminators need not learn for a phase that does not come
        soon = config.warmup < 1 and progress >= config.warmup - config.discriminator_warmup
        return dataclasses.replace(whole, warmup=True, discriminators=whole.discriminators and soon)
