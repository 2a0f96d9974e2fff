"""`python -m cyclescan.doctor`: what is found on this machine, and what to mend before a day of training."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable, Iterator

from cyclescan import __version__
from cyclescan.common import command, machine
from cyclescan.common.machine import GIB, Finding

DESCRIPTION = (
    "Say what is found on this machine, and what to mend: Python, TensorFlow, GPU, memory, oneDNN, disk, the key of "
    "the pseudonyms, extras. Exit code 1 where something has to be mended."
)
# below it a first run is likely to end early; what a given run needs, `train --plan` says
LEAST_MEMORY = 4 * GIB


def key() -> Iterator[Finding]:
    """Look at the file of the pseudonyms' key: who can read it can test whether a known person is in a data set."""
    from data_prep import pseudonyms

    path = pseudonyms.key_file()
    if not path.exists():
        yield Finding("key file", f"{path} is not there yet; `data_prep build` makes it")
        return
    size, mode = path.stat().st_size, stat.S_IMODE(path.stat().st_mode)
    mend = None
    if size != pseudonyms.KEY_BYTES or not os.access(path, os.R_OK):
        mend = f"put the key back from a copy: it has {pseudonyms.KEY_BYTES} bytes that you can read, this file {size}"
    elif mode & 0o077:
        mend = f"others can read it: chmod 600 {path}"
    yield Finding("key file", f"{path}; keep a copy, apart from the data", mend)


def training() -> Iterator[Finding]:
    """Look at TensorFlow and, where it is sound, at the memory that there is for a step of training."""
    found = list(machine.tensorflow())
    yield from found
    if not any(each.name == "TensorFlow" and each.mend for each in found):
        yield from _memory()


def _memory() -> Iterator[Finding]:
    from cyclescan.training import plan

    device = plan.present()
    mend = f"training needs {LEAST_MEMORY / GIB:g} GiB; `train --plan` says what fits"
    found = f"{device.memory / GIB:.1f} GiB for training on {device.name} ({device.explanation})"
    yield Finding("memory", found, mend if device.memory < LEAST_MEMORY else None)


# what is known at once comes first, TensorFlow, which takes seconds, last
CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (machine.python, machine.disk, key, machine.extras, training)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there are no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Say what is found; return 1 where something has to be mended."""
    sys.stdout.write(f"cyclescan {__version__}\n")
    serious = 0
    for check in CHECKS:
        for finding in check():
            serious += finding.mend is not None and finding.serious
            mark = "ok  " if finding.mend is None else "MEND" if finding.serious else "note"
            mend = f"\n{'':16} -> {finding.mend}" if finding.mend else ""
            sys.stdout.write(f"{mark} {finding.name:11} {finding.found}{mend}\n")
            sys.stdout.flush()
    if serious:
        command.next_step(f"mend what is marked MEND ({serious}), then call {command.call('doctor')} again")
        return command.SOME_FAILED
    command.next_step(f"see it work: {command.call('demo', '--quick')}")
    return command.DONE


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, by default that of this process, and return its exit code."""
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.doctor", arguments)


if __name__ == "__main__":
    sys.exit(main())
