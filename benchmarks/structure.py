"""What translations do to texture and to lesions, and whether the map of doubt knows where they are wrong.

    python -m benchmarks.structure WORK [--subjects 10] [--model NAME ...]

WORK is the folder of `python -m benchmarks.quality`; every run that it finished is measured, on knees that no run has
seen and on which no setting was chosen. What is measured: see LEGEND.

Writes benchmarks/results/structure.{json,md,png}; of other knees than those of plain `quality`, structure_B.* etc.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage, stats

from benchmarks import texture
from benchmarks.quality import METHODS, Size
from cyclescan.artifacts import shipped
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
# one of each kind in a knee: plain ones of one size, and a tear whose size and shape are drawn
KINDS = (*planted.KINDS, "meniscus_tear")
ALARMS = 1  # false ones in a knee, at which detection is measured
THRESHOLDS = np.linspace(1, -1, 81)
CONTRASTS = {"a": "ciss", "b": "dess"}
LEGEND = """\
- PSNR, SSIM: against the paired truth, as in benchmarks.quality.
- Checkerboard: peaks of the spectrum at the grid frequencies of up-sampling, over those of real volumes; 1: none.
- Spongy bone: power of its texture over that of the real volumes, from 0.1 to 0.45 cycles a voxel.
- Surviving: what a planted lesion changes in the translation over what it changes in a real scan of the target
  contrast, at its voxels. 1: all of its contrast survives; 0: none; below 0: it is reversed.
- Invented: how far the translation of the healthy knee is from the truth there, in the same unit. 0: not at all.
- Found: share of the lesions that the brightest regions of the translation meet, at the threshold that gives one region
  elsewhere in a knee; in brackets, of the true scan. Both are smoothed by one voxel.
- Flagged: area under the ROC curve of "does not come back" (`inference.lost`), of the voxels of a lesion against those
  of the limb elsewhere, and against the same voxels of the healthy knee.
- Doubt and error: Spearman's correlation of the map of doubt (cycle alone, views alone: of its two parts) with the
  absolute error, over the voxels of the limb."""


class Knee:
    """One knee as the networks see it, in both contrasts, healthy and with each lesion."""

    def __init__(self, index: int, size: dict, data: dict) -> None:
        self._data = data
        seed = size.get("cohort", 0)
        drawn = {"index": index, "make": makes.named(size.get("make", "A"), seed)}
        asked = {None: {}} | {k: {"lesion": k} if k in planted.KINDS else {"lesions": (k,)} for k in KINDS}
        subjects = {kind: make_subject(seed, size["shape"], **what, **drawn) for kind, what in asked.items()}
        self.scans = {kind: {d: self._prepared(subject, d) for d in CONTRASTS} for kind, subject in subjects.items()}
        self.bone = subjects[None].labels == NAMES.index("marrow_epiphysis")
        self.lesion = {kind: subjects[kind].lesion for kind in KINDS}

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
        changes, contrasts, errors, flags = ({kind: [] for kind in KINDS} for _ in range(4))
        shown = {kind: ([], []) for kind in KINDS}
        for knee in knees:
            real, truth = (knee.scans[None][domain] for domain in (source, target))
            fake = there.translate_array(real)
            fakes.append(fake)
            scores.append({"psnr": metrics.psnr(fake, truth, 2.0), "ssim": metrics.ssim(fake, truth, 2.0)})
            parts = doubt.parts(real, fake, there.translate_array, back.translate_array, there.stride)
            for kind in (kind for kind in KINDS if knee.lesion[kind].any()):
                scan, true = (knee.scans[kind][domain] for domain in (source, target))
                ill = there.translate_array(scan)
                weights = knee.lesion[kind]
                contrasts[kind].append(np.average(true - truth, weights=weights))
                changes[kind].append(np.average(ill - fake, weights=weights))
                errors[kind].append(np.average(fake - truth, weights=weights))
                cycle = doubt.cycle(scan, back.translate_array(ill))
                flags[kind].append(_areas(cycle, parts["cycle"], weights, scan > LIMB))
                for volume, into in zip((ill, true), shown[kind], strict=True):
                    into.append((volume, weights))
                pictures.setdefault((direction, kind), ill)
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
            "found": {k: [_found(volumes) for volumes in both] for k, both in shown.items()},
            "flagged": {k: np.mean(v, 0).tolist() for k, v in flags.items()},
            "correlation_with_error": {k: _summary([row[k] for row in correlation]) for k in correlation[0]},
        }
    return rows, pictures


def _areas(cycle: np.ndarray, healthy: np.ndarray, lesion: np.ndarray, limb: np.ndarray) -> tuple[float, float]:
    """Areas under the ROC curves of the flag: against the limb elsewhere, and against the healthy knee."""
    inside = lesion > 0.6 * lesion.max()
    return _area(cycle[inside], cycle[limb & (lesion <= 0.05)]), _area(cycle[inside], healthy[inside])


def _area(yes: np.ndarray, no: np.ndarray) -> float:
    return float(stats.mannwhitneyu(yes, no).statistic / (yes.size * no.size))


def _found(volumes: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Share of lesions met by a bright region, at the lowest threshold with at most ALARMS regions elsewhere."""
    smooth = [(ndimage.gaussian_filter(volume, 1.0), lesion > 0.3 * lesion.max()) for volume, lesion in volumes]
    share = 0.0
    for threshold in THRESHOLDS:
        alarms, hits = 0, 0
        for volume, lesion in smooth:
            labels, count = ndimage.label(volume > threshold)
            met = len(set(labels[lesion].tolist()) - {0})
            hits += met > 0
            alarms += count - met
        if alarms > ALARMS * len(smooth):
            break
        share = hits / len(smooth)
    return share


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
        kinds = [kind.replace("_", " ") for kind in KINDS]
        head = ["run", "PSNR, dB", "SSIM", "checkerboard", "spongy bone, dB", *(f"{k}, surviving" for k in kinds)]
        head += [f"{k}, {what}" for what in ("invented", "found", "flagged") for k in kinds]
        head += ["doubt and error", "cycle alone", "views alone"]
        lines += ["", f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for name, rows in results.items():
            row = rows[direction]
            band = list(row["spongy_bone_db"].values())
            cells = [name, _cell(row["psnr"]), _cell(row["ssim"], 3)]
            cells += [f"{row['checkerboard']:.2f}", f"{min(band):+.1f} to {max(band):+.1f}"]
            for group in ("lesions_surviving", "invented"):
                cells += [_cell(value) for value in row[group].values()]
            cells += [f"{here:.0%} ({true:.0%})" for here, true in row["found"].values()]
            cells += [f"{elsewhere:.2f}, {healthy:.2f}" for elsewhere, healthy in row["flagged"].values()]
            cells += [_cell(value) for value in row["correlation_with_error"].values()]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: dict, digits: int = 2) -> str:
    return f"{value['mean']:.{digits}f}" + (f" ({value['sd']:.{digits}f})" if value["sd"] is not None else "")


def draw(pictures: dict[str, dict], knee: Knee, path: Path) -> None:
    """Each lesion in the slice where it is largest: the source, each run's translation, the truth; CISS to DESS."""
    direction, titles = "a2b", ["CISS with the lesion", *pictures, "DESS with the lesion"]
    figure = Figure(figsize=(2 * len(titles), 2.2 * len(KINDS)), layout="constrained")
    axes = figure.subplots(len(KINDS), len(titles), squeeze=False)
    for row, kind in zip(axes, KINDS, strict=True):
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
            if kind == KINDS[0]:
                ax.set_title(title, fontsize="small")
        row[0].set_ylabel(kind.replace("_", " "))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of benchmarks.quality")
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--model", nargs="+", default=[], help="runs or models that come with cyclescan, as well")
    arguments = parser.parse_args()
    finished = sorted((arguments.work / "runs").glob("*/quality.json"), key=_order)
    if not finished:
        sys.exit(f"{arguments.work} has no finished run; `python -m benchmarks.quality {arguments.work}` makes them.")
    size = read_json(arguments.work / "prepared.json")["size"]
    measured = {"{method}, seed {seed}".format(**read_json(path)): path.parent for path in finished}
    measured |= {name: Path(name) if Path(name).is_dir() else shipped.find(name) for name in arguments.model}
    seen: dict[tuple[str, ...], list[Knee]] = {}  # knees as models of one scaling see them
    results, pictures = {}, {}
    name = Size(**size).name.replace("quality", "structure")
    for run, folder in progress(measured.items(), unit="run"):
        data = read_json(folder / "config.json")["data"]
        scalings = tuple(data["domains"][domain]["scaling"] for domain in CONTRASTS)
        if scalings not in seen:
            seen[scalings] = [Knee(FIRST + i, size, data) for i in range(arguments.subjects)]
        results[run], pictures[run] = measure(folder, seen[scalings])
        write_json(RESULTS / f"{name}.json", {"subjects": arguments.subjects, "results": results})
        write_text(RESULTS / f"{name}.md", report(results, arguments.subjects))
    draw(pictures, next(iter(seen.values()))[0], RESULTS / f"{name}.png")


def _order(path: Path) -> tuple[int, int]:
    about = read_json(path)
    return list(METHODS).index(about["method"]), about["seed"]


if __name__ == "__main__":
    main()
