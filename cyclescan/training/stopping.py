"""Signals that ask a run to end: SIGTERM of a scheduler that takes the machine back, SIGINT of the keyboard."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


class Terminated(SystemExit):
    """SIGTERM came and the run was saved. A program that does not catch it ends with 143, as it would by the signal."""

    def __init__(self):
        super().__init__(128 + signal.SIGTERM)


class _BrokenOffError(Exception):
    pass


class Request:
    """What a signal asked for.

    Attributes:
        signal: its number, or None as long as there was none.
    """

    def __init__(self):
        self.signal: int | None = None
        self._may_break = False

    @property
    def name(self) -> str:
        """Return the name of the signal, such as SIGTERM."""
        return signal.Signals(self.signal or 0).name

    def note(self, number: int, _frame=None) -> None:
        """Handle a signal. Ctrl-C for the second time is obeyed at once."""
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        if self._may_break:
            self._may_break = False
            raise _BrokenOffError

    def unless_asked(self, work: Callable[[], Result]) -> Result | None:
        """Do work that changes nothing, or break it off and return None when a signal comes or has come already."""
        try:
            try:
                self._may_break = True
                return work() if self.signal is None else None
            finally:
                self._may_break = False
        except _BrokenOffError:
            return None

    def obey(self) -> None:
        """Raise what the signal stands for.

        Raises:
            Terminated: after SIGTERM.
            KeyboardInterrupt: after SIGINT.
        """
        raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def requests() -> Iterator[Request]:
    """Note SIGTERM and SIGINT instead of obeying them while the block runs, so that it can end at a good moment.

    Only the main thread gets signals; elsewhere nothing changes.
    """
    request = Request()
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, request.note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
