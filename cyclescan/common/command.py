"""What every command line of the product has in common: log lines, one-sentence errors, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import Any

from cyclescan.common.errors import InputError
from cyclescan.common.quiet import quieten_tensorflow

log = logging.getLogger(__name__)

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
    parser = argparse.ArgumentParser(prog=program, description=description, formatter_class=HelpFormatter)
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


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one to name, and leaves text of several lines as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, []) else action.help


def progress(iterable: Iterable | None = None, **options: Any) -> Any:
    """Return a tqdm bar with the time left: on a terminal's stderr, in a notebook's cell, and silent elsewhere."""
    if _in_notebook():
        from tqdm import auto  # a widget, or text where ipywidgets is not installed

        return auto.tqdm(iterable, **options)
    from tqdm import tqdm

    return tqdm(iterable, disable=None, dynamic_ncols=True, **options)


def write_beside_bars(line: str) -> None:
    """Write a line on stderr above the bars that are shown there."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _in_notebook() -> bool:
    """Say whether a kernel of Jupyter runs this, whose stderr is no terminal though somebody looks at it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


def next_step(words: str) -> None:
    """Say on stderr what a user does next; the last line of every command that has done its work."""
    log.info("next: %s", words)


def call(command: str, *arguments: object) -> str:
    """Return a command line to show, which calls cyclescan the way that this process was called.

    Args:
        command: as after `cyclescan`, such as "train" or "data-prep pair".
        arguments: further words; those that a shell would take apart are quoted.

    >>> call("translate", "--model", "my run")
    "python -m cyclescan.translate --model 'my run'"
    """
    if sys.argv[0].startswith("cyclescan "):
        program = f"cyclescan {command}"
    else:
        program = f"python -m cyclescan.{command}".replace("cyclescan.data-prep", "data_prep")
    # OUT and <folder> stand for something that the user fills in
    return " ".join([program, *(shlex.quote(str(argument)) for argument in arguments)])
