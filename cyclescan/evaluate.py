"""`python -m cyclescan.evaluate`: compare translated with reference volumes."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from cyclescan.common import command
from cyclescan.common.errors import InputError

log = logging.getLogger(__name__)

DESCRIPTION = "Compare translated with reference volumes: MAE, PSNR, 3-D SSIM, NCC, MI, NMI and KL of histograms."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--predicted", required=True, help="translated volumes: a NIfTI (or .mha) file, or a folder of such"
    )
    parser.add_argument("--reference", required=True, help="true volumes of the same names, on the same grids")
    parser.add_argument(
        "--source",
        default=None,
        help="the volumes that were translated, of the same names: adds KL(source || predicted) and the measures of "
        "the untranslated source",
    )
    parser.add_argument(
        "--out",
        default="evaluation",
        help="folder for metrics.json and metrics.csv, and with --source histograms.csv, .svg and .pdf: the histograms "
        "before and after, subject by subject",
    )
    parser.add_argument(
        "--sites", default=None, help="a .tsv or .csv with the columns subject and site, for the histograms"
    )
    parser.add_argument(
        "--data-range",
        type=float,
        default=None,
        help="largest possible difference of two intensities, for PSNR and SSIM; default: largest minus smallest voxel "
        "of all reference volumes",
    )
    parser.add_argument(
        "--mask",
        default=None,
        help="also measure within masks: a folder of masks of the same names (what is not 0 counts), or `body`, which "
        "finds the body in each reference volume",
    )
    parser.add_argument(
        "--measures",
        default=None,
        choices=["synthrad2025"],
        help="also give the image measures of this challenge on its own definitions (CT in HU, needs --mask); folders "
        "are then those of its download, or hold files named by patient",
    )


def run(arguments: argparse.Namespace) -> int | None:
    from cyclescan.evaluation import file_pairs
    from cyclescan.evaluation.files import evaluate, table

    if arguments.source:
        from cyclescan.reporting import histograms_page

        histograms_page.check(Path(arguments.out), "histograms", [""])

    def done(name: str, error: InputError | None) -> None:
        if error:
            command.write_beside_bars(f"failed: {name}: {' '.join(str(error).split())}")

    result = evaluate(
        arguments.predicted,
        arguments.reference,
        arguments.source,
        arguments.out,
        arguments.data_range,
        arguments.mask,
        arguments.sites,
        done,
        arguments.measures,
    )
    if "histograms" in result:
        histograms_page.write({"": result["histograms"]}, Path(arguments.out), "histograms")
        number, sentence = histograms_page.headline(result["histograms"], "scans")
        sys.stdout.write(f"{number}, {sentence}.\n\n")
    if left := result["without_prediction"]:
        log.warning("%d reference volumes have no prediction and are left out: %s.", len(left), file_pairs.some(left))
    sys.stdout.write(table(result))
    masks = command.call("endpoints", "--predicted", arguments.predicted, "--reference", arguments.reference)
    each = Path(arguments.out) / "metrics.csv"
    command.next_step(f"{each} has each volume; what a trial measures, in regions: {masks} --masks MASKS --out OUT")
    return command.SOME_FAILED if result["failed"] else command.DONE


def main(arguments: list[str] | None = None) -> int:
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.evaluate", arguments)


if __name__ == "__main__":
    sys.exit(main())
