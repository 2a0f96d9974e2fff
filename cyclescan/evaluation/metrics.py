"""Measures of how much a translated volume equals its reference; pure functions on float arrays.

Every function takes two arrays (depth, height, width) of one shape and of one unit. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from skimage import metrics as measured

from cyclescan.common.errors import InputError
from cyclescan.evaluation import histograms
from cyclescan.preprocessing.information import MI_BINS, checked_pair, mi, nmi

NAMES = ("mae", "psnr", "ssim", "ncc", "mi", "nmi", "kl_histogram")
ROBUST_NAMES = ("psnr_p999", "ssim_p999")
ROBUST_PERCENTILES = (0.05, 99.95)
SSIM_SIGMA = 1.5
SSIM_WINDOW = 11  # voxels: the Gaussian cut at 3.5 sigma, as in Wang et al. 2004
GRID_TOLERANCE = 0.05  # of the smallest voxel edge

DEFINITIONS = {
    "mae": "mean absolute error, in the unit of the intensities; lower is better",
    "psnr": "peak signal-to-noise ratio in dB, 10 log10(data_range^2 / mean squared error); null when there is no "
    "error; higher is better",
    "ssim": f"structural similarity in true 3-D, Gaussian window of sigma {SSIM_SIGMA} voxels cut to "
    f"{SSIM_WINDOW}x{SSIM_WINDOW}x{SSIM_WINDOW}, population covariance (Wang et al. 2004); higher is better, at most 1",
    "ncc": "normalised cross-correlation (Pearson) over all voxels, -1 to 1; higher is better",
    "mi": f"mutual information in nats from a joint histogram of {MI_BINS}x{MI_BINS} bins, each axis over its own "
    "volume's range; higher is better",
    "nmi": "normalised mutual information (H(A) + H(B)) / H(A, B) from the same bins, 1 to 2 (Studholme et al. 1999); "
    "higher is better",
    "kl_histogram": "KL(reference || predicted) of the two intensity histograms in nats; lower is better",
}

ROBUST_DEFINITIONS = {
    "psnr_p999": "psnr with both volumes cut to the range of 99.9 % of each reference's voxels, all references "
    "together, which is its data range: a hot voxel does not decide it; higher is better",
    "ssim_p999": "ssim in the same way; higher is better, at most 1",
}


def mae(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean absolute error, in the unit of the intensities."""
    predicted, reference = checked_pair(predicted, reference)
    return float(np.abs(predicted - reference).mean())


def psnr(predicted: np.ndarray, reference: np.ndarray, data_range: float) -> float:
    """Return the peak signal-to-noise ratio in dB: 10 log10(data_range² / mean squared error); infinite when there is
    no error.

    >>> round(psnr(np.full((4, 4, 4), 0.2), np.zeros((4, 4, 4)), data_range=2.0), 6)
    20.0
    """
    predicted, reference = checked_pair(predicted, reference)
    with np.errstate(divide="ignore"):
        return float(measured.peak_signal_noise_ratio(reference, predicted, data_range=_range(data_range)))


def ssim(predicted: np.ndarray, reference: np.ndarray, data_range: float, within: np.ndarray | None = None) -> float:
    """Return the structural similarity with a 3-D Gaussian window (Wang et al. 2004), -1 to 1.

    `within` a mask (bool), the mean is over its voxels, and windows are mirrored at the border of the volume. Else the
    mean is over the voxels whose whole window lies inside the volume. Where an axis is shorter than the 11 voxels
    of the window, the margin left out of the mean shrinks, on every axis, to what the shortest axis allows, and the
    window is mirrored at the border.
    """
    predicted, reference = checked_pair(predicted, reference)
    shortest = min(reference.shape)
    mean, of_voxels = measured.structural_similarity(
        reference,
        predicted,
        win_size=min(SSIM_WINDOW, shortest - 1 + shortest % 2),
        data_range=_range(data_range),
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return float(mean if within is None else of_voxels[within].mean())


def ncc(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Return the normalised cross-correlation (Pearson) over all voxels, -1 to 1; 0 where a volume is constant."""
    a, b = checked_pair(predicted, reference)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0  # rounding of the mean would give a constant a tiny variance
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()), -1.0, 1.0))


def all_metrics(
    predicted: np.ndarray,
    reference: np.ndarray,
    data_range: float,
    histogram_range: tuple[float, float] | None = None,
    within: np.ndarray | None = None,
) -> dict[str, float]:
    """Return every measure of `NAMES`.

    Args:
        predicted, reference: (depth, height, width).
        data_range: the largest possible difference of two intensities, for PSNR and SSIM; 2 on [-1, 1].
        histogram_range: intensities spanned by the histograms of `kl_histogram`; None for the reference's own range.
        within: bool of the same shape, not empty, the voxels that count; None for all. SSIM is then the mean of its
            map over them, whose windows reach beyond the mask.

    Raises:
        InputError: the shapes differ, a voxel is not finite, or the data range is not positive.
    """
    predicted, reference = checked_pair(predicted, reference)
    limits = histogram_range or (float(reference.min()), float(reference.max()))
    a, b = _of_voxels(predicted, within), _of_voxels(reference, within)
    true, made = (histograms.count(array, limits) for array in (b, a))
    return {
        "mae": mae(a, b),
        "psnr": psnr(a, b, data_range),
        "ssim": ssim(predicted, reference, data_range, within),
        "ncc": ncc(a, b),
        "mi": mi(a, b),
        "nmi": nmi(a, b),
        "kl_histogram": histograms.kl_divergence(true, made),
    }


def robust_metrics(
    predicted: np.ndarray, reference: np.ndarray, limits: tuple[float, float], within: np.ndarray | None = None
) -> dict[str, float]:
    """Return `ROBUST_NAMES`: PSNR and SSIM of both volumes cut to `limits`, whose difference is the data range.

    Args:
        predicted, reference: (depth, height, width).
        limits: as from `robust_limits`.
        within: bool of the same shape, the voxels that count; None for all.
    """
    predicted, reference = (np.clip(array, *limits) for array in checked_pair(predicted, reference))
    width = limits[1] - limits[0]
    values = _of_voxels(predicted, within), _of_voxels(reference, within)
    return {"psnr_p999": psnr(*values, width), "ssim_p999": ssim(predicted, reference, width, within)}


def robust_limits(reference: np.ndarray) -> tuple[float, float]:
    """Return between which intensities 99.9 % of the voxels of a volume lie: a hot voxel does not move them."""
    low, high = np.percentile(reference, ROBUST_PERCENTILES)
    return float(low), float(high)


def _of_voxels(array: np.ndarray, within: np.ndarray | None) -> np.ndarray:
    """The voxels of a mask as a volume of one column, for measures that look at no neighbours."""
    return array if within is None else array[within][:, None, None]


def summarize(rows: Iterable[dict], names: Sequence[str] = NAMES) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean and sample standard deviation (n - 1) over volumes; the deviation of a single volume is NaN."""
    rows = list(rows)
    means, deviations = {}, {}
    for name in names:
        values = np.array([row[name] for row in rows], np.float64)
        means[name] = float(values.mean())
        finite = len(values) > 1 and np.isfinite(values).all()
        deviations[name] = float(values.std(ddof=1)) if finite else float("nan")
    return means, deviations


def same_grid(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> bool:
    """Return whether two affines put every voxel of `shape` at the same place, to 5 % of the smallest voxel edge."""
    return distance_mm(affine, other, shape) <= tolerance_mm(affine)


def distance_mm(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Return how far apart two affines put a voxel of `shape` at most: that is at a corner."""
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in shape))])
    apart = corners @ (np.asarray(affine, float) - np.asarray(other, float)).T[:, :3]
    return float(np.linalg.norm(apart, axis=1).max())


def tolerance_mm(affine: np.ndarray) -> float:
    """Return how far apart voxels on one grid may lie: headers round."""
    return GRID_TOLERANCE * float(np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0).min())


def _range(data_range: float) -> float:
    if not 0 < data_range < float("inf"):
        raise InputError(f"The data range is {data_range}; it must be a positive number.")
    return float(data_range)
