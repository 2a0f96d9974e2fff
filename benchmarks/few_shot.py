"""A few scans of one's own: a model that comes with cyclescan, trained on, against training from nothing.

    python -m benchmarks.few_shot WORK [--model digital-knee] [--steps 450] [--patch D H W] [--only PROTOCOL ...]

For each of three protocols that differ from those of the model in TR, TE, flip angle, coil and noise, digital knees of
make A are made in WORK: 4 training subjects for each contrast, none in both, and 6 test subjects that have both. On
their pseudo-pairs the default recipe learns for the same number of steps, once from nothing and once begun with the
model (`train --start-from`). Measured against the paired truth of the test subjects, both ways, beside the model as it
is and histogram matching. Steps, not minutes: 450 are about what 5 quiet minutes on two cores of 224 GFLOP/s do before
back-translation begins. --patch makes a step cheaper. A run that is cut off continues: give it the same command.

Writes benchmarks/results/few_shot.{json,md}.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from pathlib import Path

from cyclescan.artifacts import runs, shipped
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.files import read_json, write_json, write_text
from cyclescan.config.presets import preset
from cyclescan.evaluation.paired import evaluate_on_records
from cyclescan.inference.translator import Translator
from cyclescan.training import trainer
from data_prep import pairing, splits
from data_prep.build import build
from data_prep.phantom import makes, scanner, write_cohort
from data_prep.phantom.signals import Ciss, Dess
from data_prep.splits import Place

log = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
SHAPE = (32, 64, 64)
VOLUMES, TEST = 4, 6  # training subjects of each contrast; test subjects
SEED = 23
BEGINNINGS = ("from nothing", "from the model")
MEASURES = ("psnr", "ssim", "mae")


def _shifted(ciss: Ciss, dess: Dess, **ranges) -> makes.Make:
    return dataclasses.replace(makes.A, name="A", ciss=ciss, dess=dess, examinations=scanner.Ranges(**ranges))


PROTOCOLS = {
    "short TR, flat coil, little noise": _shifted(
        Ciss(tr_ms=8.6, te_ms=4.3, flip_deg=50.0, combination="rss"),
        Dess(tr_ms=20.6, te1_ms=6.0, flip_deg=32.0, echo_weights=(1.0, 0.6)),
        bias_sd=(0.02, 0.06), sigma_ciss=(0.0003, 0.0005), sigma_dess=(0.0004, 0.0008), typical_gain=(900.0, 1400.0),
    ),
    "large flip, strong coil, twice the noise": _shifted(
        Ciss(tr_ms=6.5, te_ms=3.25, flip_deg=65.0),
        Dess(tr_ms=14.0, te1_ms=3.5, flip_deg=40.0),
        bias_sd=(0.25, 0.35), sigma_ciss=(0.0025, 0.0045), sigma_dess=(0.004, 0.007), b1=((0.8, 0.86), (1.14, 1.2)),
    ),
    "long TR, small flip, half of the fat left": _shifted(
        Ciss(tr_ms=15.0, te_ms=7.5, flip_deg=22.0),
        Dess(tr_ms=26.0, te1_ms=8.0, flip_deg=14.0, water_excitation=0, fat_saturation=0.5),
        bias_sd=(0.05, 0.12), sigma_ciss=(0.001, 0.002), sigma_dess=(0.001, 0.002), thickness_mm=(3.0, 3.0),
    ),
}  # fmt: skip


def prepare(work: Path, number: int, model: runs.Run) -> Path:
    """Records of one protocol with pseudo-pairs, scaled as the model's were; what is there is not made again."""
    scans, out = work / f"scans-{number}", work / f"records-{number}"
    if (out / "pairs" / "pairs.json").exists():
        return out
    if not (scans / "participants.tsv").exists():  # written last
        make = list(PROTOCOLS.values())[number]
        write_cohort(scans, 2 * VOLUMES + TEST, shape=SHAPE, seed=SEED, make=make)
    names = [Place("train", "a")] * VOLUMES + [Place("train", "b")] * VOLUMES + [Place("test")] * TEST
    splits.write_file(work / "split.tsv", {f"sub-{i:04d}": place for i, place in enumerate(names, 1)}, {})
    domains = {d: (name, scans / name) for d, name in (("a", "ciss"), ("b", "dess"))}
    scalings = {f"scaling_{d}": about["scaling"] for d, about in model.data["domains"].items()}
    build(**domains, out=out, split_file=work / "split.tsv", seed=0, workers=1, **scalings)
    pairing.pair(out, workers=1, seed=0)
    return out


def run(work: Path, number: int, beginning: str, arguments: argparse.Namespace, model: runs.Run) -> dict:
    """Train one of the two and measure it; what is done already is not done again."""
    name = f"{number}-{beginning.replace(' ', '-')}-{arguments.steps}-{'x'.join(map(str, arguments.patch))}"
    folder = work / "runs" / name
    done = folder / "few_shot.json"
    if done.exists():
        return read_json(done)
    data = prepare(work, number, model)
    patch = ",".join(map(str, arguments.patch))
    # the generators of the model, on which alone it can be begun with; texture is the same in both
    own = {k: v for k, v in model.config.to_dict().items() if k.startswith("generator_") or k == "texture"}
    config = preset("demo").with_settings([f"steps={arguments.steps}", f"patch_shape={patch}"])
    config = dataclasses.replace(config, **own)
    began = time.process_time()
    trained = trainer.train(
        data,
        folder,
        config,
        preset="demo",
        seed=1,
        checkpoint_every=arguments.steps,
        keep_states=1,
        resume=(folder / "config.json").exists(),
        start_from=arguments.model if beginning == BEGINNINGS[1] else None,
    )
    result = {"beginning": beginning, "cpu_seconds": time.process_time() - began, "step": max(trained.checkpoints)}
    result |= measure(folder, data)
    write_json(done, result)
    return result


def measure(model: Path, data: Path) -> dict:
    """Means over the test subjects by direction, of translations and of histogram matching."""
    translators = {d: Translator.load(model, d) for d in DIRECTIONS}
    metrics, _, _ = evaluate_on_records(translators, data)
    return {
        d: {kind: {name: metrics[d][kind][name] for name in MEASURES} for kind in ("translated", "histogram_matching")}
        for d in DIRECTIONS
    }


def report(results: dict, about: dict) -> str:
    """The table, in Markdown."""
    lines = [
        "# A few scans of one's own",
        "",
        f"`python -m benchmarks.few_shot WORK --steps {about['steps']} --patch {about['patch']}`: {VOLUMES} volumes of "
        f"each contrast, {TEST} test subjects, digital knees of make A on shifted protocols; `{about['model']}` as it "
        "is, the default recipe from nothing, and begun with that model, for the same number of steps. PSNR (dB) and "
        "SSIM against the paired truth.",
        "",
        "| protocol | direction | histogram matching | the model as it is | from nothing | from the model | gain, dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for protocol, found in results.items():
        for direction in DIRECTIONS:
            cells = [found["as it is"][direction]["histogram_matching"], found["as it is"][direction]["translated"]]
            cells += [found[name][direction]["translated"] if name in found else None for name in BEGINNINGS]
            texts = [f"{cell['psnr']:.2f}, {cell['ssim']:.3f}" if cell else "not run" for cell in cells]
            gain = f"{cells[3]['psnr'] - cells[2]['psnr']:+.2f}" if cells[2] and cells[3] else ""
            lines.append(f"| {' | '.join([protocol, direction, *texts, gain])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what the command line asks for and write what there is after each run."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="digital-knee", help="that comes with cyclescan")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--patch", type=int, nargs=3, default=list(SHAPE), metavar=("D", "H", "W"))
    parser.add_argument("--only", type=int, nargs="+", default=range(len(PROTOCOLS)), help="protocols, from 0")
    arguments = parser.parse_args()
    folder = shipped.find(arguments.model)
    model = runs.read_run(folder)
    about = {"steps": arguments.steps, "patch": " ".join(map(str, arguments.patch)), "model": arguments.model}
    results: dict = {}
    for number in arguments.only:
        protocol = list(PROTOCOLS)[number]
        kept = arguments.work / f"as-it-is-{number}-{arguments.model}.json"
        if not kept.exists():
            write_json(kept, measure(folder, prepare(arguments.work, number, model)))
        results[protocol] = {"as it is": read_json(kept)}
        for beginning in BEGINNINGS[::-1]:
            results[protocol][beginning] = run(arguments.work, number, beginning, arguments, model)
            write_json(RESULTS / "few_shot.json", {**about, "protocols": results})
            write_text(RESULTS / "few_shot.md", report(results, about))


if __name__ == "__main__":
    main()
