"""Intensities to [-1, 1] and back, with the statistics of the whole volume or fixed limits; never of a patch.

There are three kinds of scaling, each written `kind:LOW,HIGH`:

* `percentile`: two percentiles become -1 and 1, and what lies beyond them is cut off. A lesion is often among the
  brightest voxels of a scan: at 99.5 most of its signal is.
* `soft_percentile`: two percentiles become -1 and `KNEE`; from there on the scale is logarithmic, with the same slope
  at the knee, and ends at 1 with `HEADROOM` times the range between them. No signal is cut off, and one hot voxel does
  not take the range of all others.
* `window_hu`: two Hounsfield numbers become -1 and 1.
"""

from __future__ import annotations

import numpy as np

from cyclescan.common.errors import InputError

MR_SCALING = "percentile:0.5,99.5"
UNCUT_MR_SCALING = "soft_percentile:0.5,99.95"
CT_SCALING = "window_hu:-1000,1500"

PERCENTILES = ("percentile", "soft_percentile")
KNEE = 0.9
HEADROOM = 10.0
# Makes the slope of 1 - KNEE times log(1 + STEEPNESS t) / log(1 + STEEPNESS HEADROOM) at t = 0 that below the knee,
# 1 + KNEE, t being what exceeds the upper percentile, in units of the range.
STEEPNESS = 137.28160396490725


def parse(scaling: str) -> tuple[str, float, float]:
    """Split `kind:low,high`.

    Raises:
        InputError: the kind is none of the three, or the two numbers are not in order.
    """
    allowed = (
        "percentile:LOW,HIGH or soft_percentile:LOW,HIGH with 0 <= LOW < HIGH <= 100, or window_hu:LOW,HIGH with "
        "LOW < HIGH"
    )
    kind, _, numbers = scaling.partition(":")
    try:
        low, high = (float(n) for n in numbers.split(","))
    except ValueError:
        raise InputError(f"The intensity scaling {scaling!r} is not understood; allowed is {allowed}.") from None
    in_range = kind == "window_hu" or (kind in PERCENTILES and low >= 0 and high <= 100)
    if not in_range or not low < high or not np.isfinite([low, high]).all():
        raise InputError(f"The intensity scaling {scaling!r} is not allowed; allowed is {allowed}.")
    return kind, low, high


def measure(array: np.ndarray, scaling: str) -> dict:
    """Return the intensities that become -1 and 1 (with `soft_percentile`: -1 and `KNEE`).

    Args:
        array: a whole volume in scanner units or HU.
        scaling: `percentile:LOW,HIGH` or `soft_percentile:LOW,HIGH` (of all voxels, linear interpolation), or
            `window_hu:LOW,HIGH`.

    Raises:
        InputError: the two percentiles of the volume are the same value.
    """
    kind, low, high = parse(scaling)
    if kind in PERCENTILES:
        first, second = low, high
        low, high = _percentiles(array, first, second)
        if not high > low:
            raise InputError(
                f"The percentiles {first:g} and {second:g} of the scan are both {low:g}; it has too little contrast "
                "for this scaling."
            )
    return {"step": "intensity", "scaling": scaling, "low": low, "high": high}


def _percentiles(array: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """What `np.percentile` gives (linear interpolation), in a fifth of its time.

    A sample of the voxels tells from which value on the sought ones lie at their end of the order, and only that end
    is searched. Where the sample misleads, all voxels are.
    """
    flat = np.asarray(array).reshape(-1)
    sample = np.sort(flat[:: max(1, flat.size // 2**15)])
    found = []
    for percent, at_least in ((low, False), (high, True)):
        position = percent / 100 * (flat.size - 1)
        ranks = [int(np.floor(position)), int(np.ceil(position))]
        share = percent / 100 + (-0.005 if at_least else 0.005)
        bound = sample[round(min(max(share, 0), 1) * (sample.size - 1))]
        end = flat[flat >= bound] if at_least else flat[flat <= bound]
        skipped = flat.size - end.size if at_least else 0
        if not skipped <= ranks[0] <= ranks[1] < skipped + end.size:
            end, skipped = flat, 0
        ranks = [rank - skipped for rank in ranks]
        first, second = (float(v) for v in np.partition(end, ranks)[ranks])
        found.append(first + (second - first) * (position - np.floor(position)))
    return float(found[0]), float(found[1])


def is_soft(scaling: str) -> bool:
    """Return whether the scale goes on, logarithmically, beyond its upper percentile."""
    return scaling.partition(":")[0] == "soft_percentile"


def apply(array: np.ndarray, step: dict) -> np.ndarray:
    """Map [low, high] linearly to [-1, 1], or to [-1, KNEE] and what is above it to [KNEE, 1], and clip; float32."""
    low, high = np.float32(step["low"]), np.float32(step["high"])
    above_low = np.asarray(array, np.float32) - low
    if not is_soft(step["scaling"]):
        return np.clip(above_low * (np.float32(2) / (high - low)) - 1, -1, 1)
    scaled = above_low * (np.float32(1 + KNEE) / (high - low)) - 1
    beyond = scaled > KNEE  # few voxels, and a logarithm takes long
    excess = (above_low[beyond] - (high - low)) / (high - low)
    scaled[beyond] = KNEE + (1 - KNEE) / np.log1p(STEEPNESS * HEADROOM) * np.log1p(STEEPNESS * excess)
    return np.clip(scaled, -1, 1)


def invert(array: np.ndarray, step: dict) -> np.ndarray:
    """Return the inverse of `apply` for what it did not clip; float32."""
    low, high = np.float32(step["low"]), np.float32(step["high"])
    scaled = np.asarray(array, np.float32)
    if not is_soft(step["scaling"]):
        return (scaled + 1) * ((high - low) / np.float32(2)) + low
    result = (scaled + 1) * ((high - low) / np.float32(1 + KNEE)) + low
    beyond = scaled > KNEE
    share = (scaled[beyond] - np.float32(KNEE)) / np.float32(1 - KNEE)
    result[beyond] = high + (high - low) / np.float32(STEEPNESS) * np.expm1(share * np.log1p(STEEPNESS * HEADROOM))
    return result


def upper(scaling: str) -> float:
    """Return where on the scale the upper limit of a step, "high", lies."""
    return KNEE if is_soft(scaling) else 1.0


def of_differences(step: dict) -> dict:
    """Return the step whose inverse turns differences on [0, 2], less 1, into the unit of the scan.

    A difference has the unit that the linear part of the scale has.
    """
    width = 2 * (step["high"] - step["low"]) / (1 + upper(step["scaling"]))
    return {"step": "intensity", "scaling": f"window_hu:0,{width}", "low": 0.0, "high": width}
