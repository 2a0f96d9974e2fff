"""What a translation has to beat: doing nothing, and matching intensities without looking at the anatomy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cyclescan.common.errors import InputError

POOL = 16  # training volumes of the target domain whose intensities are pooled


def identity(array: np.ndarray) -> np.ndarray:
    """Return the source volume, taken as it is for a volume of the target domain."""
    return array


class HistogramMatching:
    """The monotone mapping of a volume's intensities onto the pooled intensities of training volumes.

    It is unpaired, as the translation is: it knows the target domain, never the truth of the volume that it maps.
    The result is that of `skimage.exposure.match_histograms(volume, all pooled voxels)`; the pool is sorted only once.

    Args:
        pool: volumes of the target domain, of any shapes; they are read one at a time.
    """

    def __init__(self, pool: Iterable[np.ndarray]) -> None:
        values, counts = np.empty(0), np.empty(0, np.int64)
        for volume in pool:
            own, n = np.unique(volume, return_counts=True)
            values, place = np.unique(np.concatenate([values, own]), return_inverse=True)
            counts = np.bincount(place, np.concatenate([counts, n]), values.size)
        if not values.size:
            raise InputError("Histogram matching needs at least one volume of the target domain.")
        self.values, self.quantiles = values, np.cumsum(counts) / counts.sum()

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """`array` with the pool's distribution of intensities; equal voxels stay equal, the order is kept."""
        _, place, counts = np.unique(array, return_inverse=True, return_counts=True)
        mapped = np.interp(np.cumsum(counts) / array.size, self.quantiles, self.values)
        return mapped[place].reshape(array.shape).astype(np.float32)
