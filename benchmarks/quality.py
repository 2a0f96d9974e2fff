"""How good translations become in a given time: the default recipe, the seed, the second report and the paired bound.

    python -m benchmarks.quality WORK [--only METHOD ...] [--minutes 20] [--full] [--make A|B|random] [--cohort SEED]
        [--lesions RATE] [--scaling KIND:LOW,HIGH] [--steps N] [--start-from RUN]

Makes digital knees in WORK (24 training subjects for each contrast, none in both, and 10 test subjects that have both;
32x64x64), trains every method on them for the same wall-clock on this machine, one after the other, and measures the
translations of the test subjects against their paired truth after a quarter, a half and all of the time. What a method
needs beforehand, such as registration, is part of its time. A run that is cut off continues: give it the same command.
--full is the same with 40 subjects, 64x128x128, 60 minutes and three seeds of every method. --make takes knees of
another make, of the seed --cohort (for random, that is which make). --lesions gives that share of all knees lesions.
--steps counts steps instead of minutes, for a machine that others use, too. --start-from gives the methods that can
begin with networks that know contrast already (`lesions_started`) those of a run, such as `benchmarks.pretrain` makes.

Writes benchmarks/results/quality.json, quality.md and quality.png, or quality_full.*, quality_B.*, quality_random_3.*,
quality_lesions_0.5.*; methods that were not run are missing there.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import platform
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.demo_bound import with_true_pairs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.files import read_json, replacing, write_json, write_text
from cyclescan.config import Config
from cyclescan.config.presets import preset
from cyclescan.evaluation.paired import evaluate_on_records
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import intensity
from cyclescan.training import trainer
from data_prep import pairing
from data_prep.build import build
from data_prep.phantom import makes, write_cohort

log = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
MEASURES = ("psnr", "ssim", "mae", "nmi", "kl_histogram")
BASELINES = ("identity", "histogram_matching")
ENDLESS = 10**6  # steps; the time ends a run
# the seed's networks as wide as makes their step cost what ours does (operations; benchmarks.step measures both)
NARROW = ["generator_filters=28", "generator_max_filters=224", "discriminator_filters=28"]


@dataclasses.dataclass(frozen=True)
class Method:
    """What is trained.

    Attributes:
        preset: the recipe.
        settings: changes of it.
        pairs: which pairs it may use: "" for none, "registered", or "true" for the bound.
        seeds: how many runs are made of it.
        started: it begins with the networks of another run.
    """

    preset: str
    settings: tuple[str, ...] = ()
    pairs: str = ""
    seeds: int = 1
    started: bool = False

    def config(self, size: Size) -> Config:
        patch = "patch_shape=" + ",".join(map(str, size.shape))
        return preset(self.preset).with_settings([patch, f"steps={size.steps or ENDLESS}", *self.settings])


METHODS = {
    "cyclescan": Method("cyclescan"),
    "cyclescan_narrow": Method("cyclescan", tuple(NARROW)),
    "gradient_consistency": Method("gradient_consistency"),
    "default": Method("demo", pairs="registered", seeds=3),
    "lesions": Method("lesions", pairs="registered", seeds=3),
    "lesions_started": Method("lesions", ("learning_rate=5e-4",), pairs="registered", seeds=3, started=True),
    "paired": Method("demo", ("warmup=1.0", "lambda_back=0", "lambda_detail=0", "texture=none"), pairs="true"),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Subjects of each contrast, test subjects, voxels of a scan, minutes or steps of a run.

    Of the knees: their make, the seed of their cohort and the share that has lesions; and how
    both contrasts are scaled.
    """

    subjects: int = 24
    test: int = 10
    shape: tuple[int, int, int] = (32, 64, 64)
    minutes: float = 20.0
    steps: int | None = None
    seeds: int | None = None
    make: str = "A"
    cohort: int = 0
    lesions: float | None = None
    scaling: str = intensity.MR_SCALING

    @property
    def name(self) -> str:
        """Of the files in results."""
        return "_".join(
            ["quality"]
            + ["full"] * (self.shape == FULL.shape)
            + [self.make] * (self.make != "A")
            + [str(self.cohort)] * (self.cohort != 0)
            + [f"lesions_{self.lesions}"] * (self.lesions is not None)
            + ["uncut"] * (self.scaling != intensity.MR_SCALING)
        )

    def seeds_of(self, method: Method) -> int:
        return self.seeds or method.seeds


FULL = Size(subjects=40, shape=(64, 128, 128), minutes=60.0, seeds=3)


def prepare(work: Path, size: Size) -> dict:
    """Knees, records and both kinds of pairs; returns where they are and the seconds that the registration took."""
    about = work / "prepared.json"
    if about.exists():
        found = read_json(about)
        if found["size"] != _plain(size):
            raise SystemExit(f"{work} was made for {found['size']}; choose another folder.")
        return found
    scans, records = work / "scans", work / "records"
    if not (scans / "participants.tsv").exists():  # written last
        shutil.rmtree(scans, ignore_errors=True)
        knees = {"shape": size.shape, "seed": size.cohort, "make": size.make, "lesion_rate": size.lesions}
        write_cohort(scans, 2 * size.subjects + size.test, workers=2, **knees)
    domains = {"a": ("ciss", scans / "ciss"), "b": ("dess", scans / "dess")}
    if not (records / "dataset.json").exists():
        scalings = {"scaling_a": size.scaling, "scaling_b": size.scaling}
        split = (2 * size.subjects, 0, size.test)
        build(**domains, out=records, split=split, disjoint=True, seed=0, workers=2, **scalings)
    began = time.monotonic()
    pairing.pair(records, workers=2, seed=0)
    registration = time.monotonic() - began
    shutil.rmtree(work / "true_pairs", ignore_errors=True)
    true = with_true_pairs(scans, records, work / "true_pairs", seed=0)
    found = {
        "size": _plain(size),
        "records": {"": str(records), "registered": str(records), "true": str(true)},
        "seconds": {"": 0.0, "registered": registration, "true": 0.0},
    }
    write_json(about, found)
    return found


def _plain(size: Size) -> dict:
    """What its knees depend on; folders of A's first cohort were made before there were makes."""
    another = {"make": size.make, "cohort": size.cohort} if (size.make, size.cohort) != ("A", 0) else {}
    if size.lesions is not None:
        another["lesions"] = size.lesions
    if size.scaling != intensity.MR_SCALING:
        another["scaling"] = size.scaling
    return {"subjects": size.subjects, "test": size.test, "shape": list(size.shape), **another}


def run(work: Path, name: str, seed: int, size: Size, prepared: dict, start_from: Path | None = None) -> dict:
    """Train one method and measure it at each time; what is done already is not done again."""
    method = METHODS[name]
    folder = _folder(work, name, seed, size)
    done = folder / "quality.json"
    if done.exists():
        return read_json(done)
    records, before = Path(prepared["records"][method.pairs]), prepared["seconds"][method.pairs]
    # there is nothing to measure before the registration is done
    times = [size.minutes * share for share in (0.25, 0.5, 1.0) if 60 * size.minutes * share > before]
    if size.steps:
        asked = {"checkpoint_every": max(1, size.steps // 4)}
    else:
        asked = {"minutes": size.minutes - before / 60, "checkpoint_every": ENDLESS}
        asked["checkpoint_at"] = [minutes - before / 60 for minutes in times[:-1]]
    trained = trainer.train(
        records,
        folder,
        method.config(size),
        preset=method.preset,
        seed=seed,
        resume=(folder / "config.json").exists(),
        keep_states=1,
        start_from=start_from if method.started else None,
        **asked,
    )
    steps = sorted(trained.checkpoints)
    if size.steps:
        times = [size.minutes * step / size.steps for step in steps]
    snapshots = []
    for minutes, step in zip(times, steps[-len(times) :], strict=True):
        translators = {d: Translator.load(folder, d, weights=step) for d in DIRECTIONS}
        metrics, _, _ = evaluate_on_records(translators, records)
        rows = {d: summary(metrics[d]["translated"]) for d in DIRECTIONS}
        snapshots.append({"minutes": minutes, "step": step, **rows})
    result = {"method": name, "seed": seed, "registration_seconds": before, "snapshots": snapshots}
    result["baselines"] = {b: {d: summary(metrics[d][b]) for d in DIRECTIONS} for b in BASELINES}
    write_json(done, result)
    return result


def finished(work: Path, size: Size) -> list[dict]:
    """The results of all runs of this length in `work`, also those of earlier commands, in the order of METHODS."""
    order = [(name, seed) for name in METHODS for seed in range(size.seeds_of(METHODS[name]))]
    files = [_folder(work, name, seed, size) / "quality.json" for name, seed in order]
    return [read_json(file) for file in files if file.exists()]


def _folder(work: Path, name: str, seed: int, size: Size) -> Path:
    length = f"{size.steps}steps" if size.steps else f"{size.minutes:g}min"
    return work / "runs" / f"{name}-{length}-{seed}"


def summary(metrics: dict) -> dict:
    """Mean and SD of each of MEASURES, from what `evaluate_on_records` gives for one method."""
    return {m: {"mean": metrics[m], "sd": metrics["sd"][m]} for m in MEASURES}


def report(results: list[dict], size: Size) -> None:
    """Table, plot and JSON of what there is."""
    table = ["# Quality against time", "", *_about(size), ""]
    for direction, title in (("a2b", "CISS to DESS"), ("b2a", "DESS to CISS")):
        table += [f"## {title}", "", "| method | seed | minutes | steps | PSNR dB | SSIM | MAE | NMI | KL nats |"]
        table += ["|---|---|---|---|---|---|---|---|---|"]
        for baseline in BASELINES:
            row = results[0]["baselines"][baseline][direction]
            table.append(f"| {baseline.replace('_', ' ')} | | | | {_cells(row)} |")
        for result in results:
            for snapshot in result["snapshots"]:
                about = f"{result['method']} | {result['seed']} | {snapshot['minutes']:g} | {snapshot['step']}"
                table.append(f"| {about} | {_cells(snapshot[direction])} |")
        table += ["", *_shares(results, direction), ""]
    write_json(RESULTS / f"{size.name}.json", {"size": dataclasses.asdict(size), "results": results})
    write_text(RESULTS / f"{size.name}.md", "\n".join(table))
    _plot(results, RESULTS / f"{size.name}.png")


def _about(size: Size) -> list[str]:
    ill = "" if size.lesions is None else f", {size.lesions:.0%} with lesions"
    length = f"{size.minutes:g} minutes each, registration and all else included,"
    if size.steps:
        length = f"{size.steps} steps each, of which minutes are a part of {size.minutes:g},"
    return [
        f"`python -m benchmarks.quality WORK`, {length} on {platform.machine()} with two cores. Knees of make "
        f"{size.make}, cohort {size.cohort}{ill}. "
        f"{size.subjects} training subjects for each contrast, none in both, "
        f"{'x'.join(map(str, size.shape))} voxels. Against the paired truth of {size.test} test subjects, intensities "
        "on [-1, 1]: mean (SD over subjects). NMI: normalised mutual information, 1 to 2. KL: of the translation's "
        "intensity histogram from the truth's, in nats; it punishes values that a translation never has.",
    ]


def _cells(row: dict) -> str:
    digits = {"psnr": 2}
    return " | ".join(f"{row[m]['mean']:.{digits.get(m, 3)}f} ({row[m]['sd']:.{digits.get(m, 3)}f})" for m in MEASURES)


def _shares(results: list[dict], direction: str) -> list[str]:
    """How much of the distance from histogram matching to the paired bound the last snapshots cover."""
    bounds = [r["snapshots"][-1][direction] for r in results if r["method"] == "paired"]
    if not bounds:
        return []
    lines = []
    for name in dict.fromkeys(r["method"] for r in results if r["method"] != "paired"):
        ends = [r["snapshots"][-1][direction] for r in results if r["method"] == name]
        parts = []
        for measure in ("psnr", "ssim"):
            start = results[0]["baselines"]["histogram_matching"][direction][measure]["mean"]
            bound = float(np.median([b[measure]["mean"] for b in bounds]))
            got = float(np.median([end[measure]["mean"] for end in ends]))
            parts.append(f"{(got - start) / (bound - start):.0%} in {measure.upper()}")
        lines.append(f"- {name}: {', '.join(parts)} of the way from histogram matching to the paired bound")
    return [*lines, "", "(medians over seeds)"]


def _plot(results: list[dict], path: Path) -> None:
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    names = list(dict.fromkeys(r["method"] for r in results))
    for column, (direction, title) in enumerate((("a2b", "CISS to DESS"), ("b2a", "DESS to CISS"))):
        for row, (measure, label) in enumerate((("psnr", "PSNR (dB)"), ("ssim", "SSIM"))):
            ax = axes[row][column]
            for baseline, style in zip(BASELINES, (":", "--"), strict=True):
                level = results[0]["baselines"][baseline][direction][measure]["mean"]
                ax.axhline(level, color="grey", linestyle=style, label=baseline.replace("_", " "))
            for result in results:
                points = [(s["minutes"], s[direction][measure]["mean"]) for s in result["snapshots"]]
                first = result["seed"] == 0
                label_once = result["method"].replace("_", " ") if first else None
                ax.plot(*zip(*points, strict=True), "o-", color=f"C{names.index(result['method'])}", label=label_once)
            ax.set(title=title if row == 0 else None, ylabel=label, xlabel="minutes" if row else None)
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize="small", ncols=4, loc="outside lower center")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for knees, records and runs")
    usual = [name for name, method in METHODS.items() if not method.started]
    parser.add_argument("--only", nargs="+", choices=METHODS, default=usual, metavar="METHOD")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None, help="of each run, instead of minutes")
    parser.add_argument("--start-from", type=Path, metavar="RUN", help="which networks `lesions_started` begins with")
    parser.add_argument("--seeds", type=int, default=None, help="of each method (default: one or three)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--make", choices=makes.NAMES, default="A", help="of the knees (default: %(default)s)")
    parser.add_argument("--cohort", type=int, default=0, help="seed of the knees (default: %(default)s)")
    parser.add_argument("--lesions", type=float, default=None, metavar="RATE", help="share of the knees with lesions")
    parser.add_argument(
        "--scaling",
        default=intensity.MR_SCALING,
        help=f"of both contrasts; figures of another one, such as {intensity.UNCUT_MR_SCALING}, cannot be compared "
        "(default: %(default)s)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    knees = {key: getattr(arguments, key) for key in ("make", "cohort", "lesions", "scaling")}
    size = dataclasses.replace(FULL if arguments.full else Size(), **knees)
    asked = {key: getattr(arguments, key) for key in ("minutes", "steps", "seeds")}
    size = dataclasses.replace(size, **{key: value for key, value in asked.items() if value is not None})
    if arguments.start_from is None and any(METHODS[name].started for name in arguments.only):
        parser.error("lesions_started needs --start-from, for example the run of `python -m benchmarks.pretrain`.")
    prepared = prepare(arguments.work, size)
    for name in arguments.only:
        for seed in range(size.seeds_of(METHODS[name])):
            log.info("%s, seed %d: %g minutes", name, seed, size.minutes)
            run(arguments.work, name, seed, size, prepared, arguments.start_from)
            report(finished(arguments.work, size), size)


if __name__ == "__main__":
    main()
