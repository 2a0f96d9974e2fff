"""Where the body is: a mask that tells tissue from the air around it."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import geometry
from cyclescan.scans.volume import Volume

COARSE_VOXELS = 96  # an axis of twice as many is halved first, of three times as many divided by three
HISTOGRAM_BINS = 256
CLOSING_VOXELS = 2  # gaps of this half-width in the surface are closed: bone at the skin, a fold of fat
# tissue that is as dark as air but for the mean: of cubes of 3 voxels, so many SDs above the air, and at least so much
# of the way to the brightest. 4 to 6 SDs gave the same on 16 knees of make A and 14 random ones
DARK_TISSUE_SD, DARK_TISSUE_SHARE = 5.0, 0.01
AIR_AWAY_VOXELS, LEAST_AIR_VOXELS, AIR_ROUNDS = 3, 100, 4  # air is measured that far from what was found
SD_OF_MAD = 1.4826  # of a normal distribution


def mask(array: np.ndarray, outside: np.ndarray | None = None, dark_tissue: bool = True) -> np.ndarray:
    """Return the body in a scan of any contrast, MR or CT, in any intensity unit.

    Otsu's threshold of three classes on the square root of the smoothed intensities (air, dark tissue, bright tissue;
    two classes part fat from muscle where fat is bright), and the largest connected part of what lies above the lower
    one; with it what is connected and, in the mean of some voxels, brighter than the air by several of its SDs: dark
    muscle in noise. Closed and, sagittal slice by slice, filled: cortical bone and water-suppressed joint fluid are as
    dark as air. Dice overlap with the truth: see benchmarks/results/body.md.

    Args:
        array: (depth, height, width), finite.
        outside: bool of the same shape, what lies beyond the field of view (`fill.Fill`) and is left out of the
            histogram and of the body; None for nothing.
        dark_tissue: look for tissue that is hardly brighter than the air; not where there may be no air to compare
            with.

    Returns:
        bool, of the same shape; found on a grid that is coarser where an axis has 192 voxels or more.

    Source: Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979); Liao et al., J. Inf. Sci. Eng. 17 (2001) for several classes.
    """
    factors = [max(1, n // COARSE_VOXELS) for n in array.shape]
    beyond = None if outside is None else block_means(outside, factors) > 0.5
    coarse = _inside(block_means(array, factors), beyond, dark_tissue)
    for axis, factor in enumerate(factors):
        coarse = np.repeat(coarse, factor, axis)
    missing = [(0, n - m) for n, m in zip(array.shape, coarse.shape, strict=True)]
    inside = np.pad(coarse, missing, mode="edge")
    return inside if outside is None else inside & ~outside


def crop(volume: Volume, margin_mm: float) -> tuple[Volume, dict]:
    """Crop to the body and a margin around it; the step is one of `geometry.window`.

    Raises:
        InputError: the margin is negative or not finite.
    """
    check_margin(margin_mm)
    inside = mask(volume.array)
    start, shape = [], []
    for axis, spacing in enumerate(volume.spacing_mm):
        occupied = np.flatnonzero(inside.any(axis=tuple(i for i in range(3) if i != axis)))
        margin = math.ceil(margin_mm / spacing)
        first = max(0, int(occupied[0]) - margin)
        last = min(volume.shape[axis], int(occupied[-1]) + 1 + margin)
        start.append(first)
        shape.append(last - first)
    return geometry.window(volume, start, shape, fill=0.0)  # nothing is filled: the window lies inside


def check_margin(margin_mm: float) -> None:
    """Raise `InputError` unless the margin is a number of at least 0 mm."""
    if not 0 <= margin_mm < math.inf:
        raise InputError(f"The margin around the body is {margin_mm:g} mm; it must be a number of at least 0.")


def block_means(array: np.ndarray, factors) -> np.ndarray:
    """Return means of blocks of `factors` voxels, float32; what does not fill a block at the far ends is left out."""
    counts = [n // f for n, f in zip(array.shape, factors, strict=True)]
    kept = np.asarray(array[tuple(slice(n * f) for n, f in zip(counts, factors, strict=True))], np.float32)
    if max(factors) == 1:
        return kept
    blocks = kept.reshape([k for pair in zip(counts, factors, strict=True) for k in pair])
    return blocks.mean(axis=(1, 3, 5))


def _inside(array: np.ndarray, outside: np.ndarray | None, dark_tissue: bool) -> np.ndarray:
    from skimage.filters import threshold_multiotsu

    smooth = ndimage.uniform_filter(array, 3) if outside is None else _smoothed_within(array, ~outside)
    seen = smooth if outside is None else smooth[~outside]
    low, high = np.percentile(seen, (0.5, 99))
    if not high > low:  # nearly all of it is one value
        return smooth > smooth.min() if smooth.max() > smooth.min() else np.ones(smooth.shape, bool)
    root = np.sqrt(np.clip((smooth - low) / (high - low), 0, 1))
    counts, edges = np.histogram(root if outside is None else root[~outside], HISTOGRAM_BINS, (0.0, 1.0))
    limit = 0.5
    if np.count_nonzero(counts) > 2:
        limit = threshold_multiotsu(classes=3, hist=(counts, (edges[:-1] + edges[1:]) / 2))[0]
    # smoothing alone would carry a bright surface one voxel into the air
    above = (root > limit) & (array > low + limit**2 * (high - low))
    if outside is not None:
        above &= ~outside
    labels, count = ndimage.label(above)
    if count > 1:
        above = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    found = _closed(above)
    return _closed(_with_dark_tissue(array, found, outside, float(high))) if dark_tissue else found


def _closed(inside: np.ndarray) -> np.ndarray:
    room = CLOSING_VOXELS
    closed = ndimage.binary_closing(np.pad(inside, room), iterations=room)[room:-room, room:-room, room:-room]
    return _without_holes(closed)


def _with_dark_tissue(array: np.ndarray, inside: np.ndarray, outside: np.ndarray | None, high: float) -> np.ndarray:
    """`inside` and what is connected with it and brighter than the air, which is measured away from it.

    What was found is left out of the means, so that it does not carry its brightness into the air; what is thinner than
    three voxels is its blurred edge.
    """
    others = ~inside if outside is None else ~(inside | outside)
    air = others & ~ndimage.binary_dilation(inside, iterations=AIR_AWAY_VOXELS)
    if np.count_nonzero(air) < LEAST_AIR_VOXELS:
        return inside
    means = _smoothed_within(array, others)
    values = means[air]
    for _ in range(AIR_ROUNDS):  # without the tissue among it
        level = float(np.median(values))
        sd = SD_OF_MAD * float(np.median(np.abs(values - level)))
        values = values[values <= level + 3 * sd]
    least = max(DARK_TISSUE_SD * sd, DARK_TISSUE_SHARE * (high - level))
    tissue = ndimage.binary_opening(others & (means > level + least))
    labels, count = ndimage.label(tissue | inside)
    return np.isin(labels, np.unique(labels[inside])) if count > 1 else tissue | inside


def _smoothed_within(array: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The means over cubes of 3 voxels of those `within`; where there is none, the smallest of all."""
    sums, counts = (ndimage.uniform_filter(np.where(within, each, np.float32(0)), 3) for each in (array, 1.0))
    shares = np.maximum(counts, 1e-3)  # at least one voxel of 27 is 0.037
    return np.where(counts > 1e-2, sums / shares, array[within].min())


def _without_holes(inside: np.ndarray) -> np.ndarray:
    """`inside` and, in each sagittal slice, what cannot be reached from the slice's edge without crossing it."""
    outside = np.pad(~inside, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(outside, in_plane)
    reached = np.zeros(count + 1, bool)
    reached[labels[:, 0, 0]] = True
    return ~reached[labels][:, 1:-1, 1:-1]
