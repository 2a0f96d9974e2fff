"""Whether a run looks well: one sentence in the log for each thing that does not, and what to try.

The limits lie far from what healthy runs of the digital knee show (in brackets), so that a sentence is worth reading.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.config import Config
from cyclescan.training import terms
from cyclescan.training.validation import Seen

log = logging.getLogger(__name__)

ALIKE = 0.05  # `variety`, see `validation.Seen` (0.16 to 0.59)
OPPOSITE = -0.2  # `partner` (0.78 to 0.95)
AT_THE_ENDS = 0.25  # `ends` (-0.04 to 0.00)
NOT_BEFORE = 100  # steps; an untrained network looks collapsed
WINDOWS = 10  # logged means that a judgement on losses needs
ALL_RIGHT = 0.99  # accuracy of a discriminator
VANISHED = 1e-3  # a gradient norm as a share of what it was at first


class Health:
    """Looks at what a run tells and logs a warning once for each condition.

    Args:
        config: of the run; what to try depends on it.
    """

    def __init__(self, config: Config):
        self._config = config
        self._said: set[str] = set()
        self._past: dict[str, list[float]] = defaultdict(list)
        self._doubtful: set[str] = set()

    def look_at_losses(self, step: int, means: Mapping[str, float]) -> None:
        """Look at the means of losses and measures over the last logged steps, by name."""
        for name, value in means.items():
            if math.isfinite(value):
                self._past[name].append(value)
        for name in ("generators", "discriminators"):
            self._look_at_gradients(step, name)
        for direction in reversed(DIRECTIONS):
            self._look_at_discriminator(step, direction)

    def look_at_checkpoint(self, step: int, seen: Mapping[str, Seen]) -> None:
        """Look at what the networks make of the fixed volumes.

        A condition must last for two checkpoints; one may be bad.
        """
        if step < NOT_BEFORE:
            return
        found = {}
        for direction, what in seen.items():
            m = what.measures
            if m.get("variety", 1.0) < ALIKE:
                found[f"collapsed {direction}"] = (
                    f"{direction} looks collapsed: its translations differ from one another by "
                    f"{100 * m['variety']:.1f} % of the variance between real volumes, whatever the source; "
                    f"try {self._anchor()}, a smaller learning_rate, or lambda_cycle=10."
                )
            if m["ends"] > AT_THE_ENDS:
                found[f"saturated {direction}"] = (
                    f"{direction} looks saturated: {100 * m['ends']:.0f} % more of its voxels than of real ones are at "
                    f"-1 or 1, where tanh lets no gradient through; try a smaller learning_rate{self._calmer()}."
                )
            if m.get("partner", 0.0) < OPPOSITE:
                reason = f"its translation and the registered volume have the correlation {m['partner']:.2f}"
            elif m["negative_distance"] < m["distance"]:
                reason = (
                    f"the negative of its translations is nearer to real volumes ({m['negative_distance']:.2f}) than "
                    f"they are ({m['distance']:.2f})"
                )
            else:
                continue
            found[f"inverted {direction}"] = f"{direction} looks inverted: {reason}; try {self._anchor()}."
        for condition in sorted(self._doubtful & set(found)):
            self._say(condition, step, found[condition])
        self._doubtful = set(found)

    def _look_at_gradients(self, step: int, name: str) -> None:
        past = self._past[f"gradient_norm_{name}"]
        if len(past) < 2 * WINDOWS:
            return
        before, now = np.median(past[:WINDOWS]), max(past[-WINDOWS:])
        if now <= VANISHED * before:
            self._say(
                f"vanished {name}",
                step,
                f"the gradient norm of the {name} has vanished ({before:.2g} at first, {now:.2g} now), so they learn "
                f"no more; try a smaller learning_rate{self._calmer()}.",
            )

    def _look_at_discriminator(self, step: int, direction: Direction) -> None:
        accuracy = self._past[terms.accuracy_column(direction.target)][-WINDOWS:]
        loss = self._past[terms.ADVERSARIAL.column(direction)][-WINDOWS:]
        if len(accuracy) < WINDOWS or len(loss) < WINDOWS or min(accuracy) < ALL_RIGHT:
            return
        before, now = np.mean(loss[: WINDOWS // 2]), np.mean(loss[WINDOWS // 2 :])
        if now > before:
            self._say(
                f"outplayed {direction}",
                step,
                f"the discriminator of domain {direction.target} is right on {100 * np.mean(accuracy):.1f} % of "
                f"patches and the adversarial loss of {direction} rises ({before:.2f} to {now:.2f}): it has nothing "
                f"left to teach; try a smaller learning_rate{self._calmer()}.",
            )

    def _anchor(self) -> str:
        """What tells a translation from its inverse, and one volume from another."""
        if self._config.lambda_pair > 0:
            more = f"lambda_pair={2 * self._config.lambda_pair:g}"
            return f"{more}, a longer warmup (now {self._config.warmup:g}), a smaller lambda_adversarial"
        return "registered pseudo-pairs (`data_prep pair`, then --set lambda_pair=10 warmup=0.85)"

    def _calmer(self) -> str:
        """What holds discriminators back."""
        config = self._config
        if not config.lambda_adversarial:
            return ""
        more = "" if config.discriminator_dropout >= 0.5 else ", discriminator_dropout=0.5"
        return f", lambda_adversarial={config.lambda_adversarial / 2:g}, lambda_r1=1{more}"

    def _say(self, condition: str, step: int, sentence: str) -> None:
        if condition not in self._said:
            self._said.add(condition)
            log.warning("step %d: %s", step, sentence)
