"""True pairs: both scans of a training subject who is in both domains, registered to each other.

Two scans of one person differ by how the person lay: a rigid map by mutual information. Nobody looks at the result, so
three figures do, for each subject. There and back are registered on their own and must agree; what the own scans tell
of each other must be more than a scan of somebody else, registered in the same way, tells; and there must be an
overlap. Where one of them fails the subject is refused, by its pseudonym and with the reason, and its scans get
pseudo-pairs as everybody's do (`data_prep.pairing`).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cyclescan import records
from cyclescan.preprocessing.detail import EVERY, energies, thinned
from cyclescan.scans.volume import spacing_of

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - its own habit

    from data_prep.registration import Map

log = logging.getLogger(__name__)

STRANGERS = 3  # scans of others that one's own must be ahead of
AGREE_MM = 2.0  # there and back; or a voxel of the grid of registration where that is more
LEAST_KNOWN = 0.2  # of the voxels of a scan, which its partner must cover
Entry = tuple[str, int, int]  # where a record is: shard, offset, length


@dataclasses.dataclass(frozen=True)
class Task:
    """A scan and the other one of its subject, with the map from the first of the two domains, a, to the second.

    Attributes:
        fixed: the scan that gets a partner.
        moving: its partner.
        between: the map from the scan of domain a to that of domain b, whichever of the two is `fixed`.
        domain: of `fixed`.
    """

    fixed: Entry
    moving: Entry
    between: Map
    domain: str


@dataclasses.dataclass(frozen=True)
class Subject:
    """The scans of one subject in each domain, and some of others in domain b."""

    name: str
    a: tuple[Entry, ...]
    b: tuple[Entry, ...]
    strangers: tuple[Entry, ...]


def in_both(
    entries: Mapping[str, Sequence[Entry]], subjects: Mapping[str, Sequence[str]], seed: int = 0
) -> list[Subject]:
    """Find the subjects with scans in both domains, in the order of domain a.

    Args:
        entries: of the training records of each domain.
        subjects: whose each is.
        seed: of the choice of strangers.
    """
    rng = np.random.default_rng([seed, 2])
    found = []
    for name in dict.fromkeys(s for s in subjects["a"] if s in set(subjects["b"])):
        own = {d: tuple(e for e, s in zip(entries[d], subjects[d], strict=True) if s == name) for d in ("a", "b")}
        others = [e for e, s in zip(entries["b"], subjects["b"], strict=True) if s != name]
        chosen = sorted(rng.permutation(len(others))[:STRANGERS])
        found.append(Subject(name, own["a"], own["b"], tuple(others[i] for i in chosen)))
    return found


def register(subjects: Sequence[Subject], parallel: Callable, seed: int = 0) -> tuple[list[Task], list[dict]]:
    """Make the true pairs of all subjects that can be registered, and what is to be said of each subject.

    Args:
        subjects: from `in_both`.
        parallel: maps a function over tuples of arguments, in order.
        seed: of the voxels that are sampled.

    Returns:
        The tasks, each for `warp`; and for each subject a dictionary, see `_register`.
    """
    results = list(parallel(_register, [(subject, seed) for subject in subjects]))
    for _, about in results:
        if about["why"]:
            log.warning("The scans of %s make no pair: %s.", about["subject"], about["why"])
    return [task for tasks, _ in results for task in tasks], [about for _, about in results]


@dataclasses.dataclass(frozen=True)
class _Scan:
    image: sitk.Image  # on the coarse grid
    to_world: np.ndarray  # (4, 4), from the axes of images (x, y, z in mm) to RAS+ mm


class _RefusedError(Exception):
    """Says why the scans of a subject make no pair."""


def _register(subject: Subject, seed: int) -> tuple[list[Task], dict]:
    """Make the pairs of one subject: each scan gets the one of the other domain that tells most of it.

    Returns:
        The tasks, none where the subject is refused; and "subject", "accepted", "why" (the reason, or None),
        "information" and "stranger_information" (nats, on half of the coarse grid; None where there is no stranger),
        "disagreement_mm" there and back, and "moved_mm" beyond what the headers say.
    """
    about = {"subject": subject.name, "accepted": False, "why": None}
    figures = dict.fromkeys(("information", "stranger_information", "disagreement_mm", "moved_mm"))
    try:
        tasks = _tasks(subject, seed, figures)
    except _RefusedError as error:
        return [], about | {"why": str(error), **figures}
    return tasks, about | {"accepted": True, **figures}


def _tasks(subject: Subject, seed: int, figures: dict) -> list[Task]:
    """Do what `_register` says; the figures are filled in as they are found."""
    from data_prep import registration

    a, b = ([_load(entry) for entry in entries] for entries in (subject.a, subject.b))
    quick = {(i, j): _quick(a[i], b[j], seed) for i, j in itertools.product(range(len(a)), range(len(b)))}
    strange = [_quick(a[0], _load(entry), seed).information for entry in subject.strangers]
    own = max(map_.information for (i, _), map_ in quick.items() if i == 0)
    figures |= {"information": round(own, 4), "stranger_information": round(max(strange), 4) if strange else None}
    if own <= max(strange, default=0.0):
        than = f"a scan of somebody else does ({max(strange):.3f})" if strange else "nothing"
        raise _RefusedError(f"they tell no more of each other ({own:.3f} nats) than {than}")
    chosen = {d: _most_telling(quick, axis) for axis, d in enumerate(("a", "b"))}
    maps, figures["disagreement_mm"], figures["moved_mm"] = {}, 0.0, 0.0
    for i, j in sorted({*chosen["a"], *chosen["b"]}):
        fixed, moving = a[i], b[j]
        there = registration.register_rigid(fixed.image, moving.image, quick[i, j], seed)
        back = registration.register_rigid(moving.image, fixed.image, _quick(moving, fixed, seed), seed)
        stated = _by_headers(moving, fixed) or registration.centred(moving.image, fixed.image)
        for name, other in (("disagreement_mm", back), ("moved_mm", stated)):
            found = registration.disagreement_mm(there, other, fixed.image)
            figures[name] = max(figures[name], round(found, 2))
        _check_overlap(fixed, moving, there)
        maps[i, j] = there
    allowed = max(AGREE_MM, *a[0].image.GetSpacing())
    if figures["disagreement_mm"] > allowed:
        raise _RefusedError(
            f"registered there and back they are {figures['disagreement_mm']:.1f} mm apart; {allowed:.1f} are allowed"
        )
    return [Task(subject.a[i], subject.b[j], maps[i, j], "a") for i, j in chosen["a"]] + [
        Task(subject.b[j], subject.a[i], maps[i, j], "b") for i, j in chosen["b"]
    ]


def _most_telling(maps: Mapping[tuple[int, int], Map], axis: int) -> list[tuple[int, int]]:
    """Find for each scan of domain a (axis 0) or b (axis 1) the pair with most information that it is in."""
    best: dict[int, tuple[int, int]] = {}
    for pair in sorted(maps, key=lambda pair: maps[pair].information):
        best[pair[axis]] = pair
    return [best[number] for number in sorted(best)]


def _load(entry: Entry) -> _Scan:
    from data_prep import registration

    record = records.decode(records.read_at(*entry))
    spacing = spacing_of(record.affine)
    return _Scan(registration.coarse(registration.image_of(record.voxels, spacing)), _to_world(record.affine))


def _to_world(affine: np.ndarray) -> np.ndarray:
    """Make the matrix from the axes of images to RAS+ mm, of the affine of voxels."""
    axes = np.zeros((4, 4))  # from x, y, z in mm to depth, height, width in voxels
    axes[[0, 1, 2], [2, 1, 0]] = 1 / np.asarray(spacing_of(affine))
    axes[3, 3] = 1
    return affine @ axes


def _quick(fixed: _Scan, moving: _Scan, seed: int) -> Map:
    """Find the better of the rigid maps that begin where headers say and with the centres upon each other."""
    from data_prep import registration

    starts = [registration.centred(fixed.image, moving.image)]
    stated = _by_headers(fixed, moving)
    if stated is not None:
        apart = registration.disagreement_mm(stated, registration.centred(moving.image, fixed.image), fixed.image)
        # nearer than a millimetre it is the same start; and where little overlaps, that little may tell much
        if 1 < apart < min(n * mm for n, mm in zip(fixed.image.GetSize(), fixed.image.GetSpacing(), strict=True)) / 2:
            starts.append(stated)
    level = registration.RIGID_LEVELS[:1]
    found = [registration.register_rigid(fixed.image, moving.image, start, seed, level) for start in starts]
    return max(found, key=lambda map_: map_.information)


def _by_headers(fixed: _Scan, moving: _Scan) -> Map | None:
    """Find where scanner coordinates say that `moving` lies; None where one of the two was mirrored."""
    from data_prep import registration

    way = np.linalg.inv(moving.to_world) @ fixed.to_world
    if np.linalg.det(way[:3, :3]) <= 0:
        return None
    u, _, v = np.linalg.svd(way[:3, :3])  # the nearest rotation: headers are rounded
    return registration.rigid(u @ v, way[:3, 3], (0.0, 0.0, 0.0))


def _check_overlap(fixed: _Scan, moving: _Scan, map_: Map) -> None:
    from data_prep import registration

    known = np.isfinite(registration.resample(moving.image, fixed.image, map_.forward())).mean()
    if known < LEAST_KNOWN:
        raise _RefusedError(f"only {known:.0%} of one lies within the other; {LEAST_KNOWN:.0%} are needed")


def warp(task: Task) -> bytes:
    """Make the serialised pair of one task: the scan, the other one brought onto it, and the detail of that one."""
    import SimpleITK as sitk  # noqa: N813

    from data_prep import registration

    fixed, moving = (records.decode(records.read_at(*entry)) for entry in (task.fixed, task.moving))
    transforms = task.between.forward() if task.domain == "a" else task.between.backward()
    grid, image = (registration.image_of(r.voxels, spacing_of(r.affine)) for r in (fixed, moving))
    # one resampling is all that blurs it, and splines blur less; what they add beyond the range is cut off
    partner = np.clip(registration.resample(image, grid, transforms, sitk.sitkBSpline), -1, 1)
    coarse = registration.image_of(thinned(fixed.voxels), [EVERY * s for s in spacing_of(fixed.affine)])
    detail = [
        registration.resample(
            registration.image_of(band, [EVERY * s for s in spacing_of(moving.affine)]), coarse, transforms
        )
        for band in np.moveaxis(thinned(energies(moving.voxels)), -1, 0)
    ]
    return records.encode(
        dataclasses.replace(
            fixed,
            partner=partner.astype(np.float32),
            partner_subjects=(moving.subject,),
            partner_detail=np.sqrt(np.stack(detail, -1)).astype(np.float32),
        )
    )
