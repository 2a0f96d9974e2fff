"""`python -m cyclescan.plan`: show on X-rays what was planned on MR."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from cyclescan.common import command

log = logging.getLogger(__name__)

DESCRIPTION = (
    "Show on X-rays the lines that were planned on MR: the scan becomes a synthetic CT, the bone is found on the "
    "X-rays by it, and the lines go with the bone. For research, not for navigation. Exit code 1: refused."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command line."""
    from cyclescan.planning import bones, registration

    parser.add_argument(
        "out", metavar="OUT", help="folder for plan.json, plan.html, pose.tfm, lines.mrk.json, pictures"
    )
    parser.add_argument(
        "--model", required=True, help="run, exported model or shipped model from the MR's contrast to CT"
    )
    parser.add_argument("--direction", default="a2b", choices=("a2b", "b2a"), help="of the model, from MR to CT")
    parser.add_argument("--mr", required=True, type=Path, help="the scan: NIfTI, or a DICOM folder")
    parser.add_argument("--plan", required=True, type=Path, help="lines, a .mrk.json of 3D Slicer")
    parser.add_argument(
        "--bone", required=True, type=Path, help="mask of one bone on the scan's grid, or labels of the digital knee"
    )
    parser.add_argument(
        "--which", default="femur", choices=bones.WHICH, help="the bone to take where --bone has the labels"
    )
    parser.add_argument(
        "--xray",
        required=True,
        type=Path,
        action="append",
        metavar="FILE",
        help="DICOM, or PNG or TIFF with a JSON of its geometry beside it; twice for two views of one moment",
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        default=None,
        help="JSON of four or more points seen on scan and X-rays, to begin from",
    )
    parser.add_argument(
        "--reach",
        type=float,
        default=None,
        help=f"mm and degrees by which the start may be off, {registration.REACH:g} by default, after landmarks half",
    )
    parser.add_argument("--starts", type=int, default=registration.STARTS, help="how many searches must agree or not")
    parser.add_argument("--seed", type=int, default=0, help="of the starts and the search")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes")


def run(arguments: argparse.Namespace) -> int | None:
    """Carry the plan over; 1 where the result is refused."""
    from cyclescan.inference.translator import Translator
    from cyclescan.planning.workflow import Task, carry_over

    task = Task(
        mr=arguments.mr,
        plan=arguments.plan,
        bone=arguments.bone,
        xrays=tuple(arguments.xray),
        landmarks=arguments.landmarks,
        which=arguments.which,
        reach=arguments.reach,
        starts=arguments.starts,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    with command.progress(unit="search") as bar:

        def watch(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = carry_over(task, Translator.load(arguments.model, arguments.direction), arguments.out, watch)
    log.info("%s is written.", Path(arguments.out) / "plan.html")
    if report["depth"]:
        log.info("%s", report["depth"])
    if not report["accepted"]:
        log.warning("refused: %s", report["why"])
        return command.SOME_FAILED
    log.info("The starts agree within %.2f mm.", report["spread_mm"])
    command.next_step(f"open {Path(arguments.out) / 'plan.html'} in a browser, and pose.tfm in 3D Slicer")
    return command.DONE


def main(arguments: list[str] | None = None) -> int:
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.plan", arguments)


if __name__ == "__main__":
    sys.exit(main())
