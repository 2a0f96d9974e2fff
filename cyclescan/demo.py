"""`python -m cyclescan.demo`: the whole tour on the digital knee, from nothing to a report and served models.

This is the only module of cyclescan that imports data_prep: it walks through the whole house.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from cyclescan import NOTICE
from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, write_json
from cyclescan.config.presets import preset

log = logging.getLogger(__name__)

SHAPE = (32, 64, 64)
WRITTEN = ("scans", "records", "run", "translated", "report.html", "saved_models", "metrics.json")
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
    """Digital knees, records, pseudo-pairs, training, translation, evaluation, report and export.

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
    from cyclescan.inference.batch import translate_file
    from cyclescan.inference.translator import Translator
    from cyclescan.training import trainer
    from data_prep import pairing, pseudonyms
    from data_prep.build import build
    from data_prep.phantom import write_cohort

    out = Path(out)
    if there := [name for name in WRITTEN if (out / name).exists()]:
        raise InputError(f"{out} holds {there[0]} already, which a demo would write; choose another folder with --out.")
    if subjects < 4:
        raise InputError(f"--subjects is {subjects}; at least 4 are needed, two for each domain.")
    config = preset("demo").with_settings(settings or [])
    make_folder(out)
    clock = _Clock()

    total = subjects + VAL_SUBJECTS + TEST_SUBJECTS
    log.info("1/6 %d digital knees of %s voxels, each scanned as CISS, DESS and CT", total, _times(shape))
    write_cohort(out / "scans", total, shape=shape, seed=seed, workers=workers)
    clock.lap("phantom")

    log.info("2/6 records: %d training scans of each contrast, no subject in both", subjects // 2)
    records = out / "records"
    info = build(
        a=("ciss", out / "scans" / "ciss"),
        b=("dess", out / "scans" / "dess"),
        out=records,
        split=(subjects, VAL_SUBJECTS, TEST_SUBJECTS),
        disjoint=True,
        seed=seed,
        workers=workers,
    )
    clock.lap("build")

    log.info("3/6 pseudo-pairs: volumes of different subjects registered onto each other")
    pairing.pair(records, workers=workers, seed=seed)
    clock.lap("pair")

    log.info("4/6 training: warm-up on the pseudo-pairs, then the adversarial phase")
    run = trainer.train(records, out / "run", config, preset="demo", seed=seed, minutes=minutes)
    clock.lap("train")

    log.info("5/6 translating and measuring %d test subjects that training never saw", TEST_SUBJECTS)
    translators = {d: Translator.load(run.path, d) for d in DIRECTIONS}
    evaluated = evaluate_on_records(translators, records)
    metrics = evaluated[0]
    key, tested = pseudonyms.load_key(pseudonyms.key_file()), info["splits"]["test"]["a"]
    knees = (path.name[:-7] for path in sorted((out / "scans" / "ciss").glob("*.nii.gz")))
    example = next(knee for knee in knees if pseudonyms.pseudonym(key, knee) in tested)
    scan = out / "scans" / "ciss" / f"{example}.nii.gz"
    translate_file(translators["a2b"], scan, out / "translated" / f"{example}_dess.nii.gz")
    clock.lap("translate")

    log.info("6/6 report and SavedModels")
    page = report.write(run.path, records, out / "report.html", evaluated=evaluated)
    export.export(run.path, out / "saved_models")
    clock.lap("report and export")

    metrics = {direction: metrics[direction] for direction in translators}
    metrics["seconds"] = {
        "prepare": clock.sum("phantom", "build", "pair"),
        "train": clock.sum("train"),
        "translate": clock.sum("translate"),
        "laps": clock.laps,
        "total": clock.sum(*clock.laps),
    }
    metrics["notice"] = NOTICE
    write_json(out / "metrics.json", metrics)
    sys.stdout.write(_summary(metrics, clock, out, page))
    return metrics


class _Clock:
    """Seconds of each part."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now

    def sum(self, *names: str) -> float:
        return round(sum(self.laps[name] for name in names), 1)


def _summary(metrics: dict, clock: _Clock, out: Path, page: Path) -> str:
    lines = ["", f"{'':22}{'PSNR dB':>10}{'SSIM':>8}{'MAE':>8}   against the paired truth, on [-1, 1]"]
    for direction, names in (("a2b", "CISS to DESS"), ("b2a", "DESS to CISS")):
        lines.append(names)
        for method in ("identity", "histogram_matching", "translated"):
            values = metrics[direction][method]
            label = method.replace("_", " ")
            lines.append(f"  {label:20}{values['psnr']:10.2f}{values['ssim']:8.3f}{values['mae']:8.3f}")
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.laps.items())
    lines += [
        "",
        f"time    {spent}",
        f"report  {page}",
        f"models  {out / 'saved_models'}",
        f"figures {out / 'metrics.json'}",
        f"These are {NOTICE.replace('image', 'images')}.",
        "",
    ]
    return "\n".join(lines)


def _times(shape) -> str:
    return " x ".join(map(str, shape))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo", help="a new folder for everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes",
        type=float,
        default=None,
        help="train no longer than this, with a shorter schedule; for longer: --set steps=N",
    )
    parser.add_argument("--subjects", type=int, default=48, help="training subjects, half for each contrast")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=SHAPE, metavar=("D", "H", "W"), help="sagittal slices, height, width"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        action="extend",
        help="change settings of the preset",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes for the preparation")


def run(arguments: argparse.Namespace) -> None:
    if arguments.minutes is not None and arguments.minutes <= 0:
        raise InputError(f"--minutes is {arguments.minutes}; it must be positive.")
    demo(
        arguments.out,
        arguments.seed,
        arguments.minutes,
        arguments.subjects,
        tuple(arguments.shape),
        arguments.settings,
        arguments.workers,
    )


def main(arguments: list[str] | None = None) -> int:
    return command.run("The whole tour on the digital knee.", add_arguments, run, "python -m cyclescan.demo", arguments)


if __name__ == "__main__":
    sys.exit(main())
