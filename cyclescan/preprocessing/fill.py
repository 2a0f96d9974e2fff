"""What stands beyond the field of view: a constant that a scanner or a resampling wrote where nothing was measured.

Zeros in the corners of a rotated scan, -1024 to -3024 around the round field of a CT. Nothing of it is tissue, so it
belongs into no histogram, and interpolating across its edge would carry a false value into the scan. A scan without
such a region is not touched; nor is one whose air was set to a constant: there the constant is all the air it has.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from cyclescan.preprocessing import body
from cyclescan.scans.volume import Volume

SOLID = 3  # voxels along the edge of a cube that holds one value alone; noise does not give that, fill does
ON_A_FACE = 5  # the same in the plane of a face, where fill has to be seen first
LEAST_ON_FACES = 0.01  # of the voxels on the faces
LEAST = 0.001  # of all voxels: less changes no histogram
MOST_VALUES = 3  # a scan may have been padded, and then rotated
NEAR = 0.05  # of the range of what was measured: a value to which nothing comes so near is fill wherever it stands
DARKEST_PERCENT, BRIGHTEST_PERCENT = 0.5, 99.5
# air that was measured lies around the body, so that most of it is deep in what is not the body, by this share of an
# edge of the volume; dark tissue at the surface of a body whose surroundings were set to a constant is a layer. On 26
# digital knees, rotated, cut round or masked, half parts the two. The air of CT is known by its value.
DEPTH, DEEP = 1 / 32, 0.5
DARK = 0.2  # of the way from the fill to the brightest: air of MR is darker
AIR_HU, NEAR_AIR_HU = -1000.0, 150.0


@dataclasses.dataclass(frozen=True)
class Fill:
    """The part of a scan beyond its field of view.

    Attributes:
        outside: bool (depth, height, width), neither empty nor the whole volume.
        air: the intensity of air in this scan, which stands for the fill wherever a value has to stand.
    """

    outside: np.ndarray
    air: float

    def removed(self, array: np.ndarray) -> np.ndarray:
        """Return the scan with air in place of the fill."""
        return np.where(self.outside, array.dtype.type(self.air), array)


def find(array: np.ndarray) -> Fill | None:
    """Return what of a scan lies beyond its field of view; None where nothing does.

    It has one value, exactly, in regions that are solid (unions of cubes of `SOLID` voxels) and reach a face of the
    volume, and air was measured as well, or it is brighter than air.

    Args:
        array: a whole volume as it was measured, canonical axes; not one that this program resampled or clipped.
    """
    array = np.asarray(array)
    outside = np.zeros(array.shape, bool)
    values = []
    for value in _candidates(array):
        region = _solid_from_the_faces(array == value)
        if np.count_nonzero(region) >= LEAST * array.size:
            outside |= region
            values.append(float(value))
    for value in values:
        if _stands_alone(array[~outside], value):
            outside |= array == value
    measured = array[~outside]
    if not values or not measured.size or measured.min() == measured.max():
        return None
    dark, bright = (float(v) for v in np.percentile(measured, (DARKEST_PERCENT, BRIGHTEST_PERCENT)))
    level = _air(array, outside, min(values), bright)
    if level is None and max(values) > dark:
        level = dark
    return None if level is None else Fill(outside, level)


def remove(volume: Volume, filled: Fill) -> tuple[Volume, dict]:
    """Return the scan with air in place of the fill, and that step, which `restore` passes over: air stays
    there.
    """
    share = float(f"{np.mean(filled.outside):.4g}")
    step = {"step": "fill", "share": share, "air": float(f"{filled.air:.6g}")}
    return Volume(filled.removed(volume.array), volume.affine, volume.meta), step


def _air(array: np.ndarray, outside: np.ndarray, value: float, bright: float) -> float | None:
    """The median intensity of the air that was measured; None where none was."""
    factors = [max(1, n // body.COARSE_VOXELS) for n in array.shape]
    coarse, outside = body.block_means(array, factors), body.block_means(outside, factors) > 0
    beyond = ~body.mask(coarse, outside, dark_tissue=False)
    air = beyond & ~outside
    if not air.any():
        return None
    level = float(np.median(coarse[air]))
    if abs(level - AIR_HU) <= NEAR_AIR_HU:
        return level
    depth = max(1, round(DEPTH * float(np.median(air.shape))))
    deep = ndimage.binary_erosion(beyond, iterations=depth, border_value=1) & air
    is_around = np.count_nonzero(deep) > DEEP * np.count_nonzero(air)
    return level if is_around and level < value + DARK * (bright - value) else None


def _candidates(array: np.ndarray) -> list[float]:
    """The values that fill squares on the faces of the volume, the most frequent ones first."""
    faces = [np.take(array, place, axis) for axis in range(3) for place in (0, -1)]
    values, counts = np.unique(np.concatenate([face.ravel() for face in faces]), return_counts=True)
    order = np.argsort(-counts, kind="stable")[: 4 * MOST_VALUES]
    often = [values[i] for i in order if counts[i] >= LEAST_ON_FACES * counts.sum()]
    return [value for value in often if any(_has_square(face == value) for face in faces)][:MOST_VALUES]


def _has_square(face: np.ndarray) -> bool:
    size = [min(ON_A_FACE, n) for n in face.shape]
    return bool(ndimage.minimum_filter(face.view(np.uint8), size, mode="nearest").any())


def _solid_from_the_faces(same: np.ndarray) -> np.ndarray:
    """What of `same` is a union of cubes, and connected with a face of the volume through such cubes."""
    cores = ndimage.minimum_filter(same.view(np.uint8), SOLID, mode="nearest").view(bool)
    labels, count = ndimage.label(cores)
    reaching = np.zeros(count + 1, bool)
    for axis in range(3):
        for place in (0, -1):
            reaching[np.unique(np.take(labels, place, axis))] = True
    reaching[0] = False
    cubes = ndimage.maximum_filter(reaching[labels].view(np.uint8), SOLID, mode="nearest").view(bool)
    # the steps of a slanting edge hold no cube
    return ndimage.binary_dilation(cubes, np.ones((3, 3, 3), bool), SOLID, same)


def _stands_alone(measured: np.ndarray, value: float) -> bool:
    """Whether hardly anything that was measured comes near a value."""
    others = measured[measured != value]
    if not others.size:
        return False
    low, high = np.percentile(others, (5, 95))
    return np.mean(np.abs(others - value) < NEAR * (high - low)) < LEAST
