"""Writing a translated volume as a new DICOM series on the geometry of its source.

Each slice of the source gets one file: an MR Image, or a CT Image where the intensities are Hounsfield units (PS3.3
A.4, A.3). Nothing is copied but what is named here, in sequences too, so that nothing identifies a patient unless it is
asked for; and of that only what is valid for its kind, in letters that are known: a value that is damaged is left out.
Synthetic Data (0008,001C) says YES; the derivation, the source images and the contributing equipment are stated
(PS3.3 C.12.1.1, C.7.6.1, C.12.1.1.5).
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from cyclescan import NOTICE, __version__
from cyclescan.common.errors import InputError
from cyclescan.common.files import replacing
from cyclescan.scans.dicom.convert import order_of
from cyclescan.scans.dicom.headers import Slice
from cyclescan.scans.dicom.series import Series
from cyclescan.scans.dicom.tags import is_legible, items_of, lenient, opened, read_value, text_of
from cyclescan.scans.volume import Volume

if TYPE_CHECKING:
    import pydicom

log = logging.getLogger(__name__)

# what the source says about where and how the patient lay; it identifies nobody
COPIED = (
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "PatientPosition",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "Laterality",
    "ImageLaterality",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
# present even where empty (type 2 of the Patient and General Study modules), and what else --keep-identity copies
IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
MORE_IDENTITY = (
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "InstitutionName",
)
# of a copied sequence only these, and only codes of public schemes (PS3.16 8-1): a code of one's own may say anything
IN_SEQUENCES = {
    "AnatomicRegionSequence": ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning",
                               "AnatomicRegionModifierSequence"),
    "AnatomicRegionModifierSequence": ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"),
}  # fmt: skip
SCHEMES = ("SCT", "SRT", "SNM3", "99SDM", "DCM", "FMA", "RADLEX", "UBERON")
UID = re.compile(r"[0-2]\.[0-9.]{1,62}")  # lenient: a component may begin with 0, as some scanners write it
EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength")  # the scanner, without its place or name
SERIES_NUMBER = 1000  # added to the source's
LARGEST = 2**15 - 1
DIGITS = 6  # of the slope: a decimal string has at most 16 letters


@dataclasses.dataclass(frozen=True)
class Derivation:
    """What the headers say about the translation.

    Attributes:
        target: name of the domain the image now shows, such as "dess".
        hounsfield: whether the intensities are Hounsfield units.
        model: what identifies the model and its settings; the same gives the same UIDs.
        window: the intensities that viewers show as black and white.
        keep_identity: copy patient, study and institution from the source.
    """

    target: str
    hounsfield: bool
    model: str
    window: tuple[float, float]
    keep_identity: bool = False


def write(series: Series, volume: Volume, folder: str | os.PathLike, derivation: Derivation) -> None:
    """Write `folder`/0001.dcm and so on, one file for each slice of the source, in the source's order.

    Voxels are 16-bit integers. Hounsfield units are rounded to whole numbers (slope 1, intercept 0); other intensities
    are divided by a slope that uses the range, so that they are exact to 1/65534 of the largest.

    Args:
        series: the source.
        volume: on the grid of `convert.read(series)`.
        folder: replaced as a whole if it is there and holds an earlier result.
        derivation: see there.

    Raises:
        InputError: the folder cannot be written or holds something else, or the source has gone or is damaged.
    """
    import pydicom

    check_folder(Path(folder))
    order = order_of(volume.affine, volume.shape, series.affine, series)
    array = nib.orientations.apply_orientation(volume.array, order)  # column, row, slice
    slope, stored = _quantised(array, derivation.hounsfield)
    with lenient(), replacing(folder) as temporary:
        temporary.mkdir()
        source, read = _read(series.slices[0].path), series.slices[0].path
        if derivation.keep_identity:
            _say_what_is_lost(source, read)
        for number, each in enumerate(series.slices, 1):
            if each.path != read:  # a multi-frame file holds all slices
                source, read = _read(each.path), each.path
            dataset = _common(series, source, derivation)
            _describe(dataset, series, each, number, derivation)
            _pixels(dataset, stored[:, :, number - 1].T, slope, derivation)
            pydicom.dcmwrite(temporary / f"{number:04d}.dcm", dataset, enforce_file_format=True)


def check_folder(folder: Path) -> None:
    """Refuse to replace a folder that holds anything but an earlier result.

    Raises:
        InputError: it does, or there is a file of its name.
    """
    if folder.is_file():
        raise InputError(f"The output {folder} is a file; DICOM slices are written into a folder.")
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not re.fullmatch(r"\d{4,}\.dcm", path.name) or read_value(str(path), "SyntheticData") != "YES":
            raise InputError(
                f"The output {folder} holds {path.name}, which is no translated slice; name a new folder, or a .nii.gz "
                "file."
            )


def _quantised(array: np.ndarray, hounsfield: bool) -> tuple[str, np.ndarray]:
    """The slope as DICOM text and the int16 voxels."""
    largest = float(np.abs(array).max())
    slope = "1"
    if not hounsfield and largest > 0:
        # rounded up at the last digit, so that the largest voxel still fits
        step = 10.0 ** (math.floor(math.log10(largest / LARGEST)) - DIGITS + 1)
        slope = f"{math.ceil(largest / LARGEST / step) * step:.{DIGITS}g}"
    return slope, np.clip(np.rint(array / float(slope)), -LARGEST - 1, LARGEST).astype("<i2")


def _read(path: str) -> pydicom.Dataset:
    """What may be copied from a source, and nothing else of its header."""
    with opened(path, (*COPIED, *IDENTITY, *MORE_IDENTITY, *EQUIPMENT)) as file:
        return file.dataset


def _uid(*parts: object) -> str:
    """A UID that is a function of the parts (PS3.5 B.2: 2.25 and a UUID, here of version 5)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '|'.join(map(str, parts))).int}"


def _common(series: Series, source: pydicom.Dataset, derivation: Derivation) -> pydicom.Dataset:
    """The part that is the same in all slices: patient, study, series, equipment."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationVersionName = f"CYCLESCAN {__version__}"[:16]
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage if derivation.hounsfield else MRImageStorage
    dataset.Modality = "CT" if derivation.hounsfield else "MR"
    dataset.SyntheticData = "YES"
    for keyword in IDENTITY:
        setattr(dataset, keyword, "")
    if derivation.keep_identity:
        _copy(source, dataset, (*IDENTITY, *MORE_IDENTITY))
    else:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "cyclescan: nothing copied but geometry and references by UID"
    dataset.PositionReferenceIndicator = ""
    _copy(source, dataset, COPIED)
    study = series.study_uid if UID.fullmatch(series.study_uid) else ""
    dataset.StudyInstanceUID = study or _uid("study", series.study_uid, series.uid)
    dataset.SeriesInstanceUID = _uid("series", series.uid, series.slices[0].sop_uid, derivation)
    if "FrameOfReferenceUID" not in dataset:
        dataset.FrameOfReferenceUID = _uid("frame", series.uid)
    number = series.facts.get("SeriesNumber", "")
    dataset.SeriesNumber = SERIES_NUMBER + (int(number) if re.fullmatch(r"[0-9]{1,9}", number) else 0)
    dataset.SeriesDescription = f"synthetic {derivation.target} (cyclescan)"[:64]
    dataset.Manufacturer, dataset.ManufacturerModelName = "cyclescan", "cyclescan"
    dataset.SoftwareVersions = __version__
    dataset.ContributingEquipmentSequence = [_equipment(source), _own_equipment(derivation)]
    return dataset


def _copy(source: pydicom.Dataset, target: pydicom.Dataset, keywords: Iterable[str]) -> None:
    """Copy what is there, valid and legible; what is not is left out, for it must not end a translation."""
    for keyword in keywords:
        value = _items_of(source, keyword) if keyword in IN_SEQUENCES else _valid(source, keyword)
        if value:
            setattr(target, keyword, value)


def _say_what_is_lost(source: pydicom.Dataset, path: str) -> None:
    lost = [k for k in (*IDENTITY, *MORE_IDENTITY) if text_of(source, k) and _valid(source, k) is None]
    if lost:
        log.warning(
            "warning: %s: %s cannot be kept: what stands there is not valid, or in letters of a character set that is "
            "not stated.",
            path,
            ", ".join(lost),
        )


def _items_of(source: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    """The items of a sequence with what may stand in them; those without a code of a public scheme are left out."""
    from pydicom.dataset import Dataset

    kept = []
    for item in items_of(source, keyword):
        copy = Dataset()
        # an item inherits the character set of what it stands in
        item.SpecificCharacterSet = item.get("SpecificCharacterSet") or source.get("SpecificCharacterSet")
        _copy(item, copy, IN_SEQUENCES[keyword])
        if copy.get("CodingSchemeDesignator") in SCHEMES and "CodeValue" in copy and "CodeMeaning" in copy:
            kept.append(copy)
    return kept


def _valid(source: pydicom.Dataset, keyword: str) -> object:
    """A value that its value representation allows, as it is written; None where there is none."""
    from pydicom.datadict import dictionary_VM, dictionary_VR

    try:
        value = source.get(keyword)
    except Exception:  # pydicom raises whatever its parsing of damaged bytes ran into
        return None
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if several and dictionary_VM(keyword) == "1":
        return None
    kind = dictionary_VR(keyword)
    parts = [_valid_part(source, kind, part) for part in (value if several else [value])]
    if not parts or None in parts:
        return None
    return parts if several else parts[0]


def _valid_part(source: pydicom.Dataset, kind: str, value: object) -> object:
    from pydicom import config
    from pydicom.valuerep import DSfloat, validate_value

    text = str(value).strip() if value is not None else ""
    if not text or not is_legible(source, text):
        return None
    if kind == "UI":
        return text if UID.fullmatch(text) else None
    if kind == "DS":
        try:
            number = float(text)
        except ValueError:
            return None
        return DSfloat(number, auto_format=True) if math.isfinite(number) else None
    try:
        validate_value(kind, text, config.RAISE)
    except ValueError:
        return None
    return text


def _code(value: str, meaning: str) -> list[pydicom.Dataset]:
    """A coded entry of DICOM's own terms (PS3.16 Annex D)."""
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return [code]


def _equipment(source: pydicom.Dataset) -> pydicom.Dataset:
    """The scanner, without its place or name (PS3.16 CID 7005)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.PurposeOfReferenceCodeSequence = _code("109101", "Acquisition Equipment")
    item.Manufacturer = "unknown"
    _copy(source, item, EQUIPMENT)
    return item


def _own_equipment(derivation: Derivation) -> pydicom.Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.PurposeOfReferenceCodeSequence = _code("109102", "Processing Equipment")
    item.Manufacturer, item.ManufacturerModelName, item.SoftwareVersions = "cyclescan", "cyclescan", __version__
    item.ContributionDescription = f"translated by a neural network, model {derivation.model}"[:1024]
    return item


def _describe(dataset: pydicom.Dataset, series: Series, each: Slice, number: int, derivation: Derivation) -> None:
    """One slice's identity, derivation, source and plane."""
    from pydicom.dataset import Dataset
    from pydicom.valuerep import DSfloat

    now = datetime.datetime.now(datetime.timezone.utc)
    dataset.SOPInstanceUID = _uid("image", series.uid, each.sop_uid, each.frame, number, derivation)
    dataset.InstanceNumber = number
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if derivation.hounsfield else "OTHER"]
    dataset.ContentDate, dataset.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.AcquisitionNumber = None
    dataset.ImageComments = NOTICE
    dataset.DerivationDescription = (
        f"{NOTICE}; {derivation.target} translated by cyclescan {__version__} from the images named here"
    )
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = each.sop_class, each.sop_uid
    if each.frame:
        source.ReferencedFrameNumber = each.frame
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = _code("121322", "Source image for image processing operation")
    if UID.fullmatch(each.sop_uid) and UID.fullmatch(each.sop_class):
        dataset.SourceImageSequence = [source]

    def decimal(values: Iterable[float]) -> list[DSfloat]:
        return [DSfloat(float(v), auto_format=True) for v in values]

    dataset.ImagePositionPatient = decimal(each.position)
    dataset.ImageOrientationPatient = decimal(each.orientation)
    dataset.PixelSpacing = decimal(each.spacing_mm)
    between = float(np.linalg.norm(np.subtract(series.slices[1].position, series.slices[0].position)))
    dataset.SliceThickness = decimal([each.thickness_mm or between])[0]
    if not derivation.hounsfield:  # no attribute of a CT Image
        dataset.SpacingBetweenSlices = decimal([between])[0]


def _pixels(dataset: pydicom.Dataset, stored: np.ndarray, slope: str, derivation: Derivation) -> None:
    """Pixels, their scale, and what the modality's module asks for; TR and TE of no scan at all stay empty."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", slope
    dataset.RescaleType = "HU" if derivation.hounsfield else "US"
    low, high = derivation.window
    dataset.WindowCenter, dataset.WindowWidth = f"{(low + high) / 2:.6g}", f"{max(high - low, 1):.6g}"
    if derivation.hounsfield:
        dataset.KVP = None
    else:
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
        dataset.MRAcquisitionType, dataset.RepetitionTime, dataset.EchoTime = "", None, None
        dataset.EchoTrainLength = None
    dataset.PixelData = np.ascontiguousarray(stored).tobytes()
    dataset["PixelData"].VR = "OW"
