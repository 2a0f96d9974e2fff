"""`python -m data_prep phantom`: write digital knees."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from cyclescan.common import command
from cyclescan.common.errors import InputError
from data_prep.phantom import SHAPE, name_of, write_cohort
from data_prep.phantom.makes import NAMES
from data_prep.phantom.montage import refuse_foreign_montage, write_montage

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command line."""
    parser.add_argument("--out", required=True, help="folder for ciss/, dess/, ct/, labels/ and participants.tsv")
    parser.add_argument("--subjects", type=int, required=True, help="number of knees")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=SHAPE, metavar=("D", "H", "W"), help="sagittal slices, height, width"
    )
    parser.add_argument(
        "--spacing-mm",
        type=float,
        nargs=3,
        default=None,
        metavar=("R", "S", "A"),
        help="along right, superior, anterior; by default the field of view is the make's, 96 x 140 x 140 mm for A",
    )
    parser.add_argument(
        "--make",
        default="A",
        metavar="|".join(NAMES),
        help="whose anatomy, tissues, protocols and scanner: A, the usual digital knee; B, another one, cleaner; "
        "random, drawn from the seed",
    )
    parser.add_argument(
        "--lesions",
        type=float,
        default=None,
        metavar="RATE",
        help="share of the subjects, from 0 to 1, that have lesions; writes lesions/, the share of each voxel that "
        "they changed, and a column of their kinds",
    )
    parser.add_argument("--seed", type=int, default=0, help="subject i depends on the seed and i alone")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--montage", action="store_true", help="also draw montage.png of the first three subjects")
    parser.add_argument(
        "--xray",
        action="store_true",
        help="also write xray/: two X-rays of each knee, a plan, masks of bones, the truth",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the cohort and, if asked for, its picture; `InputError` where a value is not allowed."""
    out = Path(arguments.out)
    if arguments.montage:
        refuse_foreign_montage(out)
    if arguments.xray:
        from data_prep.phantom.xray import refuse_foreign_folder, write_xrays

        if arguments.make != "A":
            raise InputError(
                f"--xray is for knees of make A, not {arguments.make}: only their bones are known one by one."
            )
        for index in range(arguments.subjects):
            refuse_foreign_folder(out / "xray" / name_of(index))
    names = write_cohort(
        out,
        arguments.subjects,
        arguments.shape,
        arguments.spacing_mm,
        arguments.seed,
        arguments.workers,
        arguments.make,
        arguments.lesions,
    )
    if arguments.xray:
        write_xrays(out, names, arguments.shape, arguments.spacing_mm, arguments.seed, arguments.workers)
    if arguments.montage:
        write_montage(out, names[:3])
    log.info("wrote %d digital knees to %s", len(names), out)
    domains = ("--a", f"ciss={out / 'ciss'}", "--b", f"dess={out / 'dess'}", "--out", "RECORDS")
    command.next_step(f"records to train on: {command.call('data-prep build', *domains)}")
