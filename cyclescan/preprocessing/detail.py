"""How much fine detail there is around each voxel of a volume, whatever it depicts.

The mean of many registered volumes shows where tissues lie, but its edges are blurred and its texture is gone, because
both lie elsewhere in each of them. What survives averaging is their energy: two bands of fine detail, squared and
averaged over a few voxels. `data_prep pair` takes it from the partners of a volume, `losses.detail` compares it
with that of a translation, and `losses.texture` finds by it what the mean cannot show. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import numpy as np

WINDOWS = (3, 7)  # voxels along an edge: a band is what the mean over one cube has, and over the next one has not
AROUND = 7  # voxels along an edge of the cube over which the energy is averaged
EVERY = 2  # energies change so slowly that every second one along each axis is enough


def mean_around(volume: np.ndarray, window: int) -> np.ndarray:
    """Return the mean over the cube of `window` voxels (odd) around each voxel, of what lies in the volume.

    The same as `losses.smoothed`, for arrays of three axes.
    """
    from scipy import ndimage  # records need nothing of this module but its numbers

    sums = ndimage.uniform_filter(np.asarray(volume, np.float32), window, mode="constant")
    return sums / ndimage.uniform_filter(np.ones(volume.shape, np.float32), window, mode="constant")


def energies(volume: np.ndarray) -> np.ndarray:
    """Return the mean square of each band around each voxel, (depth, height, width, bands), the finest band first."""
    found, finer = [], np.asarray(volume, np.float32)
    for window in WINDOWS:
        coarser = mean_around(volume, window)
        # sums that run along a line can end a little below 0
        found.append(np.maximum(mean_around((finer - coarser) ** 2, AROUND), 0.0))
        finer = coarser
    return np.stack(found, -1)


def thinned(array: np.ndarray) -> np.ndarray:
    """Return every `EVERY`th voxel of the first three axes."""
    return array[::EVERY, ::EVERY, ::EVERY]


def on_all_voxels(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return what was `thinned`, on the voxels of a volume of `shape`: each value stands for those that follow it as
    well.
    """
    for axis in range(3):
        array = array.repeat(EVERY, axis)
    depth, height, width = shape
    return array[:depth, :height, :width]
