"""Generators that know contrast before they see anybody's scans: trained with true pairs of many makes of knees.

    python -m benchmarks.pretrain WORK [--knees 400] [--minutes 60] [--measure 4]

Every knee of WORK/records is of a random make of its own (shapes, tissues, protocols, scanner;
`data_prep.phantom.makes`), scanned in CISS and in DESS, and nine in ten have lesions. WORK/run is a run like any
other: begin another one with it on two folders of scans (`python -m cyclescan.train --start-from WORK/run --set
generator_levels=2`), translate with it, or publish it. It takes the GPU that TensorFlow finds. A run that is cut off
continues: give it the same command.

Two halvings, so that the result depends on what is around a voxel and not on where in the knee it lies; the pair term,
and transplants in the pairs. Prints for knees of A, of B and of two makes that it has not seen, with nothing trained
on them, PSNR and SSIM beside those of histogram matching, and what survives of planted lesions
(`benchmarks.structure`).
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

import numpy as np

from benchmarks.structure import KINDS, Knee
from cyclescan import __version__, records
from cyclescan.artifacts import runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.command import progress
from cyclescan.common.files import make_folder, write_json
from cyclescan.config.presets import preset
from cyclescan.evaluation import baselines, metrics
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import intensity, prepare
from cyclescan.scans.volume import Volume
from cyclescan.training import trainer
from cyclescan.training.options import TrainOptions
from data_prep.parallel import processes
from data_prep.phantom import draw_pair

log = logging.getLogger(__name__)

SHAPE = (32, 64, 64)
NAMES = {"a": "ciss", "b": "dess"}
LESION_RATE = 0.9
VALIDATION = 8  # knees that nothing is learned from
SHARD = 50  # knees
SETTINGS = [
    *("generator_levels=2", "warmup=1.0", "lambda_adversarial=0", "lambda_back=0", "lambda_detail=0", "texture=none"),
    *("transplants=3", "lambda_blob=80", "steps=1000000", "average_decay=0.995", "decay_from=0.7"),
]
# makes that are measured: name, and the seed of the cohort, which for "random" is which make
MEASURED = (("A", 0), ("B", 0), ("random", 9001), ("random", 9002))
FIRST = 3000  # number of the first knee that is measured


def write_records(folder: Path, knees: int, seed: int) -> None:
    """A data set whose pairs are the two scans of one knee; nothing is done where there is one."""
    if (folder / "dataset.json").exists():
        return
    splits = {"train": range(knees), "val": range(knees, knees + VALIDATION)}
    with processes(2) as starmap:
        for split, numbers in splits.items():
            for folder_name in (split, "pairs") if split == "train" else (split,):
                make_folder(folder / folder_name)
            chunks = [numbers[i : i + SHARD] for i in range(0, len(numbers), SHARD)]
            jobs = [(folder, split, i, len(chunks), seed, list(chunk)) for i, chunk in enumerate(chunks)]
            for _ in progress(starmap(_write_shards, jobs), total=len(jobs), unit="shard"):
                pass
    scale = {"step": "intensity", "scaling": intensity.UNCUT_MR_SCALING, "low": 0.0, "high": 1000.0}
    domains = {d: {"name": n, "scaling": intensity.UNCUT_MR_SCALING, "intensity": scale} for d, n in NAMES.items()}
    subjects = {split: {d: [f"knee-{n}" for n in numbers] for d in NAMES} for split, numbers in splits.items()}
    info = {"schema_version": 1, "cyclescan_version": __version__, "seed": seed, "disjoint": False, "axes": list("RSA")}
    info |= {"spacing_mm": [3.0, 2.2, 2.2], "shape": list(SHAPE), "domains": domains, "splits": subjects}
    write_json(folder / "dataset.json", info | {"shards": {}, "failed": []})


def _write_shards(folder: Path, split: str, number: int, of: int, seed: int, knees: list[int]) -> None:
    found = {d: [] for d in NAMES}
    for knee in knees:
        subject = draw_pair(np.random.default_rng([seed, knee]), SHAPE, lesion_rate=LESION_RATE)
        for domain, name in NAMES.items():
            scan, steps = prepare(Volume(getattr(subject, name), subject.affine), intensity.UNCUT_MR_SCALING)
            found[domain].append(records.Record(scan.array, scan.affine, domain, name, f"knee-{knee}", steps))
    for domain, other in (("a", "b"), ("b", "a")):
        name = f"{domain}-{number:05d}-of-{of:05d}.tfrecord"
        records.write_shard(folder / split / name, found[domain])
        if split == "train":
            both = zip(found[domain], found[other], strict=True)
            pairs = [dataclasses.replace(r, partner=p.voxels, partner_subjects=(p.subject,)) for r, p in both]
            records.write_shard(folder / "pairs" / name, pairs)


def measure(run: Path, knees: int) -> list[str]:
    """A row of a table for each make and direction."""
    translators = {direction: Translator.load(run, direction) for direction in DIRECTIONS}
    data = runs.read_run(run).data | {"spacing_mm": None}  # on the grid of each make, as it was trained
    rows = []
    for make, seed in MEASURED:
        size = {"shape": SHAPE, "make": make, "cohort": seed}
        them = [Knee(FIRST + i, size, data) for i in range(knees)]
        for direction in DIRECTIONS:
            source, target = direction[0], direction[2]
            pool = [np.round(knee.scans[None][target], 3) for knee in them]
            matched = baselines.HistogramMatching(pool)
            fakes = {kind: [translators[direction].translate_array(k.scans[kind][source]) for k in them]
                     for kind in (None, *KINDS)}  # fmt: skip
            truths = [knee.scans[None][target] for knee in them]
            cells = [f"{make} {seed}" if make == "random" else make, f"{NAMES[source]} to {NAMES[target]}"]
            for made in ([matched(knee.scans[None][source]) for knee in them], fakes[None]):
                scores = [(metrics.psnr(f, t, 2.0), metrics.ssim(f, t, 2.0)) for f, t in zip(made, truths, strict=True)]
                cells.append("{:.2f}, {:.3f}".format(*np.mean(scores, 0)))
            for kind in KINDS:
                weights = [knee.lesion[kind] for knee in them]
                made, true = (
                    np.mean([np.average(a - b, weights=w) for a, b, w in zip(ill, well, weights, strict=True)])
                    for ill, well in (
                        (fakes[kind], fakes[None]),
                        ([knee.scans[kind][target] for knee in them], truths),
                    )
                )
                cells.append(f"{made / true:.2f}")
            rows.append(f"| {' | '.join(cells)} |")
    head = ["make", "direction", "histogram matching", "nothing trained", *KINDS]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for records and the run")
    parser.add_argument("--knees", type=int, default=400, help="to learn from (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training (default: %(default)s)")
    parser.add_argument("--measure", type=int, default=4, help="knees of each make (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    data, run = arguments.work / "records", arguments.work / "run"
    write_records(data, arguments.knees, arguments.seed)
    config = preset("demo").with_settings(SETTINGS)
    options = TrainOptions(preset="demo", seed=arguments.seed, minutes=arguments.minutes, resume=True)
    trainer.train(data, run, config, options)
    print("\n".join(measure(run, arguments.measure)))


if __name__ == "__main__":
    main()
