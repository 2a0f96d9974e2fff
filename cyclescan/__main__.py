"""`cyclescan X` is `python -m cyclescan.X`; `cyclescan data-prep X` is `python -m data_prep X`."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {
    "demo": "the whole tour on the digital knee",
    "train": "train the two generators on records",
    "translate": "translate scans with a trained model",
    "evaluate": "compare translated with reference volumes",
    "endpoints": "compare what a trial measures: signal, area and volume of regions",
    "report": "make one HTML page of a run",
    "plan": "show on X-rays what was planned on MR",
    "export": "write SavedModels for TensorFlow Serving",
    "data-prep": "digital knee, listing, records, their page, pseudo-pairs, verification",
    "doctor": "say what is found on this machine and what to mend",
    "completion": "write what bash, zsh or tcsh need to complete with TAB",
}
# what a user calls for scans of their own, one after the other
ORDER = ("data-prep scans", "data-prep build", "data-prep pair", "train", "translate", "report")


def overview() -> str:
    """Return the map that is shown where no command is given: each with one line, and what to begin with."""
    width = max(map(len, COMMANDS))
    rows = "".join(f"  {name:{width}}  {text}\n" for name, text in COMMANDS.items())
    return (
        f"usage: cyclescan COMMAND ...\n\n{rows}\n"
        "cyclescan COMMAND --help says what a command takes.\n"
        f"your own scans: {' -> '.join(ORDER)}\n"
        "next: cyclescan doctor, then cyclescan demo --quick\n"
    )


def main() -> None:
    """Run the command that the first word names, or show all of them."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        sys.exit(0)
    name = arguments[0]
    if name not in COMMANDS:
        sys.stderr.write(f"error: There is no command {name!r}; allowed are {', '.join(COMMANDS)}.\n")
        sys.exit(2)
    sys.argv = [f"cyclescan {name}", *arguments[1:]]
    # by name, as `python -m` does: no command is imported but the one that runs
    runpy.run_module("data_prep" if name == "data-prep" else f"cyclescan.{name}", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
