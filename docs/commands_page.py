"""Writes docs/reference/commands.md from what each command says of itself: `python -m docs.commands_page`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import sys
from pathlib import Path

from cyclescan.__main__ import COMMANDS
from data_prep.__main__ import COMMANDS as DATA_PREP

PAGE = Path(__file__).parent / "reference" / "commands.md"
WIDTH = 100
CALL = "python -m "
DATA_PREP_NAME = "data-prep"  # of `cyclescan data-prep`
CLIENT = "cyclescan.serving.client"

HEAD = """\
# Commands

<!-- Made by `python -m docs.commands_page`; change the commands' own help instead. -->

`cyclescan X` is `python -m cyclescan.X`, and `cyclescan data-prep X` is `python -m data_prep X`. Three numbers are in
the order right, superior, anterior ([axes](../explanation/axes.md)).

| exit code | what it says |
|---|---|
| 0 | done, or stopped by SIGTERM and saved |
| 1 | some files failed and are listed, the others are done; or a defect, with a traceback |
| 2 | one sentence says why: wrong input, a full disk, losses that are not finite |
| 75 | another worker was lost; start again |
| 130 | Ctrl-C; a training run is saved |
"""


@functools.cache
def commands() -> dict[str, str]:
    """The help of each command by how it is called, in the order of the program's own list."""
    found = {}
    for name in COMMANDS:
        if name == DATA_PREP_NAME:
            main = importlib.import_module("data_prep.__main__").main
            found |= {f"{CALL}data_prep {each}": help_of(main, [each]) for each in DATA_PREP}
        else:
            found[f"{CALL}cyclescan.{name}"] = help_of(importlib.import_module(f"cyclescan.{name}").main)
    found[f"{CALL}{CLIENT}"] = help_of(importlib.import_module(CLIENT).main)
    return found


def help_of(main, arguments: list[str] | None = None) -> str:
    """What `main` writes when it is asked for help, in lines of `WIDTH`."""
    said = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main([*(arguments or []), "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return said.getvalue()


def page() -> str:
    """The page as it should be now."""
    sections = [f"## {name.removeprefix(CALL)}\n\n```text\n{said.strip()}\n```\n" for name, said in commands().items()]
    return "\n".join([HEAD, _overview(), *sections])


def _overview() -> str:
    """What each command is for, in the words of the program's own lists."""
    rows = [f"| `cyclescan {name}` | {text} |" for name, text in COMMANDS.items() if name != DATA_PREP_NAME]
    rows += [f"| `cyclescan {DATA_PREP_NAME} {name}` | {text} |" for name, (_, text) in DATA_PREP.items()]
    rows.append(f"| `{CALL}{CLIENT}` | translate scans on a server of TensorFlow Serving |")
    return "\n".join(["| command | what it is for |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
