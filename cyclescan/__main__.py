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
}


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in COMMANDS:
        width = max(map(len, COMMANDS))
        lines = "".join(f"  {name:{width}}  {text}\n" for name, text in COMMANDS.items())
        asked = bool(arguments) and arguments[0] in ("-h", "--help")
        (sys.stdout if asked else sys.stderr).write(f"usage: cyclescan COMMAND ...\n\n{lines}")
        sys.exit(0 if asked else 2)
    name = arguments[0]
    sys.argv = [f"cyclescan {name}", *arguments[1:]]
    # by name, as `python -m` does: no command is imported but the one that runs
    runpy.run_module("data_prep" if name == "data-prep" else f"cyclescan.{name}", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
