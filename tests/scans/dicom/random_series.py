"""Random DICOM series that know their own truth: every odd thing that scanners and archives do, by a seed.

`make(seed, folder)` writes the files of one case and returns the volumes that are in them, from the numbers that it
drew and not from the files. It shares no code with the reader.
"""

import copy
import dataclasses

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from tests.scans.dicom.dicom_files import compress, uid

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)
MAKERS = (
    "SIEMENS",
    "Philips Medical Systems",
    "GE MEDICAL SYSTEMS",
    "TOSHIBA",
    "Canon",
    "UIH",
    "Hitachi",
    "",
    "Ünsinn",
)
# what a series may lack, in all of its slices or in some
OPTIONAL = (
    "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "InstanceNumber", "SliceThickness", "SeriesNumber",
    "Manufacturer", "ImageType", "HighBit", "EchoTime", "RepetitionTime", "AcquisitionNumber", "PatientPosition",
    "SeriesDescription", "SpacingBetweenSlices", "Modality",
)  # fmt: skip
KINDS = (
    "plain", "plain", "plain", "copies", "twins", "echoes", "two numbers", "concatenation",
    "hole", "tilt", "uneven", "float", "real world",
)  # fmt: skip
REFUSED = ("hole", "tilt", "uneven")  # nothing of these can be read


@dataclasses.dataclass
class Case:
    """What was written.

    Attributes:
        kind: one of `KINDS`.
        about: what was drawn, for the message of a test.
        volumes: arrays (columns, rows, slices), float64, each with its affine (RAS+) to a frame of reference; what a
            reader may find. Where there are several, a reader may refuse them.
        unclear: nobody could tell whether it is one series or two, so that it may be refused.
    """

    kind: str
    about: dict
    volumes: list
    unclear: bool = False


@dataclasses.dataclass
class _Drawn:
    """One volume as it was drawn: stored numbers, what they mean, and where slices lie."""

    stored: np.ndarray  # (slices, rows, columns)
    values: np.ndarray  # the same, float64
    positions: np.ndarray  # (slices, 3), LPS
    scales: list  # of each slice: dict of tags
    table: Dataset | None
    echo: str = "2.46"
    number: int = 5


def make(seed: int, folder) -> Case:
    """Write the files of one case into `folder` and return what they hold."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(KINDS))
    enhanced = bool(rng.random() < 0.45) or kind == "concatenation"
    if kind in ("copies", "two numbers"):
        enhanced = False
    coding = _Coding(rng, kind)
    frame = _Frame(rng, kind)
    first = _draw(rng, frame, coding, kind)
    drawn = [first]
    if kind in ("twins", "echoes", "two numbers"):
        drawn.append(_draw(rng, frame, coding, kind, second=True))
    about = {"folder": folder.name, "seed": seed, "kind": kind, "enhanced": enhanced, **frame.about, **coding.about}
    name = f"fuzz {seed}"
    datasets = []
    for number, each in enumerate(drawn):
        made = _enhanced(rng, name, frame, coding, each, kind, number) if enhanced else _classic(
            rng, name, frame, coding, each, number, about)  # fmt: skip
        datasets += made
    if kind == "twins" and not enhanced:
        _number_twins(rng, datasets, drawn, about)
    if kind == "two numbers":
        for ds in datasets:
            del ds.SeriesInstanceUID
    if kind == "copies":
        datasets = _with_copies(rng, datasets, about)
    _save(rng, datasets, folder, coding)
    volumes = [(each.values.transpose(2, 1, 0), frame.affine(each.positions)) for each in drawn]
    overlap = frame.thickness > 1.5 * frame.gap and about.get("numbering") in ("pairs", "random")
    return Case(kind, about, [] if kind in REFUSED else volumes, unclear=overlap)


class _Frame:
    """The grid: size, spacing, orientation."""

    def __init__(self, rng, kind):
        self.rows, self.columns = (int(n) for n in 5 + rng.choice(10, 2, replace=False))
        self.count = int(rng.integers(4, 12))
        self.spacing = [round(float(v), 4) for v in rng.uniform(0.3, 2.5, 2)]
        self.gap = round(float(rng.uniform(0.4, 5)), 3)
        if rng.random() < 0.5:
            turned = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
        else:
            turned, upper = np.linalg.qr(rng.normal(size=(3, 3)))
            turned = turned * np.sign(np.diag(upper))
        self.row, self.column = turned[0], turned[1]
        self.normal = np.cross(self.row, self.column)
        self.origin = rng.uniform(-150, 150, 3)
        self.kind = kind
        self.about = {"oblique": bool((np.abs(turned) < 0.99).all()), "slices": self.count}
        self.thickness = self.gap * float(rng.choice([1, 1, 0.8, 2])) if kind != "twins" else self.gap

    def positions(self, shift=0.0):
        places = np.arange(self.count, dtype=float)
        if self.kind == "uneven":
            places[self.count // 2 :] += 0.3
        positions = self.origin + np.outer(places + shift, self.normal * self.gap)
        if self.kind == "tilt":
            positions = positions + np.outer(places, self.column * max(0.4 * self.gap, 1.2 * max(self.spacing)))
        return np.round(positions, 6)

    def affine(self, positions):
        lps = np.eye(4)
        lps[:3, 0], lps[:3, 1] = self.row * self.spacing[1], self.column * self.spacing[0]
        lps[:3, 2], lps[:3, 3] = self.normal * self.gap, positions[0]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


class _Coding:
    """How numbers are stored, and what they mean."""

    def __init__(self, rng, kind):
        self.syntax = UID(rng.choice(SYNTAXES)) if kind != "float" else UID(rng.choice(SYNTAXES[:3]))
        packed = self.syntax.is_encapsulated
        self.bits = int(rng.choice([8, 16, 16, 16] if packed else [8, 16, 16, 16, 32]))
        self.in_use = self.bits if rng.random() < 0.4 else int(rng.integers(max(8, self.bits // 2 + 1), self.bits + 1))
        self.signed = bool(rng.random() < 0.5)
        # of unused bits the standard says nothing; overlays lay there
        self.junk = not packed and self.in_use < self.bits and rng.random() < 0.4
        self.scale = str(rng.choice(["none", "one", "each", "nearly", "offset", "table", "empty", "negative"]))
        if kind == "float":
            self.scale = "none"
        if kind == "real world":
            self.scale = str(rng.choice(["none", "identity"]))
        if self.scale == "table" and self.bits == 32:
            self.scale = "each"
        self.about = {k: str(v) for k, v in vars(self).items()} | {"syntax": self.syntax.name}


def _draw(rng, frame, coding, kind, second=False):
    shape = frame.count, frame.rows, frame.columns
    low, high = (-(2 ** (coding.in_use - 1)), 2 ** (coding.in_use - 1) - 1) if coding.signed else (
        0, 2**coding.in_use - 1)  # fmt: skip
    smooth = np.linspace(low, high, shape[0] * shape[1] * shape[2]).reshape(shape)
    noise = rng.integers(low, high, shape, endpoint=True)
    stored = np.where(rng.random(shape) < 0.5, noise, smooth).astype(np.int64)
    stored[rng.integers(frame.count), 0, :2] = low, high
    if kind == "float":
        stored = rng.normal(0, 300, shape).astype(np.float32)
    shift = 0.5 if kind == "twins" and second else 0.0
    positions = frame.positions(shift)
    scales, table = [], None
    values = stored.astype(np.float64)
    for k in range(frame.count):
        slope, intercept = {
            "one": ("0.37", "-12.5"),
            "each": (f"{0.5 + 0.125 * ((7 * k) % 11):g}", f"{3 * k}"),
            "nearly": (f"{1.25 + 4e-7 * k:.9f}", "0"),
            "offset": (None, "-1024"),
            "negative": ("-0.5", "7"),
            "identity": ("1", "0"),
            "empty": ("", ""),
        }.get(coding.scale, (None, None))
        scales.append({n: v for n, v in (("RescaleSlope", slope), ("RescaleIntercept", intercept)) if v is not None})
        if coding.scale not in ("none", "table", "empty", "identity"):
            values[k] = values[k] * float(slope or 1) + float(intercept or 0)
    if coding.scale == "table":
        table, values = _table(rng, stored, coding, low, high)
    if kind == "real world":
        values = stored * 0.03125 + 4.5
    each = _Drawn(stored, values, positions, scales, table)
    if second:
        each.echo = "4.92" if kind == "echoes" else each.echo
        each.number = 6 if kind == "two numbers" else each.number
    return each


def _table(rng, stored, coding, low, high):
    """A Modality LUT that does not cover all stored numbers: its ends go on."""
    count = int(min(rng.integers(20, 3000), high - low))
    first = int(rng.integers(max(low, -(2**15)), min(high, 2**15 - 1) + 1)) if coding.signed else int(
        rng.integers(0, min(high, 2**15)))  # fmt: skip
    outcome = rng.integers(0, 2**16, count)
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if coding.signed else "US", [count, first, 16])
    if coding.signed:
        item["LUTDescriptor"].value = [count if count < 2**15 else count - 2**16, first, 16]
    order = ">u2" if coding.syntax == ExplicitVRBigEndian else "<u2"
    item.add_new("LUTData", "OW", outcome.astype(order).tobytes())
    item.ModalityLUTType = "US"
    values = outcome[np.clip(stored - first, 0, count - 1)].astype(float)
    return item, values


def _head(rng, name, frame, coding, sop_class, serial):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = coding.syntax
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid(name, serial)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(name, "study"), uid(name, "series")
    ds.FrameOfReferenceUID = uid(name, "frame")
    ds.PatientID, ds.PatientName, ds.Modality = "P-" + name[5:], "Fuzz^Y", "CT" if sop_class == CTImageStorage else "MR"
    ds.SeriesDescription, ds.SeriesNumber, ds.PatientPosition = "fuzz", 5, "HFS"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = frame.rows, frame.columns, 1, "MONOCHROME2"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    return ds


def _classic(rng, name, frame, coding, drawn, serial, about):
    maker = str(rng.choice(MAKERS))
    numbering = str(rng.choice(["right", "right", "back", "random", "one", "none", "pairs"]))
    numbers = {
        "right": np.arange(frame.count) + 1,
        "back": frame.count - np.arange(frame.count),
        "random": rng.permutation(frame.count) + 1,
        "one": np.ones(frame.count, int),
        "none": [None] * frame.count,
        "pairs": np.arange(frame.count) // 2 + 1,
    }[numbering]
    about |= {"maker": maker, "numbering": numbering, f"lacks {serial}": (lacks := _lacks(rng, frame.count))}
    sop_class = CTImageStorage if about["kind"] == "plain" and serial == 0 and rng.random() < 0.3 else MRImageStorage
    made = []
    for k in range(frame.count):
        ds = _head(rng, name, frame, coding, sop_class, f"{serial}-{k}")
        ds.Manufacturer, ds.AcquisitionNumber = maker, 1
        ds.InstanceNumber = None if numbers[k] is None else int(numbers[k])
        ds.SeriesNumber, ds.EchoTime, ds.RepetitionTime = drawn.number, drawn.echo, "5.9"
        ds.PixelSpacing, ds.SliceThickness = frame.spacing, round(frame.thickness, 4)
        ds.ImageOrientationPatient = [f"{v:.12f}" for v in (*frame.row, *frame.column)]
        ds.ImagePositionPatient = [f"{v:.6f}" for v in drawn.positions[k]]
        for keyword, value in drawn.scales[k].items():
            setattr(ds, keyword, value)
        if drawn.table:
            ds.ModalityLUTSequence = [drawn.table]
        if about["kind"] == "real world":
            ds.RealWorldValueMappingSequence = [_real_world(coding)]
        _pixels(rng, ds, drawn.stored[k : k + 1], coding)
        for keyword in lacks.get(k, ()):
            if keyword in ds:
                del ds[keyword]
        made.append(ds)
    if about["kind"] == "hole":
        del made[int(rng.integers(1, frame.count - 1))]
    return made


def _lacks(rng, count):
    """Optional tags that are missing, by slice."""
    chosen = rng.choice(OPTIONAL, int(rng.integers(0, 5)), replace=False)
    everywhere = rng.random(len(chosen)) < 0.6
    return {
        k: [str(n) for n, all_ in zip(chosen, everywhere, strict=True) if all_ or rng.random() < 0.4]
        for k in range(count)
    }


def _real_world(coding):
    item = Dataset()
    vr = "SS" if coding.signed else "US"
    if coding.bits <= 16:
        low, high = (-(2**15), 2**15 - 1) if coding.signed else (0, 2**16 - 1)
        item.add_new("RealWorldValueFirstValueMapped", vr, low)
        item.add_new("RealWorldValueLastValueMapped", vr, high)
    else:
        item.DoubleFloatRealWorldValueFirstValueMapped = -(2.0**33)
        item.DoubleFloatRealWorldValueLastValueMapped = 2.0**33
    item.RealWorldValueSlope, item.RealWorldValueIntercept = 0.03125, 4.5
    item.LUTLabel, item.LUTExplanation = "T1", "T1 in ms"
    return item


def _enhanced(rng, name, frame, coding, drawn, kind, serial):
    order = rng.permutation(frame.count) if rng.random() < 0.7 else np.arange(frame.count)
    if kind == "hole":
        order = order[order != frame.count // 2]
    parts = np.array_split(order, int(rng.integers(2, 4))) if kind == "concatenation" else [order]
    own_scale, indexed = rng.random() < 0.5 or coding.scale in ("each", "nearly"), rng.random() < 0.5
    maker, shared_plane = str(rng.choice(MAKERS)), rng.random() < 0.5
    made = []
    for number, part in enumerate(parts):
        ds = _head(rng, name, frame, coding, EnhancedMRImageStorage, f"{serial}-{number}")
        ds.Manufacturer, ds.NumberOfFrames, ds.InstanceNumber = maker, len(part), int(rng.integers(1, 4))
        if kind == "concatenation":
            ds.ConcatenationUID = uid(name, "concatenation")
            ds.InConcatenationNumber, ds.InConcatenationTotalNumber = number + 1, len(parts)
        shared = Dataset()
        plane = _item(ImageOrientationPatient=[f"{v:.12f}" for v in (*frame.row, *frame.column)])
        measures = _item(PixelSpacing=frame.spacing, SliceThickness=round(frame.thickness, 4))
        if shared_plane:
            shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
        shared.MREchoSequence = [_item(EffectiveEchoTime=float(drawn.echo))]
        if not own_scale and drawn.scales[0]:
            shared.PixelValueTransformationSequence = [_item(**drawn.scales[0], RescaleType="US")]
        if kind == "real world":
            shared.RealWorldValueMappingSequence = [_real_world(coding)]
        ds.SharedFunctionalGroupsSequence = [shared]
        frames = []
        for place, k in enumerate(part):
            group = Dataset()
            group.PlanePositionSequence = [_item(ImagePositionPatient=[f"{v:.6f}" for v in drawn.positions[k]])]
            if not shared_plane:
                group.PlaneOrientationSequence, group.PixelMeasuresSequence = [plane], [measures]
            if own_scale and drawn.scales[k]:
                group.PixelValueTransformationSequence = [_item(**drawn.scales[k], RescaleType="US")]
            if indexed:
                # of what an index says some makers are sure and some are not: the place counts
                index = int(k) + 1 if rng.random() < 0.7 else place + 1
                group.FrameContentSequence = [_item(StackID="1", InStackPositionNumber=index,
                                                    DimensionIndexValues=[1, index])]  # fmt: skip
            frames.append(group)
        ds.PerFrameFunctionalGroupsSequence = frames
        if drawn.table:
            ds.ModalityLUTSequence = [drawn.table]
        _pixels(rng, ds, drawn.stored[part], coding)
        made.append(ds)
    return made


def _item(**tags):
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def _pixels(rng, ds, stored, coding):
    """Frames (frames, rows, columns) as they lie in a file."""
    if stored.dtype.kind == "f":
        ds.BitsAllocated = 32
        ds.FloatPixelData = stored.astype(">f4" if coding.syntax == ExplicitVRBigEndian else "<f4").tobytes()
        return
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = coding.bits, coding.in_use, coding.in_use - 1
    ds.PixelRepresentation = int(coding.signed)
    numbers = stored & (2**coding.bits - 1)
    if coding.junk:
        unused = (2**coding.bits - 1) ^ (2**coding.in_use - 1)
        numbers = (numbers & ~unused) | (rng.integers(0, 2**31, stored.shape) & unused)
    kind = f"u{coding.bits // 8}"
    if coding.syntax.is_encapsulated:
        ds.PixelData = numbers.astype("<" + kind).tobytes()
        selection = 1 if coding.syntax == JPEGLosslessSV1 else int(rng.integers(1, 8))
        compress(ds, coding.syntax, rng.choice([coding.in_use, coding.bits]).item(), selection)
        return
    data = numbers.astype((">" if coding.syntax == ExplicitVRBigEndian else "<") + kind).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if coding.bits == 8 else "OW"


def _number_twins(rng, datasets, drawn, about):
    """Two series under one id, half a slice apart: what says that they are two."""
    about["told by"] = tell = str(
        rng.choice(["EchoTime", "SeriesNumber", "EchoNumbers", "InstanceNumber", "AcquisitionNumber"])
    )
    count = len(drawn[0].stored)
    for k, ds in enumerate(datasets):
        second = k >= count
        ds.InstanceNumber = k % count + 1
        ds.SliceThickness = round(float(np.linalg.norm(drawn[0].positions[1] - drawn[0].positions[0])), 4)
        ds.SeriesNumber, ds.EchoTime, ds.AcquisitionNumber, ds.ImageType = 5, "2.46", 1, ["ORIGINAL", "PRIMARY", "M"]
        if tell != "InstanceNumber":
            setattr(ds, tell, "7" if second else "3")


def _with_copies(rng, datasets, about):
    """Some slices once more, under their own UID or another."""
    again = rng.choice(len(datasets), int(rng.integers(1, len(datasets))), replace=False)
    renamed = about["renamed"] = bool(rng.random() < 0.5)
    for k in again:
        other = copy.deepcopy(datasets[k])
        if renamed:
            other.SOPInstanceUID = uid(other.SOPInstanceUID, "again")
        datasets.append(other)
    return datasets


def _save(rng, datasets, folder, coding):
    folder.mkdir(parents=True, exist_ok=True)
    names = rng.permutation(len(datasets))
    for ds, name in zip(datasets, names, strict=True):
        ds.file_meta.TransferSyntaxUID = coding.syntax
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        pydicom.dcmwrite(folder / f"IM{name:04d}", ds, enforce_file_format=True)


__all__ = ["KINDS", "REFUSED", "SYNTAXES", "Case", "make"]
