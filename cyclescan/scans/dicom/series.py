"""Finding DICOM series: which files make up one volume, and what their headers say about it.

A *series* here is what a reader needs: slices of one SeriesInstanceUID that are parallel, of one kind of image, each at
its own place. A localizer of three planes is three of them, a series of two echoes is two. What is wrong with a series
(a missing slice, a gantry tilt, truncated pixel data) is found from the headers and kept as its `problem`, so that it
stops nobody but itself.

Geometry: DICOM PS3.3, C.7.6.2 (Image Plane) and C.7.6.16.2 (functional groups of multi-frame images). DICOM's axes
point to the patient's Left, Posterior and Superior; affines here are RAS+ as everywhere in this product.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cyclescan.common.command import progress
from cyclescan.common.errors import InputError, of_item
from cyclescan.common.files import walk
from cyclescan.scans import acquisition
from cyclescan.scans.dicom import pixels, values
from cyclescan.scans.dicom.headers import APART, Slice, read_slices
from cyclescan.scans.dicom.tags import is_dicom, lenient, opened
from cyclescan.scans.dicom.values import Mapping
from cyclescan.scans.volume import MAX_VOXELS

log = logging.getLogger(__name__)

SUFFIXES = (".dcm", ".dicom", ".ima")
# from DICOM's units to those of BIDS, which `acquisition` reads
_BIDS_FACTORS = {"RepetitionTime": 1e-3, "EchoTime": 1e-3, "FlipAngle": 1.0, "MagneticFieldStrength": 1.0}
PARALLEL = 0.005  # largest difference of a direction cosine: 0.3 degrees
SAME_PLACE = 1e-3  # of the distance between slices
EVEN = 0.02  # how far one distance between slices may be from their median
STRAIGHT = 0.5  # pixels that a stack of slices may drift sideways
LEAST_SLICES = 2
# slices of one volume agree in these: where they do not, two images were put under one id
TOGETHER = ("SeriesNumber", "EchoNumbers", "EchoTime")
# and in these mostly: where they do not, and those of each value lie between those of another
MOSTLY = (
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "SequenceName",
    "ProtocolName",
    "SeriesDescription",
    "ImageType",
    "InversionTime",
    "FlipAngle",
    "AcquisitionNumber",
    "TriggerTime",
    "FrameOfReferenceUID",
    "file",  # of a multi-frame image that is no part of a concatenation
)
LEAST_BETWEEN = 3  # slices of each value, so that nobody takes chance for order
OVERLAP = 1.5  # a stated distance or thickness this many times the distance of slices tells that two stacks are mixed
Key = tuple[str, str, str]  # PatientID, StudyInstanceUID, SeriesInstanceUID; "" for what is missing


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Slices that make up one volume.

    Attributes:
        slices: in the order in which the volume grows.
        subject: PatientID, "" where it is missing. It identifies: only its pseudonym is ever written.
        uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        problem: why it is no volume that can be used, one sentence; None when all is well.
        note: what makes one doubt that all its slices are there, one sentence; None where nothing does.
    """

    slices: tuple[Slice, ...]
    subject: str
    uid: str
    study_uid: str
    problem: str | None = None
    note: str | None = None

    @property
    def path(self) -> Path:
        """Return its first file, by which sentences name it."""
        return Path(self.slices[0].path)

    @property
    def files(self) -> list[str]:
        """Return its files, each once, in the order of the slices."""
        return list(dict.fromkeys(s.path for s in self.slices))

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """Return what the header of its first slice says, by DICOM keyword; nothing that identifies a person."""
        return dict(self.slices[0].facts)

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.facts.get("ImageType", "").upper().split("\\")

    @property
    def meta(self) -> dict:
        """Return what the headers say of how the scan was made, for `Volume.meta`; see `acquisition.beside`."""
        # in BIDS' units: DICOM has milliseconds
        stated = {key: _factor(self.facts.get(key), factor) for key, factor in _BIDS_FACTORS.items()}
        sides = (acquisition.side_of(self.facts.get(key)) for key in acquisition.LATERALITY)
        side = next(filter(None, sides), None)
        return {"acquisition": acquisition.parameters(stated), **({"side": side} if side else {})}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of columns, rows, slices: the order of the axes of `affine`."""
        rows, columns = self.slices[0].size
        return columns, rows, len(self.slices)

    @property
    def affine(self) -> np.ndarray:
        """Return the map from (column, row, slice) to RAS+ mm; float64 (4, 4).

        Raises:
            InputError: the series has a problem.
        """
        self.check()
        first, last = self.slices[0], self.slices[-1]
        affine = np.eye(4)
        between_rows, between_columns = first.spacing_mm
        affine[:3, 0] = np.asarray(first.orientation[:3]) * between_columns
        affine[:3, 1] = np.asarray(first.orientation[3:]) * between_rows
        affine[:3, 2] = (np.asarray(last.position) - first.position) / (len(self.slices) - 1)
        affine[:3, 3] = first.position
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    @property
    def mappings(self) -> list[Mapping]:
        """Return what the stored numbers of each slice mean.

        Raises:
            InputError: its headers do not say.
        """
        return _mappings(self.slices)

    def check(self) -> None:
        """Raise `InputError` with the series' problem, if it has one."""
        if self.problem:
            raise InputError(self.problem)


def _mappings(stack: Sequence[Slice]) -> list[Mapping]:
    hounsfield = dict(stack[0].facts).get("Modality") == "CT"
    return values.of_volume(stack[0].path, [(s.modality, s.real_world) for s in stack], hounsfield)


def _factor(text: str | None, factor: float) -> float | None:
    try:
        return float(text or "") * factor
    except ValueError:
        return None


def find(path: str | os.PathLike) -> list[Series]:
    """Return all series of a DICOM file or of the DICOM files below a folder, in a fixed order.

    A file that cannot be read as DICOM, though its name or its first bytes say that it is, makes a series of its own
    with a problem. Objects without pixels (DICOMDIR, reports, structures) are passed over.

    Raises:
        InputError: the folder cannot be read.
    """
    path = os.path.abspath(path)
    if os.path.isdir(path):
        files = sorted(str(p) for p in walk(path) if is_dicom(p) or _is_broken(p))
    else:
        files = [path]
    return assemble(_all_slices(files))


def broken(path: str | os.PathLike, problem: str) -> Series:
    """Return a series of which nothing is known but why it cannot be used."""
    return Series((Slice(os.path.abspath(path), problem=problem),), "", "", "", problem)


def _is_broken(path: Path) -> bool:
    """Whether the name says DICOM and the content does not."""
    return path.suffix.lower() in SUFFIXES and not is_dicom(path)


def _all_slices(files: Sequence[str]) -> Iterator[tuple[Key | None, Slice]]:
    for file in progress(files, desc="DICOM headers", unit="file", leave=False):
        try:
            yield from read_slices(file)
        except Exception as error:  # of whatever class: the other files are read
            yield None, Slice(file, problem=str(of_item(error, file)))


def assemble(slices: Iterable[tuple[Key | None, Slice]]) -> list[Series]:
    """Put slices together into series, whatever order they come in; those without a key could not be read."""
    pool: dict[Any, Any] = {}
    unread: list[Series] = []
    keyed: list[tuple[Key, Slice]] = []
    for key, each in slices:
        if key is None:
            unread.append(broken(each.path, each.problem or ""))
            continue
        # thousands of slices share the same few facts and tables
        shared: dict[str, Any] = {"facts": each.facts, "modality": each.modality, "real_world": each.real_world}
        shared = {name: pool.setdefault(value, value) for name, value in shared.items()}
        keyed.append((key, dataclasses.replace(each, **shared)))
    by_key = collections.defaultdict(list)
    for key, each in _completed(_named(keyed)):
        by_key[key].append(each)
    found = [series for key, members in by_key.items() for series in _split(key, members)]
    return sorted(unread + found, key=lambda s: (min(s.files), s.slices[0].frame))


def _named(keyed: list[tuple[Key, Slice]]) -> Iterator[tuple[Key, Slice]]:
    """Slices without SeriesInstanceUID go with the series of their folder and number, or make one of their own.

    One that may belong to several spoils them all: nobody knows which of them it is missing from.
    """

    def place(each: Slice) -> tuple[str, str]:
        return os.path.dirname(each.path), dict(each.facts).get("SeriesNumber", "")

    # of each folder the series that a slice could be of: name, number, and what its slices look like
    known: dict[str, dict[tuple, Slice]] = collections.defaultdict(dict)
    for (_, _, uid), each in sorted(keyed, key=lambda pair: not pair[0][2]):
        folder, number = place(each)
        if uid or (number and not _candidates(each, number, known[folder])):
            looks = each.sop_class, each.size, np.round(each.orientation, 2).tobytes()
            known[folder].setdefault((uid or f"{folder}#{number}", number, looks), each)
    for (person, study, uid), each in keyed:
        folder, number = place(each)
        names = {uid} if uid else _candidates(each, number, known[folder]) or {folder}
        doubt = f"{each.path} has no SeriesInstanceUID, and several series of its folder may be its own."
        for name in sorted(names):
            problem = each.problem or (doubt if len(names) > 1 else None)
            yield (person, study, name), dataclasses.replace(each, problem=problem)


def _candidates(each: Slice, number: str, known: dict[tuple, Slice]) -> set[str]:
    """The names of the series that a slice without SeriesInstanceUID can be of."""
    return {
        name
        for (name, of_name, _), other in known.items()
        if (
            number == of_name != "" if each.problem else (not number or of_name in ("", number)) and _alike(each, other)
        )
    }


def _alike(one: Slice, other: Slice) -> bool:
    """Whether two slices can be of one volume, by all but their places."""
    if (one.sop_class, one.size) != (other.sop_class, other.size) or not (one.orientation and other.orientation):
        return False
    return bool(np.abs(np.subtract(one.orientation, other.orientation)).max() <= PARALLEL)


def _completed(keyed: Iterable[tuple[Key, Slice]]) -> Iterator[tuple[Key, Slice]]:
    """Slices without PatientID or StudyInstanceUID go with those of their series that have one, where all agree."""
    keyed = list(keyed)
    people, studies = collections.defaultdict(set), collections.defaultdict(set)
    for (person, study, series), _ in keyed:
        people[series].add(person)
        studies[series].add(study)

    def completed(value: str, known: set[str]) -> str:
        return value or (max(known) if len(known - {""}) == 1 else "")

    for (person, study, series), each in keyed:
        yield (completed(person, people[series]), completed(study, studies[series]), series), each


def _split(key: Key, members: list[Slice]) -> Iterator[Series]:
    """Parallel slices of one kind belong together; several at one place are copies, or told apart by an echo or so."""

    def series(slices: Sequence[Slice], problem: str | None = None, note: str | None = None) -> Series:
        return Series(tuple(slices), key[0], key[2], key[1], problem, note)

    members = sorted(members, key=lambda s: (s.path, s.frame))
    broken = [s for s in members if s.problem]
    if broken:
        # a slice without geometry may belong to any of its stacks
        more = f" ({len(broken) - 1} more of its files have problems as well)" if len(broken) > 1 else ""
        yield series([broken[0], *(s for s in members if s is not broken[0])], f"{broken[0].problem}{more}")
        return
    found = [part for stack in _stacks(members) for part in _apart(stack)]
    used = collections.Counter(file for part, _ in found for file in {s.path for s in part})
    note = _note(members)
    for part, problem in found:
        several = f"{part[0].path} is a multi-frame file of several volumes; export each as a series of its own."
        fault = problem or (several if any(used[each.path] > 1 for each in part) else None)
        yield series(part, fault, None if fault else note)


def _note(members: Sequence[Slice]) -> str | None:
    """What the numbers of images say about images that are not here."""
    files = {each.sop_uid or each.path: each for each in members}.values()  # of copies, and of frames, one
    doubt = f"{min(each.path for each in files)} is of a series of which slices may be lost at an end: "
    parts = [each for each in files if each.part]
    whole = max((each.claimed or 0 for each in parts), default=0)
    if len({each.part for each in parts}) < whole:
        return f"{doubt}{whole} files belong together, and {len(parts)} are here."
    if parts or any(each.frame for each in files):
        return None
    claimed = max((each.claimed or 0 for each in files), default=0)
    if len(files) < claimed:
        return f"{doubt}its acquisition has {claimed} images, and {len(files)} are here."
    numbers = sorted({each.number for each in files if each.number is not None})
    if len(numbers) < len(files) or len(numbers) < LEAST_SLICES or numbers[0] < 0:
        return None  # numbers that are missing or twice tell nothing
    step = min(np.diff(numbers))
    absent = [n for n in range(numbers[0] % step or step, numbers[-1], step) if n not in set(numbers)]
    if 0 < len(absent) < len(numbers):
        shown = ", ".join(map(str, absent[:3])) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        return f"{doubt}the InstanceNumbers go to {numbers[-1]}, and {shown} are missing."
    return None


def _stacks(members: list[Slice]) -> list[list[Slice]]:
    stacks: list[list[Slice]] = []
    stated = {kind for each in members if (kind := _kind(each))}
    only: tuple[str, ...] = (
        max(stated) if len(stated) == 1 else ()
    )  # a slice without a kind is of the one that the others have
    kinds: list[tuple[str, tuple[str, ...]]] = []
    for each in members:
        own = (each.sop_class, _kind(each) or only)
        for stack, of_stack in zip(stacks, kinds, strict=True):
            parallel = np.abs(np.subtract(stack[0].orientation, each.orientation)).max() <= PARALLEL
            if parallel and of_stack == own:
                stack.append(each)
                break
        else:
            stacks.append([each])
            kinds.append(own)
    return stacks


def _kind(each: Slice) -> tuple[str, ...]:
    """ORIGINAL or DERIVED, PRIMARY or SECONDARY, the sort of image, and magnitude or phase; () if it is not stated."""
    text = dict(each.facts).get("ImageType", "").upper()
    return tuple(text.split("\\")[:4]) if text else ()


def _apart(stack: list[Slice]) -> Iterator[tuple[list[Slice], str | None]]:
    """Slices that each have a place of their own, with what makes them unusable.

    Copies are dropped; what then still lies at one place is told apart by what the headers say.
    """
    stack = _ordered(stack)
    if _crowded(stack):
        stack, conflict = _without_copies(stack)
        if conflict:
            yield stack, conflict
            return
    crowded = _crowded(stack)
    if not crowded:
        yield from _unmixed(stack)
        return
    for names in (*zip(APART, strict=True), *itertools.combinations(APART, 2)):
        groups = _groups(stack, names)
        if len(groups) > 1 and not any(map(_crowded, groups.values())):
            most = max(map(len, groups.values()))
            for group in groups.values():
                if len(group) == most:
                    yield from _unmixed(group)
                else:  # the others tell what is lost, even at an end, or which slices do not say what they are
                    yield group, f"{group[0].path} is of {len(group)} slices, where others of its series are {most}."
            return
    problem = (
        f"{crowded.path} lies where another slice of its series lies and shows something else; nothing in the headers "
        "tells the two apart."
    )
    yield stack, problem


def _groups(stack: Sequence[Slice], names: Sequence[str]) -> dict[tuple[str, ...], list[Slice]]:
    """The slices by what their headers say under these keywords."""
    groups = collections.defaultdict(list)
    for each in stack:
        facts = {**dict(each.facts), "FrameOfReferenceUID": each.reference}
        facts["file"] = each.path if each.frame and not each.part else ""
        groups[tuple(_comparable(name, facts.get(name, "")) for name in names)].append(each)
    return groups


def _comparable(name: str, text: str) -> str:
    """Numbers as numbers, to four digits: "2.46" and "2.460" are one. A number that is none says nothing."""
    if name in ("EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue", "TriggerTime"):
        number = _factor(text, 1.0)
        return "" if number is None else f"{number:.4g}"
    return text


def _unmixed(stack: list[Slice]) -> Iterator[tuple[list[Slice], str | None]]:
    """Ordered slices of different places as one volume, unless the headers tell that several were mixed.

    Two series under one id, of which one lies half a slice further, would pass for one with twice the slices.
    """
    for name in (*TOGETHER, *MOSTLY) if len(stack) > LEAST_SLICES else ():
        groups = _groups(stack, [name])
        if len(groups) < 2 or ("",) in groups:
            continue
        apart = not any(map(_fault, groups.values()))
        if name in MOSTLY:
            apart = apart and min(map(len, groups.values())) >= LEAST_BETWEEN and _mixed(stack, groups)
        if apart:
            for group in groups.values():
                yield from _unmixed(group)
            return
        if name in TOGETHER:
            first, other = (f"{group[0].path} has the {name} {text}" for (text,), group in list(groups.items())[:2])
            problem = f"{first} and {other}, in one series; slices of one volume must agree in it."
            yield stack, problem
            return
    yield stack, _fault(stack) or _twins(stack)


def _mixed(stack: Sequence[Slice], groups: dict[tuple[str, ...], list[Slice]]) -> bool:
    """Whether slices of each group lie between those of another, and the headers do not state their distance."""
    group_of = {(each.path, each.frame): name for name, group in groups.items() for each in group}
    run = [group_of[each.path, each.frame] for each in stack]
    changes = sum(a != b for a, b in itertools.pairwise(run))
    return changes >= len(groups) and _overlap(stack) is not False


def _overlap(stack: Sequence[Slice]) -> bool | None:
    """Whether slices are thicker, or stated to be farther apart, than they are; None where nothing is stated."""
    stated = stack[0].between_mm or stack[0].thickness_mm
    return None if not stated else abs(stated) > OVERLAP * float(np.median(np.diff(_along(stack))))


def _twins(stack: Sequence[Slice]) -> str | None:
    """What is wrong where every second slice has a numbering of its own, and slices overlap; None elsewhere.

    They may be two series, and nothing but their numbers says so.
    """
    numbers = [each.number for each in stack if each.number is not None]
    if len(numbers) < max(len(stack), 2 * LEAST_BETWEEN) or _steady(numbers) or not _overlap(stack):
        return None
    if not (_steady(numbers[::2]) and _steady(numbers[1::2])):
        return None
    return (
        f"{stack[0].path} is of a series in which every second slice is numbered for itself, and slices overlap: two "
        "series seem to be mixed under one id, which must be taken apart first."
    )


def _steady(numbers: Sequence[int]) -> bool:
    """Whether numbers go up or down in equal steps."""
    steps = set(np.diff(numbers).tolist())
    return len(steps) == 1 and steps != {0}


def _along(stack: Sequence[Slice]) -> np.ndarray:
    """Places of the slices along their common normal, in mm."""
    normal = np.cross(stack[0].orientation[:3], stack[0].orientation[3:])
    return np.asarray([s.position for s in stack]) @ normal


def _ordered(stack: list[Slice]) -> list[Slice]:
    places = _along(stack)
    return [stack[i] for i in np.argsort(places, kind="stable")]


def _crowded(stack: Sequence[Slice]) -> Slice | None:
    """A slice that lies where the one before it lies; None when each has its own place."""
    if len(stack) < 2:
        return None
    places = _along(stack)
    gaps = np.diff(places)
    limit = SAME_PLACE * (np.median(gaps[gaps > 1e-4]) if (gaps > 1e-4).any() else 1.0)
    together = np.flatnonzero(gaps <= limit)
    return stack[together[0] + 1] if len(together) else None


def _without_copies(stack: list[Slice]) -> tuple[list[Slice], str | None]:
    """Drop slices that are there twice; a sentence where two files of one SOPInstanceUID differ."""
    kept: dict[tuple, Slice] = {}
    digests: dict[str, str] = {}
    at: dict[tuple, list[Slice]] = collections.defaultdict(list)

    def content(each: Slice) -> str:
        if each.path not in digests:
            digests[each.path] = _pixel_digest(each.path)
        return digests[each.path]

    result = []
    for each in stack:
        name = (each.sop_uid, each.frame)
        if each.sop_uid and name in kept:
            if content(kept[name]) != content(each) or _values(kept[name]) != _values(each):
                return stack, (
                    f"{each.path} and {kept[name].path} have the same SOPInstanceUID and differ; one of them is wrong."
                )
            continue
        kept.setdefault(name, each)
        alike = at[(tuple(round(v, 3) for v in each.position), each.facts, each.frame, _values(each))]
        if any(content(other) == content(each) for other in alike):
            continue
        alike.append(each)
        result.append(each)
    if len(result) < len(stack):
        copies = len(stack) - len(result)
        log.warning("%d slices of the series of %s are there twice; one of each is taken.", copies, stack[0].path)
    return result, None


def _values(each: Slice) -> tuple[Mapping | None, Mapping | None]:
    return each.modality, each.real_world


def _pixel_digest(path: str) -> str:
    """A hash of the pixels and what follows them: copies of one slice may differ in their headers."""
    digest = hashlib.sha256()
    with lenient(), opened(path, pixels.TAGS) as file:
        while block := file.stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fault(stack: Sequence[Slice]) -> str | None:
    """What makes ordered slices unusable as a volume, as a sentence; None when nothing does."""
    first = stack[0]
    if len(stack) < LEAST_SLICES:
        return f"{first.path} is a series of 1 slice; a volume needs at least {LEAST_SLICES}."
    for each in stack:
        if each.size != first.size:
            return (
                f"{each.path} has {each.size[1]}x{each.size[0]} pixels and the first slice of its series "
                f"{first.size[1]}x{first.size[0]}; all must be the same."
            )
        if not np.allclose(each.spacing_mm, first.spacing_mm, rtol=1e-3):
            return (
                f"{each.path} has pixels of {_mm(each.spacing_mm)} and the first slice of its series "
                f"{_mm(first.spacing_mm)}; the spacing must not change inside a series."
            )
    if math.prod((*first.size, len(stack))) > MAX_VOXELS:
        return f"{first.path} is of a series of {len(stack)} slices; at most {MAX_VOXELS} voxels are allowed."
    try:
        _mappings(stack)
    except InputError as error:
        return str(error)
    return _uneven(stack) or _crooked(stack)


def _uneven(stack: Sequence[Slice]) -> str | None:
    places = _along(stack)
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    wrong = np.flatnonzero(np.abs(gaps - usual) > max(EVEN * usual, 0.01))
    if not len(wrong):
        return None
    i = int(wrong[0])
    ratio = gaps[i] / usual
    before, after = stack[i].path, stack[i + 1].path
    if ratio > 1.5 and abs(ratio - round(ratio)) < 0.1:
        missing = sum(round(g / usual) - 1 for g in gaps)
        return (
            f"{before} and {after} are {gaps[i]:.4g} mm apart and the other slices {usual:.4g} mm: "
            f"{_missing(round(ratio) - 1)} missing between them"
            + (f", {missing} in the whole series." if missing > round(ratio) - 1 else ".")
        )
    return (
        f"{before} and {after} are {gaps[i]:.4g} mm apart and the other slices {usual:.4g} mm; the distance must not "
        "change inside a series."
    )


def _missing(number: int) -> str:
    return "1 slice is" if number == 1 else f"{number} slices are"


def _crooked(stack: Sequence[Slice]) -> str | None:
    positions = np.asarray([s.position for s in stack])
    normal = np.cross(stack[0].orientation[:3], stack[0].orientation[3:])
    whole = positions[-1] - positions[0]
    sideways = whole - (whole @ normal) * normal
    pixel = min(stack[0].spacing_mm)
    if np.linalg.norm(sideways) > STRAIGHT * pixel:
        tilt = math.degrees(math.atan2(np.linalg.norm(sideways), whole @ normal))
        return (
            f"{stack[0].path} is of a series with a gantry tilt of {tilt:.1f} degrees; slices must lie straight above "
            "each other, so correct the tilt first, for instance with dcm2niix, and give the _Tilt file."
        )
    share = ((positions - positions[0]) @ normal) / (whole @ normal)
    off = np.linalg.norm(positions - positions[0] - share[:, None] * whole, axis=1)
    if off.max() > STRAIGHT * pixel:
        return f"{stack[int(off.argmax())].path} lies {off.max():.3g} mm beside the other slices of its series."
    return None


def _mm(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing_mm) + " mm"
