"""How well the validation score chooses a checkpoint: against the paired truth, and against bad translations.

    python -m benchmarks.validation DEMO [DEMO ...] > benchmarks/results/validation.md

DEMO is a folder that `python -m cyclescan.demo --out DEMO` has written. The score sees unpaired volumes alone; here
each checkpoint is also measured on the test knees against their paired truth, whole volumes, PSNR on [-1, 1]. Prints
tables in Markdown: what the score chose and how far below the best that is; both for each checkpoint; the scores of
translations that were made bad on purpose; what `training.health` would have said; what a look costs.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import logging
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from cyclescan import dataset, records
from cyclescan.artifacts import checkpoints, runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.evaluation.baselines import POOL, HistogramMatching
from cyclescan.evaluation.metrics import psnr
from cyclescan.training import terms, validation
from cyclescan.training.cyclegan import CycleGAN
from cyclescan.training.health import Health
from cyclescan.training.validation import Validation

WANTED_DB = 0.3


def read(folder: Path, split: str, domain: str) -> dict[str, np.ndarray]:
    """Volumes by subject."""
    found = (records.decode(records.read_at(*entry)) for entry in records.entries(folder, split, domain))
    return {record.subject: record.voxels for record in found}


def truth_db(network, sources: dict, truths: dict) -> float:
    """Mean PSNR of whole test volumes."""
    scores = []
    for subject, source in sources.items():
        translated = network(source[None, ..., None], training=False).numpy()[0, ..., 0]
        scores.append(psnr(translated, truths[subject], 2.0))
    return float(np.mean(scores))


def bad(sources: np.ndarray, good: np.ndarray, pool) -> dict[str, np.ndarray]:
    """Translations that a score must not like, from sources and good translations."""
    noise = np.random.default_rng(0).normal(0, 1, good.shape)
    matching = HistogramMatching(pool)
    return {
        "identity": sources,
        "histogram matching": np.stack([matching(v) for v in sources]),
        "inverted": -good,
        "constant": np.full_like(good, good.mean()),
        "all the same": np.repeat(good[:1], len(good), 0),
        "of another subject": np.roll(good, 1, 0),
        "blurred, sigma 2 voxels": np.stack([ndimage.gaussian_filter(v, 2) for v in good]),
        "noise of SD 0.1 added": good + 0.1 * noise,
        "noise of SD 0.3 added": good + 0.3 * noise,
    }


def measure(demo: Path) -> tuple[dict, dict, list[str]]:
    """One demo: measures and truth of each checkpoint, scores of bad translations, warnings."""
    run, data = runs.read_run(demo / "run"), demo / "records"
    looking = Validation(data, run.config)
    test = {domain: read(data, "test", domain) for domain in ("a", "b")}
    health, said = Health(run.config), io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("cyclescan.training.health").addHandler(handler)
    found = {}
    for step in run.checkpoints:
        networks = {d: checkpoints.load_generator(run, d, step) for d in DIRECTIONS}
        seen = looking.look(networks)
        health.look_at_checkpoint(step, seen)
        truth = {d: truth_db(networks[d], test[d[0]], test[d[2]]) for d in DIRECTIONS}
        found[step] = {"seen": seen, "truth": truth, "score": validation.score(seen)}
    with contextlib.suppress(FileNotFoundError), open(run.path / "history.csv", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            health.look_at_losses(int(row["step"]), {k: float(v) for k, v in row.items() if k != "step" and v})
    logging.getLogger("cyclescan.training.health").removeHandler(handler)
    best = found[min(found, key=lambda step: found[step]["score"])]["seen"]
    scores = {}
    for direction in DIRECTIONS:
        pool = list(read(data, "train", direction[2]).values())[:POOL]
        candidates = bad(looking.sources[direction[0]], best[direction].translated, pool)
        own = best[direction].measures["score"]
        scores[direction] = {
            name: looking.measure(direction, volumes.astype(np.float32))["score"] / own
            for name, volumes in candidates.items()
        }
    return found, scores, said.getvalue().splitlines()


def cost(demo: Path) -> tuple[float, float]:
    """CPU seconds of a look, and of the steps between two checkpoints by default, a tenth of the run."""
    run, data = runs.read_run(demo / "run"), demo / "records"
    config, model, looking = run.config, CycleGAN(run.config, run.seed), Validation(data, run.config)
    contents = terms.batch_contents(config)
    streams = {d: dataset.open_stream(data, "pairs" if contents["paired"] else "train", d) for d in ("a", "b")}
    batches = dataset.batches(streams, config.patch_shape, config.batch_size, 0, False, **contents)
    batch = next(iter(batches))

    def seconds(action, times: int) -> float:
        action()
        began = time.process_time()
        for _ in range(times):
            action()
        return (time.process_time() - began) / times

    warmup = config.warmup if terms.has_warmup(config) else 0.0
    kinds = {model.warmup_step: warmup, model.train_step: 1 - warmup}
    step = sum(s * seconds(lambda k=k: float(sum(k(batch)[0].values())), 5) for k, s in kinds.items() if s)
    return seconds(lambda: looking.look(model.translators), 3), step * config.steps / 10


def names(run: runs.Run, direction: str) -> str:
    return " to ".join(run.names(direction))


def table(head: list[str], rows: list[list]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def choice(found: dict, direction: str) -> tuple[int, int, float, float]:
    """Best step by truth, chosen step, how far it is below the best and how far the last is, in dB."""
    truth = {step: f["truth"][direction] for step, f in found.items()}
    best, chosen = max(truth, key=truth.get), min(found, key=lambda step: found[step]["score"])
    return best, chosen, truth[best] - truth[chosen], truth[best] - truth[max(truth)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demos", type=Path, nargs="+")
    demos = parser.parse_args().demos
    runs = {demo: runs.read_run(demo / "run") for demo in demos}
    measured = {demo: measure(demo) for demo in demos}

    print("# The checkpoint that the validation score chooses\n")
    print("Made by `python -m benchmarks.validation " + " ".join(map(str, demos)) + "`.\n")
    rows = []
    for demo, (found, *_) in measured.items():
        for direction in DIRECTIONS:
            best, chosen, below, last = choice(found, direction)
            where = [runs[demo].seed, names(runs[demo], direction), best, chosen]
            rows.append([*where, f"{below:.2f}", f"{last:.2f}"])
    worst = max(float(row[4]) for row in rows)
    print(f"Largest distance to the best by paired truth: {worst:.2f} dB; wanted: at most {WANTED_DB} dB.\n")
    table(["seed", "direction", "best by truth", "chosen", "chosen is below, dB", "last is below, dB"], rows)

    print("PSNR (dB) on the test knees and score, lower being better, of each checkpoint:\n")
    for demo, (found, *_) in measured.items():
        for direction in DIRECTIONS:
            name = f"seed {runs[demo].seed}, {names(runs[demo], direction)}"
            values = {"PSNR": [f["truth"][direction] for f in found.values()]}
            for key in ("score", "distance", "shared"):
                values[key] = [f["seen"][direction].measures[key] for f in found.values()]
            rows = [[key, *(f"{v:.2f}" if key == "PSNR" else f"{v:.4f}" for v in row)] for key, row in values.items()]
            table([name, *found], rows)

    print("Scores of bad translations, as multiples of the chosen checkpoint's score:\n")
    kinds = list(measured[demos[0]][1]["a2b"])
    columns = [(demo, direction) for demo in demos for direction in DIRECTIONS]
    head = [f"seed {runs[demo].seed}, {names(runs[demo], direction)}" for demo, direction in columns]
    rows = [[kind, *(f"{measured[demo][1][direction][kind]:.2f}" for demo, direction in columns)] for kind in kinds]
    table(["", *head], rows)

    said = [f"seed {runs[demo].seed}: {line}" for demo, (*_, lines) in measured.items() for line in lines]
    print("Sentences of `training.health` on these runs: " + ("none." if not said else "\n\n- " + "\n- ".join(said)))
    ranges = []
    for key in ("variety", "partner", "ends"):
        every = [
            seen.measures[key] for found, *_ in measured.values() for f in found.values() for seen in f["seen"].values()
        ]
        ranges.append(f"`{key}` {min(every):.2f} to {max(every):.2f}")
    print(f"Ranges of what it looks at: {', '.join(ranges)}.\n")
    look, steps = cost(demos[0])
    print(f"A look takes {look:.1f} s of CPU time, the steps between two checkpoints {steps:.0f} s: ", end="")
    print(f"{100 * look / steps:.1f} % of the training.")


if __name__ == "__main__":
    main()
