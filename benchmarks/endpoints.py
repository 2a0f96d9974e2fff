"""What a trial measures, in translations of knees with lesions against their true scans: does it agree?

    python -m benchmarks.endpoints WORK [--model digital-knee] [--subjects 24]

WORK gets a cohort of which half have lesions, as `data_prep phantom --lesions 0.5` writes it; no training has seen it.
Signal of ACL, cartilage, menisci and marrow, in the scan over muscle's and with every scan on its own range, for doing
nothing, histogram matching, the model and the model with noise, in both directions: ICC(2,1) with the true scan and
bias. --model is a run, an exported folder or the name of a model that comes with cyclescan. Two minutes of a core.

Writes benchmarks/results/endpoints.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.histograms import CONTRASTS, pool_of, scaled
from cyclescan.common.command import progress
from cyclescan.common.files import read_json, write_json, write_text
from cyclescan.evaluation import endpoints
from cyclescan.evaluation.agreement import DEFINITIONS, agreement
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import intensity
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume
from data_prep.phantom import write_cohort
from data_prep.phantom.anatomy import NAMES

RESULTS = Path(__file__).parent / "results"
COHORT, SHAPE, RATE = 911, (32, 64, 64), 0.5
REGIONS = {
    "acl": ("acl",),
    "cartilage": ("cartilage_deep", "cartilage_superficial"),
    "menisci": ("meniscus",),
    "marrow": ("marrow_epiphysis",),
    "muscle": ("muscle",),
}
METHODS = {
    "nothing": "doing nothing",
    "matching": "histogram matching",
    "mean": "the model",
    "noisy": "the model, `--noise`",
}
MEASURES = ("signal", "relative_signal", "cnr", "area_mm2", "volume_mm3")
BAR = 0.75


def cohort(work: Path, subjects: int) -> list[str]:
    """The names of the subjects, whose scans are written where they are not there."""
    about = work / "cohort.json"
    wanted = {"subjects": subjects, "shape": list(SHAPE), "seed": COHORT, "lesions": RATE}
    if not about.exists() or read_json(about) != wanted:
        write_cohort(work, subjects, SHAPE, seed=COHORT, lesion_rate=RATE)
        write_json(about, wanted)
    return [f"sub-{number:04d}" for number in range(1, subjects + 1)]


def regions_of(labels: np.ndarray) -> np.ndarray:
    """The tissues of the phantom as the numbers of REGIONS, from 1."""
    result = np.zeros(labels.shape, np.int32)
    for number, tissues in enumerate(REGIONS.values(), 1):
        result[np.isin(labels, [NAMES.index(tissue) for tissue in tissues])] = number
    return result


def measured(work: Path, name: str, translators: dict, matching: dict) -> dict:
    """The endpoints of one subject's true scan and of each method's image, by direction."""
    names = dict(enumerate(REGIONS, 1))
    chosen = endpoints.Regions(names, list(REGIONS).index("muscle") + 1)
    scans = {contrast: volumes.read(work / contrast / f"{name}.nii.gz") for contrast in CONTRASTS.values()}
    mask = regions_of(endpoints.read_mask(work / "labels" / f"{name}.nii.gz"))
    found: dict = {}
    for direction, translator in translators.items():
        source, target = (scans[CONTRASTS[direction[i]]] for i in (0, 2))
        given, _ = scaled(source, translator.data, direction[0])
        truth, _ = scaled(target, translator.data, direction[2])
        images = {"truth": truth, "nothing": given, "matching": matching[direction](given)}
        images["mean"] = translator.translate_array(given)
        record = translator.target_intensity
        # every image on the target's usual range, each scan's own percentiles at its ends: the gain is taken out
        as_scans = {key: Volume(intensity.invert(array, record), source.affine) for key, array in images.items()}
        as_scans["noisy"] = translator.with_noise(as_scans["mean"], [COHORT, int(name[4:])])
        found[direction] = {key: endpoints.measure(scan, mask, chosen) for key, scan in as_scans.items()}
    return found


def agreements(found: list[dict]) -> dict:
    """By direction, region, measure and method; a subject without the region or the measure is left out."""
    result: dict = {}
    for direction in found[0]:
        for region in list(REGIONS)[:-1]:
            for measure in MEASURES:
                for method in METHODS:
                    pairs = [
                        (each[direction][method][region][measure], each[direction]["truth"][region][measure])
                        for each in found
                        if region in each[direction]["truth"]
                    ]
                    pairs = [pair for pair in pairs if None not in pair]
                    if len(pairs) >= 3:
                        of = result.setdefault(direction, {}).setdefault(region, {}).setdefault(measure, {})
                        of[method] = agreement(*zip(*pairs, strict=True))
    return result


def report(result: dict, model: str, subjects: int, titles: dict) -> str:
    lines = [
        "# Endpoints on knees with lesions",
        "",
        f"`python -m benchmarks.endpoints WORK --model {model} --subjects {subjects}`: {subjects} digital knees "
        f"of cohort {COHORT}, {'x'.join(map(str, SHAPE))}, half with lesions; none was trained on. Every scan is on "
        "its own range (percentiles at its ends), without the scanner's gain. ICC(2,1) with the true scan, its 95 % "
        "interval, bias in per cent of the true mean. CNR, area, volume and Bland-Altman's limits: endpoints.json.",
        "",
        f"ICC: {DEFINITIONS['icc']}.",
        "",
        "The same where half of the knees have an injured ACL, beside its ceiling: [trial.md](trial.md).",
    ]
    for direction, of in result.items():
        lines += [
            "",
            f"## {titles[direction]}",
            "",
            "| region | image | signal, ICC | bias | signal over muscle, ICC | bias |",
        ]
        lines += ["|---|---|---|---|---|---|"]
        for region, measures in of.items():
            for method, text in METHODS.items():
                cells = " | ".join(_cells(measures[name][method]) for name in ("signal", "relative_signal"))
                lines.append(f"| {region} | {text} | {cells} |")
        acl = of["acl"]["signal"]["mean"]["icc"][0]
        lines += [
            "",
            f"Bar, ICC of the ACL's signal at least {BAR:g}: {acl:.2f}, {'met' if acl >= BAR else 'not met'}.",
        ]
    return "\n".join(lines) + "\n"


def _cells(row: dict) -> str:
    icc = "{:.2f} ({:.2f} to {:.2f})".format(*row["icc"])
    return f"{icc} | {100 * row['bias'][0] / row['reference']:+.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="digital-knee", help="a run, an exported folder or a model's name")
    parser.add_argument("--subjects", type=int, default=24)
    arguments = parser.parse_args()
    names = cohort(arguments.work, arguments.subjects)
    translators = {direction: Translator.load(arguments.model, direction) for direction in ("a2b", "b2a")}
    matching = pool_of(translators["a2b"].data)
    found = [measured(arguments.work, name, translators, matching) for name in progress(names, unit="knee")]
    result, model = agreements(found), Path(arguments.model).name
    titles = {d: f"{t.source_name.upper()} to {t.target_name.upper()}" for d, t in translators.items()}
    write_json(RESULTS / "endpoints.json", {"model": model, "subjects": len(names), "agreement": result})
    text = report(result, model, len(names), titles)
    write_text(RESULTS / "endpoints.md", text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
