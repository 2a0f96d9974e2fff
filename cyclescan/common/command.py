"""What every command line of the product has in common: log lines, one-sentence errors, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from cyclescan.common.errors import InputError
from cyclescan.common.quiet import quieten_tensorflow

DONE, SOME_FAILED, WRONG_INPUT = 0, 1, 2
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong with the input, and nothing is lost


def run(
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    action: Callable[[argparse.Namespace], int | None],
    program: str,
    arguments: list[str] | None = None,
) -> int:
    """Parse `arguments`, call `action` and return the exit code.

    `action` returns None or 0 when all is done and 1 when some items of a batch failed. An `InputError` becomes
    one sentence on stderr and exit code 2; any other exception is a defect and is not caught. The
    environment variable CYCLESCAN_LOG=debug adds what our own modules log at debug level.
    """
    parser = argparse.ArgumentParser(prog=program, description=description, formatter_class=_HelpFormatter)
    add_arguments(parser)
    parsed = parser.parse_args(arguments)
    for name, value in vars(parsed).items():
        # an empty path would be the working folder, and a variable of a script that is not set makes one
        if "" in (value if isinstance(value, list) else [value]) and value != parser.get_default(name):
            sys.stderr.write(f"error: The argument {name} is empty; give it a value or leave it away.\n")
            return WRONG_INPUT
    quieten_tensorflow()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if os.environ.get("CYCLESCAN_LOG", "").lower() == "debug":  # adds the traceback of an item that failed in a batch
        for ours in ("cyclescan", "data_prep"):
            logging.getLogger(ours).setLevel(logging.DEBUG)
    for chatty in ("absl", "tensorflow", "apache_beam", "nibabel"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        return action(parsed) or DONE
    except InputError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return WRONG_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("stopped by the keyboard\n")
        return 130


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one to name, and leaves text of several lines as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, []) else action.help


def progress(iterable: Iterable | None = None, **options: Any) -> Any:
    """Return a tqdm bar on stderr, silent when the output is no terminal."""
    from tqdm import tqdm

    return tqdm(iterable, disable=None, dynamic_ncols=True, **options)
