"""`python -m cyclescan.report`: make one HTML page of a run."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from cyclescan.artifacts import runs
from cyclescan.common import command
from cyclescan.reporting.run_page import write

log = logging.getLogger(__name__)

DESCRIPTION = "Make one HTML page of a run: loss curves, measures, pictures, histograms; it loads nothing from outside."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, help="a training run")
    parser.add_argument(
        "--data",
        default=None,
        help="the records whose test volumes are translated and shown; default: those the run was trained on, if they "
        "are still there",
    )
    parser.add_argument("--out", default=None, help="the page; default: RUN/report.html")
    parser.add_argument(
        "--sites",
        default=None,
        help="a .tsv or .csv with the columns subject (as the page names it) and site, for the histograms",
    )
    parser.add_argument("--weights", default="last", help="last, best or a step")
    parser.add_argument("--limit", type=int, default=None, help="at most so many test volumes of each direction")


def run(arguments: argparse.Namespace) -> None:
    records = arguments.data
    if records is None:
        stored = runs.read_run(arguments.run).records
        if (Path(stored) / "dataset.json").exists():
            records = stored
        else:
            log.warning("The records %s are not there; the page has no measures and no pictures.", stored)
    page = write(arguments.run, records, arguments.out, arguments.weights, arguments.limit, sites=arguments.sites)
    log.info("%s is written.", page)
    served = command.call("export", "--run", arguments.run, "--out", "MODELS")
    command.next_step(f"open {page} in a browser; to hand the model on: {served}")


def main(arguments: list[str] | None = None) -> int:
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.report", arguments)


if __name__ == "__main__":
    sys.exit(main())
