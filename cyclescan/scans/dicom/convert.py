"""A DICOM series as a volume: each slice's own pixels, at the place and with the values that its header states.

Nothing is inferred from the order in which files or frames are stored, nor from who made the scanner.
"""

from __future__ import annotations

import collections
import logging

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom import pixels
from cyclescan.scans.dicom.series import Series
from cyclescan.scans.dicom.tags import lenient, opened, text_of
from cyclescan.scans.volume import Volume, checked, spacing_of

log = logging.getLogger(__name__)

SAME_PLACE = 0.02  # voxels; NIfTI's float32 is far finer


def read(series: Series) -> Volume:
    """Return the voxels of a series.

    The axes are columns, rows from the last to the first, and slices along their normal: NIfTI's custom for slices of
    DICOM, in which dcm2niix writes them too.

    Raises:
        InputError: the series has a problem, its pixels cannot be decoded, or a file has changed since it was found;
            and what `cyclescan.scans.volume.checked` refuses.
    """
    grid = series.affine
    if series.note:
        log.warning("warning: %s", series.note)
    columns, rows, count = series.shape
    mappings = series.mappings
    places: dict[str, dict[int, int]] = collections.defaultdict(dict)
    for place, each in enumerate(series.slices):
        places[each.path][max(each.frame, 1)] = place  # the one frame of a classic file has no number
    uids = {each.path: each.sop_uid for each in series.slices}
    array = np.empty((count, rows, columns), np.float32)  # slices are whole in memory: they are written one by one
    with lenient(), np.errstate(over="ignore"):  # what is no finite float32 is refused below
        for path, of_frame in places.items():
            found = 0
            with opened(path, (*pixels.TAGS, "SOPInstanceUID")) as file:
                changed = text_of(file.dataset, "SOPInstanceUID") != uids[path]
                for number, stored in enumerate(() if changed else pixels.frames(path, file), 1):
                    changed |= stored.shape != (rows, columns)
                    if number in of_frame and not changed:
                        place = of_frame[number]
                        array[place, ::-1] = mappings[place].apply(stored, path)
                        found += 1
            if changed or found < len(of_frame):
                raise InputError(f"{path} has changed since its header was read; begin again.")
    affine = grid.copy()
    affine[:3, 3] += grid[:3, 1] * (rows - 1)
    affine[:3, 1] *= -1
    affine = affine.astype(np.float32).astype(np.float64)  # as a NIfTI file holds it: a result lies where its scan does
    volume = Volume(array.transpose(2, 1, 0), affine, {"path": str(series.path), **series.meta})
    return checked(volume, str(series.path))


def order_of(affine: np.ndarray, shape: tuple[int, ...], expected: np.ndarray, series: Series) -> np.ndarray:
    """Return how the axes of a volume on a series' grid run along the slices' own (column, row, slice).

    Returns:
        nibabel's (axis, direction) rows that bring the volume's array onto the slices' grid.

    Raises:
        InputError: the two grids are not the same set of points.
    """
    mapping = np.linalg.solve(affine, expected)  # from (column, row, slice) to the volume's axes
    order = np.zeros((3, 2))
    axes = np.abs(mapping[:3, :3]).argmax(axis=0)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in series.shape), indexing="ij")).reshape(3, -1)
    exact = np.zeros((4, 4))
    exact[3, 3] = 1
    for own, axis in enumerate(axes):
        direction = np.sign(mapping[axis, own])
        exact[axis, own] = direction
        exact[axis, 3] = 0 if direction > 0 else shape[axis] - 1
        order[axis] = own, direction
    same = len(set(axes)) == 3 and tuple(shape[axis] for axis in axes) == series.shape
    there, wanted = (m[:3, :3] @ corners + m[:3, 3:] for m in (mapping, exact))
    if not same or np.abs(there - wanted).max() > SAME_PLACE:
        raise InputError(
            f"The volume has {'x'.join(map(str, shape))} voxels of {_spacing(affine)} mm, and the series of "
            f"{series.path} {'x'.join(map(str, series.shape))} of {_spacing(expected)} mm, or another place or "
            "orientation."
        )
    return order


def _spacing(affine: np.ndarray) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing_of(affine))
