"""Texture that a network adds or loses: the grid of its up-sampling, and the spectrum of spongy bone.

Pure functions on float arrays (depth, height, width); nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import ndimage, signal

PERIODS = (2, 4, 8)  # voxels: what up-sampling by 2 repeats, once, twice and three times over
AWAY = (2, 3)  # bins between a grid frequency and its neighbours; a Hann window leaks into the first
SQUARE = 16  # voxels along an edge of the windows in which spongy bone is looked at
FILLED = 0.95  # of a window must be spongy bone
PASS_BAND = (0.10, 0.45)  # cycles per voxel; below it lies shape rather than texture, above it the grid's corner


def grid_peaks(volumes: Iterable[np.ndarray]) -> dict[str, float]:
    """How far the spectrum rises at the grid frequencies of an up-sampling above the frequencies beside them.

    A checkerboard repeats every 2, 4 or 8 voxels (Odena et al. 2016). Along each axis, the power at the multiples of
    those frequencies is divided by the geometric mean power `AWAY` bins to either side: about 1 where there is no grid.

    Returns:
        By "axis frequency" in cycles per voxel, such as "height 0.25"; axes shorter than 16 voxels are left out.
    """
    spectra: dict[int, np.ndarray] = {}
    for volume in volumes:
        for axis in range(3):
            power = _spectrum(np.asarray(volume, np.float64), axis)
            if power is not None:
                spectra[axis] = spectra.get(axis, 0.0) + power
    peaks = {}
    for axis, power in spectra.items():
        length = 2 * (power.size - 1)
        for frequency in sorted({k / p for p in PERIODS for k in range(1, p // 2 + 1)}):
            at = round(frequency * length)
            beside = [b for away in AWAY for b in (at - away, at + away) if 0 < b < power.size]
            beside_it = np.exp(np.log(power[beside]).mean())
            peaks[f"{('depth', 'height', 'width')[axis]} {frequency:g}"] = float(power[at] / beside_it)
    return peaks


def _spectrum(volume: np.ndarray, axis: int) -> np.ndarray | None:
    """Mean power spectrum along an axis, cut to a multiple of the longest period; None where it is too short."""
    length = volume.shape[axis] // max(PERIODS) * max(PERIODS)
    if length < 2 * max(PERIODS):
        return None
    lines = np.moveaxis(volume, axis, -1)[..., :length]
    lines = (lines - lines.mean(-1, keepdims=True)) * signal.windows.hann(length, sym=False)
    return (np.abs(np.fft.rfft(lines)) ** 2).mean(axis=(0, 1))


def checkerboard_score(generated: Iterable[np.ndarray], real: Iterable[np.ndarray]) -> float:
    """The mean of `grid_peaks` of generated volumes, each over that of real ones of the same domain.

    1 where the generated ones have no more of a grid than the real ones; halves of ten real digital knees differ by
    up to 0.04.

    Raises:
        ValueError: every axis is too short.
    """
    ours, theirs = grid_peaks(generated), grid_peaks(real)
    return float(np.mean([ours[name] / theirs[name] for name in ours]))


def bone_spectrum(volumes: Iterable[np.ndarray], bones: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The power spectrum of the texture of spongy bone, in the plane of the slices.

    Over all windows of `SQUARE` x `SQUARE` voxels (half overlapping, Hann) in the bone, less their mean plane.

    Args:
        volumes: of one contrast.
        bones: boolean masks of the spongy bone, for each volume.

    Returns:
        frequencies (cycles per voxel, within `PASS_BAND`) and the mean power at each.

    Raises:
        ValueError: no window lies in the bone.
    """
    total, windows = 0.0, 0
    taper = np.outer(*[signal.windows.hann(SQUARE, sym=False)] * 2)
    for volume, bone in zip(volumes, bones, strict=True):
        filled = ndimage.uniform_filter(np.asarray(bone, np.float64), (0, SQUARE, SQUARE), origin=0)
        half = SQUARE // 2
        for s, row, column in np.argwhere(filled >= FILLED):
            if row % half or column % half or row < half or column < half:
                continue
            square = volume[s, row - half : row + half, column - half : column + half].astype(np.float64)
            if square.shape != taper.shape:
                continue
            square = signal.detrend(signal.detrend(square, axis=0), axis=1)
            total = total + np.abs(np.fft.fft2(square * taper)) ** 2
            windows += 1
    if not windows:
        raise ValueError("No window lies in the bone.")
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SQUARE)] * 2))
    bins = np.round(frequency * SQUARE).astype(int)
    rings = [k for k in range(SQUARE) if PASS_BAND[0] <= k / SQUARE <= PASS_BAND[1]]
    power = np.array([(total / windows)[bins == k].mean() for k in rings])
    return np.array(rings) / SQUARE, power


def bone_spectrum_difference_db(generated, real, bones) -> dict[str, float]:
    """`bone_spectrum` of generated volumes over that of the real ones of the same subjects, in dB, by frequency."""
    bones = list(bones)
    frequencies, ours = bone_spectrum(generated, bones)
    _, theirs = bone_spectrum(real, bones)
    return {f"{f:.4g}": float(10 * np.log10(a / b)) for f, a, b in zip(frequencies, ours, theirs, strict=True)}
