"""From stored numbers to the values of a scan, as the header of each slice says for itself.

The modality transform comes first: Rescale Slope and Intercept, or a Modality LUT (PS3.3 C.11.1), of an enhanced image
those of the frame (C.7.6.16.2.9). A Real World Value Mapping (C.7.6.16.2.11) is used where it is all that a series
states, as in parametric maps; of CT it never is, because the modality transform makes Hounsfield units. Scale factors
in private tags are not used: they are a matter of one maker, and the same for a whole series.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom.tags import first_of

if TYPE_CHECKING:
    import pydicom

TAGS = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "RealWorldValueMappingSequence")
LARGEST_TABLE = 2**16


@dataclasses.dataclass(frozen=True)
class Mapping:
    """What stored numbers mean: a straight line, or a table.

    Attributes:
        slope, intercept: of the line.
        table: values as little-endian float64, of the stored numbers from `first` on; None for a line.
        first: the stored number of the table's first value.
        reach: the least and the largest stored number that has a meaning; None: all have. Beyond the ends of a table
            that has no reach, its first and last value go on.
    """

    slope: float = 1.0
    intercept: float = 0.0
    table: bytes | None = None
    first: int = 0
    reach: tuple[float, float] | None = None

    @property
    def is_identity(self) -> bool:
        return self.table is None and (self.slope, self.intercept) == (1.0, 0.0)

    def apply(self, stored: np.ndarray, name: str) -> np.ndarray:
        """Return the values of stored numbers, float64; or what was given where they are the same.

        Raises:
            InputError: a number lies outside the reach; it names the file `name`.
        """
        if self.reach and not (self.reach[0] <= stored.min() and stored.max() <= self.reach[1]):
            raise InputError(
                f"{name} has stored pixels from {stored.min():g} to {stored.max():g}, and its Real World Value Mapping "
                f"says what {self.reach[0]:g} to {self.reach[1]:g} mean."
            )
        if self.table is not None:
            table = _numbers_of(self.table)
            return table[np.clip(stored.astype(np.int64) - self.first, 0, len(table) - 1)]
        if self.is_identity:
            return stored
        return np.multiply(stored, self.slope, dtype=np.float64) + self.intercept


@functools.lru_cache(4)  # the slices of a series share their tables
def _numbers_of(table: bytes) -> np.ndarray:
    return np.frombuffer(table, "<f8")


def modality(name: str, places: Sequence[pydicom.Dataset | None], signed: bool, little: bool) -> Mapping | None:
    """Return the modality transform of a slice, None where its header has none.

    Args:
        name: the file, for sentences.
        places: datasets that may state it; the first that does counts.
        signed: whether the stored numbers are.
        little: the byte order of the file.

    Raises:
        InputError: a slope, an intercept or a table is there that is none.
    """
    for place in places:
        if place is None:
            continue
        if table := first_of(place, "ModalityLUTSequence"):
            return _modality_table(name, table, signed, little)
        slope, intercept = (_number(name, place, key) for key in ("RescaleSlope", "RescaleIntercept"))
        if slope is not None or intercept is not None:
            return _line(name, "RescaleSlope", 1.0 if slope is None else slope, intercept or 0.0)
    return None


def _line(name: str, keyword: str, slope: float, intercept: float) -> Mapping:
    if slope == 0:
        raise InputError(f"{name} has the {keyword} 0; it must be another number.")
    return Mapping(slope, intercept)


def real_world(name: str, places: Sequence[pydicom.Dataset | None], signed: bool) -> Mapping | None:
    """Return the first Real World Value Mapping of a slice, None where its header has none; see `modality`.

    Raises:
        InputError: one is there that says nothing, or with numbers that are none.
    """
    for place in places:
        item = first_of(place, "RealWorldValueMappingSequence")
        if item is None:
            continue
        first, last = (_either(name, item, f"RealWorldValue{end}ValueMapped", signed) for end in ("First", "Last"))
        limits = None if first is None or last is None else (first, last)
        values = item.get("RealWorldValueLUTData")
        if values not in (None, ""):
            if limits is None or not math.isclose(limits[1] - limits[0] + 1, np.size(values)):
                raise InputError(f"{name} has a RealWorldValueLUTData that does not fit its first and last value.")
            return Mapping(table=_packed(name, "RealWorldValueLUTData", values), first=int(limits[0]), reach=limits)
        slope = _number(name, item, "RealWorldValueSlope")
        if slope is None:
            raise InputError(f"{name} has a Real World Value Mapping without slope and without table.")
        line = _line(name, "RealWorldValueSlope", slope, _number(name, item, "RealWorldValueIntercept") or 0.0)
        return dataclasses.replace(line, reach=limits)
    return None


def of_volume(name: str, stated: Sequence[tuple[Mapping | None, Mapping | None]], hounsfield: bool) -> list[Mapping]:
    """Return which mapping holds for each slice of one volume: those of all are of one kind.

    Args:
        name: the file by which sentences name the volume.
        stated: of each slice the modality transform and the Real World Value Mapping.
        hounsfield: whether values are Hounsfield units: Real World Value Mappings are passed over.

    Raises:
        InputError: Real World Value Mappings are all that is stated, and some slices have none.
    """
    usual = [own or Mapping() for own, _ in stated]
    worlds = [world for _, world in stated]
    if hounsfield or not any(worlds) or not all(own.is_identity for own in usual):
        return usual
    known = [world for world in worlds if world]
    if len(known) < len(worlds):
        raise InputError(
            f"{name} is of a series of which {len(worlds) - len(known)} of {len(worlds)} slices have no Real "
            "World Value Mapping, and nothing else says what their numbers mean."
        )
    return known


def _either(name: str, item: pydicom.Dataset, keyword: str, signed: bool) -> float | None:
    """A stored number that is written as whole number, or as floating point under another keyword."""
    number = _number(name, item, f"DoubleFloat{keyword}")
    if number is None:
        number = _number(name, item, keyword)
        number = None if number is None else float(_as_stored(int(number), signed))
    return number


def _as_stored(number: int, signed: bool) -> int:
    """A 16-bit number as the pixels have it: which of the two representations it is in is not always known."""
    number &= 0xFFFF
    return number - 0x10000 if signed and number >= 0x8000 else number


def _number(name: str, place: pydicom.Dataset, keyword: str) -> float | None:
    """A number, None where it is absent or empty.

    Raises:
        InputError: it is something else. It decides over every value, so that it is not left out.
    """
    value = place.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        # what stands there may be the bytes of another tag, such as a name
        raise InputError(f"{name} has a {keyword} that is no finite number, so that its values are not known.")
    return number


def _modality_table(name: str, item: pydicom.Dataset, signed: bool, little: bool) -> Mapping:
    described, values = item.get("LUTDescriptor"), item.get("LUTData")
    try:
        count, first, bits = (int(v) for v in described)
        count = count & 0xFFFF or LARGEST_TABLE
        if isinstance(values, bytes):
            wide = bits > 8 or len(values) >= 2 * count
            if not (wide or little):
                raise ValueError("pairs of bytes that are swapped")
            values = np.frombuffer(values, ("<u2" if little else ">u2") if wide else "u1")
        # written as signed numbers in some files, though the values of a table never are
        table = np.asarray(values, np.int64).ravel()[:count] & (0xFFFF if bits > 8 else 0xFF)
    except (TypeError, ValueError):
        raise InputError(f"{name} has a ModalityLUTSequence that is damaged.") from None
    if len(table) < count:
        raise InputError(f"{name} has a ModalityLUTSequence of {len(table)} values that claims {count}.")
    return Mapping(table=_packed(name, "LUTData", table), first=_as_stored(first, signed))


def _packed(name: str, keyword: str, values: Any) -> bytes:
    try:
        table = np.asarray(values, "<f8").ravel()
    except (TypeError, ValueError):
        table = np.full(1, np.nan)
    if not np.isfinite(table).all():
        raise InputError(f"{name} has a {keyword} with values that are no finite numbers.")
    return table.tobytes()
