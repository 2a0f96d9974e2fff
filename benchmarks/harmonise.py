"""Two sites, one contrast: what harmonising images does to the signal of the ACL, beside correcting the numbers alone.

    python -m benchmarks.harmonise WORK [--steps 250]

Site one is the reference, the usual digital knee's DESS. Site two has another coil, twice the noise, another gain and
another protocol. Each scans people of its own, of one population, and with those alone a model is trained (domain a:
site two, b: site one; registered pseudo-pairs). Then ten other people are scanned at both sites, which only a test can:
how far is the signal of their ACL at site two from that at site one, before and after? Two to three minutes of a core.

Writes benchmarks/results/harmonise.{json,md}.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cyclescan.common.files import write_json, write_text
from cyclescan.config.presets import preset
from cyclescan.evaluation.agreement import agreement
from cyclescan.evaluation.baselines import HistogramMatching
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import prepare_as
from cyclescan.scans.volume import Volume
from cyclescan.training import trainer
from data_prep import pairing
from data_prep.build import build
from data_prep.phantom import Subject, make_subject, makes, write_cohort
from data_prep.phantom.anatomy import NAMES

RESULTS = Path(__file__).parent / "results"
SHAPE = (32, 48, 48)
TRAINING, TEST = 12, 10  # people of each site; people scanned at both
SEEDS = {"one": 71, "two": 72, "both": 73}
ONE = makes.A
TWO = dataclasses.replace(
    makes.A,
    name="A at site two",
    dess=dataclasses.replace(makes.A.dess, tr_ms=20.6, te1_ms=6.0, flip_deg=32.0, echo_weights=(1.0, 0.6)),
    examinations=dataclasses.replace(
        makes.A.examinations,
        bias_sd=(0.3, 0.4),
        sigma_dess=(0.004, 0.008),
        b1=((0.84, 0.88), (1.12, 1.16)),
        typical_gain=(4000.0, 3000.0),
    ),
)
REFERENCE = ("muscle",)
REGIONS = {
    "acl": ("acl",),
    "cartilage": ("cartilage_deep", "cartilage_superficial"),
    "marrow": ("marrow_epiphysis",),
}
METHODS = {
    "nothing": "nothing",
    "matching": "histogram matching of images",
    "translated": "images translated to site one",
    "numbers": "numbers corrected, images untouched",
}
PAIRS_ALONE = ("warmup=1.0", "lambda_back=0", "lambda_detail=0", "texture=none")


def trained(work: Path, steps: int) -> Translator:
    """Scans of both sites, records, pairs and a model, where they are not there yet."""
    for site, make in (("one", ONE), ("two", TWO)):
        if not (work / site / "participants.tsv").exists():
            write_cohort(work / site, TRAINING, SHAPE, seed=SEEDS[site], make=make)
            rename_people(work / site, site)
    records, run = work / "records", work / "run"
    if not (records / "dataset.json").exists():
        domains = {"a": ("two", work / "two" / "dess"), "b": ("one", work / "one" / "dess")}
        build(**domains, out=records, split=(TRAINING, 0, 0), workers=1)
        pairing.pair(records, per_volume=4, workers=1)
    if not (run / "config.json").exists():
        config = preset("demo").with_settings(
            [f"patch_shape={','.join(map(str, SHAPE))}", f"steps={steps}", *PAIRS_ALONE]
        )
        trainer.train(records, run, config, preset="demo", seed=0, checkpoint_every=steps, keep_states=1)
    return Translator.load(run, "a2b")


def rename_people(folder: Path, site: str) -> None:
    """People of two sites are not the same for having the same number."""
    for path in sorted((folder / "dess").glob("sub-*.nii.gz")):
        path.rename(path.with_name(path.name.replace("sub-", f"sub-{site}")))
    for other in ("ciss", "ct", "labels"):
        shutil.rmtree(folder / other)


def dess_of(subject: Subject) -> Volume:
    return Volume(np.round(subject.dess), subject.affine)


def signals(array: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean signal of each region, and of each over that of muscle."""
    means = {name: float(array[_within(labels, tissues)].mean()) for name, tissues in REGIONS.items()}
    reference = float(array[_within(labels, REFERENCE)].mean())
    return means | {f"{name} over muscle": value / reference for name, value in means.items()}


def _within(labels: np.ndarray, tissues: tuple[str, ...]) -> np.ndarray:
    return np.isin(labels, [NAMES.index(tissue) for tissue in tissues])


def corrected(value: float, two: np.ndarray, one: np.ndarray) -> float:
    """A number of site two with the mean and SD that site one's people have, as ComBat does without its pooling."""
    return float((value - two.mean()) / two.std(ddof=1) * one.std(ddof=1) + one.mean())


def measured(translator: Translator) -> dict[str, dict[str, list[float]]]:
    """The signals of the people of both sites: at site one ("truth"), at site two, and after each method."""
    people = {
        site: [make_subject(SEEDS[site], SHAPE, index=i, make=make) for i in range(TRAINING)]
        for site, make in (("one", ONE), ("two", TWO))
    }
    own = {site: [signals(dess_of(s).array, s.labels) for s in each] for site, each in people.items()}
    matching = HistogramMatching(dess_of(s).array for s in people["one"])
    found: dict[str, dict[str, list[float]]] = {}

    def note(method: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            found.setdefault(method, {}).setdefault(name, []).append(value)

    for index in range(TEST):
        at_one, at_two = (make_subject(SEEDS["both"], SHAPE, index=index, make=make) for make in (ONE, TWO))
        scan, labels = dess_of(at_two), at_one.labels
        array, steps = prepare_as(scan, translator.data, "a")
        translation = translator.restore(translator.translate_array(array.array), steps)
        before = signals(scan.array, labels)
        note("truth", signals(dess_of(at_one).array, labels))
        note("nothing", before)
        note("matching", signals(matching(scan.array), labels))
        note("translated", signals(translation.array, labels))
        of = {name: [np.array([row[name] for row in own[site]]) for site in ("two", "one")] for name in before}
        note("numbers", {name: corrected(value, *of[name]) for name, value in before.items()})
    return found


def table(found: dict) -> tuple[list[str], dict]:
    rows, plain = [], {}
    for name in found["truth"]:
        truth = found["truth"][name]
        plain[name] = {method: agreement(found[method][name], truth) for method in METHODS}
        for method, text in METHODS.items():
            row = plain[name][method]
            bias, icc = ([*row[key]] for key in ("bias", "icc"))
            percent = [f"{100 * value / row['reference']:+.0f}" for value in bias]
            rows.append(
                f"| {name} | {text} | {percent[0]} ({percent[1]} to {percent[2]}) | "
                f"{100 * row['sd'] / row['reference']:.0f} | {icc[0]:.2f} ({icc[1]:.2f} to {icc[2]:.2f}) |"
            )
    return rows, plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=250)
    arguments = parser.parse_args()
    translator = trained(arguments.work, arguments.steps)
    rows, plain = table(measured(translator))
    lines = [
        "# Two sites, one contrast",
        "",
        f"`python -m benchmarks.harmonise WORK --steps {arguments.steps}`: DESS of digital knees, "
        f"{'x'.join(map(str, SHAPE))}; site two has another coil, twice the noise, other gain, TR, TE, flip angle and "
        f"weight of the second echo. {TRAINING} people of each site to learn from, {TEST} others scanned at both. "
        "Signal at site two against signal at site one: bias in per cent of the mean, with its 95 % interval; SD of "
        "the differences in per cent; ICC(2,1).",
        "",
        "| signal | done | bias, % | SD, % | ICC |",
        "|---|---|---|---|---|",
        *rows,
    ]
    write_json(RESULTS / "harmonise.json", {"steps": arguments.steps, "people": TEST, "agreement": plain})
    write_text(RESULTS / "harmonise.md", "\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
