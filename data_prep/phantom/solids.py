"""Implicit solids: superquadrics, swept tubes and smooth blends, and the canvas that they are painted on.

A solid is a field that is negative inside and has millimetres as its unit close to its surface. `realise` makes a
distance of it and adds how wide the surface is blurred by a voxel, so that the share of a voxel that lies inside is
`Solid.cover`, without sub-voxels: a flat surface crosses a cuboid of sides s_i over a length of about
sqrt(sum (n_i s_i)^2), where n is its normal. Everything is float32.

Sources: superquadrics, Barr 1981; blending by the logarithm of a sum of exponentials, Ricci 1973 and Blinn 1982.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from data_prep.phantom.fields import smooth_field, smooth_noise

Box = tuple[slice, slice, slice]
Point = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Solid:
    """A solid within a box of the grid: distance in mm, and the width over which its surface is blurred."""

    box: Box
    distance: np.ndarray
    width: np.ndarray

    def cover(self, offset: float | np.ndarray = 0.0) -> np.ndarray:
        """Return the share of each voxel inside the solid grown by `offset` mm."""
        return np.clip(np.float32(0.5) - (self.distance - offset) / self.width, 0, 1)

    def sheet(self, half: float | np.ndarray, offset: float | np.ndarray = 0.0) -> np.ndarray:
        """Return the share within `half` mm of the surface grown by `offset`, right for sheets thinner than a voxel,
        too.
        """
        return self.cover(offset + half) - self.cover(offset - half)


def realise(box: Box, field: np.ndarray, spacing_mm: Sequence[float]) -> Solid:
    """Divide a field by its slope, which makes it a distance to first order."""
    slope = np.zeros_like(field)
    blur = np.zeros_like(field)
    for axis, step in enumerate(spacing_mm):
        if field.shape[axis] < 2:
            continue
        change = np.gradient(field, axis=axis).astype(np.float32) ** 2
        blur += change
        slope += change * np.float32(1 / step**2)
    slope = np.sqrt(slope)
    # where a field has a ridge or a valley its slope vanishes although its value is a fair distance
    safe = np.clip(slope, np.float32(0.6), np.float32(3.0))
    return Solid(box, field / safe, np.sqrt(blur) / safe + np.float32(0.15 * min(spacing_mm)))


def superquadric(p: Point, centre, radii, exponent: float) -> np.ndarray:
    """Return the solid (|x/a|^e + |y/b|^e + |z/c|^e)^(1/e) = 1; 2 is an ellipsoid, above it grows towards a box."""
    if exponent == 2:
        return ellipsoid(p, centre, radii)
    total, gradient = np.float32(0), np.float32(0)
    for v, c, r in zip(p, centre, radii, strict=True):
        q = np.abs(v - np.float32(c)) * np.float32(1 / r)
        raised = q ** np.float32(exponent - 1)
        total = total + raised * q
        gradient = gradient + (raised * np.float32(1 / r)) ** 2
    size = total ** np.float32(1 / exponent) + np.float32(1e-6)
    return (size - 1) * size ** np.float32(exponent - 1) / np.sqrt(gradient + np.float32(1e-12))


def ellipsoid(p: Point, centre, radii) -> np.ndarray:
    """Do as `superquadric` with exponent 2, four times faster."""
    total, gradient = np.float32(0), np.float32(0)
    for v, c, r in zip(p, centre, radii, strict=True):
        q = (v - np.float32(c)) * np.float32(1 / r)
        q = q * q
        total = total + q
        gradient = gradient + q * np.float32(1 / r**2)
    size = np.sqrt(total)
    return size * (size - 1) / np.sqrt(gradient + np.float32(1e-9))


def tube(p: Point, points, radii, flat: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Return a chain of points swept with a radius at each; `flat` are factors of its section along x, y and z."""
    stretched = [v * np.float32(1 / f) for v, f in zip(p, flat, strict=True)]
    points = [[c / f for c, f in zip(point, flat, strict=True)] for point in points]
    distance = None
    for (start, first), (end, last) in itertools.pairwise(zip(points, radii, strict=True)):
        along = [e - s for s, e in zip(start, end, strict=True)]
        from_start = [v - np.float32(s) for v, s in zip(stretched, start, strict=True)]
        t = sum(v * np.float32(a) for v, a in zip(from_start, along, strict=True))
        t = np.clip(t * np.float32(1 / max(sum(a * a for a in along), 1e-6)), 0, 1)
        square = sum((v - t * np.float32(a)) ** 2 for v, a in zip(from_start, along, strict=True))
        part = np.sqrt(square) - (np.float32(first) + t * np.float32(last - first))
        distance = part if distance is None else np.minimum(distance, part)
    return distance


def union(parts: Sequence[np.ndarray], blend_mm: float) -> np.ndarray:
    """Return all parts, blended where they lie within about `blend_mm` of each other."""
    least = parts[0]
    for part in parts[1:]:
        least = np.minimum(least, part)
    total = sum(np.exp(np.maximum((least - part) * np.float32(1 / blend_mm), -30)) for part in parts)
    return least - np.float32(blend_mm) * np.log(total)


def without(body: np.ndarray, tool: np.ndarray, blend_mm: float) -> np.ndarray:
    """Return the body less the tool, with a rounded edge."""
    return -union([-body, tool], blend_mm)


def ramp(value, low: float, high: float):
    """Return 0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


class Grid:
    """The voxels of a scan in the coordinates of the knee: x to its lateral side, y up, z to the front, in mm.

    Args:
        shape, spacing_mm: (sagittal slices, height, width).
        left: whether x grows to the patient's left.
        turn: (3, 3), from scan to knee, size included; shift_mm: where the knee's origin lies in the scan.
        warp_mm: SD of a smooth random displacement; rng: of it.
        flexion_deg: leans what is above the joint to the back.
    """

    def __init__(self, shape, spacing_mm, *, left, turn, shift_mm, warp_mm, rng, flexion_deg):
        self.shape, self.spacing_mm = tuple(shape), tuple(float(s) for s in spacing_mm)
        axes = [((np.arange(n) - (n - 1) / 2) * s).astype(np.float32) for n, s in zip(shape, spacing_mm, strict=True)]
        if left:
            axes[0] = -axes[0]
        axes = [
            (a - np.float32(shift)).reshape([-1 if i == j else 1 for j in range(3)])
            for i, (a, shift) in enumerate(zip(axes, shift_mm, strict=True))
        ]
        warped = [
            sum(np.float32(turn[i, j]) * axes[j] for j in range(3))
            + np.float32(warp_mm) * smooth_field(rng, self.shape, self.spacing_mm, (4, 5, 5))
            for i in range(3)
        ]
        above = np.maximum(warped[1] - np.float32(18), 0)
        above = above * above / (above + np.float32(12))
        warped[2] = warped[2] + np.float32(np.tan(np.deg2rad(flexion_deg))) * above
        self.points: Point = tuple(warped)

    @property
    def everything(self) -> Box:
        """Return the box of the whole grid."""
        return tuple(slice(0, n) for n in self.shape)

    def box(self, low, high, margin_mm: float = 6.0) -> Box:
        """Return index ranges that enclose a range of knee coordinates; empty where it lies outside."""
        steps = tuple(max(1, round(4 / s)) for s in self.spacing_mm)
        strided = tuple(slice(None, None, step) for step in steps)
        inside = True
        for values, least, most, spacing in zip(self.points, low, high, self.spacing_mm, strict=True):
            room = margin_mm + 2 * spacing
            inside = inside & (values[strided] > least - room) & (values[strided] < most + room)
        result = []
        for axis, step in enumerate(steps):
            hit = np.flatnonzero(inside.any(axis=tuple(i for i in range(3) if i != axis)))
            if not hit.size:
                return (slice(0, 0),) * 3
            start, stop = int(hit[0]) * step, (int(hit[-1]) + 1) * step
            result.append(slice(max(0, start - step), min(stop, self.shape[axis])))
        return tuple(result)

    def at(self, box: Box) -> Point:
        """Return the coordinates of a box."""
        return tuple(v[box] for v in self.points)

    def solid(self, box: Box, field: np.ndarray) -> Solid:
        """Return `realise` on this grid."""
        return realise(box, field, self.spacing_mm)

    def noise(self, rng: np.random.Generator, sigma_mm, box: Box | None = None) -> np.ndarray:
        """Draw smooth noise of unit SD; `sigma_mm` is a number or one for each axis."""
        shape = self.shape if box is None else tuple(s.stop - s.start for s in box)
        return smooth_noise(rng, shape, np.broadcast_to(sigma_mm, 3) / np.asarray(self.spacing_mm))


class Canvas:
    """Shares of tissues, painted from the outermost structure inwards: each covers what lies beneath it."""

    def __init__(self, names: Sequence[str], shape):
        self.names = list(names)
        self.shares = np.zeros((len(self.names), *shape), np.float32)
        self.shares[self.names.index("air")] = 1

    def paint(self, box: Box, shares: dict[str, np.ndarray]) -> None:
        """Cover a box with `shares`, which add up to at most 1."""
        if not all(s.stop > s.start for s in box):
            return
        there = self.shares[(slice(None), *box)]
        there *= 1 - sum(shares.values())
        for name, share in shares.items():
            there[self.names.index(name)] += share

    def limb(self, box: Box) -> np.ndarray:
        """Return the share of each voxel that is not air."""
        return 1 - self.shares[(self.names.index("air"), *box)]

    def fractions(self) -> dict[str, np.ndarray]:
        """Return the share of each tissue, adding up to 1."""
        return dict(zip(self.names, self.shares, strict=True))
