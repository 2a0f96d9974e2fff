"""N4: the slow change of brightness that a coil leaves in an MR scan, estimated and divided out.

This is the one module of cyclescan that uses SimpleITK, which otherwise lives in data_prep: a new scan has to be
corrected as the training scans were, so the step belongs to the preprocessing that both share. SimpleITK is imported
when a scan is corrected, never before; a model that was trained without the correction never needs it. The step
holds the field itself, so undoing the step needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import body
from cyclescan.scans.volume import Volume

COARSE_MM = 4.0  # the field is estimated on blocks of about this size
FEWEST = 8  # coarse voxels along an axis, where the scan has as many
ITERATIONS = (50, 50, 30)  # on each level of the spline, which doubles its resolution
COEFFICIENTS = 4 + 3  # along each axis on the last of three levels: cubic, 4 intervals
CUBIC = 3


def correct(volume: Volume) -> tuple[Volume, dict]:
    """Divide a scan by its bias field.

    Args:
        volume: an MR scan of any unit, canonical axes. The field is estimated inside `body.mask`; its mean logarithm
            there is 0, so that the overall brightness stays.

    Returns:
        The corrected scan, and the step with the logarithm of the field as cubic B-spline coefficients.

    Raises:
        InputError: the scan has a single slice along an axis, or N4 fails on it.

    Source: Tustison et al., N4ITK: improved N3 bias correction, IEEE Trans. Med. Imaging 29 (2010), as in SimpleITK.
    """
    if min(volume.shape) < 2:
        shape = " x ".join(map(str, volume.shape))
        raise InputError(f"N4 bias correction needs at least 2 voxels along each axis; the scan has {shape}.")
    factors = [
        max(1, min(round(COARSE_MM / s), n // FEWEST)) for s, n in zip(volume.spacing_mm, volume.shape, strict=True)
    ]
    coarse = body.block_means(volume.array, factors)
    inside = body.mask(coarse)
    field = _estimate(coarse, inside, [s * f for s, f in zip(volume.spacing_mm, factors, strict=True)])
    field -= field[inside].mean()
    step = {
        "step": "bias_field",
        "factors": factors,
        "coarse_shape": list(coarse.shape),
        "log_field": [round(float(c), 6) for c in _fit(field).ravel()],
    }
    return Volume(volume.array / field_of(step, volume.shape), volume.affine, volume.meta), step


def undo(volume: Volume, step: dict) -> Volume:
    """Multiply a corrected scan by the field of the step."""
    return Volume(volume.array * field_of(step, volume.shape), volume.affine, volume.meta)


def field_of(step: dict, shape: Sequence[int]) -> np.ndarray:
    """Return the field, float32 of `shape`, positive; beyond the centres of the outermost blocks it stays as it is
    there.
    """
    log_field = np.asarray(step["log_field"], np.float32).reshape([COEFFICIENTS] * 3)
    for axis, (n, factor, blocks) in enumerate(zip(shape, step["factors"], step["coarse_shape"], strict=True)):
        centres = (np.arange(n) - (factor - 1) / 2) / factor
        basis = _basis(np.clip(centres / max(1, blocks - 1), 0, 1)).astype(np.float32)
        log_field = np.moveaxis(np.tensordot(basis, log_field, (1, axis)), 0, axis)
    return np.exp(log_field)


def _estimate(coarse: np.ndarray, inside: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """The logarithm of the field on the coarse grid, float64."""
    import SimpleITK as sitk  # noqa: N813 - its own habit

    image, where = sitk.GetImageFromArray(coarse), sitk.GetImageFromArray(inside.astype(np.uint8))
    for each in (image, where):
        each.SetSpacing([float(s) for s in reversed(spacing_mm)])
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)  # sums over several threads would change the result from run to run
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    try:
        n4.Execute(image, where)
        return sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).astype(np.float64)
    except RuntimeError as error:
        raise InputError(f"N4 bias correction fails on this scan ({str(error).strip().splitlines()[-1]}).") from error


def _fit(field: np.ndarray) -> np.ndarray:
    """Coefficients (7, 7, 7) of the spline nearest to `field`, which is itself one of about this kind."""
    for axis, n in enumerate(field.shape):
        inverse = np.linalg.pinv(_basis(np.arange(n) / max(1, n - 1)))
        field = np.moveaxis(np.tensordot(inverse, field, (1, axis)), 0, axis)
    return field


def _basis(places: np.ndarray) -> np.ndarray:
    """Uniform cubic B-splines at `places` on [0, 1]: (places, COEFFICIENTS)."""
    from scipy.interpolate import BSpline

    intervals = COEFFICIENTS - CUBIC
    knots = np.arange(-CUBIC, intervals + CUBIC + 1) / intervals
    return BSpline.design_matrix(places, knots, CUBIC, extrapolate=True).toarray()
