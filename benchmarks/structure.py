"""What translations do to texture and to lesions, and whether the map of doubt knows where they are wrong.

    python -m benchmarks.structure WORK [--subjects 10]

WORK is the folder of `python -m benchmarks.quality`; every run that it finished is measured, on knees that no run has
seen and on which no setting was chosen. What is measured: see LEGEND.

Writes benchmarks/results/structure.{json,md,png}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks import texture
from benchmarks.quality import METHODS
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.command import progress
from cyclescan.common.files import read_json, replacing, write_json, write_text
from cyclescan.evaluation import metrics
from cyclescan.inference import doubt
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import prepare_as
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject, makes, planted
from data_prep.phantom.anatomy import NAMES

RESULTS = Path(__file__).parent / "results"
FIRST = 1000  # number of the first knee: cohorts are smaller
LIMB = -0.9  # above it, a voxel is not air
CONTRASTS = {"a": "ciss", "b": "dess"}
LEGEND = """\
- PSNR, SSIM: against the paired truth, as in benchmarks.quality.
- Checkerboard: peaks of the spectrum at the grid frequencies of up-sampling, over those of real volumes; 1: none.
- Spongy bone: power of its texture over that of the real volumes, from 0.1 to 0.45 cycles a voxel.
- Surviving: what a planted lesion changes in the translation over what it changes in a real scan of the target
  contrast, at its voxels. 1: all of its contrast survives; 0: none; below 0: it is reversed.
- Invented: how far the translation of the healthy knee is from the truth there, in the same unit. 0: not at all.
- Doubt and error: Spearman's correlation of the map of doubt (cycle alone, views alone: of its two parts) with the
  absolute error, over the voxels of the limb."""


class Knee:
    """One knee as the networks see it, in both contrasts, healthy and with each lesion."""

    def __init__(self, index: int, size: dict, data: dict) -> None:
        self._data = data
        seed = size.get("cohort", 0)
        drawn = {"index": index, "make": makes.named(size.get("make", "A"), seed)}
        kinds = (None, *planted.KINDS)
        subjects = {kind: make_subject(seed, size["shape"], lesion=kind, **drawn) for kind in kinds}
        self.scans = {kind: {d: self._prepared(subject, d) for d in CONTRASTS} for kind, subject in subjects.items()}
        self.bone = subjects[None].labels == NAMES.index("marrow_epiphysis")
        self.lesion = {kind: subjects[kind].lesion for kind in planted.KINDS}

    def _prepared(self, subject, domain: str) -> np.ndarray:
        scan = Volume(getattr(subject, CONTRASTS[domain]), subject.affine)
        return prepare_as(scan, self._data, domain)[0].array


def measure(folder: Path, knees: list[Knee]) -> tuple[dict, dict]:
    """Of one run: its measures by direction, and translations of the first knee by direction and lesion."""
    translators = {direction: Translator.load(folder, direction) for direction in DIRECTIONS}
    rows, pictures = {}, {}
    for direction in DIRECTIONS:
        source, target = direction[0], direction[2]
        there, back = translators[direction], translators[f"{target}2{source}"]
        fakes, scores, correlation = [], [], []
        changes, contrasts, errors = ({kind: [] for kind in planted.KINDS} for _ in range(3))
        for knee in knees:
            real, truth = (knee.scans[None][domain] for domain in (source, target))
            fake = there.translate_array(real)
            fakes.append(fake)
            scores.append({"psnr": metrics.psnr(fake, truth, 2.0), "ssim": metrics.ssim(fake, truth, 2.0)})
            for kind in planted.KINDS:
                ill = there.translate_array(knee.scans[kind][source])
                weights = knee.lesion[kind]
                contrasts[kind].append(np.average(knee.scans[kind][target] - truth, weights=weights))
                changes[kind].append(np.average(ill - fake, weights=weights))
                errors[kind].append(np.average(fake - truth, weights=weights))
                pictures.setdefault((direction, kind), ill)
            parts = doubt.parts(real, fake, there.translate_array, back.translate_array, there.stride)
            limb, error = real > LIMB, np.abs(fake - truth)
            maps = {"doubt": sum(parts.values()), **parts}
            correlation.append({k: float(stats.spearmanr(v[limb], error[limb]).statistic) for k, v in maps.items()})
        truths = [knee.scans[None][target] for knee in knees]
        rows[direction] = {
            **{name: _summary([score[name] for score in scores]) for name in ("psnr", "ssim")},
            "checkerboard": texture.checkerboard_score(fakes, truths),
            "spongy_bone_db": texture.bone_spectrum_difference_db(fakes, truths, [knee.bone for knee in knees]),
            # over the mean contrast: that of a single knee can be close to 0
            "lesions_surviving": {k: _summary(np.divide(v, np.mean(contrasts[k]))) for k, v in changes.items()},
            "invented": {k: _summary(np.divide(v, np.mean(contrasts[k]))) for k, v in errors.items()},
            "correlation_with_error": {k: _summary([row[k] for row in correlation]) for k in correlation[0]},
        }
    return rows, pictures


def _summary(values) -> dict:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def report(results: dict[str, dict], subjects: int) -> str:
    """The tables, in Markdown."""
    lines = [
        "# Texture, lesions and doubt",
        "",
        f"`python -m benchmarks.structure WORK`: the runs of `benchmarks.quality`, on {subjects} knees that none of "
        "them has seen and on which no setting was chosen; mean (SD over knees).",
        "",
        LEGEND,
    ]
    for direction, title in (("a2b", "CISS to DESS"), ("b2a", "DESS to CISS")):
        kinds = [kind.replace("_", " ") for kind in planted.KINDS]
        head = ["run", "PSNR, dB", "SSIM", "checkerboard", "spongy bone, dB", *(f"{k}, surviving" for k in kinds)]
        head += [*(f"{k}, invented" for k in kinds), "doubt and error", "cycle alone", "views alone"]
        lines += ["", f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for name, rows in results.items():
            row = rows[direction]
            band = list(row["spongy_bone_db"].values())
            cells = [name, _cell(row["psnr"]), _cell(row["ssim"], 3)]
            cells += [f"{row['checkerboard']:.2f}", f"{min(band):+.1f} to {max(band):+.1f}"]
            for group in ("lesions_surviving", "invented", "correlation_with_error"):
                cells += [_cell(value) for value in row[group].values()]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: dict, digits: int = 2) -> str:
    return f"{value['mean']:.{digits}f}" + (f" ({value['sd']:.{digits}f})" if value["sd"] is not None else "")


def draw(pictures: dict[str, dict], knee: Knee, path: Path) -> None:
    """Each lesion in the slice where it is largest: the source, each run's translation, the truth; CISS to DESS."""
    direction, titles = "a2b", ["CISS with the lesion", *pictures, "DESS with the lesion"]
    figure = Figure(figsize=(2 * len(titles), 2.2 * len(planted.KINDS)), layout="constrained")
    axes = figure.subplots(len(planted.KINDS), len(titles), squeeze=False)
    for row, kind in zip(axes, planted.KINDS, strict=True):
        where = knee.lesion[kind]
        at = int(np.argmax(where.sum(axis=(1, 2))))
        shown = [
            knee.scans[kind]["a"],
            *(translated[direction, kind] for translated in pictures.values()),
            knee.scans[kind]["b"],
        ]
        for ax, volume, title in zip(row, shown, titles, strict=True):
            ax.imshow(volume[at], cmap="gray", vmin=-1, vmax=1, origin="lower")
            ax.contour(where[at], [0.1], colors="tab:orange", linewidths=0.6)
            ax.set(xticks=[], yticks=[])
            if kind == next(iter(planted.KINDS)):
                ax.set_title(title, fontsize="small")
        row[0].set_ylabel(kind.replace("_", " "))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of benchmarks.quality")
    parser.add_argument("--subjects", type=int, default=10)
    arguments = parser.parse_args()
    runs = sorted((arguments.work / "runs").glob("*/quality.json"), key=_order)
    if not runs:
        sys.exit(f"{arguments.work} has no finished run; `python -m benchmarks.quality {arguments.work}` makes them.")
    size = read_json(arguments.work / "prepared.json")["size"]
    data = read_json(runs[0].parent / "config.json")["data"]
    knees = [Knee(FIRST + i, size, data) for i in progress(range(arguments.subjects), unit="knee")]
    results, pictures = {}, {}
    for path in progress(runs, unit="run"):
        name = "{method}, seed {seed}".format(**read_json(path))
        results[name], pictures[name] = measure(path.parent, knees)
        write_json(RESULTS / "structure.json", {"subjects": arguments.subjects, "results": results})
        write_text(RESULTS / "structure.md", report(results, arguments.subjects))
    draw(pictures, knees[0], RESULTS / "structure.png")


def _order(path: Path) -> tuple[int, int]:
    about = read_json(path)
    return list(METHODS).index(about["method"]), about["seed"]


if __name__ == "__main__":
    main()
