"""The two ways of a translation between domains a and b."""

from __future__ import annotations

from enum import Enum

from cyclescan.common.errors import InputError


class Direction(str, Enum):
    """One way of a translation; it is written, compared and stored as its value, "a2b" or "b2a"."""

    A2B = "a2b"
    B2A = "b2a"

    # as plain text everywhere, also before Python 3.11 had StrEnum
    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]

    @property
    def source(self) -> str:
        """Return the domain that is translated, "a" or "b"."""
        return self.value[0]

    @property
    def target(self) -> str:
        """Return the domain that is made, "a" or "b"."""
        return self.value[2]

    @property
    def reverse(self) -> Direction:
        """Return the way back."""
        return Direction(self.value[::-1])

    @classmethod
    def parse(cls, text: str) -> Direction:
        """Return the direction that a text names.

        Raises:
            InputError: it is neither "a2b" nor "b2a".
        """
        try:
            return cls(text)
        except ValueError:
            raise InputError(f"The direction is {text!r}; allowed is {' or '.join(cls)}.") from None


DIRECTIONS = tuple(Direction)
