"""The stored pixels of a DICOM file, frame by frame: what pydicom and its decoders make of them.

Decoders are named rather than left to chance: GDCM for JPEG, CharLS for JPEG-LS, OpenJPEG for JPEG 2000 and HTJ2K. Each
of them refuses a frame that is cut off (tests hold them to it).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom.tags import BIG_ENDIAN, EXPLICIT, IMPLICIT, Opened, number_of, shown, text_of, whole_of
from cyclescan.scans.volume import MAX_VOXELS

UNCOMPRESSED = {IMPLICIT, EXPLICIT, BIG_ENDIAN}
_JPEG = "1.2.840.10008.1.2.4."
# transfer syntax: pydicom's name of the decoder
DECODERS = {
    "1.2.840.10008.1.2.5": "pylibjpeg",
    **{_JPEG + n: "gdcm" for n in ("50", "51", "57", "70")},
    **{_JPEG + n: "pyjpegls" for n in ("80", "81")},
    **{_JPEG + n: "pylibjpeg" for n in ("90", "91", "201", "202", "203")},
}
EXTENDED = _JPEG + "51"
TAGS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "NumberOfFrames", "PhotometricInterpretation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
_GROUP = 0x7FE0
_ELEMENTS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}  # of that group
_BITS = {"FloatPixelData": (32,), "DoubleFloatPixelData": (64,), "PixelData": (8, 16, 32)}  # that a number may have
_LONG = (b"OB", b"OW", b"OF", b"OD", b"UN")  # value representations whose length has four bytes


@dataclasses.dataclass(frozen=True)
class Stored:
    """How the pixels of a file are stored.

    Attributes:
        rows, columns, frames: their number.
        bits, bits_stored: of a number, and how many of them are in use.
        signed: 1 where numbers are.
        keyword, vr: of the pixels' element.
        start: where its value begins in the stream.
    """

    rows: int
    columns: int
    frames: int
    bits: int
    bits_stored: int
    signed: int
    keyword: str
    vr: str
    start: int


def check(path: str, file: Opened) -> Stored:
    """How the pixels are stored, from the header alone; the stream of `file` stands at their element, and is moved.

    Raises:
        InputError: they are absent, cut off, coloured, or coded in a way that is not read.
    """
    dataset = file.dataset
    rows, columns, bits = (_positive(path, file, name) for name in ("Rows", "Columns", "BitsAllocated"))
    frames = max(1, whole_of(dataset, "NumberOfFrames") or 1)
    samples = whole_of(dataset, "SamplesPerPixel") or 1
    photometric = text_of(dataset, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("", "MONOCHROME2"):
        what = photometric if photometric not in ("", "MONOCHROME2") else f"{samples} samples a pixel"
        raise InputError(f"{path} holds {what}; images of one grey value a pixel (MONOCHROME2) are needed.")
    if rows * columns * frames > MAX_VOXELS:
        raise InputError(
            f"{path} claims {columns}x{rows}x{frames} voxels; at most {MAX_VOXELS} in one volume are allowed."
        )
    keyword, vr, length, start = _element(path, file)
    allowed = _BITS[keyword]
    if bits not in allowed:
        raise InputError(f"{path} has {bits} bits a pixel; {_listed(allowed)} allowed.")
    signed = int(bool(whole_of(dataset, "PixelRepresentation")))
    in_use = _bits_in_use(path, file, bits) if keyword == "PixelData" else bits
    stored = Stored(rows, columns, frames, bits, in_use, signed, keyword, vr, start)
    _check_coding(path, file.syntax, stored)
    if file.syntax in UNCOMPRESSED:
        there, needed = file.size - start, rows * columns * frames * bits // 8
        if min(there, length) < needed:
            raise InputError(
                f"{path} is truncated: {columns}x{rows}x{frames} pixels need {needed} bytes, {min(there, length)} are "
                "there."
            )
    return stored


def _positive(path: str, file: Opened, name: str) -> int:
    number = number_of(file.dataset, name)
    if number is None or number < 1:
        stated = shown(text_of(file.dataset, name)) if name in file.dataset else "(none)"
        raise InputError(f"{path} has the {name} {stated}; a positive whole number is needed.")
    return int(number)


def _bits_in_use(path: str, file: Opened, bits: int) -> int:
    in_use = whole_of(file.dataset, "BitsStored") or bits
    high = whole_of(file.dataset, "HighBit")
    if not 1 <= in_use <= bits:
        raise InputError(f"{path} has {in_use} bits in use of {bits} bits a pixel; 1 to {bits} are allowed.")
    if high not in (None, in_use - 1):
        raise InputError(
            f"{path} has {in_use} of {bits} bits a pixel in use, the highest of them {high}; it must be {in_use - 1}."
        )
    return in_use


def _listed(allowed: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, allowed[:-1]))} and {allowed[-1]} are" if len(allowed) > 1 else f"{allowed[0]} is"


def _element(path: str, file: Opened) -> tuple[str, str, int, int]:
    """Keyword, value representation and length of the pixels' element, and where its value begins."""
    begin = file.stream.tell()
    head = file.stream.read(12)
    order: Literal["little", "big"] = "little" if file.little else "big"
    group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
    if len(head) < 8 or group != _GROUP or element not in _ELEMENTS:
        raise InputError(f"{path} has no pixel data.")
    if head[4:6] in _LONG:
        return _ELEMENTS[element], head[4:6].decode(), int.from_bytes(head[8:12], order), begin + 12
    return _ELEMENTS[element], "OW", int.from_bytes(head[4:8], order), begin + 8


def _check_coding(path: str, syntax: str, stored: Stored) -> None:
    """Refuse what no decoder reads."""
    from pydicom.uid import UID

    if syntax in UNCOMPRESSED:
        return
    if syntax not in DECODERS or stored.keyword != "PixelData":
        raise InputError(
            f"{path} is coded as {UID(syntax).name}, which is not read; write it uncompressed first, for instance with "
            "gdcmconv --raw."
        )
    if syntax == EXTENDED and stored.bits_stored > 8:
        raise InputError(
            f"{path} is coded as JPEG Extended of {stored.bits_stored} bits, which is not read; write it uncompressed "
            "first, for instance with dcmdjpeg."
        )


def frames(path: str, file: Opened) -> Iterator[np.ndarray]:
    """The stored numbers of each frame in the order of the file, (rows, columns).

    Raises:
        InputError: see `check`; or the file is damaged.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    stored = check(path, file)
    options: dict[str, Any] = {
        "rows": stored.rows,
        "columns": stored.columns,
        "number_of_frames": stored.frames,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": stored.bits,
        "bits_stored": stored.bits_stored,
        "pixel_representation": stored.signed,
        "pixel_keyword": stored.keyword,
        "pixel_vr": stored.vr,
    }
    if "ExtendedOffsetTable" in file.dataset:
        options["extended_offsets"] = (file.dataset.ExtendedOffsetTable, file.dataset.ExtendedOffsetTableLengths)
    file.stream.seek(stored.start)
    decoder = get_decoder(UID(file.syntax))
    decoded = decoder.iter_array(file.stream, raw=True, decoding_plugin=DECODERS.get(file.syntax, ""), **options)
    for _ in range(stored.frames):
        with _damage(path):
            frame = next(decoded)[0]
            if frame.shape != (stored.rows, stored.columns):
                raise ValueError("a picture of another size")
        yield frame


@contextlib.contextmanager
def _damage(path: str) -> Iterator[None]:
    """Whatever a decoder stumbles over is damage of the file; its words are of no use to who has the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except BaseException as error:
        # a panic of a decoder in Rust is no `Exception`
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{path} is damaged: its pixels cannot be decoded.") from error
