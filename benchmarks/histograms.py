"""How near the histogram of a translation comes to that of a real scan, with and without the target's noise.

    python -m benchmarks.histograms [--model digital-knee] [--subjects 10]

On digital knees that no training has seen, on the scale of networks, [-1, 1]: KL(real || translation) over the body and
over everything, for doing nothing, histogram matching, the translation and the translation with noise (three seeds),
beside two floors that only the phantom knows: the scan itself without noise, and that with our noise put back.

Writes benchmarks/results/histograms.{json,md}.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from cyclescan.common.command import progress
from cyclescan.common.files import write_json, write_text
from cyclescan.evaluation import histograms
from cyclescan.evaluation.baselines import HistogramMatching
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import body, geometry, intensity, prepare_as
from cyclescan.preprocessing.noise import Noise
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject, makes

RESULTS = Path(__file__).parent / "results"
COHORT, SHAPE = 901, (32, 64, 64)  # a seed of its own: no knee of any training
SEEDS = (0, 1, 2)
CONTRASTS = {"a": "ciss", "b": "dess"}
POOL = 10  # other knees whose intensities are matched onto
QUIET = dataclasses.replace(
    makes.A, examinations=dataclasses.replace(makes.A.examinations, sigma_ciss=(0.0, 0.0), sigma_dess=(0.0, 0.0))
)
METHODS = {
    "nothing": "the untranslated scan",
    "matching": "histogram matching onto ten other real scans of the target",
    "mean": "the translation",
    "noisy": "the translation with noise (`--noise`), median of three seeds",
    "quiet": "floor: the real scan without its noise",
    "quiet_noisy": "floor: the real scan without its noise, with ours",
}
REGIONS = ("body", "everything")
BAR = 0.15


def scaled(scan: Volume, data: dict, domain: str) -> tuple[np.ndarray, dict]:
    """A scan as networks see it, and the record of its intensities."""
    prepared, steps = prepare_as(scan, data, domain)
    return prepared.array, next(record for record in steps if record["step"] == "intensity")


def with_noise(array: np.ndarray, domain: dict, spacing_mm, seed) -> np.ndarray:
    """What `translate --noise` makes of a translation, on the scale of networks."""
    record = domain["intensity"]
    volume = Volume(intensity.invert(array, record), np.diag([*spacing_mm, 1.0]))
    noisy, _ = Noise.of(domain).add(volume, np.random.default_rng(seed))
    return intensity.apply(noisy.array, record)


def divergences(index: int, translators: dict, matching: dict) -> dict:
    """KL of every method for one knee, by direction and region, and the counts that are pooled."""
    real, quiet = (make_subject(COHORT, SHAPE, index=index, make=make) for make in (makes.A, QUIET))
    found: dict = {}
    for direction, translator in translators.items():
        source, target = (CONTRASTS[direction[i]] for i in (0, 2))
        data = translator.data
        scans = {name: Volume(np.round(getattr(real, name)), real.affine) for name in (source, target)}
        given, _ = scaled(scans[source], data, direction[0])
        truth, record = scaled(scans[target], data, direction[2])
        canonical, _ = geometry.to_canonical(Volume(getattr(quiet, target), quiet.affine))
        clean = intensity.apply(canonical.array, record)
        made, domain = translator.translate_array(given), data["domains"][direction[2]]

        def noisy(array, seed, domain=domain, spacing=scans[source].spacing_mm):
            return with_noise(array, domain, spacing, [index, seed])

        images = {"nothing": [given], "matching": [matching[direction](given)], "mean": [made], "quiet": [clean]}
        images |= {"noisy": [noisy(made, s) for s in SEEDS], "quiet_noisy": [noisy(clean, s) for s in SEEDS]}
        within = body.mask(truth)
        found[direction] = {}
        for region, where in (("body", within), ("everything", np.ones_like(within))):
            counts = {name: [histograms.count(a[where], (-1, 1)) for a in each] for name, each in images.items()}
            of_truth = histograms.count(truth[where], (-1, 1))
            found[direction][region] = {
                "kl": {name: float(np.median([histograms.kl_divergence(of_truth, c) for c in each]))
                       for name, each in counts.items()},
                "counts": {"real": of_truth} | {name: each[0] for name, each in counts.items()},
                "quantiles": {name: [float(v) for v in np.percentile(array[where], (5, 50, 95, 99))]
                              for name, array in (("real", truth), ("mean", made), ("noisy", images["noisy"][0]))},
            }  # fmt: skip
    return found


def pool_of(data: dict) -> dict:
    """Histogram matching onto other knees, for each direction."""
    knees = [make_subject(COHORT + 1, SHAPE, index=i) for i in range(POOL)]
    return {
        f"{'ab'['ba'.index(domain)]}2{domain}": HistogramMatching(
            scaled(Volume(np.round(getattr(knee, name)), knee.affine), data, domain)[0] for knee in knees
        )
        for domain, name in CONTRASTS.items()
    }


def summary(found: list[dict]) -> dict:
    """Median, mean, smallest and largest over knees and the value of all voxels pooled."""
    result: dict = {}
    for direction in found[0]:
        result[direction] = {}
        for region in REGIONS:
            each = [knee[direction][region] for knee in found]
            pooled = {name: sum(one["counts"][name] for one in each) for name in each[0]["counts"]}
            rows = {}
            for name in METHODS:
                values = [one["kl"][name] for one in each]
                rows[name] = {"median": float(np.median(values)), "mean": float(np.mean(values)), "least": min(values)}
                rows[name] |= {"most": max(values), "pooled": histograms.kl_divergence(pooled["real"], pooled[name])}
            quantiles = {
                name: np.mean([one["quantiles"][name] for one in each], 0).tolist() for name in each[0]["quantiles"]
            }
            result[direction][region] = {
                "kl": rows,
                "quantiles_5_50_95_99": quantiles,
                "values": [x["kl"] for x in each],
            }
    return result


def report(results: dict, model: str, subjects: int, titles: dict) -> str:
    lines = [
        "# Histograms with and without noise",
        "",
        f"`python -m benchmarks.histograms --model {model} --subjects {subjects}`: {subjects} digital knees of cohort "
        f"{COHORT}, {'x'.join(map(str, SHAPE))}, which no training has seen. KL(real || image) in nats, "
        f"{histograms.BINS} bins over [-1, 1], epsilon {histograms.EPSILON:g}: median over knees (least to "
        "most), mean, and of all their voxels pooled. 0: the same histogram. A translation is a mean, of the noise of "
        "air too, to which `--noise` adds what the mean allows; the scan without its noise is 0 there and stays so, "
        'hence the last line of "everything".',
    ]
    for direction, of in results.items():
        for region, found in of.items():
            lines += ["", f"## {titles[direction]}, {region}", "", "| | median (least to most) | mean | pooled |"]
            lines += ["|---|---|---|---|"]
            for name, text in METHODS.items():
                row = found["kl"][name]
                spread = f"{row['median']:.3f} ({row['least']:.3f} to {row['most']:.3f})"
                lines.append(f"| {text} | {spread} | {row['mean']:.3f} | {row['pooled']:.3f} |")
            if region == "body":
                rows = found["kl"]
                met = rows["noisy"]["median"] <= min(BAR, rows["nothing"]["median"])
                lines += ["", f"Bar, at most {BAR:g} and never worse than doing nothing, by the median: "
                          f"{'met' if met else 'not met'}."]  # fmt: skip
                quantiles = "; ".join(
                    f"{name} {', '.join(f'{v:.2f}' for v in values)}"
                    for name, values in found["quantiles_5_50_95_99"].items()
                )
                lines += ["", f"Percentiles 5, 50, 95 and 99 of the body, means over knees: {quantiles}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="digital-knee", help="a run, an exported folder or a model's name")
    parser.add_argument("--subjects", type=int, default=10)
    arguments = parser.parse_args()
    translators = {direction: Translator.load(arguments.model, direction) for direction in ("a2b", "b2a")}
    matching = pool_of(translators["a2b"].data)
    knees = progress(range(arguments.subjects), unit="knee")
    results = summary([divergences(index, translators, matching) for index in knees])
    model = Path(arguments.model).name
    titles = {d: f"{t.source_name.upper()} to {t.target_name.upper()}" for d, t in translators.items()}
    write_json(RESULTS / "histograms.json", {"model": model, "subjects": arguments.subjects, "results": results})
    text = report(results, model, arguments.subjects, titles)
    write_text(RESULTS / "histograms.md", text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
