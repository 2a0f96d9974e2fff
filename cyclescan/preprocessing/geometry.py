"""Invertible changes of the grid: canonical orientation, left and right, spacing, crop and pad.

Each function returns the new volume and the step that it was (plain JSON), from which `undo` brings a volume back. A
step holds the affine before and after, so that no rounding is repeated on the way back.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from scipy import ndimage

from cyclescan.common.errors import InputError
from cyclescan.scans.volume import CANONICAL_AXES, MAX_VOXELS, Volume, spacing_of

SAME_SPACING = 1e-3  # relative; the difference over 500 voxels is half a voxel
FWHM_OF_SD = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian


def canonical_grid(shape: Sequence[int], affine: np.ndarray) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the shape and affine that a grid has once `to_canonical` has reordered and flipped its axes."""
    change = _to_canonical_orientation(affine)
    depth, height, width = (int(shape[axis]) for axis in np.argsort(change[:, 0]))
    return (depth, height, width), np.asarray(affine) @ nib.orientations.inv_ornt_aff(change, shape)


def to_canonical(volume: Volume) -> tuple[Volume, dict]:
    """Reorder and flip axes so that they grow to the Right, Superior and Anterior; no interpolation.

    An oblique scan keeps its obliqueness: its axes are those closest to R, S, A.
    """
    step = {
        "step": "canonical",
        "axes_before": list(volume.axes),
        "shape_before": list(volume.shape),
        "affine_before": volume.affine.tolist(),
    }
    array = nib.orientations.apply_orientation(volume.array, _to_canonical_orientation(volume.affine))
    _, affine = canonical_grid(volume.shape, volume.affine)
    step["affine_after"] = affine.tolist()
    return Volume(np.ascontiguousarray(array), affine, volume.meta), step


def resample(volume: Volume, spacing_mm: Sequence[float]) -> tuple[Volume, dict]:
    """Resample along the array's axes to another voxel size; the field of view keeps its centre.

    Cubic splines, clipped to the volume's range; along an axis that becomes coarser a Gaussian prevents aliasing, see
    `anti_aliasing`.

    Raises:
        InputError: a spacing is not positive, or so small that the result would be too large.
    """
    spacing_mm = tuple(float(s) for s in spacing_mm)
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise InputError(f"The spacing {spacing_mm} mm is not allowed; it must be three positive numbers.")
    ratio = np.asarray(spacing_mm) / volume.spacing_mm
    ratio[np.abs(ratio - 1) < SAME_SPACING] = 1.0
    shape = tuple(max(1, round(n / r)) for n, r in zip(volume.shape, ratio, strict=True))
    if math.prod(shape) > MAX_VOXELS:
        new, old = (" x ".join(f"{s:g}" for s in spacing) for spacing in (spacing_mm, volume.spacing_mm))
        raise InputError(
            f"At {new} mm a scan with voxels of {old} mm has {math.prod(shape)} of them; at most {MAX_VOXELS} are "
            "allowed. Is the voxel size in its header right?"
        )
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] * ratio
    centre_before = volume.affine[:3, :3] @ ((np.asarray(volume.shape) - 1) / 2)
    centre_after = affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    affine[:3, 3] += centre_before - centre_after
    step = {
        "step": "resample",
        "shape_before": list(volume.shape),
        "affine_before": volume.affine.tolist(),
        "shape_after": list(shape),
        "affine_after": affine.tolist(),
    }
    return Volume(_onto(volume, shape, affine), affine, volume.meta), step


def anti_aliasing(step: np.ndarray | float) -> np.ndarray:
    """Return the SD, in old voxels, of the Gaussian along each axis before it gets `step` times coarser; 0 where it
    does not.

    Blurring a voxel of full width 1 at half maximum with it gives one of width `step`. At twice as coarse a grid a
    fifth of the amplitude beyond its Nyquist frequency is left, on average, where half of the ratio's excess, as in
    scikit-image, leaves two fifths.

    Source: Cardoso et al., Scale factor point spread function matching: beyond aliasing in image resampling, MICCAI
    2015, with a point spread function as wide as a voxel.
    """
    coarser = np.where(step > 1 + SAME_SPACING, step, 1.0)
    return np.sqrt(coarser**2 - 1) / FWHM_OF_SD


def crop_or_pad(volume: Volume, shape: Sequence[int], fill: float) -> tuple[Volume, dict]:
    """Crop or pad each axis about its centre to `shape`; new voxels get the value `fill`."""
    if len(shape) != 3 or not all(int(n) >= 1 for n in shape):
        raise InputError(f"The shape {tuple(shape)} is not allowed; it must be three positive whole numbers.")
    return window(volume, [(n - int(m)) // 2 for n, m in zip(volume.shape, shape, strict=True)], shape, fill)


def window(volume: Volume, start: Sequence[int], shape: Sequence[int], fill: float) -> tuple[Volume, dict]:
    """Crop or pad to the `shape` voxels that begin at voxel `start`; new voxels get the value `fill`."""
    step = {
        "step": "crop_or_pad",
        "shape_before": list(volume.shape),
        "affine_before": volume.affine.tolist(),
        "start": [int(s) for s in start],
        "shape_after": [int(n) for n in shape],
    }
    result = _window(volume, start, shape, fill)
    step["affine_after"] = result.affine.tolist()
    return result, step


def mirror(volume: Volume) -> tuple[Volume, dict]:
    """Exchange the patient's left and right: the scan that the mirror image of the patient would have.

    The first axis, which grows to the right, is reversed and goes on growing to the right. World coordinates are
    mirrored at x = 0, the patient's midline, so that a left knee takes the place of the right one; the mirror image
    of an oblique scan is oblique the other way.
    """
    step = {
        "step": "mirror",
        "shape_before": list(volume.shape),
        "affine_before": volume.affine.tolist(),
    }
    reverse = np.diag([-1.0, 1, 1, 1])
    reverse[0, 3] = volume.shape[0] - 1
    affine = np.diag([-1.0, 1, 1, 1]) @ volume.affine @ reverse
    step["affine_after"] = affine.tolist()
    return Volume(np.ascontiguousarray(volume.array[::-1]), affine, volume.meta), step


def undo(volume: Volume, step: dict, fill: float = 0.0) -> Volume:
    """Invert one recorded step. What a crop removed comes back as `fill`."""
    before = np.asarray(step["affine_before"])
    shape = tuple(step["shape_before"])
    if step["step"] == "canonical":
        back = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt(CANONICAL_AXES), nib.orientations.io_orientation(before)
        )
        array = nib.orientations.apply_orientation(volume.array, back)
        return Volume(np.ascontiguousarray(array), before, volume.meta)
    if step["step"] == "mirror":
        return Volume(np.ascontiguousarray(volume.array[::-1]), before, volume.meta)
    if step["step"] == "resample":
        return Volume(_onto(volume, shape, before), before, volume.meta)
    if step["step"] == "crop_or_pad":
        result = _window(volume, [-s for s in step["start"]], shape, fill)
        return Volume(result.array, before, volume.meta)
    raise ValueError(f"unknown step {step['step']!r}")


def follow(marked: np.ndarray, steps: Sequence[dict]) -> np.ndarray:
    """Return voxels that were marked on the canonical grid, on the grid to which the recorded steps lead.

    Args:
        marked: bool (depth, height, width).
        steps: those of `prepare`; steps that change no grid are passed over. What a window adds is not marked.
    """
    for step in steps:
        if step["step"] == "mirror":
            marked = marked[::-1]
        elif step["step"] == "crop_or_pad":
            grid = Volume(marked, np.eye(4))
            marked = _window(grid, step["start"], step["shape_after"], 0.0).array > 0
        elif step["step"] == "resample":
            to_old = np.linalg.solve(np.asarray(step["affine_before"]), np.asarray(step["affine_after"]))
            places = (
                np.clip(np.rint(to_old[axis, axis] * np.arange(n) + to_old[axis, 3]), 0, marked.shape[axis] - 1)
                for axis, n in enumerate(step["shape_after"])
            )
            marked = marked[np.ix_(*(place.astype(int) for place in places))]
    return marked


def working_affine(steps: list[dict]) -> np.ndarray:
    """Return the affine of the grid that the recorded steps lead to."""
    return np.asarray([r for r in steps if "affine_after" in r][-1]["affine_after"])


def _to_canonical_orientation(affine: np.ndarray) -> np.ndarray:
    """nibabel's (axis, direction) rows that bring a grid with this affine to the canonical axes."""
    source = nib.orientations.io_orientation(affine)
    return nib.orientations.ornt_transform(source, nib.orientations.axcodes2ornt(CANONICAL_AXES))


def _onto(volume: Volume, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Interpolate `volume` at the voxels of a grid whose axes are parallel to its own."""
    step = np.asarray(spacing_of(affine)) / volume.spacing_mm
    if volume.shape == shape and np.allclose(affine, volume.affine, atol=1e-6):
        return volume.array
    offset = np.linalg.solve(volume.affine[:3, :3], affine[:3, 3] - volume.affine[:3, 3])
    result = np.asarray(volume.array, np.float32)
    low, high = result.min(), result.max()
    matrices = [
        None if n == m and s == 1 and abs(o) < 1e-6 else _along_axis(n, m, float(s), float(o))
        for n, m, s, o in zip(volume.shape, shape, step, offset, strict=True)
    ]
    # axes that become shorter first: less is left for the others; no axis is moved to be multiplied
    for axis in sorted(range(3), key=lambda i: shape[i] / volume.shape[i]):
        matrix = matrices[axis]
        if matrix is None:
            continue
        before = result.shape
        if axis == 0:
            result = (matrix @ result.reshape(before[0], -1)).reshape(-1, *before[1:])
        elif axis == 1:
            result = np.matmul(matrix, result)
        else:
            result = (result.reshape(-1, before[2]) @ matrix.T).reshape(*before[:2], -1)
    return np.clip(result, low, high, out=result)


@functools.lru_cache(maxsize=16)
def _along_axis(size: int, new_size: int, step: float, offset: float) -> np.ndarray:
    """The matrix (new_size, size) that smooths, prefilters and samples one axis: what SciPy does to unit vectors.

    Smoothing and spline interpolation along parallel axes are linear and separable, so three products with matrices
    give what `scipy.ndimage.affine_transform` gives, in a tenth of its time.
    """
    units = np.eye(size)
    sigma = float(anti_aliasing(np.float64(step)))
    if sigma:
        units = ndimage.gaussian_filter1d(units, sigma, axis=0, mode="nearest")
    # the second axis numbers the unit vectors: it is sampled at its own nodes, which returns it as it is
    matrix = ndimage.affine_transform(units, [step, 1.0], [offset, 0.0], (new_size, size), order=3, mode="nearest")
    return matrix.astype(np.float32)


def _window(volume: Volume, start: Sequence[int], shape: Sequence[int], fill: float) -> Volume:
    result = np.full([int(n) for n in shape], fill, np.float32)
    source, target = [], []
    for s, n, m in zip(start, volume.shape, shape, strict=True):
        first, last = max(0, s), min(n, s + int(m))
        source.append(slice(first, max(first, last)))
        target.append(slice(first - s, max(first, last) - s))
    result[tuple(target)] = volume.array[tuple(source)]
    affine = volume.affine.copy()
    affine[:3, 3] = volume.affine[:3, :3] @ np.asarray(start, float) + volume.affine[:3, 3]
    return Volume(result, affine, volume.meta)
