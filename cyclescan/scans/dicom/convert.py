"""A DICOM series as a volume: dcm2niix decodes and stacks the slices, the headers say whether it did so rightly.

dcm2niix: Li X. et al., J. Neurosci. Methods 264:47 (2016). Two readers that know nothing of each other have to agree
on the grid: where dcm2niix's voxels do not lie where the headers put them, the series is refused.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.scans import volume as volumes
from cyclescan.scans.dicom.series import Series
from cyclescan.scans.volume import Volume

# -g i: no defaults of the user; -p y: Rescale Slope and Intercept of each slice (of Philips, where it is there, the
# private scale slope, which is the same in all series of a patient); -x i: neither crop nor rotate; -l o: the stored
# type; -m y: what we hand over is one volume
OPTIONS = "-g i -b n -z n -p y -x i -l o -m y -f volume".split()
LIMIT_S = 900
SAME_PLACE = 0.02  # voxels; NIfTI's float32 is far finer


def read(series: Series) -> Volume:
    """The voxels of a series, each slice's Rescale Slope and Intercept applied, on the grid that dcm2niix gives it.

    The slices are linked, not copied, into a temporary folder, and one volume is in memory.

    Raises:
        InputError: the series has a problem, dcm2niix cannot decode it, or its grid is not that of the headers; and
            whatever `cyclescan.scans.volume.read` refuses.
    """
    expected = series.affine
    with tempfile.TemporaryDirectory(prefix="cyclescan-dicom-") as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        target.mkdir()
        links = {}
        # plain names: dcm2niix need not understand what a file is called
        for number, file in enumerate(series.files):
            links[source / f"{number:05d}.dcm"] = file
            os.symlink(file, source / f"{number:05d}.dcm")
        said = _run([_program(), *OPTIONS, "-o", str(target), str(source)], series)
        made = sorted(target.glob("*.nii"))
        count = sum(map(volumes.count, made))
        if count != 1:
            why = _reason(said, links)
            what = f"{count} volumes" if made else "no volume"
            because = f" ({why})" if why else ""
            raise InputError(f"{series.path} is of a series of which dcm2niix makes {what}{because}.")
        try:
            volume = volumes.read(made[0])
        except InputError as error:
            raise InputError(str(error).replace(str(made[0]), str(series.path))) from error
    scan = Volume(volume.array, volume.affine, {"path": str(series.path), **series.meta})
    order_of(scan.affine, scan.shape, expected, series)
    return scan


def order_of(affine: np.ndarray, shape: tuple[int, ...], expected: np.ndarray, series: Series) -> np.ndarray:
    """How the axes of a converted volume run along the slices' own (column, row, slice).

    Returns:
        nibabel's (axis, direction) rows that bring the converted array onto the slices' grid.

    Raises:
        InputError: the two grids are not the same set of points.
    """
    mapping = np.linalg.solve(affine, expected)  # from (column, row, slice) to the converted array's axes
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
            f"{series.path} is of a series of which dcm2niix makes {'x'.join(map(str, shape))} voxels of "
            f"{' x '.join(f'{s:.4g}' for s in volumes.spacing_of(affine))} mm, and the headers say "
            f"{'x'.join(map(str, series.shape))} of {' x '.join(f'{s:.4g}' for s in volumes.spacing_of(expected))} mm, "
            "or another place or orientation."
        )
    return order


def _program() -> str:
    import dcm2niix

    return str(dcm2niix.bin)


def _run(command: list[str], series: Series) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT_S, cwd="/"
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{series.path} is of a series on which dcm2niix worked longer than {LIMIT_S} s.") from error
    except OSError as error:
        raise InputError(f"dcm2niix cannot be started: {error.strerror or error}.") from error
    return f"{done.stdout}\n{done.stderr}"


def _reason(said: str, links: dict[Path, str]) -> str:
    """dcm2niix's last complaint, in terms of the user's files."""
    complaint = re.compile(r"error|warning|unsupported|unable|fail|not large enough", re.IGNORECASE)
    lines = [line.strip() for line in said.splitlines() if complaint.search(line)]
    lines = [line for line in lines if "manufacturer" not in line]  # it wonders about every rare scanner
    reason = lines[-1] if lines else ""
    for link, file in links.items():
        reason = reason.replace(str(link), file)
    return reason[:300].rstrip(".")
