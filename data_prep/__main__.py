"""`python -m data_prep phantom|scans|build|qc|pair|verify`."""

from __future__ import annotations

import importlib
import sys

from cyclescan.common import command

# each module has add_arguments(parser) and run(args); only the one that is asked for is imported
COMMANDS = {
    "phantom": ("data_prep.phantom.command", "write digital knees: CISS, DESS, CT and labels of the same anatomy"),
    "scans": ("data_prep.listing", "list the scans of a folder: NIfTI and .mha files and DICOM series"),
    "build": ("data_prep.build", "turn two folders of scans into TFRecords"),
    "qc": ("data_prep.qc", "show every scan beside the limits of its cohort, outliers first, in one HTML page"),
    "pair": ("data_prep.pairing", "register volumes of the two domains onto each other: pseudo-pairs for training"),
    "verify": ("data_prep.verify", "re-read every shard and every checksum of a data set"),
}


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    width = max(map(len, COMMANDS))
    usage = "usage: python -m data_prep COMMAND ...\n\n" + "".join(
        f"  {name:{width}}  {text}\n" for name, (_, text) in COMMANDS.items()
    )
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage)
        return command.DONE if arguments else command.WRONG_INPUT
    if arguments[0] not in COMMANDS:
        sys.stderr.write(f"error: There is no command {arguments[0]!r}; allowed are {', '.join(COMMANDS)}.\n")
        return command.WRONG_INPUT
    name, text = COMMANDS[arguments[0]]
    module = importlib.import_module(name)
    program = f"python -m data_prep {arguments[0]}"
    return command.run(text, module.add_arguments, module.run, program, arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
