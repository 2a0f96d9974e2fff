"""Which voxels of the scan are the bone: a mask, or the labels of the digital knee."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from cyclescan.common.errors import InputError
from cyclescan.planning import FLIP, moved
from cyclescan.planning.trajectories import Line
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume

# the labels of marrow in the shaft and at its ends, and of cortical bone, in the files of `data_prep phantom`
LABELS = (12, 13, 14)
WHICH = ("femur", "tibia")
FEWEST_VOXELS = 1000  # of a bone: with less there is nothing to recognise
SURFACE_POINTS = 200
NEAR_MM = 5.0  # of the bone: an entry point lies a little outside


def read(path: str | Path, scan: Volume, which: str = "femur") -> np.ndarray:
    """Return the bone's voxels on the grid of the scan, bool.

    Args:
        path: NIfTI with 0 and one other value, or with the labels of the digital knee.
        scan: on whose grid it must be.
        which: of the labels: "femur", the largest bone above, or "tibia", the largest one below.

    Raises:
        InputError: it is on another grid, has no bone, or neither a mask nor those labels.
    """
    mask = volumes.read(path)
    where = f"{path} (mask of the bone)"
    if mask.shape != scan.shape or not np.allclose(mask.affine, scan.affine, atol=0.01):
        raise InputError(
            f"{where} is on another grid than the scan: {_grid(mask)} against {_grid(scan)}; they must be the same."
        )
    values = np.unique(mask.array)
    if len(values) == 2 and values[0] == 0:
        bone = mask.array > 0
    elif np.isin(values, np.arange(32)).all():
        bone = _labelled(mask, which)
    else:
        shown = ", ".join(f"{v:g}" for v in values[:4])
        raise InputError(
            f"{where} has the values {shown} ...; 0 and one other are allowed, or the digital knee's labels."
        )
    if (count := int(bone.sum())) < FEWEST_VOXELS:
        raise InputError(f"There is no bone in {where}: {count} voxels; at least {FEWEST_VOXELS} are needed.")
    return bone


def _labelled(labels: Volume, which: str) -> np.ndarray:
    if which not in WHICH:
        raise InputError(f"The bone is {which!r}; allowed is {' or '.join(WHICH)}.")
    parts, count = ndimage.label(np.isin(labels.array, LABELS))
    if count < 2:
        return np.zeros(parts.shape, bool)
    sizes = ndimage.sum_labels(parts > 0, parts, np.arange(1, count + 1))
    largest = np.argsort(sizes)[-2:] + 1
    middles = np.array(ndimage.center_of_mass(parts > 0, parts, largest))
    heights = moved(labels.affine, middles)[:, 2]
    return parts == largest[heights.argmax() if which == "femur" else heights.argmin()]


def surface(mask: np.ndarray, affine_ras: np.ndarray) -> np.ndarray:
    """Return points (n, 3) all over the bone's surface, LPS mm of the scan."""
    rim = np.argwhere(mask & ~ndimage.binary_erosion(mask, border_value=1))
    return moved(FLIP @ affine_ras, rim[:: max(1, len(rim) // SURFACE_POINTS)])


def lines_of(lines: tuple[Line, ...], mask: np.ndarray, affine_ras: np.ndarray, path: str | Path) -> list[bool]:
    """Say for each line of a plan whether it goes with the bone: at least half of it lies within `NEAR_MM` of it.

    Raises:
        InputError: a line lies outside the scan, or none goes with the bone.
    """
    to_index = np.linalg.inv(FLIP @ affine_ras)
    spacing_mm = volumes.spacing_of(affine_ras)
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    belongs = []
    for line in lines:
        ends = moved(to_index, line.points_lps)
        if (ends < -0.5).any() or (ends > np.array(mask.shape) - 0.5).any():
            start, end = (", ".join(f"{v:.0f}" for v in point) for point in line.points_lps)
            raise InputError(
                f"{path}: the line {line.name!r} from ({start}) to ({end}) mm LPS is outside the volume of the scan."
            )
        steps = np.linspace(0, 1, 21)[:, None]
        along = moved(to_index, line.points_lps[0] * (1 - steps) + line.points_lps[1] * steps)
        near = ndimage.map_coordinates(distance, along.T, order=1, mode="nearest") <= NEAR_MM
        belongs.append(bool(near.mean() >= 0.5))
    if not any(belongs):
        names = ", ".join(repr(line.name) for line in lines)
        raise InputError(f"{path}: none of the lines {names} lies in the bone of the mask.")
    return belongs


def _grid(volume: Volume) -> str:
    shape = "x".join(map(str, volume.shape))
    return f"{shape} voxels of {' x '.join(f'{s:.2f}' for s in volume.spacing_mm)} mm"
