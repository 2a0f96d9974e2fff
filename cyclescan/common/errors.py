"""The one error that a user can cause, and what becomes of others in a batch."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

log = logging.getLogger(__name__)


class InputError(ValueError):
    """Something the user gave is wrong; the message names it, the value received and what is allowed.

    The command line shows the message as one sentence and exits with code 2. Every other exception is a
    defect of the program and keeps its traceback, but for one item of a batch, see `of_item`.
    """


def of_item(error: Exception, item: object) -> InputError:
    """Return what failed one item of a batch, as an error that is listed while the other items are done.

    An `InputError` stays what it is. Of any other exception the item, its class and the place in the program are said,
    and its traceback goes to the log at debug level. Its own words are not repeated: they may hold what stands in a
    scan, such as a name.

    Args:
        error: whatever was raised.
        item: what it was raised about, such as the path of a scan.
    """
    if isinstance(error, InputError):
        return error
    log.debug("%s", item, exc_info=error)
    if isinstance(error, MemoryError):
        return InputError(f"{item} needs more memory than there is.")
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    unforeseen = InputError(
        f"{item} failed in a way that was not foreseen ({type(error).__name__}{place}); CYCLESCAN_LOG=debug shows more."
    )
    unforeseen.__cause__ = error
    return unforeseen
