"""A picture of a cohort: every contrast in three planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cyclescan.files import replacing
from cyclescan.volume import read

WINDOWS = {"ciss": None, "dess": None, "ct": (-300.0, 1300.0), "labels": (0.0, 16.0)}


def write_montage(folder: Path, names: list[str]) -> Path:
    """Draw FOLDER/montage.png: a row for each subject and contrast, columns sagittal (3), coronal and axial."""
    from matplotlib.figure import Figure

    rows = [(name, scan) for name in names for scan in WINDOWS]
    titles = ("sagittal, lateral", "sagittal, notch", "sagittal, medial", "coronal", "axial")
    figure = Figure(figsize=(13, 2.6 * len(rows)), facecolor="black")
    axes = figure.subplots(len(rows), 5, squeeze=False)
    for line, (name, scan) in zip(axes, rows, strict=True):
        volume = read(folder / scan / f"{name}.nii.gz")
        array, (z, y, x) = volume.array, volume.spacing_mm
        low, high = WINDOWS[scan] or (0.0, float(np.percentile(array, 99.6)))
        third = array.shape[0] // 3
        # superior up; anterior left in sagittal and up in axial planes; the patient's right on the left
        views = [(array[i, ::-1, ::-1], y / x) for i in (third, array.shape[0] // 2, array.shape[0] - third)]
        views.append((array[::-1, ::-1, array.shape[2] // 2].T, y / z))
        views.append((array[::-1, array.shape[1] // 2, ::-1].T, x / z))
        for axis, title, (picture, aspect) in zip(line, titles, views, strict=True):
            colours = "nipy_spectral" if scan == "labels" else "gray"
            axis.imshow(picture, cmap=colours, vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
            axis.set_axis_off()
            axis.set_title(f"{name} {scan}, {title}", color="white", fontsize=7)
    figure.tight_layout(pad=0.3)
    path = folder / "montage.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, facecolor="black")
    return path
