"""Where the default recipe breaks: the same knees and time, and one thing made harder at a time.

    python -m benchmarks.breaking WORK [--only CASE ...] [--minutes 8]

Digital knees in WORK, 32x64x64, 24 training subjects for each contrast, none in both, and 10 healthy test subjects that
have both; the preset `demo` for the same wall-clock each, registration included. Cases and measures: see LEGEND. A run
that is cut off continues.

Writes benchmarks/results/breaking.{json,md}.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.quality import ENDLESS, summary
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.command import progress
from cyclescan.common.files import make_folder, read_json, write_json, write_text
from cyclescan.config.presets import preset
from cyclescan.evaluation.paired import evaluate_on_records
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import prepare_as
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume
from cyclescan.training import trainer
from cyclescan.training.options import TrainOptions
from data_prep import pairing, splits
from data_prep.build import build
from data_prep.parallel import processes
from data_prep.phantom import DESCRIP, anatomy, make_subject
from data_prep.phantom.anatomy import NAMES
from data_prep.splits import Place

log = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
SHAPE = (32, 64, 64)
TEST = 10
DOMAINS = {"a": "ciss", "b": "dess"}
LEGEND = """\
- As in quality: knees like those of benchmarks.quality.
- Pose and shape: they vary twice as much.
- Field of view: the DESS training scans lack its lower quarter.
- Lesion: marrow oedema in every DESS training knee and in no CISS one.
- Few volumes: 8 training subjects for each contrast instead of 24.
- Marrow: mean error in the spongy bone of CISS to DESS, of half the range; above that of the first case where oedema is
  invented in healthy knees."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is harder: factor of the variation, part of DESS below that is missing, lesion of its training, subjects."""

    variation: float = 1.0
    missing: float = 0.0
    lesion: str | None = None
    subjects: int = 24


CASES = {
    "as in quality": Case(),
    "pose and shape": Case(variation=2.0),
    "field of view": Case(missing=0.25),
    "lesion": Case(lesion="marrow_oedema"),
    "few volumes": Case(subjects=8),
}


def write_subject(folder: Path, case: Case, index: int) -> None:
    """Write the scans of one subject: the first give CISS to training, the next DESS, and the last both to the test."""
    for_ciss, for_dess = index < case.subjects, case.subjects <= index < 2 * case.subjects
    knee = anatomy.draw(np.random.default_rng([7, index]), case.variation)
    subject = make_subject(0, SHAPE, index=index, knee=knee, lesion=case.lesion if for_dess else None)
    for name, wanted in (("ciss", not for_dess), ("dess", not for_ciss), ("labels", True)):
        array, affine = getattr(subject, name), subject.affine.copy()
        if name == "dess" and for_dess:
            lost = round(case.missing * SHAPE[1])
            array = array[:, lost:]
            affine[:3, 3] += affine[:3, 1] * lost
        if wanted:
            path = make_folder(folder / name) / f"sub-{index:04d}.nii.gz"
            volume.write(Volume(array, affine), path, descrip=DESCRIP, dtype=np.int16)


def data_of(work: Path, case: Case) -> tuple[Path, float]:
    """Records with pseudo-pairs, and the seconds that registration took."""
    about = work / "prepared.json"
    if not about.exists():
        jobs = [(work / "scans", case, number) for number in range(2 * case.subjects + TEST)]
        with processes(2) as starmap:
            list(progress(starmap(write_subject, jobs), total=len(jobs), unit="knee"))
        a, b = ((name, work / "scans" / name) for name in DOMAINS.values())
        places = [Place("train", "a")] * case.subjects + [Place("train", "b")] * case.subjects + [Place("test")] * TEST
        splits.write_file(work / "split.tsv", {f"sub-{n:04d}": place for n, place in enumerate(places)}, {})
        build(a, b, work / "records", split_file=work / "split.tsv", seed=0, workers=2)
        began = time.monotonic()
        pairing.pair(work / "records", workers=2, seed=0)
        write_json(about, {"seconds": time.monotonic() - began})
    return work / "records", read_json(about)["seconds"]


def run(work: Path, name: str, minutes: float) -> dict:
    """Train on one case and measure it; what is done already is not done again."""
    work = make_folder(work / name.replace(" ", "_"))
    done = work / f"breaking-{minutes:g}min.json"
    if done.exists():
        return read_json(done)
    data, before = data_of(work, CASES[name])
    folder = work / f"run-{minutes:g}min"
    config = preset("demo").with_settings([f"steps={ENDLESS}", "patch_shape=" + ",".join(map(str, SHAPE))])
    left, resume = minutes - before / 60, (folder / "config.json").exists()
    options = TrainOptions(preset="demo", minutes=left, checkpoint_every=ENDLESS, resume=resume, keep_states=1)
    trainer.train(data, folder, config, options)
    metrics, _, _ = evaluate_on_records({d: Translator.load(folder, d) for d in DIRECTIONS}, data)
    result = {"case": name, **{direction: summary(metrics[direction]["translated"]) for direction in DIRECTIONS}}
    result["marrow"] = marrow(folder, work / "scans", CASES[name])
    write_json(done, result)
    return result


def marrow(folder: Path, scans: Path, case: Case) -> dict:
    """Mean error of CISS to DESS in the spongy bone of the test subjects, of half the range."""
    translator, errors = Translator.load(folder, "a2b"), []
    for index in range(2 * case.subjects, 2 * case.subjects + TEST):
        scan, real, labels = (volume.read(scans / n / f"sub-{index:04d}.nii.gz") for n in ("ciss", "dess", "labels"))
        fake = translator.translate_array(translator.prepare(scan)[0])
        truth = prepare_as(real, translator.data, "b")[0].array
        # all three are on the working grid: its spacing is that of the scans
        errors.append(float((fake - truth)[labels.array == NAMES.index("marrow_epiphysis")].mean()))
    return {"mean": float(np.mean(errors)), "sd": float(np.std(errors, ddof=1))}


def report(results: list[dict], minutes: float) -> None:
    """Table and JSON of what there is."""
    lines = [
        "# Where the default recipe breaks",
        "",
        f"`python -m benchmarks.breaking WORK`: {minutes:g} minutes a case, registration included, on two cores, one "
        f"run of each (seed 0); mean (SD) over {TEST} healthy test subjects.",
        "",
        LEGEND,
        "",
        "| case | CISS to DESS: PSNR, dB | SSIM | back: PSNR, dB | SSIM | marrow |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = [result["case"]]
        for direction in DIRECTIONS:
            cells += [_cell(result[direction]["psnr"], 2), _cell(result[direction]["ssim"], 3)]
        lines.append(f"| {' | '.join([*cells, _cell(result['marrow'], 3)])} |")
    write_json(RESULTS / "breaking.json", {"minutes": minutes, "results": results})
    write_text(RESULTS / "breaking.md", "\n".join(lines) + "\n")


def _cell(value: dict, digits: int) -> str:
    return f"{value['mean']:.{digits}f} ({value['sd']:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for knees, records and runs")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--minutes", type=float, default=8.0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in arguments.only:
        log.info("%s: %g minutes", name, arguments.minutes)
        run(arguments.work, name, arguments.minutes)
        files = [arguments.work / n.replace(" ", "_") / f"breaking-{arguments.minutes:g}min.json" for n in CASES]
        report([read_json(file) for file in files if file.exists()], arguments.minutes)


if __name__ == "__main__":
    main()
