"""The working grid: one voxel size for all scans, and perhaps one shape."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence

from cyclescan.common.errors import InputError
from cyclescan.scans.volume import MAX_VOXELS
from data_prep.build.sources import Source

log = logging.getLogger(__name__)

MUCH = 0.75  # of a scan; if --shape keeps less of it, the user is told
LARGEST_PAD = 2  # --shape may be this many times the largest scan
AXES = ("depth", "height", "width")


def working_spacing(sources: dict[str, list[Source]], given: Sequence[float] | None) -> tuple[float, float, float]:
    """Return the voxel size in mm that is given, or else the median of all scans along each axis.

    Raises:
        InputError: what is given is not three positive numbers.
    """
    every = [s for each in sources.values() for s in each]
    if given is None:
        # six digits: a header's float32 has no more
        given = [float(f"{statistics.median(s.spacing_mm[axis] for s in every):.6g}") for axis in range(3)]
    spacing_mm = tuple(float(v) for v in given)
    if len(spacing_mm) != 3 or not all(math.isfinite(v) and v > 0 for v in spacing_mm):
        raise InputError(f"The spacing {numbers(spacing_mm)} mm is not allowed; it must be three positive numbers.")
    return spacing_mm[0], spacing_mm[1], spacing_mm[2]


def extent_of(source: Source, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return the number of voxels of a scan at the working spacing."""
    return tuple(round(n * s / w) for n, s, w in zip(source.shape, source.spacing_mm, spacing_mm, strict=True))


def checked_shape(
    sources: dict[str, list[Source]], spacing_mm: Sequence[float], shape: Sequence[int] | None
) -> tuple[int, int, int] | None:
    """Refuse a working grid that the scans cannot fill or that no memory holds."""
    extents = [extent_of(s, spacing_mm) for each in sources.values() for s in each]
    largest = [max(axis) for axis in zip(*extents, strict=True)]
    if min(largest) < 1:
        axis = largest.index(min(largest))
        raise InputError(
            f"The spacing of {spacing_mm[axis]:g} mm along {AXES[axis]} is larger than any scan; allowed is less."
        )
    voxels = max(map(math.prod, extents))
    if voxels > MAX_VOXELS:
        raise InputError(
            f"The spacing {numbers(spacing_mm)} mm gives a scan {voxels} voxels; at most {MAX_VOXELS} are allowed."
        )
    if shape is None:
        return None
    if len(shape) != 3 or not all(float(n).is_integer() and n >= 1 for n in shape):
        raise InputError(f"The shape {numbers(shape)} is not allowed; it must be three positive whole numbers.")
    for axis, n in enumerate(shape):
        if n > LARGEST_PAD * largest[axis]:
            raise InputError(
                f"The shape {numbers(shape)} is not reachable: along {AXES[axis]} the largest scan has "
                f"{largest[axis]} voxels of {spacing_mm[axis]:g} mm, and at most {LARGEST_PAD * largest[axis]} are "
                "allowed."
            )
    depth, height, width = (int(n) for n in shape)
    return depth, height, width


def warn_of_cropping(
    sources: dict[str, list[Source]], spacing_mm: Sequence[float], shape: Sequence[int] | None
) -> None:
    """Say how much of the scans a shape keeps, where it is less than `MUCH` of them along an axis."""
    if shape is None:
        return
    every = [s for each in sources.values() for s in each]
    extent = [statistics.median(s.shape[axis] * s.spacing_mm[axis] for s in every) for axis in range(3)]
    kept = [n * w for n, w in zip(shape, spacing_mm, strict=True)]
    if any(k < MUCH * e for k, e in zip(kept, extent, strict=True)):
        log.warning(
            "--shape %s keeps the middle %s mm of scans of %s mm (median); --spacing-mm, now %s, decides how much "
            "of a scan that is.",
            *(" x ".join(f"{v:.3g}" for v in values) for values in (shape, kept, extent, spacing_mm)),
        )


def numbers(values: Sequence[float]) -> str:
    """Write numbers for a sentence: 3 x 1.1 x 1.1."""
    return " x ".join(str(int(v)) if float(v).is_integer() else f"{v:g}" for v in values)
