"""Pseudo-pairs from unpaired data: volumes of the two domains, of different subjects, registered onto each other.

Adversarial and cycle terms cannot tell a translation from its inverted or identical counterpart; a registered volume
of another subject can. Mutual information needs no common contrast (Mattes et al. 2003), so an affine and then a
B-spline transform (Rueckert et al. 1999) bring a random volume of the other domain onto each training volume.
No paired data enters.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
from pathlib import Path

import numpy as np

from cyclescan import records
from cyclescan.command import progress
from cyclescan.errors import InputError
from cyclescan.files import replacing, sha256, write_json
from cyclescan.volume import spacing_of

log = logging.getLogger(__name__)

COARSE_MM = 3.0  # registration works on a grid no finer than this in any axis
GRID = (4, 6, 6)  # B-spline control cells along depth, height and width
SHARD_PAIRS = 64
OTHER = {"a": "b", "b": "a"}


@dataclasses.dataclass(frozen=True)
class Task:
    """One registration: `moving` onto `fixed`, each (shard, offset, length)."""

    fixed: tuple[str, int, int]
    moving: tuple[str, int, int]
    seed: int


def pair(folder: str | Path, per_volume: int = 1, workers: int = 2, seed: int = 0) -> dict:
    """Register volumes of the training split onto each other and write RECORDS/pairs.

    Args:
        folder: a data set made by `data_prep build`.
        per_volume: partners for each training volume, each of another subject.
        workers: processes.
        seed: of the choice of partners and of the sampling in the registration.

    Returns:
        What RECORDS/pairs/pairs.json says: shards with their checksums, and the mutual information reached.

    Raises:
        InputError: the folder is no data set, or a volume has no partner from another subject.
    """
    folder = Path(folder)
    records.read_info(folder)
    if per_volume < 1 or workers < 1:
        raise InputError(f"--per-volume is {per_volume} and --workers {workers}; both must be at least 1.")
    entries = {domain: records.entries(folder, "train", domain) for domain in ("a", "b")}
    tasks = _plan(entries, per_volume, seed)
    results: dict[str, list] = {"a": [], "b": []}
    target = folder / "pairs"
    with replacing(target) as temporary:
        temporary.mkdir()
        everything = [(domain, task) for domain in ("a", "b") for task in tasks[domain]]
        shards: dict[str, dict] = {}
        for (domain, _), (serialized, information) in zip(
            everything, _run([task for _, task in everything], workers), strict=True
        ):
            results[domain].append((serialized, information))
        for domain, items in results.items():
            count = -(-len(items) // SHARD_PAIRS)
            for number in range(count):
                part = items[number * SHARD_PAIRS : (number + 1) * SHARD_PAIRS]
                path = temporary / f"{domain}-{number:05d}-of-{count:05d}.tfrecord"
                records.write_serialized(path, [serialized for serialized, _ in part])
                shards[f"pairs/{path.name}"] = {
                    "records": len(part),
                    "bytes": path.stat().st_size,
                    "sha256": sha256(path),
                }
        facts = {
            "shards": shards,
            "seed": seed,
            "per_volume": per_volume,
            "mutual_information": {d: [round(m, 4) for _, m in items] for d, items in results.items()},
        }
        write_json(temporary / "pairs.json", facts)
    return facts


def _plan(entries: dict, per_volume: int, seed: int) -> dict[str, list[Task]]:
    """Choose partners: every volume of the other domain is used about equally often."""
    subjects = {
        domain: [records.decode(records.read_at(*entry)).subject for entry in entries[domain]] for domain in entries
    }
    rng = np.random.default_rng([seed, 1])
    tasks: dict[str, list[Task]] = {}
    for domain, other in OTHER.items():
        tasks[domain] = []
        used = np.zeros(len(entries[other]))
        for fixed, subject in zip(entries[domain], subjects[domain], strict=True):
            allowed = [i for i, s in enumerate(subjects[other]) if s != subject]
            if len(allowed) < per_volume:
                raise InputError(
                    f"A volume of domain {domain} has {len(allowed)} volumes of other subjects in domain {other} to be "
                    f"paired with; --per-volume {per_volume} needs as many."
                )
            order = sorted(allowed, key=lambda i: (used[i], rng.random()))
            for i in order[:per_volume]:
                used[i] += 1
                tasks[domain].append(Task(fixed, entries[other][i], int(rng.integers(2**31))))
    return tasks


def _run(tasks: list[Task], workers: int):
    if workers == 1:
        yield from progress(map(register_records, tasks), total=len(tasks), unit="pair")
        return
    # spawn: a forked child would inherit the state of TensorFlow's threads
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks))) as pool:
        yield from progress(pool.imap(register_records, tasks), total=len(tasks), unit="pair")


def register_records(task: Task) -> tuple[bytes, float]:
    """Carry out one task; returns the serialised pair and the mutual information (nats) that was reached."""
    fixed = records.decode(records.read_at(*task.fixed))
    moving = records.decode(records.read_at(*task.moving))
    warped, information = register(fixed.voxels, moving.voxels, _spacing(fixed), _spacing(moving), task.seed)
    result = dataclasses.replace(fixed, partner=warped, partner_subject=moving.subject)
    return records.encode(result), information


def register(
    fixed: np.ndarray,
    moving: np.ndarray,
    fixed_spacing_mm: tuple[float, float, float],
    moving_spacing_mm: tuple[float, float, float],
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Bring `moving` onto the grid of `fixed` by mutual information.

    Left and right knees are mirror images: the mirrored volume is tried as well, and the better one is kept.

    Args:
        fixed, moving: float32 (depth, height, width) on [-1, 1], in the same orientation.
        fixed_spacing_mm, moving_spacing_mm: (depth, height, width).
        seed: of the voxel sampling.

    Returns:
        The warped volume, float32 on the grid of `fixed`, and the mutual information in nats.
    """
    import SimpleITK as sitk  # noqa: N813 - its own habit

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the sum over threads would not be reproducible
    fixed_image = _image(sitk, fixed, fixed_spacing_mm)
    coarse_fixed = _coarse(sitk, fixed_image)
    best = None
    for array in (moving, moving[::-1]):
        image = _image(sitk, array, moving_spacing_mm)
        coarse = _coarse(sitk, image)
        transform, value = _affine(sitk, coarse_fixed, coarse, seed)
        if best is None or value < best[3]:
            best = (image, coarse, transform, value)
    image, coarse, affine, _ = best
    transform, value = _spline(sitk, coarse_fixed, coarse, affine, seed)
    warped = sitk.Resample(image, fixed_image, transform, sitk.sitkLinear, -1.0)
    return sitk.GetArrayFromImage(warped), -value


def _affine(sitk, fixed, moving, seed):
    method = _method(sitk, seed, 0.3)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, inPlace=True)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1, 0])
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 60, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.Execute(fixed, moving)
    return start, method.GetMetricValue()


def _spline(sitk, fixed, moving, affine, seed):
    method = _method(sitk, seed, 0.5)
    spline = sitk.BSplineTransformInitializer(fixed, GRID[::-1], order=3)
    method.SetMovingInitialTransform(affine)
    method.SetInitialTransform(spline, inPlace=True)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1, 0])
    method.SetOptimizerAsLBFGS2(numberOfIterations=25, solutionAccuracy=1e-4)
    method.Execute(fixed, moving)
    return sitk.CompositeTransform([affine, spline]), method.GetMetricValue()


def _method(sitk, seed: int, fraction: float):
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(fraction, seed % 2**31 or 1)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _image(sitk, array: np.ndarray, spacing_mm):
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    image.SetSpacing([float(s) for s in spacing_mm[::-1]])
    return image


def _coarse(sitk, image):
    spacing = np.asarray(image.GetSpacing())
    factor = np.maximum(1, np.floor(COARSE_MM / spacing)).astype(int)
    return sitk.BinShrink(image, [int(f) for f in factor]) if (factor > 1).any() else image


def _spacing(record: records.Record) -> tuple[float, float, float]:
    return spacing_of(record.affine)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", metavar="RECORDS", help="folder made by `data_prep build`")
    parser.add_argument("--per-volume", type=int, default=1, help="partners for each training volume")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> None:
    facts = pair(arguments.records, arguments.per_volume, arguments.workers, arguments.seed)
    count = sum(shard["records"] for shard in facts["shards"].values())
    log.info("wrote %d pseudo-pairs to %s", count, Path(arguments.records) / "pairs")
