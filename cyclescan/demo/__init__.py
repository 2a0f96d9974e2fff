"""`python -m cyclescan.demo`: the whole tour on the digital knee, from nothing to a report and served models.

This is the only room of cyclescan that imports data_prep: it walks through the whole house. Both tours, the whole one
and the quick one, end in one page that tells what happened.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from cyclescan import NOTICE
from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, write_json
from cyclescan.config.presets import preset
from cyclescan.demo import quick as quickly
from cyclescan.reporting import tour

log = logging.getLogger(__name__)

SHAPE = (32, 64, 64)
WRITTEN = ("scans", "records", "run", "translated", "report.html", quickly.PAGE, "saved_models", "metrics.json")
OUT, QUICK_OUT = "demo", "demo-quick"
TEST_SUBJECTS = 6
VAL_SUBJECTS = 2


def demo(
    out: str | Path,
    seed: int = 0,
    minutes: float | None = None,
    subjects: int = 48,
    shape: tuple[int, int, int] = SHAPE,
    settings: list[str] | None = None,
    workers: int = 2,
) -> dict:
    """Go the whole way: digital knees, records, pairs, training, translation, evaluation, report, export, one page.

    Args:
        out: a new folder for everything.
        seed: of the knees, the split, the registration and the training.
        minutes: end the training after this time, if its steps are not done by then, its schedule shortened
            accordingly; None makes the result a function of the seed alone.
        subjects: training subjects, half for each domain; test and validation subjects come on top.
        shape: (sagittal slices, height, width) of each scan.
        settings: `KEY=VALUE` changes of the preset.
        workers: processes for the preparation.

    Returns:
        What DIR/metrics.json says.
    """
    from cyclescan import export, report
    from cyclescan.artifacts.direction import DIRECTIONS
    from cyclescan.evaluation.paired import evaluate_on_records
    from cyclescan.inference import usual
    from cyclescan.inference.translator import Translator
    from cyclescan.training import trainer
    from data_prep import pairing
    from data_prep.build import build
    from data_prep.phantom import write_cohort

    out = Path(out)
    if there := [name for name in WRITTEN if (out / name).exists()]:
        raise InputError(f"{out} holds {there[0]} already, which a demo would write; choose another folder with --out.")
    if subjects < 4:
        raise InputError(f"--subjects is {subjects}; at least 4 are needed, two for each domain.")
    config = preset("demo").with_settings(settings or [])
    make_folder(out)
    clock = tour.Clock()

    total = subjects + VAL_SUBJECTS + TEST_SUBJECTS
    log.info("1/6 %d digital knees of %s voxels, each scanned as CISS, DESS and CT", total, " x ".join(map(str, shape)))
    write_cohort(out / "scans", total, shape=shape, seed=seed, workers=workers)
    clock.lap("phantom")

    log.info("2/6 records: %d training scans of each contrast, no subject in both", subjects // 2)
    records = out / "records"
    domains = (("ciss", out / "scans" / "ciss"), ("dess", out / "scans" / "dess"))
    divided: dict[str, Any] = {"split": (subjects, VAL_SUBJECTS, TEST_SUBJECTS), "disjoint": True}
    info = build(*domains, records, **divided, seed=seed, workers=workers)
    clock.lap("build")

    log.info("3/6 pseudo-pairs: volumes of different subjects registered onto each other")
    pairing.pair(records, workers=workers, seed=seed)
    clock.lap("pair")

    log.info("4/6 training: warm-up on the pseudo-pairs, then the adversarial phase")
    run = usual.add_limits(trainer.train(records, out / "run", config, preset="demo", seed=seed, minutes=minutes))
    clock.lap("train")

    log.info("5/6 translating and measuring %d test subjects that training never saw", TEST_SUBJECTS)
    evaluated = evaluate_on_records({d: Translator.load(run.path, d) for d in DIRECTIONS}, records)
    _translate_one(out, run.path, info["splits"]["test"]["a"])
    clock.lap("translate")

    log.info("6/6 report and SavedModels")
    report.write(run.path, records, out / "report.html", evaluated=evaluated)
    export.export(run.path, out / "saved_models")
    clock.lap("report and export")
    page = quickly.tell(run.path, out / quickly.PAGE, seed, shape, subjects // 2)
    clock.lap("page")

    metrics: dict[str, Any] = {direction: evaluated[0][direction] for direction in DIRECTIONS}
    metrics |= {"seconds": clock.seconds(), "notice": NOTICE}
    write_json(out / "metrics.json", metrics)
    sys.stdout.write(tour.table(metrics, clock, out, page))
    return metrics


def _translate_one(out: Path, run: Path, tested: list[str]) -> None:
    """Translate the first test subject's CISS from file to file, as a user would."""
    from cyclescan.inference.batch import translate_file
    from cyclescan.inference.translator import Translator
    from data_prep import pseudonyms

    key = pseudonyms.load_key(pseudonyms.key_file())
    knees = (path.name[:-7] for path in sorted((out / "scans" / "ciss").glob("*.nii.gz")))
    example = next(knee for knee in knees if pseudonyms.pseudonym(key, knee) in tested)
    scan = out / "scans" / "ciss" / f"{example}.nii.gz"
    translate_file(Translator.load(run, "a2b"), scan, out / "translated" / f"{example}_dess.nii.gz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"train nothing: two new knees, translated by the model {quickly.MODEL}, and the page of them, in less "
        "than a minute; of the other options --out, --seed, --shape and --no-open count",
    )
    parser.add_argument(
        "--out", default=None, help=f"a new folder for everything; default: {OUT}, or {QUICK_OUT} with --quick"
    )
    parser.add_argument("--no-open", action="store_true", help="do not show the page in the browser")
    parser.add_argument("--seed", type=int, default=0)
    minutes_help = "train no longer than this, with a shorter schedule; for longer: --set steps=N"
    parser.add_argument("--minutes", type=float, default=None, help=minutes_help)
    parser.add_argument("--subjects", type=int, default=48, help="training subjects, half for each contrast")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=SHAPE, metavar=("D", "H", "W"), help="sagittal slices, height, width"
    )
    many: dict[str, Any] = {"nargs": "+", "default": [], "action": "extend"}
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", **many, help="change settings of the preset")
    parser.add_argument("--workers", type=int, default=2, help="processes for the preparation")


def run(arguments: argparse.Namespace) -> None:
    if arguments.minutes is not None and arguments.minutes <= 0:
        raise InputError(f"--minutes is {arguments.minutes}; it must be positive.")
    values = {**vars(arguments), "shape": tuple(arguments.shape)}
    is_quick, no_open = values.pop("quick"), values.pop("no_open")
    out = Path(values.pop("out") or (QUICK_OUT if is_quick else OUT))
    if is_quick:
        if values["minutes"] is not None or values["settings"]:
            raise InputError("--quick trains nothing, so --minutes and --set are not allowed beside it.")
        quickly.quick(out, values["seed"], values["shape"])
    else:
        demo(out, **values)
    shown = not no_open and quickly.open_page(out / quickly.PAGE)
    look = "" if shown else f"open {(out / quickly.PAGE).resolve().as_uri()} in a browser; "
    command.next_step(
        f"{look}your own scans: {command.call('data-prep scans', 'FOLDER')}, then docs/get-started/own-data.md"
    )


def main(arguments: list[str] | None = None) -> int:
    return command.run("The whole tour on the digital knee.", add_arguments, run, "python -m cyclescan.demo", arguments)
