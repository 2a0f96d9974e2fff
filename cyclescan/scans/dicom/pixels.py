"""The stored pixels of a DICOM file, frame by frame: pydicom takes frames out of files, imagecodecs decompresses them.

imagecodecs calls libjpeg-turbo, CharLS and OpenJPEG. A stream that is cut off, or of another size than the header says,
is refused: libjpeg would fill up what is missing. What a damaged stream decodes to cannot be told from a picture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom.tags import BIG_ENDIAN, EXPLICIT, IMPLICIT, Opened, number_of, shown, text_of, whole_of
from cyclescan.scans.volume import MAX_VOXELS

UNCOMPRESSED = {IMPLICIT, EXPLICIT, BIG_ENDIAN}
RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
JPEG = {_JPEG + n for n in ("50", "51", "57", "70")}  # baseline, extended, lossless twice
JPEG_LS = {_JPEG + n for n in ("80", "81")}
JPEG_2000 = {_JPEG + n for n in ("90", "91", "201", "202", "203")}  # and HTJ2K
COMPRESSED = {RLE, *JPEG, *JPEG_LS, *JPEG_2000}
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
    """Return how the pixels are stored, from the header alone; the stream of `file` stands at their element, and is
    moved.

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
    if syntax not in COMPRESSED or stored.keyword != "PixelData":
        raise InputError(
            f"{path} is coded as {UID(syntax).name}, which is not read; write it uncompressed first, for instance with "
            "gdcmconv --raw."
        )


def frames(path: str, file: Opened) -> Iterator[np.ndarray]:
    """Yield the stored numbers of each frame in the order of the file, (rows, columns).

    Raises:
        InputError: see `check`; or the file is damaged.
    """
    stored = check(path, file)
    file.stream.seek(stored.start)
    decoded = _native(file, stored) if file.syntax in UNCOMPRESSED else _decompressed(file, stored)
    for _ in range(stored.frames):
        with _damage(path):
            frame = next(decoded)
        yield frame


def _native(file: Opened, stored: Stored) -> Iterator[np.ndarray]:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

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
    return (frame for frame, _ in get_decoder(UID(file.syntax)).iter_array(file.stream, raw=True, **options))


def _decompressed(file: Opened, stored: Stored) -> Iterator[np.ndarray]:
    import imagecodecs
    from pydicom.encaps import generate_frames

    offsets = None
    if "ExtendedOffsetTable" in file.dataset:
        offsets = file.dataset.ExtendedOffsetTable, file.dataset.ExtendedOffsetTableLengths
    for encoded in generate_frames(file.stream, number_of_frames=stored.frames, extended_offsets=offsets):
        if file.syntax == RLE:
            yield _in_use(_rle(encoded, stored), stored, stored.bits_stored)
            continue
        described = _of_jpeg_2000(encoded) if file.syntax in JPEG_2000 else _of_jpeg(encoded)
        # known before it is decoded: a damaged size would ask for any amount of memory
        if (described.rows, described.columns, described.parts) != (stored.rows, stored.columns, 1):
            raise ValueError("a picture of another size")
        decode: Callable[[bytes], np.ndarray] = imagecodecs.jpeg8_decode
        if file.syntax not in JPEG:
            decode = imagecodecs.jpegls_decode if file.syntax in JPEG_LS else imagecodecs.jpeg2k_decode
        numbers = decode(encoded)
        if numbers.shape != (stored.rows, stored.columns) or numbers.itemsize * 8 > stored.bits:
            raise ValueError("a picture of another kind")
        yield _in_use(numbers, stored, min(stored.bits_stored, described.bits))


class _Described(NamedTuple):
    """What a stream says of its picture: pixels, components of each, and bits of a component."""

    rows: int
    columns: int
    parts: int
    bits: int


def _of_jpeg(encoded: bytes) -> _Described:
    """Of a JPEG or JPEG-LS stream that is there to its end (ISO 10918-1, B.2.2)."""
    if not encoded.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # made even, by one or the other
        raise ValueError("a stream that is cut off")
    place = 2
    while encoded[place] == 0xFF:
        marker = encoded[place + 1]
        if marker in (*range(0xC0, 0xC4), 0xF7):
            bits, rows, columns, parts = struct.unpack_from(">BHHB", encoded, place + 4)
            return _Described(rows, columns, parts, bits)
        # a marker may be filled up with 0xFF
        place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", encoded, place + 2)[0]
    raise ValueError("a stream without a picture")


def _of_jpeg_2000(encoded: bytes) -> _Described:
    """Of a codestream, or of one in a JP2 file (ISO 15444-1, A.5.1)."""
    place = encoded.index(b"\xff\x4f\xff\x51")
    columns, rows, left, top = struct.unpack_from(">4L", encoded, place + 8)
    parts, kind = struct.unpack_from(">HB", encoded, place + 40)
    return _Described(rows - top, columns - left, parts, (kind & 0x7F) + 1)


def _rle(encoded: bytes, stored: Stored) -> np.ndarray:
    """Of each byte of the numbers there is one segment, the highest first (PS3.5 Annex G)."""
    import imagecodecs

    width, count = stored.bits // 8, stored.rows * stored.columns
    segments, *begins = struct.unpack("<16L", encoded[:64])
    if segments != width:
        raise ValueError("a segment too many or too few")
    numbers = np.empty((count, width), np.uint8)
    for i, (begin, end) in enumerate(itertools.pairwise([*begins[:width], len(encoded)])):
        segment = np.frombuffer(imagecodecs.packbits_decode(encoded[begin:end]), np.uint8)
        if len(segment) not in (count, count + 1):  # made even
            raise ValueError("a segment of another length")
        numbers[:, width - 1 - i] = segment[:count]
    return numbers.view(f"<u{width}").reshape(stored.rows, stored.columns)


def _in_use(numbers: np.ndarray, stored: Stored, bits: int) -> np.ndarray:
    """The lowest bits of each number, as signed ones where the header says so: few codings know about signs."""
    unused = stored.bits - bits
    shifted = numbers.astype(f"u{stored.bits // 8}") << unused
    return shifted.view(f"i{stored.bits // 8}" if stored.signed else shifted.dtype) >> unused


@contextlib.contextmanager
def _damage(path: str) -> Iterator[None]:
    """Whatever a decoder stumbles over is damage of the file; its words are of no use to who has the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        raise InputError(f"{path} is damaged: its pixels cannot be decoded.") from error
