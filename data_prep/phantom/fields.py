"""Smooth random fields."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.interpolate import BSpline

EXTENT_MM = (96.0, 140.0, 140.0)  # the box that a field varies over; it stays constant beyond


def smooth_field(rng: np.random.Generator, shape, spacing_mm, knots) -> np.ndarray:
    """Return a cubic B-spline field of unit SD, float32, with `knots` random control points along each axis of
    EXTENT_MM.

    It is a function of millimetres about the centre of the volume: the same generator gives the same field on every
    grid.
    """
    control = rng.normal(size=knots)
    scale, field = 1.0, control
    for axis, (count, size, step, extent) in enumerate(zip(knots, shape, spacing_mm, EXTENT_MM, strict=True)):
        # control points are averaged by the basis: give back the SD that this takes away
        scale /= np.sqrt((_basis(count, np.linspace(0, 1, 101)) ** 2).sum(1).mean())
        places = 0.5 + (np.arange(size) - (size - 1) / 2) * step / extent
        basis = _basis(count, places).astype(np.float32)
        field = np.moveaxis(np.tensordot(basis, field.astype(np.float32), (1, axis)), 0, axis)
    return field * np.float32(scale)


def smooth_noise(rng: np.random.Generator, shape, sigma) -> np.ndarray:
    """Draw Gaussian noise of unit SD, low-passed with SD `sigma` (in voxels of each axis), float32; drawn voxel by
    voxel.
    """
    noise = rng.standard_normal(shape, np.float32)
    for axis, s in enumerate(sigma):
        if s > 0.3 and noise.size:
            noise = ndimage.gaussian_filter1d(noise, s, axis=axis, mode="wrap", truncate=3)
    spread = noise.std() if noise.size else 0
    return noise / spread if spread > 0 else noise


def _basis(count: int, places: np.ndarray) -> np.ndarray:
    """(places, count) values of uniform B-splines over [0, 1].

    The knots run on beyond the ends, unlike those of a curve that must reach its last control points: so the field
    varies at its ends as it does inside.
    """
    degree = min(3, count - 1)
    knots = (np.arange(count + degree + 1) - degree) / (count - degree)
    return BSpline.design_matrix(np.clip(places, 0, 1 - 1e-9), knots, degree).toarray()
