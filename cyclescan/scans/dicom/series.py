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
import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from cyclescan.common.command import progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import walk
from cyclescan.scans import acquisition
from cyclescan.scans.volume import MAX_VOXELS

if TYPE_CHECKING:
    import pydicom

log = logging.getLogger(__name__)

PREAMBLE = 128
MAGIC = b"DICM"
SUFFIXES = (".dcm", ".dicom", ".ima")
# what dcm2niix decodes besides uncompressed pixels: RLE, JPEG baseline and lossless, JPEG-LS, JPEG 2000
UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
COMPRESSED = {
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{n}" for n in ("50", "57", "70", "80", "81", "90", "91")),
}
# what a series is described by, and what a rule may name without the file being opened again
FACTS = (
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "SequenceName",
    "ScanningSequence",
    "Manufacturer",
    "MagneticFieldStrength",
    "RepetitionTime",
    "EchoTime",
    "FlipAngle",
    "ImageType",
    *acquisition.LATERALITY,
)
# from DICOM's units to those of BIDS, which `acquisition` reads
_BIDS_FACTORS = {"RepetitionTime": 1e-3, "EchoTime": 1e-3, "FlipAngle": 1.0, "MagneticFieldStrength": 1.0}
# what may tell apart slices of one series that lie at the same place, in this order
APART = (
    "EchoTime",
    "ImageType",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "InversionTime",
    "DiffusionBValue",
    "TriggerTime",
    "FlipAngle",
)
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID")
_PIXELS = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation")
_PLANE = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_READ = tuple(dict.fromkeys(_UIDS + _PIXELS + _PLANE + FACTS + APART + _GROUPS))
_PIXEL_GROUP = 0x7FE0
_DICOMDIR = "1.2.840.10008.1.3.10"

PARALLEL = 0.005  # largest difference of a direction cosine: 0.3 degrees
SAME_PLACE = 1e-3  # of the distance between slices
EVEN = 0.02  # how far one distance between slices may be from their median
STRAIGHT = 0.5  # pixels that a stack of slices may drift sideways
LEAST_SLICES = 2


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice: where its pixels are and where it lies.

    Attributes:
        path: absolute.
        frame: its number in a multi-frame file, from 1; 0 in a file of one slice.
        sop_class, sop_uid: of its file.
        position: ImagePositionPatient in mm, LPS.
        orientation: ImageOrientationPatient, the direction cosines along a row and along a column, LPS.
        spacing_mm: PixelSpacing, between rows and between columns.
        size: rows and columns.
        facts: pairs of keyword and text, see `FACTS` and `APART`.
        thickness_mm: SliceThickness, if stated.
        problem: why it cannot be used, one sentence.
    """

    path: str
    frame: int = 0
    sop_class: str = ""
    sop_uid: str = ""
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    size: tuple[int, int] = (0, 0)
    facts: tuple[tuple[str, str], ...] = ()
    thickness_mm: float | None = None
    problem: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Slices that make up one volume.

    Attributes:
        slices: in the order in which the volume grows.
        subject: PatientID, "" where it is missing. It identifies: only its pseudonym is ever written.
        uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        problem: why it is no volume that can be used, one sentence; None when all is well.
    """

    slices: tuple[Slice, ...]
    subject: str
    uid: str
    study_uid: str
    problem: str | None = None

    @property
    def path(self) -> Path:
        """Its first file, by which sentences name it."""
        return Path(self.slices[0].path)

    @property
    def files(self) -> list[str]:
        """Its files, each once, in the order of the slices."""
        return list(dict.fromkeys(s.path for s in self.slices))

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """What the header of its first slice says, by DICOM keyword; nothing that identifies a person."""
        return dict(self.slices[0].facts)

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.facts.get("ImageType", "").upper().split("\\")

    @property
    def meta(self) -> dict:
        """What the headers say of how the scan was made, as facts for `Volume.meta`; see `acquisition.beside`."""
        # in BIDS' units: DICOM has milliseconds
        stated = {key: _factor(self.facts.get(key), factor) for key, factor in _BIDS_FACTORS.items()}
        sides = (acquisition.side_of(self.facts.get(key)) for key in acquisition.LATERALITY)
        side = next(filter(None, sides), None)
        return {"acquisition": acquisition.parameters(stated), **({"side": side} if side else {})}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices: the order of the axes of `affine`."""
        rows, columns = self.slices[0].size
        return columns, rows, len(self.slices)

    @property
    def affine(self) -> np.ndarray:
        """Maps (column, row, slice) to RAS+ mm; float64 (4, 4).

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

    def check(self) -> None:
        """`InputError` with the series' problem, if it has one."""
        if self.problem:
            raise InputError(self.problem)


def _factor(text: str | None, factor: float) -> float | None:
    try:
        return float(text or "") * factor
    except ValueError:
        return None


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM: `DICM` after a preamble of 128 bytes, or, in old exports, group 8 at once."""
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            return False
        with open(path, "rb") as stream:
            return _begins_as_dicom(stream)
    except OSError:
        return False


def _begins_as_dicom(stream: BinaryIO) -> bool:
    head = stream.read(PREAMBLE + len(MAGIC))
    stream.seek(0)
    if head[PREAMBLE:] == MAGIC:
        return True
    if len(head) < 16 or head[:2] != b"\x08\x00" or head[3:4] != b"\x00" or head[2] > 0x20:
        return False
    # explicit: two letters of a value representation; implicit: a short length
    return re.fullmatch(rb"[A-Z]{2}", head[4:6]) is not None or int.from_bytes(head[4:8], "little") <= 64


def find(path: str | os.PathLike) -> list[Series]:
    """All series of a DICOM file or of the DICOM files below a folder, in a fixed order.

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
    """A series of which nothing is known but why it cannot be used."""
    return Series((Slice(os.path.abspath(path), problem=problem),), "", "", "", problem)


def _is_broken(path: Path) -> bool:
    """Whether the name says DICOM and the content does not."""
    return path.suffix.lower() in SUFFIXES and not is_dicom(path)


def _all_slices(files: Sequence[str]) -> Iterator[tuple[tuple[str, str, str], Slice]]:
    for file in progress(files, desc="DICOM headers", unit="file", leave=False):
        try:
            yield from read_slices(file)
        except InputError as error:
            yield ("", "", ""), Slice(file, problem=str(error))


def read_slices(path: str) -> list[tuple[tuple[str, str, str], Slice]]:
    """The slices of one file, each with (PatientID, StudyInstanceUID, SeriesInstanceUID); [] for what is no image.

    Raises:
        InputError: the file cannot be read.
    """
    with lenient():
        dataset, offset, size = _header(path)
        own, of_file = _text(dataset, "SOPClassUID"), _text(_meta(dataset), "MediaStorageSOPClassUID")
        sop_class = own or of_file
        if "Rows" not in dataset:
            # only a DICOMDIR has no class of its own; the tags may be cut off, or in another byte order than stated
            if (not own and of_file != _DICOMDIR) or (own and of_file and own != of_file):
                raise InputError(f"{path} is a damaged DICOM file: nothing in it says what it shows.")
            if not _is_image(sop_class):
                return []
        # without a UID, what lies in one folder is taken as one series
        series = _text(dataset, "SeriesInstanceUID") or os.path.dirname(path)
        key = (_text(dataset, "PatientID"), _text(dataset, "StudyInstanceUID"), series)
        common = {"path": path, "sop_class": sop_class, "sop_uid": _text(dataset, "SOPInstanceUID")}
        try:
            _check_pixels(path, dataset, offset, size)
            frames = _frames(path, dataset)
        except InputError as error:
            return [(key, Slice(**common, facts=_facts(dataset), problem=str(error)))]
    return [(key, Slice(**common, **frame)) for frame in frames]


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """pydicom without its warnings about values that break a rule: scanners write them, and we check what we use."""
    from pydicom import config

    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("pydicom")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def _header(path: str) -> tuple[pydicom.Dataset, int, int]:
    """The tags before the pixels, where the pixels' element begins, and the size of the file."""
    import pydicom

    if not os.path.isfile(path):
        raise InputError(f"{path} is a broken link or no file.")
    try:
        with open(path, "rb") as stream:
            if not _begins_as_dicom(stream):
                raise InputError(f"{path} has the name of a DICOM file but is none.")
            size = os.fstat(stream.fileno()).st_size
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(_READ))
            # reading a value is what finds out that it is damaged
            list(dataset.iterall())
            list(_meta(dataset) or ())
            return dataset, stream.tell(), size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except InputError:
        raise
    except Exception as error:  # pydicom raises whatever its parsing of damaged bytes ran into
        # its text may hold the bytes it stumbled over, and with them a name
        raise InputError(f"{path} is a damaged DICOM file ({type(error).__name__}).") from error


def read_value(path: str, keyword: str) -> str:
    """One value of a file's header as text, "" where there is none or the file cannot be read."""
    import pydicom

    try:
        with lenient():
            return _text(pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=[keyword]), keyword)
    except Exception:  # see `_header`; a file without the value is not chosen by it
        return ""


def _meta(dataset: pydicom.Dataset) -> pydicom.Dataset | None:
    """The file meta information, None in files without a preamble."""
    return getattr(dataset, "file_meta", None)


def _is_image(sop_class: str) -> bool:
    from pydicom.uid import UID

    return "Image Storage" in UID(sop_class).name if sop_class else False


def _check_pixels(path: str, dataset: pydicom.Dataset, offset: int, size: int) -> None:
    """Refuse pixels that are absent, cut off, coloured, or coded in a way that dcm2niix does not know."""
    from pydicom.uid import UID

    rows, columns, bits = (_integer(path, dataset, name) for name in ("Rows", "Columns", "BitsAllocated"))
    samples = int(_number(dataset, "SamplesPerPixel") or 1)
    frames = int(_number(dataset, "NumberOfFrames") or 1)
    photometric = _text(dataset, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("", "MONOCHROME2"):
        what = photometric if photometric not in ("", "MONOCHROME2") else f"{samples} samples a pixel"
        raise InputError(f"{path} holds {what}; images of one grey value a pixel (MONOCHROME2) are needed.")
    if bits not in (8, 16, 32):
        raise InputError(f"{path} has {bits} bits a pixel; 8, 16 and 32 are allowed.")
    if rows * columns * frames > MAX_VOXELS:
        raise InputError(
            f"{path} claims {columns}x{rows}x{frames} voxels; at most {MAX_VOXELS} in one volume are allowed."
        )
    syntax = _text(_meta(dataset), "TransferSyntaxUID") or "1.2.840.10008.1.2"
    if syntax not in UNCOMPRESSED | COMPRESSED:
        raise InputError(
            f"{path} is coded as {UID(syntax).name}, which is not read; write it uncompressed first, for instance with "
            "dcmconv +te or gdcmconv --raw."
        )
    with open(path, "rb") as stream:
        stream.seek(offset)
        element = stream.read(12)
    order = "big" if syntax == "1.2.840.10008.1.2.2" else "little"
    if len(element) < 8 or int.from_bytes(element[:2], order) != _PIXEL_GROUP:
        raise InputError(f"{path} has no pixel data.")
    if syntax in COMPRESSED:
        return
    there = size - offset - (12 if element[4:6] in (b"OB", b"OW") else 8)
    needed = rows * columns * frames * bits // 8
    if there < needed:
        raise InputError(
            f"{path} is truncated: {columns}x{rows}x{frames} pixels need {needed} bytes, {there} are there."
        )


def _frames(path: str, dataset: pydicom.Dataset) -> list[dict]:
    """Geometry and facts of each frame, as arguments of `Slice`."""
    size = (int(dataset.Rows), int(dataset.Columns))
    facts = _facts(dataset)
    if "MOSAIC" in _text(dataset, "ImageType").upper().split("\\"):
        raise InputError(f"{path} is a Siemens mosaic, many slices in one picture, which is not read.")
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if int(_number(dataset, "NumberOfFrames") or 1) > 1:
            raise InputError(f"{path} is a multi-frame image that does not say where its frames lie.")
        return [{"size": size, "facts": facts, **_plane(path, dataset, dataset, dataset)}]
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    frames = []
    for number, own in enumerate(_items(dataset, "PerFrameFunctionalGroupsSequence"), 1):

        def group(name: str, own=own):
            return _first(own, name) or _first(shared, name)

        geometry = _plane(
            path, group("PlaneOrientationSequence"), group("PlanePositionSequence"), group("PixelMeasuresSequence")
        )
        timing = group("MRTimingAndRelatedParametersSequence")
        stated = {
            "RepetitionTime": _text(timing, "RepetitionTime"),
            "FlipAngle": _text(timing, "FlipAngle"),
            "EchoTime": _text(group("MREchoSequence"), "EffectiveEchoTime"),
            "ImageType": _text(group("MRImageFrameTypeSequence") or group("CTImageFrameTypeSequence"), "FrameType"),
            "TemporalPositionIdentifier": _text(group("FrameContentSequence"), "TemporalPositionIndex"),
            "DiffusionBValue": _text(group("MRDiffusionSequence"), "DiffusionBValue"),
        }
        merged = dict(facts) | {name: text for name, text in stated.items() if text}
        frames.append({"frame": number, "size": size, "facts": tuple(merged.items()), **geometry})
    claimed = int(_number(dataset, "NumberOfFrames") or 1)
    if len(frames) != claimed:
        raise InputError(f"{path} claims {claimed} frames and describes {len(frames)}.")
    return frames


def _items(dataset: pydicom.Dataset | None, sequence: str) -> Sequence[pydicom.Dataset]:
    """The items of a sequence; none where it is absent, or something else under a damaged tag."""
    import pydicom

    items = dataset.get(sequence) if dataset is not None else None
    return items if isinstance(items, pydicom.Sequence) else ()


def _first(dataset: pydicom.Dataset | None, sequence: str) -> pydicom.Dataset | None:
    return next(iter(_items(dataset, sequence)), None)


def _plane(path: str, orientation, position, measures) -> dict:
    """Image Plane attributes from the datasets that hold them, checked."""
    row_column = _numbers(path, orientation, "ImageOrientationPatient", 6)
    row, column = np.asarray(row_column[:3]), np.asarray(row_column[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(n - 1) for n in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise InputError(
            f"{path} has the ImageOrientationPatient {list(row_column)}; two perpendicular directions of length 1 are "
            "needed."
        )
    spacing_mm = _numbers(path, measures, "PixelSpacing", 2)
    if min(spacing_mm) <= 0:
        raise InputError(f"{path} has the PixelSpacing {list(spacing_mm)}; both values must be positive.")
    return {
        "orientation": tuple(float(v) for v in (*row / lengths[0], *column / lengths[1])),
        "position": _numbers(path, position, "ImagePositionPatient", 3),
        "spacing_mm": spacing_mm,
        "thickness_mm": _number(measures, "SliceThickness") or None,
    }


def _numbers(path: str, dataset: pydicom.Dataset | None, name: str, count: int) -> tuple[float, ...]:
    value = dataset.get(name) if dataset is not None else None
    if value is None or value == "":
        raise InputError(f"{path} has no {name}; without it nobody knows where the slice lies.")
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"{path} has the {name} {_shown(value)}; {count} numbers are needed.")
    return numbers


def _shown(value: object) -> str:
    """A value for a sentence, if it is made of numbers: a damaged tag may hold the bytes of another, such as a name."""
    text = str(value)[:60]
    return text if re.fullmatch(r"[-+\d.,eE\s\\\[\]']+|nan|\[nan.*", text) else "(no numbers)"


def _integer(path: str, dataset: pydicom.Dataset, name: str) -> int:
    number = _number(dataset, name)
    if number is None or number < 1:
        stated = _shown(_text(dataset, name)) if name in dataset else "(none)"
        raise InputError(f"{path} has the {name} {stated}; a positive whole number is needed.")
    return int(number)


def _number(dataset: pydicom.Dataset | None, name: str) -> float | None:
    try:
        number = float(dataset.get(name)) if dataset is not None else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _text(dataset: pydicom.Dataset | None, name: str) -> str:
    """A value as text, several joined by a backslash; "" where there is none."""
    value = dataset.get(name) if dataset is not None else None
    if value is None:
        return ""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return str(value).strip()
    return "\\".join(str(v) for v in value)


def _facts(dataset: pydicom.Dataset) -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name in dict.fromkeys(FACTS + APART) if (text := _text(dataset, name)))


def assemble(slices: Iterable[tuple[tuple[str, str, str], Slice]]) -> list[Series]:
    """Put slices together into series, whatever order they come in."""
    pool: dict[tuple, tuple] = {}
    by_uid = collections.defaultdict(list)
    unread: list[Series] = []
    for key, each in slices:
        # thousands of slices share the same few facts
        if not any(key):  # a file that cannot be read is of no series
            unread.append(broken(each.path, each.problem))
            continue
        by_uid[key].append(dataclasses.replace(each, facts=pool.setdefault(each.facts, each.facts)))
    found = [series for key, members in by_uid.items() for series in _split(key, members)]
    return sorted(unread + found, key=lambda s: (min(s.files), s.slices[0].frame))


def _split(key: tuple[str, str, str], members: list[Slice]) -> Iterator[Series]:
    """Parallel slices of one kind belong together; several at one place are copies, or told apart by an echo or so."""

    def series(slices: Sequence[Slice], problem: str | None = None) -> Series:
        return Series(tuple(slices), key[0], key[2], key[1], problem)

    members = sorted(members, key=lambda s: (s.path, s.frame))
    broken = [s for s in members if s.problem]
    if broken:
        # a slice without geometry may belong to any of its stacks
        more = f" ({len(broken) - 1} more of its files have problems as well)" if len(broken) > 1 else ""
        yield series([broken[0], *(s for s in members if s is not broken[0])], f"{broken[0].problem}{more}")
        return
    found = [each for stack in _stacks(members) for each in _apart(stack, series)]
    used = collections.Counter(file for each in found for file in each.files)
    for each in found:
        if any(used[file] > 1 for file in each.files) and not each.problem:
            several = f"{each.path} is a multi-frame file of several volumes; export each as a series of its own."
            yield dataclasses.replace(each, problem=several)
        else:
            yield each


def _stacks(members: list[Slice]) -> list[list[Slice]]:
    stacks: list[list[Slice]] = []
    for each in members:
        kind = (each.sop_class, _kind(each))
        for stack in stacks:
            first = stack[0]
            parallel = np.abs(np.subtract(first.orientation, each.orientation)).max() <= PARALLEL
            if parallel and (first.sop_class, _kind(first)) == kind:
                stack.append(each)
                break
        else:
            stacks.append([each])
    return stacks


def _kind(each: Slice) -> list[str]:
    """ORIGINAL or DERIVED, PRIMARY or SECONDARY, the sort of image, and magnitude or phase."""
    return dict(each.facts).get("ImageType", "").upper().split("\\")[:4]


def _apart(stack: list[Slice], series) -> Iterator[Series]:
    """One series where each slice has a place of its own; else copies are dropped, and the rest is told apart."""
    stack = _ordered(stack)
    crowded = _crowded(stack)
    if crowded:
        stack, conflict = _without_copies(stack)
        if conflict:
            yield series(stack, conflict)
            return
        crowded = _crowded(stack)
    if crowded:
        for name in APART:
            groups = collections.defaultdict(list)
            for each in stack:
                groups[dict(each.facts).get(name, "")].append(each)
            if len(groups) > 1 and not any(map(_crowded, groups.values())):
                yield from (series(group, _fault(group)) for group in groups.values())
                return
        yield series(
            stack,
            f"{crowded.path} lies where another slice of its series lies and shows something else; nothing in the "
            "headers tells the two apart.",
        )
        return
    yield series(stack, _fault(stack))


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
            if content(kept[name]) != content(each):
                return stack, (
                    f"{each.path} and {kept[name].path} have the same SOPInstanceUID and differ; one of them is wrong."
                )
            continue
        kept.setdefault(name, each)
        alike = at[(tuple(round(v, 3) for v in each.position), each.facts, each.frame)]
        if any(content(other) == content(each) for other in alike):
            continue
        alike.append(each)
        result.append(each)
    if len(result) < len(stack):
        copies = len(stack) - len(result)
        log.warning("%d slices of the series of %s are there twice; one of each is taken.", copies, stack[0].path)
    return result, None


def _pixel_digest(path: str) -> str:
    """A hash of the pixels and what follows them: copies of one slice may differ in their headers."""
    digest = hashlib.sha256()
    with lenient():
        _, offset, _ = _header(path)
    with open(path, "rb") as stream:
        stream.seek(offset)
        while block := stream.read(1 << 20):
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
