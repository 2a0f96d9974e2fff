"""Pseudo-pairs from unpaired data: a volume, and the mean of other subjects' volumes of the other domain, registered.

Adversarial and cycle terms cannot tell a translation from its inverted or identical counterpart; a registered volume
of another subject can. Registering across contrasts is hard and within one it is easy, so the way between two volumes
leads through an atlas of each domain: within a domain, affine and then deformable registration to the median volume;
from one atlas to the other, which are free of noise, an affine transform by mutual information of what lies under the
skin. Any volume is then one resampling away from any other. No registration meets every detail of another subject, and
each misses others, so the mean of many is closer to the truth than any one is. No paired data enters. CONTRIBUTING.md
has the figures of this and of what it replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cyclescan import records
from cyclescan.command import progress
from cyclescan.errors import InputError
from cyclescan.files import replacing, sha256, write_json
from cyclescan.volume import spacing_of
from data_prep.parallel import processes

if TYPE_CHECKING:
    from data_prep.registration import Map

log = logging.getLogger(__name__)

PER_VOLUME = 24
KNOWN = 0.25  # of the partners; where fewer reach, the mean is not taken
SHARD_VOLUMES = 16
OTHER = {"a": "b", "b": "a"}
Entry = tuple[str, int, int]  # where a record is: shard, offset, length


@dataclasses.dataclass(frozen=True)
class Task:
    """One volume and its partners, with the way from each one's atlas.

    Attributes:
        fixed, moving: the volume and the partners to be brought onto it.
        between: from the atlas of domain a to that of domain b.
        domain: of `fixed`.
    """

    fixed: tuple[Entry, Map]
    moving: list[tuple[Entry, Map]]
    between: Map
    domain: str


def pair(folder: str | Path, per_volume: int | None = None, workers: int = 2, seed: int = 0) -> dict:
    """Register volumes of the training split onto each other and write RECORDS/pairs.

    Args:
        folder: a data set made by `data_prep build`.
        per_volume: partners of each training volume, each of another subject, whose mean is taken; None for
            `PER_VOLUME`, or as many as there are.
        workers: processes.
        seed: of the choice of partners and of the sampling in the registration.

    Returns:
        What RECORDS/pairs/pairs.json says: shards with their checksums, and the mutual information (nats) of each
        volume with the template of its domain and of the two atlases with each other.

    Raises:
        InputError: the folder is no data set, or a volume has no partner from another subject.
    """
    from data_prep import registration

    folder = Path(folder)
    records.read_info(folder)  # raises where it is no data set
    if (per_volume is not None and per_volume < 1) or workers < 1:
        raise InputError(f"--per-volume is {per_volume} and --workers {workers}; both must be at least 1.")
    if seed < 0:
        raise InputError(f"--seed is {seed}; whole numbers from 0 are allowed.")
    entries = {domain: records.entries(folder, "train", domain) for domain in ("a", "b")}
    partners = _choose(entries, per_volume, seed)
    # each volume is read, aligned twice, in each round deformed and settled, and at last warped
    work = (4 + 2 * registration.ROUNDS) * sum(map(len, entries.values()))
    with progress(total=work, unit="step") as bar, _pool(workers, bar) as parallel, replacing(folder / "pairs") as out:
        atlases = {}
        for domain in ("a", "b"):
            images = list(parallel(_coarse_image, [(entry,) for entry in entries[domain]]))
            atlases[domain] = registration.build_atlas(images, parallel, seed)
        between = registration.register_contrasts(atlases["a"].image, atlases["b"].image, seed)
        out.mkdir()
        shards: dict[str, dict] = {}
        ways = {d: list(zip(entries[d], atlases[d].maps, strict=True)) for d in OTHER}
        for domain, other in OTHER.items():
            tasks = [
                Task(fixed, [ways[other][i] for i in chosen], between, domain)
                for fixed, chosen in zip(ways[domain], partners[domain], strict=True)
            ]
            parts = [tasks[i : i + SHARD_VOLUMES] for i in range(0, len(tasks), SHARD_VOLUMES)]
            for number, part in enumerate(parts):
                path = out / f"{domain}-{number:05d}-of-{len(parts):05d}.tfrecord"
                # written as they come: pairs of large volumes are not held in memory
                records.write_serialized(path, parallel(_warp, [(task,) for task in part]))
                shards[f"pairs/{path.name}"] = {
                    "records": len(part),
                    "bytes": path.stat().st_size,
                    "sha256": sha256(path),
                }
        facts = {
            "shards": shards,
            "seed": seed,
            "per_volume": {d: max(map(len, partners[d])) for d in OTHER},
            "mutual_information": {
                **{d: [round(map_.information, 4) for map_ in atlases[d].maps] for d in OTHER},
                "between": round(between.information, 4),
            },
        }
        write_json(out / "pairs.json", facts)
    return facts


def _choose(entries: dict[str, list[Entry]], per_volume: int | None, seed: int) -> dict[str, list[list[int]]]:
    """For each volume the numbers of its partners: every volume of the other domain is used about equally often."""
    subjects = {d: [records.decode(records.read_at(*entry)).subject for entry in entries[d]] for d in entries}
    rng = np.random.default_rng([seed, 1])
    chosen: dict[str, list[list[int]]] = {}
    for domain, other in OTHER.items():
        chosen[domain] = []
        used = np.zeros(len(entries[other]))
        for subject in subjects[domain]:
            allowed = [i for i, s in enumerate(subjects[other]) if s != subject]
            if len(allowed) < (per_volume or 1):
                needed = f"--per-volume {per_volume} needs as many" if per_volume else "one is needed"
                raise InputError(
                    f"A volume of domain {domain} has {len(allowed)} volumes of other subjects in domain {other} to be "
                    f"paired with; {needed}."
                )
            order = sorted(allowed, key=lambda i: (used[i], rng.random()))[: per_volume or PER_VOLUME]
            used[order] += 1
            chosen[domain].append(order)
    return chosen


@contextlib.contextmanager
def _pool(workers: int, bar) -> Iterator[Callable]:
    """`processes`, and each result moves the bar."""

    def counted(results):
        for result in results:
            bar.update()
            yield result

    with processes(workers) as starmap:
        yield lambda function, arguments: counted(starmap(function, arguments))


def _coarse_image(entry: Entry):
    from data_prep import registration

    record = records.decode(records.read_at(*entry))
    return registration.coarse(registration.image_of(record.voxels, spacing_of(record.affine)))


def _warp(task: Task) -> bytes:
    """The serialised pair of one task: the volume and the mean of its partners."""
    from data_prep import registration

    entry, to_fixed = task.fixed
    fixed = records.decode(records.read_at(*entry))
    grid = registration.image_of(fixed.voxels, spacing_of(fixed.affine))
    between = task.between.forward() if task.domain == "a" else task.between.backward()
    to_other_atlas = [*between, *to_fixed.backward()]
    subjects, total, known = [], np.zeros(fixed.voxels.shape), np.zeros(fixed.voxels.shape, int)
    for entry, to_moving in task.moving:
        moving = records.decode(records.read_at(*entry))
        image = registration.image_of(moving.voxels, spacing_of(moving.affine))
        partner = registration.resample(image, grid, [*to_moving.forward(), *to_other_atlas])
        subjects.append(moving.subject)
        total += np.nan_to_num(partner, nan=0.0)
        known += np.isfinite(partner)
    enough = known >= max(1, KNOWN * len(subjects))
    mean = np.where(enough, total / np.maximum(known, 1), np.nan).astype(np.float32)
    return records.encode(dataclasses.replace(fixed, partner=mean, partner_subjects=tuple(subjects)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", metavar="RECORDS", help="folder made by `data_prep build`")
    parser.add_argument(
        "--per-volume",
        type=int,
        default=None,
        help=f"volumes of other subjects whose mean is a volume's partner; by default {PER_VOLUME}, or all there are",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of partners and of the registration")


def run(arguments: argparse.Namespace) -> None:
    facts = pair(arguments.records, arguments.per_volume, arguments.workers, arguments.seed)
    count = sum(shard["records"] for shard in facts["shards"].values())
    log.info("wrote %d pseudo-pairs to %s", count, Path(arguments.records) / "pairs")
