"""How far a demo got: the distance from histogram matching to the same generator trained with true pairs.

    python -m benchmarks.demo_bound DEMO [--steps N]

DEMO is a folder that `python -m cyclescan.demo --out DEMO` has written. Its knees are built once more with both
contrasts of every training subject; the generators of its run are trained on those true pairs for as many steps, pair
term only, and measured on the same test subjects. Prints a table and the share of the distance that the demo covers.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

from cyclescan import records
from cyclescan.artifacts import runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.files import read_json
from cyclescan.evaluation.paired import evaluate_on_records
from cyclescan.inference.translator import Translator
from cyclescan.training import trainer
from data_prep.build import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("--steps", type=int, default=None, help="of the bound; default: those of the demo's run")
    arguments = parser.parse_args()
    demo = read_json(arguments.demo / "metrics.json")
    run = runs.read_run(arguments.demo / "run")
    with tempfile.TemporaryDirectory() as folder:
        demo_records = arguments.demo / "records"
        true_pairs = with_true_pairs(arguments.demo / "scans", demo_records, Path(folder) / "records", run.seed)
        alone = {"warmup": 1.0, "lambda_back": 0.0, "lambda_detail": 0.0, "texture": "none"}  # the pair term
        config = dataclasses.replace(run.config, **alone, steps=arguments.steps or run.config.steps)
        bound = trainer.train(true_pairs, Path(folder) / "run", config, preset=run.preset, seed=run.seed)
        translators = {d: Translator.load(bound.path, d) for d in DIRECTIONS}
        metrics, _, _ = evaluate_on_records(translators, true_pairs)
    for direction in DIRECTIONS:
        rows = {**demo[direction], "true pairs": metrics[direction]["translated"]}
        print(direction)
        for name in ("identity", "histogram_matching", "translated", "true pairs"):
            print(f"  {name:20} PSNR {rows[name]['psnr']:6.2f} dB   SSIM {rows[name]['ssim']:.3f}")
        for measure in ("psnr", "ssim"):
            start, got, end = (rows[n][measure] for n in ("histogram_matching", "translated", "true pairs"))
            print(f"  share of the distance in {measure.upper()}: {(got - start) / (end - start):.0%}")


def with_true_pairs(scans: Path, folder: Path, copy: Path, seed: int) -> Path:
    """A copy of records whose pairs are the two contrasts of one subject.

    Args:
        scans: folder with the scans of all subjects, in one folder for each domain by its name.
        folder: the records, made from them.
        copy: a new folder.
        seed: with which the records were built.
    """
    info = records.read_info(folder)
    counts = [len({s for d in "ab" for s in info["splits"][split][d]}) for split in ("train", "val", "test")]
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("pairs"))
    with tempfile.TemporaryDirectory(dir=copy.parent) as both:
        domains = {d: (about["name"], scans / about["name"]) for d, about in info["domains"].items()}
        scalings = {f"scaling_{d}": about["scaling"] for d, about in info["domains"].items()}
        build(domains["a"], domains["b"], Path(both) / "records", split=counts, seed=seed, **scalings)
        truth = {d: {r.subject: r for r in _read(Path(both) / "records", d)} for d in ("a", "b")}
    for domain, other in (("a", "b"), ("b", "a")):
        pairs = [
            dataclasses.replace(r, partner=truth[other][r.subject].voxels, partner_subjects=(r.subject,))
            for r in _read(copy, domain)
        ]
        path = copy / "pairs" / f"{domain}-00000-of-00001.tfrecord"
        path.parent.mkdir(exist_ok=True)
        records.write_shard(path, pairs)
    return copy


def _read(folder: Path, domain: str) -> list[records.Record]:
    return [r for path in records.shards(folder / "train", domain) for r in records.read_shard(path)]


if __name__ == "__main__":
    main()
