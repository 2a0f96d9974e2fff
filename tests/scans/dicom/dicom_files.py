"""DICOM series for tests: the digital knee cut into slices as a scanner would, with every detail open to change."""

import functools
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject
from tests.scans.dicom import jpeg_lossless

SHAPE = (10, 24, 20)  # sagittal slices, height, width
SPACING_MM = (3.0, 1.25, 1.5)
ROOT = "1.2.826.0.1.3680043.10.999"
# sagittal slices that are tilted a little, as on a real table: directions of columns and rows in RAS+
SAGITTAL = np.array([[0.05, -0.03, 1], [-1, 0.02, 0.05], [0.02, -1, 0.03]]).T


@functools.cache
def knee(index=0, contrast="ciss", shape=SHAPE, spacing_mm=SPACING_MM):
    """A scan of the digital knee as (columns, rows, slices), int16, and its affine; a little oblique."""
    subject = make_subject(0, shape, spacing_mm, index=index)
    # (right, up, front) -> columns to the back, rows down, slices to the right
    array = np.rint(getattr(subject, contrast)).astype(np.int16).transpose(2, 1, 0)[::-1, ::-1]
    back = np.array([0.04, -1, 0.03])
    down = np.array([0.02, 0.03, -1])
    back /= np.linalg.norm(back)
    down -= (down @ back) * back
    down /= np.linalg.norm(down)
    right = np.cross(back, down)  # the normal; columns x rows of a sagittal slice
    affine = np.eye(4)
    affine[:3, :3] = np.stack([back * spacing_mm[2], down * spacing_mm[1], right * spacing_mm[0]], axis=1)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(array.shape) - 1) / 2) + (11.0, -7.0, 3.0)
    return np.ascontiguousarray(array), affine


def uid(*parts):
    """A UID that is a function of the parts."""
    return pydicom.uid.generate_uid(prefix=ROOT + ".", entropy_srcs=[str(p) for p in parts])


def slices(array, affine, *, name="1", subject="knee-1", ct=False, slope=None, intercept=None, dtype=np.int16, **tags):
    """One dataset for each slice of (columns, rows, slices) whole numbers, in order along the slices.

    Args:
        name: what makes UIDs differ.
        slope, intercept: written as Rescale Slope and Intercept where they are given.
        tags: more values, by keyword.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    made = []
    for number in range(array.shape[2]):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = CTImageStorage if ct else MRImageStorage
        ds.SOPInstanceUID = uid(name, subject, number)
        ds.StudyInstanceUID = uid("study", subject)
        ds.SeriesInstanceUID = uid("series", subject, name)
        ds.FrameOfReferenceUID = uid("frame", subject)
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = subject, "Doe^Jane", "19700101", "F"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20240102", "101500", "ACC4711", "77"
        ds.ReferringPhysicianName, ds.InstitutionName, ds.StationName = "House^Gregory", "General Hospital", "MR7"
        ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT" if ct else "MR", "Digital", "Knee"
        ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 5, number + 1, 1
        ds.SeriesDescription, ds.ProtocolName, ds.SequenceName = "CISS sag", "knee ciss", "*tfi3d1"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if ct else "M", "ND"]
        ds.PatientPosition, ds.PositionReferenceIndicator = "FFS", ""
        if ct:
            ds.KVP, ds.RescaleType = "120", "HU"
        else:
            ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SS", "", "3D"
            ds.RepetitionTime, ds.EchoTime, ds.FlipAngle, ds.MagneticFieldStrength = "6.1", "2.7", "40", "3"
            ds.EchoTrainLength = 1
        ds.Columns, ds.Rows = array.shape[:2]
        ds.PixelSpacing = [f"{spacing_mm[1]:.8g}", f"{spacing_mm[0]:.8g}"]
        ds.SliceThickness = f"{spacing_mm[2]:.8g}"
        ds.ImageOrientationPatient = [f"{v:.12f}" for v in (lps[:3, :2] / spacing_mm[:2]).T.ravel()]
        ds.ImagePositionPatient = [f"{v:.8f}" for v in lps[:3, 3] + number * lps[:3, 2]]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        bits = np.dtype(dtype).itemsize * 8
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
        ds.PixelRepresentation = int(np.issubdtype(dtype, np.signedinteger))
        if slope is not None:
            ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.10g}", f"{intercept or 0:.10g}"
        ds.PixelData = np.ascontiguousarray(array[:, :, number].T.astype(np.dtype(dtype).newbyteorder("<"))).tobytes()
        ds["PixelData"].VR = "OB" if bits == 8 else "OW"
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
        made.append(ds)
    return made


def compress(ds, syntax, bits=None, selection=1) -> None:
    """Frames in a transfer syntax, in place; JPEG lossless by an encoder of the tests' own.

    Args:
        ds: uncompressed, little endian.
        syntax: of RLE, JPEG lossless, JPEG-LS or JPEG 2000.
        bits: what is coded of each number, from the lowest; None: `BitsStored`.
        selection: the predictor of JPEG lossless.
    """
    bits = bits or ds.BitsStored
    frames = np.frombuffer(ds.PixelData, f"<u{ds.BitsAllocated // 8}")[
        : ds.Rows * ds.Columns * ds.get("NumberOfFrames", 1)
    ]
    frames = frames.reshape(-1, ds.Rows, ds.Columns)
    if syntax == RLELossless:
        streams = [b"".join(_rle(frame)) for frame in frames]
    elif syntax in (JPEGLossless, JPEGLosslessSV1):
        streams = [jpeg_lossless.encode(frame & 2**bits - 1, bits, selection) for frame in frames]
    elif syntax == JPEGLSLossless:
        streams = [imagecodecs.jpegls_encode(np.ascontiguousarray(frame & 2**bits - 1)) for frame in frames]
    else:
        used = frames & 2**bits - 1
        signed = ds.PixelRepresentation and bits == ds.BitsAllocated
        used = used.view(f"i{ds.BitsAllocated // 8}") if signed else used
        options = {"level": 0, "codecformat": "J2K", "reversible": True, "resolutions": 1}
        streams = [imagecodecs.jpeg2k_encode(np.ascontiguousarray(frame), **options) for frame in used]
    encapsulated(ds, streams, syntax)


def _rle(frame):
    """The header and the segments of a frame, whose bytes are all written as they are (PS3.5 Annex G)."""
    segments = []
    for byte in range(frame.dtype.itemsize)[::-1]:
        plane = frame.view("u1").reshape(-1, frame.dtype.itemsize)[:, byte].tobytes()
        runs = [plane[i : i + 100] for i in range(0, len(plane), 100)]
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        # one byte many times, as a run
        if len(set(plane)) == 1:
            segment = b"".join(bytes([257 - len(run)]) + run[:1] if len(run) > 1 else b"\0" + run for run in runs)
        segments.append(segment + b"\0" * (len(segment) % 2))
    begins = np.cumsum([64, *map(len, segments)])[:-1]
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(begins)] = len(begins), begins
    return header.tobytes(), *segments


def encapsulated(ds, streams, syntax, **options) -> None:
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(streams, **options)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


def raw(ds, keyword, text, encoding="ascii"):
    """A value that its kind does not allow, as damaged exports have it: pydicom itself would refuse to set it."""
    tag, encoded = Tag(keyword), text.encode(encoding)
    encoded += b" " * (len(encoded) % 2)
    ds._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(encoded), encoded, 0, False, True)


def save(datasets, folder, names=None, **options) -> Path:
    """Write datasets as files of one folder; by default under names that say nothing about their order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shuffled = np.random.default_rng(0).permutation(len(datasets))
    for number, ds in enumerate(datasets):
        name = names[number] if names else f"IM{shuffled[number]:04d}.dcm"
        pydicom.dcmwrite(folder / name, ds, **({"enforce_file_format": True} | options))
    return folder


def write_knee(folder, index=0, contrast="ciss", **options) -> tuple[np.ndarray, np.ndarray]:
    """A series of one knee; returns its (columns, rows, slices) array and affine."""
    array, affine = knee(index, contrast)
    options.setdefault("subject", f"knee-{index + 1}")
    save(slices(array, affine, **options), folder)
    return array, affine


def multi_frame(datasets, **tags):
    """The same slices as one Enhanced MR image: geometry in functional groups (PS3.3 C.7.6.16)."""
    first = datasets[0]
    ds = Dataset()
    ds.update({e.tag: e for e in first if e.keyword not in _PER_FRAME})
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.NumberOfFrames = len(datasets)
    ds.PixelData = b"".join(d.PixelData for d in datasets)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_only(first, "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_only(first, "PixelSpacing", "SliceThickness")]
    timing = _only(first, "RepetitionTime", "FlipAngle")
    shared.MRTimingAndRelatedParametersSequence = [timing]
    echo = Dataset()
    echo.EffectiveEchoTime = float(first.EchoTime)
    shared.MREchoSequence = [echo]
    transform = Dataset()
    transform.RescaleSlope = first.get("RescaleSlope", "1")
    transform.RescaleIntercept = first.get("RescaleIntercept", "0")
    transform.RescaleType = "US"
    shared.PixelValueTransformationSequence = [transform]
    kind = Dataset()
    kind.FrameType = first.ImageType
    shared.MRImageFrameTypeSequence = [kind]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, each in enumerate(datasets, 1):
        frame, content = Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber = "1", number
        content.DimensionIndexValues = [1, number]
        content.FrameAcquisitionNumber = 1
        frame.FrameContentSequence = [content]
        frame.PlanePositionSequence = [_only(each, "ImagePositionPatient")]
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    organization = uid("dimension")
    ds.DimensionOrganizationSequence = [Dataset()]
    ds.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    indices = []
    for keyword in ("StackID", "InStackPositionNumber"):
        index = Dataset()
        index.DimensionOrganizationUID = organization
        index.DimensionIndexPointer = pydicom.tag.Tag(keyword)
        index.FunctionalGroupPointer = pydicom.tag.Tag("FrameContentSequence")
        indices.append(index)
    ds.DimensionIndexSequence = indices
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return ds


_PER_FRAME = {
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "PixelData", "RescaleSlope",
    "RescaleIntercept", "EchoTime", "RepetitionTime", "FlipAngle",
}  # fmt: skip


def _only(source, *keywords):
    ds = Dataset()
    for keyword in keywords:
        setattr(ds, keyword, source[keyword].value)
    return ds


def same_voxels(volume: Volume, array, affine, tolerance=0.0) -> None:
    """Every voxel of `volume` lies where a voxel of (columns, rows, slices) lies, and has its value."""
    assert sorted(volume.shape) == sorted(array.shape)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in array.shape), indexing="ij"), -1).reshape(-1, 3)
    world = grid @ affine[:3, :3].T + affine[:3, 3]
    places = (world - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
    index = np.rint(places).astype(int)
    np.testing.assert_allclose(places, index, atol=2e-3)
    assert len(np.unique(index, axis=0)) == array.size
    np.testing.assert_allclose(volume.array[tuple(index.T)], array.ravel(), atol=tolerance, rtol=1e-6)


__all__ = ["UID", "compress", "encapsulated", "knee", "multi_frame", "raw", "same_voxels", "save", "slices", "uid"]
__all__ += ["write_knee"]
