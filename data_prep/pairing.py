"""Pseudo-pairs from unpaired data: a volume, and the mean of other subjects' volumes of the other domain, registered.

Adversarial and cycle terms cannot tell a translation from its inverted or identical counterpart; a registered volume
of another subject can. Registering across contrasts is hard and within one it is easy, so the way between two volumes
leads through an atlas of each domain: within a domain, affine and then deformable registration to the median volume;
from one atlas to the other, which are free of noise, an affine transform by mutual information of what lies under the
skin. Any volume is then one resampling away from any other. No registration meets every detail of another subject, and
each misses others, so the mean of many is closer to the truth than any one is. What a mean loses is kept as numbers:
how much fine detail the partners have around each voxel (`preprocessing.detail`). No paired data enters.
docs/lab/decisions.md has the figures of this and of what it replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cyclescan import records
from cyclescan.common import command
from cyclescan.common.command import progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, replacing, sha256, states, write_json
from cyclescan.preprocessing.detail import EVERY, WINDOWS, energies, thinned
from cyclescan.scans.volume import spacing_of
from data_prep.parallel import processes
from data_prep.workspace import PAIRS

if TYPE_CHECKING:
    from data_prep.registration import Map

log = logging.getLogger(__name__)

FACTS = "pairs.json"
PER_VOLUME = 24
KNOWN = 0.25  # of the partners; where fewer reach, the mean is not taken
SHARD_VOLUMES = 16
OTHER = {"a": "b", "b": "a"}
Entry = tuple[str, int, int]  # where a record is: shard, offset, length


@dataclasses.dataclass(frozen=True)
class Task:
    """One volume and its partners, with the way from each one's atlas.

    Attributes:
        fixed: the volume.
        moving: the partners to be brought onto it, each with the file of its detail, see `_keep_detail`.
        between: from the atlas of domain a to that of domain b.
        domain: of `fixed`.
    """

    fixed: tuple[Entry, Map]
    moving: list[tuple[Entry, Map, Path]]
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
    pairs = folder / PAIRS
    if pairs.exists() and not states(pairs / FACTS, "shards", "mutual_information"):
        raise InputError(f"{pairs} exists and holds no pseudo-pairs; move it away, it would be replaced.")
    entries = {domain: records.entries(folder, "train", domain) for domain in ("a", "b")}
    partners = _choose(entries, per_volume, seed)
    # each volume is read, aligned twice, in each round deformed and settled, its detail taken, and at last warped
    work = (5 + 2 * registration.ROUNDS) * sum(map(len, entries.values()))
    with progress(total=work, unit="step") as bar, _pool(workers, bar) as parallel, replacing(pairs) as out:
        atlases = {}
        for domain in ("a", "b"):
            images = list(parallel(_coarse_image, [(entry,) for entry in entries[domain]]))
            atlases[domain] = registration.build_atlas(images, parallel, seed)
        between = registration.register_contrasts(atlases["a"].image, atlases["b"].image, seed)
        out.mkdir()
        shards: dict[str, dict] = {}
        details = make_folder(out / "detail")
        files = {d: [details / f"{d}-{i}.npy" for i in range(len(entries[d]))] for d in OTHER}
        for domain in OTHER:
            list(parallel(_keep_detail, list(zip(entries[domain], files[domain], strict=True))))
        ways = {d: list(zip(entries[d], atlases[d].maps, files[d], strict=True)) for d in OTHER}
        for domain, other in OTHER.items():
            tasks = [
                Task(fixed[:2], [ways[other][i] for i in chosen], between, domain)
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
        shutil.rmtree(details)
        facts = {
            "shards": shards,
            "seed": seed,
            "per_volume": {d: max(map(len, partners[d])) for d in OTHER},
            "mutual_information": {
                **{d: [round(map_.information, 4) for map_ in atlases[d].maps] for d in OTHER},
                "between": round(between.information, 4),
            },
        }
        write_json(out / FACTS, facts)
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


def _keep_detail(entry: Entry, path: Path) -> None:
    """Write the detail of one volume, (depth / 2, height / 2, width / 2, bands) float32, to a file.

    Every volume is the partner of many others, and its detail is taken before it is warped, which blurs it.
    """
    np.save(path, thinned(energies(records.decode(records.read_at(*entry)).voxels)))


class _Mean:
    """The mean of arrays of one shape, of what is known of each, which is what is not NaN."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.total, self.known = np.zeros(shape), np.zeros(shape, int)

    def add(self, array: np.ndarray) -> None:
        self.total += np.nan_to_num(array, nan=0.0)
        self.known += np.isfinite(array)

    def where(self, enough: float) -> np.ndarray:
        """Return float32, NaN where fewer are known."""
        mean = self.total / np.maximum(self.known, 1)
        return np.where(self.known >= enough, mean, np.nan).astype(np.float32)


def _warp(task: Task) -> bytes:
    """The serialised pair of one task: the volume, the mean of its partners, and how much detail they have."""
    from data_prep import registration

    entry, to_fixed = task.fixed
    fixed = records.decode(records.read_at(*entry))
    grid = registration.image_of(fixed.voxels, spacing_of(fixed.affine))
    between = task.between.forward() if task.domain == "a" else task.between.backward()
    to_other_atlas = [*between, *to_fixed.backward()]
    coarse = thinned(fixed.voxels)
    coarse_grid = registration.image_of(coarse, [EVERY * s for s in spacing_of(fixed.affine)])
    subjects, volumes, details = [], _Mean(fixed.voxels.shape), [_Mean(coarse.shape) for _ in WINDOWS]
    for entry, to_moving, path in task.moving:
        moving = records.decode(records.read_at(*entry))
        subjects.append(moving.subject)
        spacing, transforms = spacing_of(moving.affine), [*to_moving.forward(), *to_other_atlas]
        volumes.add(registration.resample(registration.image_of(moving.voxels, spacing), grid, transforms))
        for mean, energy in zip(details, np.moveaxis(np.load(path), -1, 0), strict=True):
            image = registration.image_of(energy, [EVERY * s for s in spacing])
            mean.add(registration.resample(image, coarse_grid, transforms))
    partner = volumes.where(max(1, KNOWN * len(subjects)))
    detail = np.stack([np.sqrt(mean.where(1)) for mean in details], -1)
    return records.encode(
        dataclasses.replace(fixed, partner=partner, partner_subjects=tuple(subjects), partner_detail=detail)
    )


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
    command.next_step(command.call("train", "--data", arguments.records, "--run", "RUN"))
