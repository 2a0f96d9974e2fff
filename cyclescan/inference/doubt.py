"""Where a translation should not be believed: a map of doubt beside it.

Two things betray a wrong voxel without any truth. Translated back, it does not become what it was; and the network
gives another answer when the same knee is shown to it differently: mirrored, shifted by half the stride of its coarsest
grid, or cut to a part of the field of view. (Windows as such cannot disagree here: `whole_volume` makes them agree.)
`benchmarks/results/structure.md` says how well the map follows the true error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

Translate = Callable[[np.ndarray], np.ndarray]
SMOOTHING = 1.0  # voxels; single voxels of either part are mostly noise
PART = 0.75  # of the height and of the width that a cut leaves


def parts(
    array: np.ndarray, translated: np.ndarray, there: Translate, back: Translate, stride: int, mirrored: bool = False
) -> dict:
    """Return the parts of which doubt is made, each float32 (depth, height, width), not negative, in units of [-1, 1].

    It takes as long as five translations more.

    Args:
        array: a prepared volume (depth, height, width) on [-1, 1].
        translated: its translation.
        there, back: translate an array from the first domain to the second, and the other way.
        stride: voxels between those of the coarsest grid of the network.
        mirrored: both translate the mirrored volume as well and give the mean, so that this view shows nothing.

    Returns:
        "cycle": what the way there and back changes; "views": standard deviation of the answers to different views.
    """
    views = [translated, _shifted(array, there, stride // 2), _cut(array, there)]
    if not mirrored:
        views.append(there(np.ascontiguousarray(array[::-1]))[::-1])
    return {"cycle": cycle(array, back(translated)), "views": _smooth(np.std(views, axis=0))}


def cycle(array: np.ndarray, returned: np.ndarray) -> np.ndarray:
    """Return what the way there and back changes: the part "cycle" of a volume and what it became there and back."""
    return _smooth(np.abs(returned - array))


def doubt(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the sum of the `parts`, at most 2."""
    return np.minimum(sum(parts.values()), 2.0)


def _shifted(array: np.ndarray, there: Translate, by: int) -> np.ndarray:
    """The translation of the volume moved by some voxels along each axis, moved back."""
    moved = np.pad(array, [(by, 0)] * 3, mode="edge")
    return there(moved)[by:, by:, by:]


def _cut(array: np.ndarray, there: Translate) -> np.ndarray:
    """Of four overlapping parts of the field of view, each translated as if there were no more of it, the mean."""
    total, count = np.zeros_like(array), np.zeros_like(array)
    for rows in _ends(array.shape[1]):
        for columns in _ends(array.shape[2]):
            total[:, rows, columns] += there(np.ascontiguousarray(array[:, rows, columns]))
            count[:, rows, columns] += 1
    return total / count


def _ends(length: int) -> tuple[slice, slice]:
    part = max(1, round(PART * length))
    return slice(0, part), slice(length - part, length)


def _smooth(array: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(np.asarray(array, np.float32), SMOOTHING)
