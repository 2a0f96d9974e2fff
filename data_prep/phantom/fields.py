"""Smooth random fields."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.interpolate import BSpline


def smooth_field(rng: np.random.Generator, shape, knots) -> np.ndarray:
    """A cubic B-spline field of unit SD with `knots` random control points along each axis, float32."""
    field = rng.normal(size=knots)
    for axis, (count, size) in enumerate(zip(knots, shape, strict=True)):
        field = np.moveaxis(np.tensordot(_basis(count, size), field, (1, axis)), 0, axis)
    # control points are averaged by the basis: give back the SD that this takes away
    return (field / np.sqrt(np.prod([(_basis(k, n) ** 2).sum(1).mean() for k, n in zip(knots, shape, strict=True)]))
            ).astype(np.float32)


def smooth_noise(rng: np.random.Generator, shape, sigma) -> np.ndarray:
    """Gaussian noise of unit SD, low-passed with SD `sigma` (in voxels of each axis), float32."""
    noise = rng.standard_normal(shape, np.float32)
    for axis, s in enumerate(sigma):
        if s > 0.3:
            noise = ndimage.gaussian_filter1d(noise, s, axis=axis, mode="wrap", truncate=3)
    return noise / noise.std()


def _basis(count: int, size: int) -> np.ndarray:
    """(size, count) values of clamped cubic B-splines at `size` equidistant places."""
    degree = min(3, count - 1)
    knots = np.concatenate([[0] * degree, np.linspace(0, 1, count - degree + 1), [1] * degree])
    places = np.linspace(0, 1, size) if size > 1 else np.array([0.5])
    return BSpline.design_matrix(np.clip(places, 0, 1 - 1e-9), knots, degree).toarray()
