"""Intensities to [-1, 1] and back, with the statistics of the whole volume or fixed limits; never of a patch."""

from __future__ import annotations

import numpy as np

from cyclescan.errors import InputError

MR_SCALING = "percentile:0.5,99.5"
CT_SCALING = "window_hu:-1000,1500"


def parse(scaling: str) -> tuple[str, float, float]:
    """Split `kind:low,high`.

    Raises:
        InputError: the kind is not `percentile` or `window_hu`, or the two numbers are not in order.
    """
    allowed = "percentile:LOW,HIGH with 0 <= LOW < HIGH <= 100, or window_hu:LOW,HIGH with LOW < HIGH"
    kind, _, numbers = scaling.partition(":")
    try:
        low, high = (float(n) for n in numbers.split(","))
    except ValueError:
        raise InputError(f"The intensity scaling {scaling!r} is not understood; allowed is {allowed}.") from None
    in_range = kind == "window_hu" or (kind == "percentile" and low >= 0 and high <= 100)
    if not in_range or not low < high or not np.isfinite([low, high]).all():
        raise InputError(f"The intensity scaling {scaling!r} is not allowed; allowed is {allowed}.")
    return kind, low, high


def measure(array: np.ndarray, scaling: str) -> dict:
    """The intensities that become -1 and 1.

    Args:
        array: a whole volume in scanner units or HU.
        scaling: `percentile:LOW,HIGH` (of all voxels, linear interpolation) or `window_hu:LOW,HIGH`.

    Raises:
        InputError: the two percentiles of the volume are the same value.
    """
    kind, low, high = parse(scaling)
    if kind == "percentile":
        first, second = low, high
        low, high = (float(v) for v in np.percentile(array, [first, second]))
        if not high > low:
            raise InputError(
                f"The percentiles {first:g} and {second:g} of the scan are both {low:g}; it has too little contrast "
                "for this scaling."
            )
    return {"step": "intensity", "scaling": scaling, "low": low, "high": high}


def apply(array: np.ndarray, record: dict) -> np.ndarray:
    """Map [low, high] linearly to [-1, 1] and clip; float32."""
    low, high = np.float32(record["low"]), np.float32(record["high"])
    return np.clip((np.asarray(array, np.float32) - low) * (np.float32(2) / (high - low)) - 1, -1, 1)


def invert(array: np.ndarray, record: dict) -> np.ndarray:
    """Map [-1, 1] linearly to [low, high]; float32."""
    low, high = np.float32(record["low"]), np.float32(record["high"])
    return (np.asarray(array, np.float32) + 1) * ((high - low) / np.float32(2)) + low
