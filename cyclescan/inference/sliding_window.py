"""Plain sliding windows: overlapping, each given to the network by itself, blended smoothly.

This is what other tools do, and what `inference.whole_volume` is compared with (`evaluation.seams`, `benchmarks`): with
instance normalisation the windows do not agree where they overlap, and blending hides that without curing it.

The volume is padded by reflection to a multiple of the network's stride and no further, and windows start at
multiples of the stride: every window then halves its grid at the same voxels as the whole volume would. Along an axis
where the volume is not larger than the window there is one window, as large as the padded volume.

Blending weights are separable, and along each axis those of all windows sum to 1 at every voxel. So no array of
weights is kept, a constant stays constant, and memory is one padded volume in and one out, plus one batch of windows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from cyclescan.common.errors import InputError

DEFAULT_WINDOW = (32, 64, 64)  # small enough for feature maps of 16 channels to be a few MB
DEFAULT_OVERLAP = 0.5  # raised cosines then sum to 1 without correction


@dataclasses.dataclass(frozen=True)
class AxisPlan:
    """The windows along one axis.

    Attributes:
        size: voxels of the volume.
        before: voxels padded in front of the volume.
        padded: voxels after padding in front and behind.
        window: voxels of each window, at most `padded`.
        starts: first voxel of each window on the padded axis, ascending.
        weights: float32 (windows, window); over all windows they sum to 1 at every voxel of the padded axis.
    """

    size: int
    before: int
    padded: int
    window: int
    starts: tuple[int, ...]
    weights: np.ndarray


def check_settings(
    window: Sequence[int] | None, overlap: float | None, stride: int
) -> tuple[tuple[int, int, int], float]:
    """Return `window` and `overlap` as plain numbers when they are allowed.

    Args:
        window: voxels (depth, height, width); None for `DEFAULT_WINDOW`, rounded up to multiples of `stride`.
        overlap: a fraction; None for none.
        stride: of the network.

    Raises:
        InputError: a number of the window is not a positive multiple of `stride`, or the overlap lies outside [0, 1).
    """
    window = [-(-n // stride) * stride for n in DEFAULT_WINDOW] if window is None else window
    overlap = 0.0 if overlap is None else overlap
    if len(window) != 3 or any(int(n) != n or n < stride or n % stride for n in window):
        raise InputError(
            f"The window is {' '.join(map(str, window))}; it must be three numbers, each a positive multiple of "
            f"{stride} for this model."
        )
    if not 0 <= overlap < 1:
        raise InputError(f"The overlap is {overlap:g}; it must be at least 0 and less than 1.")
    depth, height, width = (int(n) for n in window)
    return (depth, height, width), float(overlap)


def stride_of_windows(window: int, overlap: float, multiple: int) -> int:
    """Return the largest distance between the starts of two windows, a positive multiple of `multiple` in voxels.

    The overlap that results is at least `overlap`, as far as the multiple allows.
    """
    # the small number undoes the rounding of, for instance, 320 * (1 - 0.9)
    return max(1, math.floor(window * (1 - overlap) / multiple + 1e-9)) * multiple


def blending_weights(window: int) -> np.ndarray:
    """Return a raised cosine over one window, float64, before windows are normalised: sin^2(pi (i + 1/2) / window).

    It is smooth, and positive everywhere: a voxel that only the rim of one window sees gets that window's value.
    """
    return np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2


def plan_axis(size: int, window: int, overlap: float = DEFAULT_OVERLAP, multiple: int = 1) -> AxisPlan:
    """Return where the windows along one axis lie and what they weigh.

    Args:
        size: voxels of the volume, at least 1.
        window: voxels of a window, a multiple of `multiple`.
        overlap: the least fraction that neighbouring windows share, in [0, 1). Windows are spread evenly, so they
            may share more.
        multiple: the network's stride; padding and starts are multiples of it.
    """
    padded = -(-size // multiple) * multiple
    window = min(window, padded)
    room = (padded - window) // multiple
    count = -(-room * multiple // stride_of_windows(window, overlap, multiple)) + 1
    starts = tuple(multiple * (i * room // max(1, count - 1)) for i in range(count))
    raw = blending_weights(window)
    total = np.zeros(padded)
    for start in starts:
        total[start : start + window] += raw
    weights = np.stack([raw / total[start : start + window] for start in starts])
    return AxisPlan(size, (padded - size) // 2, padded, window, starts, weights.astype(np.float32))


def reflected(plan: AxisPlan) -> np.ndarray:
    """Return the voxel of the volume that each voxel of the padded axis repeats.

    Mirrored about the centre of the outermost voxel, again and again where the padding is longer than the volume; a
    single voxel is repeated. Equal to `numpy.pad(mode="reflect")`.
    """
    period = max(1, 2 * (plan.size - 1))
    index = np.mod(np.arange(plan.padded) - plan.before, period)
    return np.minimum(index, period - index)


def apply(
    array: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    window: Sequence[int],
    overlap: float = DEFAULT_OVERLAP,
    multiple: int = 1,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Apply a network to a volume of any size.

    Args:
        array: float32 (depth, height, width).
        predict: from float32 (n, d, h, w, 1) to the same shape, n at most `batch`; d, h, w are those of `window`, or
            the padded size of the volume along an axis where that is smaller.
        window: voxels of a window (depth, height, width), multiples of `multiple`.
        overlap: the least fraction that neighbouring windows share along each axis, in [0, 1).
        multiple: the network's stride.
        batch: windows given to `predict` at once.
        progress: called with (windows done, windows in all) after each batch.

    Returns:
        float32, the shape of `array`.

    Raises:
        InputError: the window or the overlap is not allowed, or the array is not a volume.
    """
    array = np.asarray(array, np.float32)
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"An array of shape {array.shape} is no volume; (depth, height, width) is needed.")
    window, overlap = check_settings(window, overlap, multiple)
    plans = [plan_axis(n, w, overlap, multiple) for n, w in zip(array.shape, window, strict=True)]
    for axis, plan in enumerate(plans):
        if plan.padded != plan.size:
            array = np.take(array, reflected(plan), axis)
    result = np.zeros([plan.padded for plan in plans], np.float32)
    windows = list(itertools.product(*(range(len(plan.starts)) for plan in plans)))
    for first in range(0, len(windows), batch):
        group = windows[first : first + batch]
        slices = [_slices(plans, index) for index in group]
        given = np.stack([array[where] for where in slices])[..., None]
        got = np.asarray(predict(given))
        if got.shape != given.shape:
            raise ValueError(f"the network made {got.shape} of {given.shape}; the shapes must be equal")
        for index, where, values in zip(group, slices, got, strict=True):
            d, h, w = (plan.weights[i] for plan, i in zip(plans, index, strict=True))
            result[where] += values[..., 0] * d[:, None, None] * (h[:, None] * w)
        if progress:
            progress(first + len(group), len(windows))
    inside = tuple(slice(plan.before, plan.before + plan.size) for plan in plans)
    return np.ascontiguousarray(result[inside])


def _slices(plans: Sequence[AxisPlan], index: Sequence[int]) -> tuple[slice, ...]:
    starts = (plan.starts[i] for plan, i in zip(plans, index, strict=True))
    return tuple(slice(start, start + plan.window) for start, plan in zip(starts, plans, strict=True))
