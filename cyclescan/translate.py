"""`python -m cyclescan.translate`: translate scans with a trained model."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from cyclescan.common import command
from cyclescan.inference.files_command import add_file_arguments, run_with

if TYPE_CHECKING:
    from cyclescan.inference.translator import Translator

log = logging.getLogger(__name__)

DESCRIPTION = "Translate scans with a trained model: whole volumes, on the grid of the originals, marked as synthetic."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="a training run, a folder made by `cyclescan export`, or the name of a model that comes with cyclescan, "
        "such as digital-knee",
    )
    parser.add_argument(
        "--direction", required=True, help="a2b: from the contrast of `build --a` to that of `--b`; b2a: the reverse"
    )
    add_file_arguments(parser)
    parser.add_argument(
        "--window",
        type=int,
        nargs=3,
        default=None,
        metavar=("D", "H", "W"),
        help="voxels that are worked on at once, multiples of the network's stride; decides over memory and speed and "
        "not over the result, which is that of the whole volume in one piece",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=None,
        help="fraction that windows share, at least 0 and below 1; costs time and changes nothing; default: 0",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="average with the translation of the volume mirrored left to right; takes twice as long",
    )
    parser.add_argument(
        "--doubt",
        action="store_true",
        help="also write NAME_doubt.nii.gz: where the way there and back changes the scan, and where the result "
        "depends on mirroring, position and field of view (0 where the scan was cropped); about six times as long",
    )
    parser.add_argument("--weights", default="last", help="of a run: last, best or a step")


def run(arguments: argparse.Namespace) -> int | None:
    if arguments.overlap:
        log.warning(
            "--overlap %g takes longer and changes nothing: the result is that of the whole volume, whatever the "
            "windows are; leave it out.", arguments.overlap,
        )  # fmt: skip

    def load() -> Translator:
        from cyclescan.inference.translator import Translator

        return Translator.load(
            arguments.model,
            arguments.direction,
            arguments.weights,
            arguments.window,
            arguments.overlap,
            arguments.mirror,
            arguments.doubt,
        )

    return run_with(load, arguments)


def main(arguments: list[str] | None = None) -> int:
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.translate", arguments)


if __name__ == "__main__":
    sys.exit(main())
