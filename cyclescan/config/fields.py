"""What a setting says about itself: its group, what it is for, and which values it may have."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Any

from cyclescan.common.errors import InputError


class Group(enum.Enum):
    """Settings that belong together; the value is what they are about."""

    DATA = "what a step reads"
    GENERATOR = "the networks that translate"
    DISCRIMINATOR = "the networks that judge translations, and what they are shown"
    LOSSES = "what the networks learn from; a loss whose weight (lambda_...) is 0 is not computed"
    SCHEDULE = "what counts when; all but the steps are fractions of the run"
    OPTIMIZER = "how weights move"
    MEMORY = "less memory for the same step"

    @property
    def title(self) -> str:
        """Return the name of the group as a heading has it, such as "losses"."""
        return self.name.lower()


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The numbers that a setting may be.

    Attributes:
        words: what a number must do, as the end of "it must ...".
        short: the same in a table.
        hold: whether a number does so; NaN does not.
    """

    words: str
    short: str
    hold: Callable[[float], bool]


def at_least(least: int) -> Bounds:
    """Allow numbers from `least` on."""
    return Bounds(f"be at least {least}", f"at least {least}", lambda value: value >= least)


WEIGHT = Bounds("be a finite number of at least 0", "at least 0", lambda value: 0 <= value < math.inf)
SHARE = Bounds("lie between 0 and 1", "0 to 1", lambda value: 0 <= value <= 1)
BELOW_ONE = Bounds("lie in [0, 1)", "0 to below 1", lambda value: 0 <= value < 1)
POSITIVE = Bounds("be positive", "above 0", lambda value: value > 0)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What stands at a field beside its name, type and default.

    Attributes:
        group: where it is listed.
        help: what it is for; a sentence without its full stop, as command lines have it.
        bounds: of a number.
        choices: of a text.
        teaches: generators can learn from the loss of this weight alone.
    """

    group: Group
    help: str
    bounds: Bounds | None = None
    choices: tuple[str, ...] = ()
    teaches: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise `InputError`, with the name, the value and what is allowed, unless the value is."""
        if self.choices and value not in self.choices:
            raise InputError(f"{name} is {value!r}; allowed is {' or '.join(self.choices)}.")
        if self.bounds and not self.bounds.hold(value):
            raise InputError(f"{name} is {value}; it must {self.bounds.words}.")


def setting(default: Any, group: Group, help: str, **about: Any) -> Any:
    """Make a field of `Config`; the further arguments are those of `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(group, help, **about)})


def of(field: dataclasses.Field[Any]) -> Setting:
    """Return what a field of `Config` says about itself."""
    found: Setting = field.metadata["setting"]
    return found
