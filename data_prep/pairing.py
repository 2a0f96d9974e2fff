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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from cyclescan import records
from cyclescan.common import command
from cyclescan.common.command import progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, replacing, sha256, states, write_json
from cyclescan.preprocessing.detail import EVERY, WINDOWS, energies, thinned
from cyclescan.scans.volume import spacing_of
from data_prep import own_pairs
from data_prep.parallel import processes
from data_prep.workspace import PAIRS

if TYPE_CHECKING:
    from data_prep.registration import Map

log = logging.getLogger(__name__)

FACTS = "pairs.json"
DETAIL = "detail"  # a folder that is there while pairs are made
PER_VOLUME = 24
UNUSUAL_SMOOTH = 1.0  # voxels, before a scan is compared with others of its domain: single ones are noise
UNUSUAL_LEAST = 0.1  # of [-1, 1], by which an unusual voxel differs at the least
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
        weight: of the pair.
        own: others of its own domain, by which it is told what is unusual in it; empty where that is not asked.
        unusual: from so many of their standard deviations on.
    """

    fixed: tuple[Entry, Map]
    moving: list[tuple[Entry, Map, Path]]
    between: Map
    domain: str
    weight: float = 1.0
    own: tuple[tuple[Entry, Map], ...] = ()
    unusual: float | None = None


def pair(
    folder: str | Path,
    per_volume: int | None = None,
    workers: int = 2,
    seed: int = 0,
    own: bool = False,
    pseudo_weight: float = 1.0,
    unusual: float | None = None,
) -> dict:
    """Register volumes of the training split onto each other and write RECORDS/pairs, a pair for each volume.

    Args:
        folder: a data set made by `data_prep build`.
        per_volume: partners of each training volume, each of another subject, whose mean is taken; None for
            `PER_VOLUME`, or as many as there are.
        workers: processes.
        seed: of the choice of partners and of the sampling in the registration.
        own: subjects in both domains become true pairs, see `own_pairs`; pseudo-pairs are made of the others alone.
        pseudo_weight: of a pseudo-pair in the terms of training, above 0 and at most 1; that of a true pair is 1.
        unusual: where a volume differs from the mean of its own domain by more than so many standard deviations of that
            domain there, it has no pseudo-partner: the mean of other people's volumes has not what is special in this
            one, and would teach a network to erase it. None: it has one everywhere.

    Returns:
        What RECORDS/pairs/pairs.json says: shards with their checksums, and the mutual information (nats) of each
        volume with the template of its domain and of the two atlases with each other; with `own` also what
        `own_pairs.register` says of each subject.

    Raises:
        InputError: the folder is no data set, or a volume has no partner from another subject.
    """
    folder = Path(folder)
    records.read_info(folder)  # raises where it is no data set
    _check(per_volume, workers, seed, own, pseudo_weight)
    if unusual is not None and not unusual > 0:
        raise InputError(f"--unusual is {unusual:g}; a number of standard deviations above 0 is allowed, such as 3.")
    pairs = folder / PAIRS
    if pairs.exists() and not states(pairs / FACTS, "shards", "mutual_information"):
        raise InputError(f"{pairs} exists and holds no pseudo-pairs; move it away, it would be replaced.")
    entries = {domain: records.entries(folder, "train", domain) for domain in ("a", "b")}
    subjects = {domain: records.subjects(entries[domain]) for domain in ("a", "b")}
    both = own_pairs.in_both(entries, subjects, seed) if own else []
    if own and not both:
        log.warning("No training subject of %s is in both domains: all pairs are pseudo-pairs.", folder)
    with progress(total=len(both), unit="step") as bar, _pool(workers, bar) as parallel, replacing(pairs) as out:
        true, about = own_pairs.register(both, parallel, seed)
        tasks: dict[Entry, Task | own_pairs.Task] = {task.fixed: task for task in true}
        partners = _choose(
            {d: [e for e in entries[d] if e not in tasks] for d in OTHER}, entries, subjects, per_volume, seed
        )
        bar.total += len(tasks)
        out.mkdir()
        information: dict = {"a": [], "b": [], "between": None}
        if partners:
            bar.total += _steps(entries, partners)
            pseudo, information = _pseudo_tasks(
                entries, partners, make_folder(out / DETAIL), pseudo_weight, parallel, seed
            )
            tasks |= pseudo if unusual is None else _heeding(pseudo, unusual)
        bar.refresh()
        shards: dict[str, dict] = {}
        for domain in OTHER:
            ordered = [tasks[entry] for entry in entries[domain]]
            shards |= _write(out, domain, ordered, parallel)
        shutil.rmtree(out / DETAIL, ignore_errors=True)
        chosen = {d: [len(partners[e]) for e in entries[d] if e in partners] for d in OTHER}
        facts = {
            "shards": shards,
            "seed": seed,
            **({} if unusual is None else {"unusual": unusual}),
            "per_volume": {d: max(chosen[d], default=0) for d in OTHER},
            "mutual_information": information,
            **({"own": about, "pseudo_weight": pseudo_weight} if own else {}),
        }
        write_json(out / FACTS, facts)
    return facts


def _check(per_volume: int | None, workers: int, seed: int, own: bool, pseudo_weight: float) -> None:
    if (per_volume is not None and per_volume < 1) or workers < 1:
        raise InputError(f"--per-volume is {per_volume} and --workers {workers}; both must be at least 1.")
    if seed < 0:
        raise InputError(f"--seed is {seed}; whole numbers from 0 are allowed.")
    if not own and pseudo_weight != 1:
        raise InputError("--pseudo-weight is beside true pairs alone; it needs --own.")
    if not 0 < pseudo_weight <= 1:
        raise InputError(f"--pseudo-weight is {pseudo_weight:g}; above 0 and at most 1 is allowed.")


def _steps(entries: dict[str, list[Entry]], partners: dict[Entry, list[Entry]]) -> int:
    """Count: each is read, aligned twice, in each round deformed and settled, its detail taken; some are warped."""
    from data_prep import registration

    return (4 + 2 * registration.ROUNDS) * sum(map(len, entries.values())) + len(partners)


def _pseudo_tasks(
    entries: dict[str, list[Entry]],
    partners: dict[Entry, list[Entry]],
    details: Path,
    weight: float,
    parallel: Callable,
    seed: int,
) -> tuple[dict[Entry, Task], dict]:
    """Make the tasks of all volumes that get a mean of others, by volume, and the information of the registrations."""
    from data_prep import registration

    atlases = {}
    for domain in OTHER:
        images = list(parallel(_coarse_image, [(entry,) for entry in entries[domain]]))
        atlases[domain] = registration.build_atlas(images, parallel, seed)
    between = registration.register_contrasts(atlases["a"].image, atlases["b"].image, seed)
    ways: dict[Entry, tuple[Entry, Map, Path]] = {}
    for domain in OTHER:
        files = [details / f"{domain}-{i}.npy" for i in range(len(entries[domain]))]
        list(parallel(_keep_detail, list(zip(entries[domain], files, strict=True))))
        for way in zip(entries[domain], atlases[domain].maps, files, strict=True):
            ways[way[0]] = way
    tasks = {
        entry: Task(ways[entry][:2], [ways[partner] for partner in partners[entry]], between, domain, weight)
        for domain in OTHER
        for entry in entries[domain]
        if entry in partners
    }
    information = {d: [round(map_.information, 4) for map_ in atlases[d].maps] for d in OTHER}
    return tasks, {**information, "between": round(between.information, 4)}


def _heeding(tasks: dict[Entry, Task], unusual: float) -> dict[Entry, Task]:
    """Give each task others of its own domain to be compared with."""
    volumes = {d: [task.fixed for task in tasks.values() if task.domain == d] for d in OTHER}
    return {
        entry: dataclasses.replace(
            task,
            own=tuple(other for other in volumes[task.domain] if other is not task.fixed)[:PER_VOLUME],
            unusual=unusual,
        )
        for entry, task in tasks.items()
    }


def _write(out: Path, domain: str, tasks: Sequence[Task | own_pairs.Task], parallel: Callable) -> dict[str, dict]:
    """Write the shards of a domain; returns what is to be said of each."""
    shards = {}
    parts = [tasks[i : i + SHARD_VOLUMES] for i in range(0, len(tasks), SHARD_VOLUMES)]
    for number, part in enumerate(parts):
        path = out / f"{domain}-{number:05d}-of-{len(parts):05d}.tfrecord"
        # written as they come: pairs of large volumes are not held in memory
        records.write_serialized(path, parallel(_serialized, [(task,) for task in part]))
        shards[f"pairs/{path.name}"] = {"records": len(part), "bytes": path.stat().st_size, "sha256": sha256(path)}
    return shards


def _serialized(task: Task | own_pairs.Task) -> bytes:
    return _warp(task) if isinstance(task, Task) else own_pairs.warp(task)


def _choose(
    lone: dict[str, list[Entry]],
    entries: dict[str, list[Entry]],
    subjects: dict[str, list[str]],
    per_volume: int | None,
    seed: int,
) -> dict[Entry, list[Entry]]:
    """Choose the partners of each volume, of as many subjects, all of which are used about equally often.

    Args:
        lone: the volumes that need partners.
        entries: all training volumes.
        subjects: whose each is.
        per_volume, seed: see `pair`.
    """
    rng = np.random.default_rng([seed, 1])
    chosen: dict[Entry, list[Entry]] = {}
    for domain, other in OTHER.items():
        visits: dict[str, list[Entry]] = {}
        for entry, subject in zip(entries[other], subjects[other], strict=True):
            visits.setdefault(subject, []).append(entry)
        used = dict.fromkeys(visits, 0)
        whose = dict(zip(entries[domain], subjects[domain], strict=True))
        for entry in lone[domain]:
            allowed = [subject for subject in visits if subject != whose[entry]]
            if len(allowed) < (per_volume or 1):
                needed = f"--per-volume {per_volume} needs as many" if per_volume else "one is needed"
                raise InputError(
                    f"A volume of domain {domain} has {len(allowed)} other subjects in domain {other} to be paired "
                    f"with; {needed}."
                )
            order = sorted(allowed, key=lambda s: (used[s], rng.random()))[: per_volume or PER_VOLUME]
            # a subject counts once, whatever the number of its visits, which take turns
            chosen[entry] = [visits[s][used[s] % len(visits[s])] for s in order]
            for subject in order:
                used[subject] += 1
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
    if task.own:
        partner[_unusual(task, fixed, grid)] = np.nan
    detail = np.stack([np.sqrt(mean.where(1)) for mean in details], -1)
    return records.encode(
        dataclasses.replace(
            fixed,
            partner=partner,
            partner_subjects=tuple(subjects),
            partner_detail=detail,
            weight=task.weight,
        )
    )


def _unusual(task: Task, fixed: records.Record, grid) -> np.ndarray:
    """Say where a volume is not like others of its own domain, brought onto it: bool (depth, height, width)."""
    from data_prep import registration

    def smooth(array):
        return ndimage.gaussian_filter(array, UNUSUAL_SMOOTH)

    usual, squares = _Mean(fixed.voxels.shape), _Mean(fixed.voxels.shape)
    for entry, to_moving in task.own:
        moving = records.decode(records.read_at(*entry))
        if moving.subject == fixed.subject:
            continue
        image = registration.image_of(smooth(moving.voxels), spacing_of(moving.affine))
        warped = registration.resample(image, grid, [*to_moving.forward(), *task.fixed[1].backward()])
        usual.add(warped)
        squares.add(warped**2)
    mean = usual.where(2)
    sd = np.sqrt(np.maximum(squares.where(2) - mean**2, 0))
    least = np.maximum((task.unusual or 0) * sd, UNUSUAL_LEAST)
    return np.abs(smooth(fixed.voxels) - mean) > least  # False where the mean is not known


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", metavar="RECORDS", help="folder made by `data_prep build`")
    parser.add_argument(
        "--per-volume",
        type=int,
        default=None,
        help=f"volumes of other subjects whose mean is a volume's partner; by default {PER_VOLUME}, or all there are",
    )
    parser.add_argument(
        "--own",
        action="store_true",
        help="training subjects in both domains become pairs of their own two scans, registered to each other and "
        "refused where that fails; the others get pseudo-pairs",
    )
    parser.add_argument(
        "--pseudo-weight",
        type=float,
        default=1.0,
        metavar="W",
        help="with --own: what a pseudo-pair counts in training where a true pair counts 1 (default 1)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--unusual",
        type=float,
        default=None,
        metavar="SD",
        help="voxels that differ by more than SD standard deviations from what is usual there in their own domain get "
        "no pseudo-partner, which would erase them; for scans with lesions, for example 3",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of partners and of the registration")


def run(arguments: argparse.Namespace) -> None:
    facts = pair(
        arguments.records,
        arguments.per_volume,
        arguments.workers,
        arguments.seed,
        arguments.own,
        arguments.pseudo_weight,
        arguments.unusual,
    )
    count = sum(shard["records"] for shard in facts["shards"].values())
    if arguments.own:
        log.info(
            "wrote %d pairs to %s: true ones of %d of the %d training subjects in both domains, pseudo-pairs for the "
            "rest",
            count,
            Path(arguments.records) / PAIRS,
            sum(about["accepted"] for about in facts["own"]),
            len(facts["own"]),
        )
    else:
        log.info("wrote %d pseudo-pairs to %s", count, Path(arguments.records) / PAIRS)
    command.next_step(command.call("train", "--data", arguments.records, "--run", "RUN"))
