"""`python -m cyclescan.completion`: what a shell needs to complete commands, options, choices and files.

It is made once and written to a file of the shell's: at the press of a key no Python runs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from cyclescan.common import command
from cyclescan.config.presets import PRESETS

DESCRIPTION = """Write what a shell needs to complete what is typed after `cyclescan` with TAB. Once, and after updates:

  bash: cyclescan completion bash > ~/.local/share/bash-completion/completions/cyclescan
  zsh:  cyclescan completion zsh > DIR/_cyclescan, with DIR in $fpath before compinit
  tcsh: cyclescan completion tcsh > FILE, and `source FILE` in ~/.tcshrc"""
SHELLS = ("bash", "zsh", "tcsh")


def parsers() -> argparse.ArgumentParser:
    """Return all command lines of cyclescan as one parser whose arguments know what completes them."""
    from cyclescan.__main__ import COMMANDS

    root = argparse.ArgumentParser(prog="cyclescan")
    commands = root.add_subparsers()
    for name, text in COMMANDS.items():
        parser = commands.add_parser(name, help=text)
        if name == "data-prep":
            inner = parser.add_subparsers()
            # by name, as in __main__: nothing of cyclescan but the demo and the doctor works with data_prep
            for own, (module, about) in importlib.import_module("data_prep.__main__").COMMANDS.items():
                _fill(inner.add_parser(own, help=about), module)
        else:
            _fill(parser, f"cyclescan.{name}")
    return root


def _fill(parser: argparse.ArgumentParser, module: str) -> None:
    import shtab

    importlib.import_module(module).add_arguments(parser)
    for action in parser._actions:
        if action.dest == "preset":
            action.choices = list(PRESETS)
        elif action.nargs != 0 and action.choices is None and action.type in (None, Path):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
        # zsh shows the help beside an option, and shtab does not fill in defaults as argparse does
        action.help = action.help and action.help.replace("%%", "%")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell's name."""
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: argparse.Namespace) -> None:
    """Write the script on stdout."""
    import shtab

    sys.stdout.write(shtab.complete(parsers(), arguments.shell))
    command.next_step(
        f"keep it where your shell looks: {command.call('completion', '--help')} says where; open a new one"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, by default that of this process, and return its exit code."""
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.completion", arguments)


if __name__ == "__main__":
    sys.exit(main())
