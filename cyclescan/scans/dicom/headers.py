"""The header of one DICOM file: its slices, where each lies, and what it says about them.

Geometry: PS3.3, C.7.6.2 (Image Plane) and C.7.6.16.2 (functional groups of multi-frame images). What is wrong with a
file is found here, from its header alone, and said in one sentence that holds nothing of the file but numbers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.scans import acquisition
from cyclescan.scans.dicom import pixels, values
from cyclescan.scans.dicom.tags import (
    Opened,
    first_of,
    items_of,
    legible,
    lenient,
    number_of,
    opened,
    shown,
    text_of,
    whole_of,
)
from cyclescan.scans.dicom.values import Mapping

if TYPE_CHECKING:
    import pydicom

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
# what may tell apart slices of one series that lie at the same place, in this order
APART = (
    "EchoTime",
    "EchoNumbers",
    "ImageType",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "InversionTime",
    "DiffusionBValue",
    "TriggerTime",
    "FlipAngle",
)
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "FrameOfReferenceUID")
_PLANE = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
_COUNTS = ("InstanceNumber", "ImagesInAcquisition", "InConcatenationNumber", "InConcatenationTotalNumber")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_READ = tuple(dict.fromkeys(_UIDS + pixels.TAGS + _PLANE + _COUNTS + FACTS + APART + values.TAGS + _GROUPS))
_DICOMDIR = "1.2.840.10008.1.3.10"


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice: where its pixels are, where it lies, and what its numbers mean.

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
        between_mm: SpacingBetweenSlices, if stated.
        reference: FrameOfReferenceUID.
        number: InstanceNumber of its file; None where there is none.
        claimed: how many images (of a concatenation: files) its header says there are; None where it does not.
        part: its number in a concatenation, if it is of one.
        modality: its modality transform, see `values`.
        real_world: its Real World Value Mapping.
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
    between_mm: float | None = None
    reference: str = ""
    number: int | None = None
    claimed: int | None = None
    part: int | None = None
    modality: Mapping | None = None
    real_world: Mapping | None = None
    problem: str | None = None


def read_slices(path: str) -> list[tuple[tuple[str, str, str], Slice]]:
    """Return the slices of one file, each with (PatientID, StudyInstanceUID, SeriesInstanceUID); [] for what is no
    image.

    Raises:
        InputError: the file cannot be read.
    """
    with lenient(), opened(path, _READ, deep=True) as file:
        dataset = file.dataset
        own, of_file = text_of(dataset, "SOPClassUID"), text_of(_meta(dataset), "MediaStorageSOPClassUID")
        sop_class = own or of_file
        if "Rows" not in dataset:
            # only a DICOMDIR has no class of its own; the tags may be cut off, or in another byte order than stated
            if (not own and of_file != _DICOMDIR) or (own and of_file and own != of_file):
                raise InputError(f"{path} is a damaged DICOM file: nothing in it says what it shows.")
            if not _is_image(sop_class):
                return []
        key = (
            text_of(dataset, "PatientID"),
            text_of(dataset, "StudyInstanceUID"),
            text_of(dataset, "SeriesInstanceUID"),
        )
        part, parts = (whole_of(dataset, name) for name in ("InConcatenationNumber", "InConcatenationTotalNumber"))
        common: dict[str, Any] = {
            "path": path,
            "sop_class": sop_class,
            "sop_uid": text_of(dataset, "SOPInstanceUID"),
            "reference": text_of(dataset, "FrameOfReferenceUID"),
            "number": whole_of(dataset, "InstanceNumber"),
            "claimed": parts if part else whole_of(dataset, "ImagesInAcquisition"),
            "part": part,
        }
        try:
            frames = _frames(path, file, pixels.check(path, file).frames)
        except InputError as error:
            return [(key, Slice(**common, facts=_facts(dataset), problem=str(error)))]
    return [(key, Slice(**common, **frame)) for frame in frames]


def _meta(dataset: pydicom.Dataset) -> pydicom.Dataset | None:
    """The file meta information, None in files without a preamble."""
    return getattr(dataset, "file_meta", None)


def _is_image(sop_class: str) -> bool:
    from pydicom.uid import UID

    return "Image Storage" in UID(sop_class).name if sop_class else False


def _frames(path: str, file: Opened, count: int) -> list[dict]:
    """Geometry, values and facts of each frame, as arguments of `Slice`."""
    dataset = file.dataset
    size = (int(dataset.Rows), int(dataset.Columns))
    facts = _facts(dataset)
    if "MOSAIC" in text_of(dataset, "ImageType").upper().split("\\"):
        raise InputError(f"{path} is a Siemens mosaic, many slices in one picture, which is not read.")
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if count > 1:
            raise InputError(f"{path} is a multi-frame image that does not say where its frames lie.")
        places = (dataset, dataset, dataset)
        return [{"size": size, "facts": facts, **_plane(path, *places), **_mappings(path, file, [dataset])}]
    shared = first_of(dataset, "SharedFunctionalGroupsSequence")
    frames = []
    for number, own in enumerate(items_of(dataset, "PerFrameFunctionalGroupsSequence"), 1):

        def group(name: str, own: pydicom.Dataset = own) -> pydicom.Dataset | None:
            return first_of(own, name) or first_of(shared, name)

        geometry = _plane(
            path, group("PlaneOrientationSequence"), group("PlanePositionSequence"), group("PixelMeasuresSequence")
        )
        timing = group("MRTimingAndRelatedParametersSequence")
        stated = {
            "RepetitionTime": text_of(timing, "RepetitionTime"),
            "FlipAngle": text_of(timing, "FlipAngle"),
            "EchoTime": text_of(group("MREchoSequence"), "EffectiveEchoTime"),
            "ImageType": text_of(group("MRImageFrameTypeSequence") or group("CTImageFrameTypeSequence"), "FrameType"),
            "TemporalPositionIdentifier": text_of(group("FrameContentSequence"), "TemporalPositionIndex"),
            "DiffusionBValue": text_of(group("MRDiffusionSequence"), "DiffusionBValue"),
        }
        merged = dict(facts) | {name: text for name, text in stated.items() if text}
        transform = "PixelValueTransformationSequence"
        mappings = _mappings(path, file, [first_of(own, transform), own, first_of(shared, transform), shared, dataset])
        frames.append({"frame": number, "size": size, "facts": tuple(merged.items()), **geometry, **mappings})
    if len(frames) != count:
        raise InputError(f"{path} claims {count} frames and describes {len(frames)}.")
    return frames


def _mappings(path: str, file: Opened, places: list[pydicom.Dataset | None]) -> dict:
    signed = bool(whole_of(file.dataset, "PixelRepresentation"))
    return {
        "modality": values.modality(path, places, signed, file.little),
        "real_world": values.real_world(path, places, signed),
    }


def _plane(
    path: str,
    orientation: pydicom.Dataset | None,
    position: pydicom.Dataset | None,
    measures: pydicom.Dataset | None,
) -> dict:
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
        "thickness_mm": number_of(measures, "SliceThickness") or None,
        "between_mm": number_of(measures, "SpacingBetweenSlices") or None,
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
        raise InputError(f"{path} has the {name} {shown(value)}; {count} numbers are needed.")
    return numbers


def _facts(dataset: pydicom.Dataset) -> tuple[tuple[str, str], ...]:
    texts = ((name, text_of(dataset, name)) for name in dict.fromkeys(FACTS + APART))
    return tuple((name, legible(dataset, text)) for name, text in texts if text)
