"""What a few true pairs are worth: from none to all of the training subjects scanned in both contrasts.

    python -m benchmarks.semi_paired WORK [--subjects 24] [--steps 1800] [--patch D H W] [--knees 6] [--only ROW ...]

Digital knees, 24 with a CISS and 24 with a DESS (--subjects), of which 0, 2, 6 or all are the same knees. Between its
two scans each lay otherwise: the DESS is moved by up to 5 mm along and turned by up to 5 degrees about each axis. `pair
--own` registers what it can and makes pseudo-pairs of the others; the default recipe learns from them for --steps
steps. Beside them stand all pairs aligned to the voxel (nothing was moved, nothing is registered), and the bound: those
with the pair term alone. Measured on --knees knees that none has seen, both ways: PSNR, SSIM, and what survives of
planted lesions, as in `benchmarks.structure`. Steps, not minutes, so that a busy machine changes nothing: 1800 are
about what 20 quiet minutes on two cores do. A run that is cut off continues: give it the same command.

Writes benchmarks/results/semi_paired.{json,md}.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own habit

from benchmarks.structure import FIRST, Knee
from cyclescan import records
from cyclescan.artifacts import runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.files import make_folder, read_json, write_json, write_text
from cyclescan.config import Config
from cyclescan.config.presets import preset
from cyclescan.evaluation import metrics
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing.detail import energies, thinned
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume, spacing_of
from cyclescan.training import trainer
from data_prep import pairing, registration, splits
from data_prep.build import build
from data_prep.phantom import planted, write_cohort
from data_prep.splits import Place

log = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
SHAPE = (32, 64, 64)
MOST_MM, MOST_DEG = 5.0, 5.0
ALIGNED, BOUND = "all, aligned", "all, aligned, pair term alone"
ALONE = {"warmup": 1.0, "lambda_back": 0.0, "lambda_detail": 0.0, "texture": "none"}


def scans(work: Path, subjects: int) -> Path:
    """Knees in WORK/scans: CISS, DESS as it lies and, in `dess-moved`, as it would lie in a second examination."""
    folder = work / "scans"
    if not (folder / "participants.tsv").exists():  # written last
        write_cohort(folder, 2 * subjects, shape=SHAPE, seed=5)
    moved = folder / "dess-moved"
    if not (moved / "done").exists():
        make_folder(moved)
        for number, path in enumerate(sorted((folder / "dess").glob("*.nii.gz"))):
            volume.write(moved_otherwise(volume.read(path), number), moved / path.name)
        write_text(moved / "done", "")
    return folder


def moved_otherwise(scan: Volume, seed: int) -> Volume:
    """A scan of somebody who lies otherwise, on the same grid."""
    rng = np.random.default_rng([5, seed])
    image = registration.image_of(scan.array, spacing_of(scan.affine))
    motion = sitk.Euler3DTransform()
    motion.SetCenter(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    motion.SetParameters([*np.radians(rng.uniform(-MOST_DEG, MOST_DEG, 3)), *rng.uniform(-MOST_MM, MOST_MM, 3)])
    away = sitk.GetArrayFromImage(sitk.Resample(image, image, motion.GetInverse(), sitk.sitkBSpline, 0.0))
    return Volume(np.maximum(away, 0), scan.affine)


def prepare(work: Path, subjects: int, row: str) -> Path:
    """Records and pairs of one row; the bound learns from those of ALIGNED."""
    row = ALIGNED if row == BOUND else row
    out = work / f"records-{row.replace(', ', '-')}"
    if (out / "pairs" / "pairs.json").exists():
        return out
    both = subjects if row == ALIGNED else int(row)
    # knees 0 to subjects - 1 have a CISS; those with a DESS begin so much later that `both` of them are the same
    places = {}
    for number in range(2 * subjects):
        has = {"a": number < subjects, "b": subjects - both <= number < 2 * subjects - both}
        only = None if all(has.values()) else next((d for d in has if has[d]), None)
        places[f"sub-{number + 1:04d}"] = Place("train" if any(has.values()) else None, only)
    table = work / "split.tsv"
    splits.write_file(table, places, {})
    folder = scans(work, subjects)
    dess = folder / ("dess" if row == ALIGNED else "dess-moved")
    build(("ciss", folder / "ciss"), ("dess", dess), out, split_file=table, seed=0, workers=1)
    if row == ALIGNED:
        write_aligned(out)
    else:
        pairing.pair(out, workers=1, seed=0, own=True)
    return out


def write_aligned(folder: Path) -> None:
    """Write pairs of both scans of each subject as they lie."""
    entries = {d: records.entries(folder, "train", d) for d in ("a", "b")}
    scan_of = {d: [records.decode(records.read_at(*entry)) for entry in entries[d]] for d in entries}
    for domain, other in (("a", "b"), ("b", "a")):
        partner_of = {r.subject: r.voxels for r in scan_of[other]}
        pairs = [
            dataclasses.replace(
                r,
                partner=partner_of[r.subject],
                partner_subjects=(r.subject,),
                partner_detail=np.sqrt(thinned(energies(partner_of[r.subject]))),
            )
            for r in scan_of[domain]
        ]
        records.write_shard(folder / "pairs" / f"{domain}-00000-of-00001.tfrecord", pairs)
    write_json(folder / "pairs" / "pairs.json", {"shards": {}, "mutual_information": {}, "own": []})


def config_of(row: str, steps: int, patch: list[int]) -> Config:
    """The recipe of a row; the bound has the pair term alone."""
    config = preset("demo").with_settings([f"steps={steps}", "patch_shape=" + ",".join(map(str, patch))])
    return dataclasses.replace(config, **ALONE) if row == BOUND else config


def run(work: Path, row: str, arguments: argparse.Namespace) -> dict:
    """Train one row and measure it; what is done already is not done again."""
    name = f"{row.replace(', ', '-').replace(' ', '-')}-{arguments.steps}-{'x'.join(map(str, arguments.patch))}"
    folder = work / "runs" / name
    done = folder / "semi_paired.json"
    if done.exists():
        return read_json(done)
    data = prepare(work, arguments.subjects, row)
    trained = trainer.train(
        data,
        folder,
        config_of(row, arguments.steps, arguments.patch),
        preset="demo",
        seed=1,
        checkpoint_every=arguments.steps,
        keep_states=1,
        resume=(folder / "config.json").exists(),
    )
    about = read_json(data / "pairs" / "pairs.json")["own"]
    result = {"step": max(trained.checkpoints), "subjects_in_both": len(about)}
    result["refused"] = [each["why"] for each in about if not each["accepted"]]
    result["disagreement_mm"] = [each["disagreement_mm"] for each in about]
    result |= measure(folder, arguments.knees)
    write_json(done, result)
    return result


def measure(folder: Path, count: int) -> dict:
    """PSNR, SSIM and what survives of each kind of lesion, means over knees, by direction."""
    knees = [Knee(FIRST + i, {"shape": SHAPE}, runs.read_run(folder).data) for i in range(count)]
    found = {}
    for direction in DIRECTIONS:
        source, target = direction[0], direction[2]
        translator = Translator.load(folder, direction)
        fakes = [translator.translate_array(knee.scans[None][source]) for knee in knees]
        truths = [knee.scans[None][target] for knee in knees]
        scores = [(metrics.psnr(f, t, 2.0), metrics.ssim(f, t, 2.0)) for f, t in zip(fakes, truths, strict=True)]
        found[direction] = dict(zip(("psnr", "ssim"), np.mean(scores, 0).tolist(), strict=True))
        surviving = {}
        for kind in planted.KINDS:
            made = true = 0.0
            for knee, fake, truth in zip(knees, fakes, truths, strict=True):
                ill, weights = translator.translate_array(knee.scans[kind][source]), knee.lesion[kind]
                made += np.average(ill - fake, weights=weights)
                true += np.average(knee.scans[kind][target] - truth, weights=weights)
            surviving[kind] = float(made / true)
        found[direction]["surviving"] = surviving
    return found


def report(results: dict, about: dict) -> str:
    """The table, in Markdown."""
    kinds = list(planted.KINDS)
    options = " ".join(f"--{key} {value}" for key, value in about.items())
    lines = [
        "# From no true pairs to all",
        "",
        f"`python -m benchmarks.semi_paired WORK {options}`: digital knees, {about['subjects']} with a CISS and as "
        f"many with a DESS, of which some are the same, moved by up to {MOST_MM:g} mm and {MOST_DEG:g} degrees in each "
        f"axis between the two scans and registered by `pair --own`; {about['steps']} steps each, measured on "
        f"{about['knees']} knees that none has seen. What survives of a planted lesion: 1 all of its contrast, 0 none.",
        "",
        f"| in both | direction | PSNR, dB | SSIM | {' | '.join(kinds)} | refused |",
        "|---" * (5 + len(kinds)) + "|",
    ]
    for row, found in results.items():
        for direction in DIRECTIONS:
            each = found[direction]
            cells = [row, direction, f"{each['psnr']:.2f}", f"{each['ssim']:.3f}"]
            cells += [f"{each['surviving'][kind]:.2f}" for kind in kinds] + [str(len(found["refused"]))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what the command line asks for and write what there is after each row."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--subjects", type=int, default=24, help="of each contrast")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--patch", type=int, nargs=3, default=list(SHAPE), metavar=("D", "H", "W"))
    parser.add_argument("--knees", type=int, default=6)
    parser.add_argument("--only", nargs="+", default=None, help="numbers in both, `aligned` and `bound`; default: all")
    arguments = parser.parse_args()
    if shutil.disk_usage(make_folder(arguments.work)).free < 2**30:
        raise SystemExit(f"{arguments.work} needs a GB.")
    rows = arguments.only or ["0", "2", "6", str(arguments.subjects), "aligned", "bound"]
    about = {"subjects": arguments.subjects, "steps": arguments.steps, "patch": " ".join(map(str, arguments.patch))}
    about["knees"] = arguments.knees
    results = {}
    for row in (({"aligned": ALIGNED, "bound": BOUND}).get(row, row) for row in rows):
        results[row] = run(arguments.work, row, arguments)
        write_json(RESULTS / "semi_paired.json", {**about, "rows": results})
        write_text(RESULTS / "semi_paired.md", report(results, about))


if __name__ == "__main__":
    main()
