"""A DICOM file opened and its tags read with care: whatever is in them, nothing but an `InputError` comes out.

Sentences about a file hold nothing of it but numbers: a damaged tag may have the bytes of another, such as a name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import math
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from cyclescan.common.errors import InputError

if TYPE_CHECKING:
    import pydicom

PREAMBLE = 128
MAGIC = b"DICM"
IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"  # transfer syntaxes
_DEFLATED = "1.2.840.10008.1.2.1.99"
_LARGEST_INFLATED = 2**33  # bytes; a volume of the most voxels that are allowed, as 32 bits each


@dataclasses.dataclass(frozen=True)
class Opened:
    """An open file: its tags before the pixels, a stream that stands at the pixels' element, and how both are coded.

    Attributes:
        dataset: the tags that were asked for.
        stream: at the pixels' element; at its end where the file has none.
        size: of the stream, bytes.
        syntax: TransferSyntaxUID; what the bytes look like where it is missing.
    """

    dataset: pydicom.Dataset
    stream: BinaryIO
    size: int
    syntax: str

    @property
    def little(self) -> bool:
        return self.syntax != BIG_ENDIAN


def is_dicom(path: str | os.PathLike) -> bool:
    """Return whether a file is DICOM: `DICM` after a preamble of 128 bytes, or, in old exports, group 8 at once."""
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


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """Silence pydicom's warnings of values that break a rule: scanners write them, and we check what we use."""
    from pydicom import config

    with warnings.catch_warnings(), config.disable_value_validation():
        # by their origin, not by message: messages hold the values, and with them a name
        warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")
        logger = logging.getLogger("pydicom")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


@contextlib.contextmanager
def opened(path: str, keywords: Sequence[str], deep: bool = False) -> Iterator[Opened]:
    """Open a file and read those of its tags that are named, up to its pixels.

    Args:
        path: the file.
        keywords: of the tags.
        deep: find out now whether one of the values is damaged, rather than where it is used.

    Raises:
        InputError: it is gone, no DICOM, or damaged.
    """
    with contextlib.ExitStack() as stack:
        if not os.path.isfile(path):
            raise InputError(f"{path} is a broken link or no file.")
        try:
            stream = stack.enter_context(open(path, "rb"))
            if not _begins_as_dicom(stream):
                raise InputError(f"{path} has the name of a DICOM file but is none.")
            file = _open(stream, list(keywords))
            if deep:
                list(file.dataset.iterall())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
        except InputError:
            raise
        except Exception as error:  # pydicom raises whatever its parsing of damaged bytes ran into
            # its text may hold the bytes it stumbled over, and with them a name
            raise InputError(f"{path} is a damaged DICOM file ({type(error).__name__}).") from error
        yield file


def _open(stream: BinaryIO, keywords: list[str]) -> Opened:
    import pydicom

    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=keywords)
    meta: Any = getattr(dataset, "file_meta", None)
    list(meta or ())  # reading a value is what finds out that it is damaged
    syntax = text_of(meta, "TransferSyntaxUID")
    if syntax == _DEFLATED:
        # pydicom keeps what it inflates to itself
        stream.seek(PREAMBLE + len(MAGIC) + 12 + int(meta.FileMetaInformationGroupLength))
        stream = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), _LARGEST_INFLATED))
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=keywords)
        dataset.file_meta = meta
        return Opened(dataset, stream, stream.getbuffer().nbytes, EXPLICIT)
    if not syntax:
        implicit, little = dataset.original_encoding
        syntax = IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
    return Opened(dataset, stream, os.fstat(stream.fileno()).st_size, syntax)


def read_value(path: str, keyword: str) -> str:
    """Return one value of a file's header as text, "" where there is none or the file cannot be read."""
    import pydicom

    try:
        with lenient():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=[keyword])
            return legible(dataset, text_of(dataset, keyword))
    except Exception:  # see `opened`; a file without the value is not chosen by it
        return ""


def shown(value: object) -> str:
    """Return a value for a sentence, if it is made of numbers: a damaged tag may hold the bytes of another, such as a
    name.
    """
    text = str(value)[:60]
    return text if re.fullmatch(r"[-+\d.,eE\s\\\[\]']+|nan|\[nan.*", text) else "(no numbers)"


def number_of(dataset: pydicom.Dataset | None, name: str) -> float | None:
    """Return a finite number of a header, None where there is none."""
    try:
        number = float(dataset.get(name)) if dataset is not None else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def whole_of(dataset: pydicom.Dataset | None, name: str) -> int | None:
    """Return a number of a header without what follows its point, None where there is none."""
    number = number_of(dataset, name)
    return None if number is None else int(number)


def text_of(dataset: pydicom.Dataset | None, name: str) -> str:
    """Return a value as text, several joined by a backslash; "" where there is none."""
    value = dataset.get(name) if dataset is not None else None
    if value is None:
        return ""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return str(value).strip()
    return "\\".join(str(v) for v in value)


def is_legible(dataset: pydicom.Dataset, text: str) -> bool:
    """Return whether it is known which letters a text of this dataset has: all ASCII, or of a character set that it
    states.
    """
    if text.isascii():
        return True
    from pydicom.charset import default_encoding, python_encoding

    stated = (name.strip() for name in text_of(dataset, "SpecificCharacterSet").split("\\"))
    # some write "ISO IR 100" or "ISO-IR 100", which is as clear
    encodings = {
        python_encoding.get(name) or python_encoding.get(re.sub(r"^ISO.IR ", "ISO_IR ", name)) for name in stated
    }
    return bool(encodings - {None, default_encoding}) and "\ufffd" not in text


def legible(dataset: pydicom.Dataset, text: str) -> str:
    """Return a text for people to read: a question mark stands for each letter that nobody knows."""
    return text if is_legible(dataset, text) else text.encode("ascii", "replace").decode()


def items_of(dataset: pydicom.Dataset | None, sequence: str) -> Sequence[pydicom.Dataset]:
    """Return the items of a sequence; none where it is absent, or something else under a damaged tag."""
    import pydicom

    items = dataset.get(sequence) if dataset is not None else None
    return items if isinstance(items, pydicom.Sequence) else ()


def first_of(dataset: pydicom.Dataset | None, sequence: str) -> pydicom.Dataset | None:
    """Return the first item of a sequence, None where there is none."""
    return next(iter(items_of(dataset, sequence)), None)
