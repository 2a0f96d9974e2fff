"""A picture of a cohort: every contrast in three planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cyclescan.common.files import refuse_foreign, replacing
from cyclescan.scans.volume import Volume, read
from data_prep.phantom.anatomy import NAMES

NAME, SOFTWARE = "montage.png", "cyclescan digital knee"
CONTRASTS = ("ciss", "dess", "ct", "labels")
CT_WINDOW_HU = (-300.0, 1300.0)
COLOURS = {
    "air": "#000000",
    "fluid": "#4fc3f7",
    "cartilage_deep": "#1e88e5",
    "cartilage_superficial": "#64b5f6",
    "meniscus": "#d81b60",
    "acl": "#43a047",
    "pcl": "#9ccc65",
    "quadriceps_tendon": "#8e24aa",
    "patellar_tendon": "#ba68c8",
    "muscle": "#8d3b3b",
    "subcutaneous_fat": "#e6d28a",
    "hoffa_fat": "#ffb74d",
    "marrow_shaft": "#bcaaa4",
    "marrow_epiphysis": "#d7ccc8",
    "cortical_bone": "#ffffff",
    "vessel": "#f44336",
    "fascia": "#607d8b",
    "skin": "#a1887f",
}


def refuse_foreign_montage(folder: Path) -> None:
    """Raise `InputError` where FOLDER/montage.png is there and `write_montage` did not make it."""
    refuse_foreign(folder / NAME, lambda path: SOFTWARE.encode() in path.read_bytes()[:4096], "montage of knees")


def write_montage(folder: Path, names: list[str]) -> Path:
    """Draw FOLDER/montage.png: a row for each contrast; for each subject two sagittal, a coronal and an axial plane.

    Displayed as radiologists do: superior up; anterior left in sagittal and up in axial planes; the patient's right on
    the left. The planes follow the labels: notch, medial condyle (or lateral, towards the patient's right in a left
    knee), the middle of the tibia, and the patella.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    views = [(name, _planes(read(folder / "labels" / f"{name}.nii.gz"))) for name in names]
    figure = Figure(figsize=(7.6 * len(names), 9.4), facecolor="black")
    grid = figure.add_gridspec(
        4, 4 * len(names), width_ratios=[1.3, 1.3, 0.9, 0.9] * len(names), wspace=0.02, hspace=0.05,
        left=0.005, right=0.995, bottom=0.005, top=0.96,
    )  # fmt: skip
    tissue_colours = ListedColormap([COLOURS[name] for name in NAMES])
    for column, (name, planes) in enumerate(views):
        for row, contrast in enumerate(CONTRASTS):
            volume = read(folder / contrast / f"{name}.nii.gz")
            if contrast == "labels":
                style = {"cmap": tissue_colours, "vmin": -0.5, "vmax": len(NAMES) - 0.5, "interpolation": "nearest"}
            else:
                low, high = CT_WINDOW_HU if contrast == "ct" else (0.0, float(np.percentile(volume.array, 99.7)))
                style = {"cmap": "gray", "vmin": low, "vmax": high, "interpolation": "bilinear"}
            for i, (title, axis, place) in enumerate(planes):
                axes = figure.add_subplot(grid[row, 4 * column + i])
                picture, aspect = _display(volume, axis, place)
                axes.imshow(picture, aspect=aspect, **style)
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(f"{name}\n{title}", color="white", fontsize=8)
    path = folder / NAME
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, facecolor="black", metadata={"Software": SOFTWARE})
    return path


def _planes(labels: Volume) -> list[tuple[str, int, int]]:
    """(title, axis, index) of the planes worth looking at."""
    shape, spacing = labels.shape, labels.spacing_mm

    def centre(tissues, axis):
        found = np.nonzero(np.isin(labels.array, [NAMES.index(t) for t in tissues]))[axis]
        return int(np.median(found)) if found.size else shape[axis] // 2

    notch = centre(("acl", "pcl"), 0)
    condyle = int(np.clip(notch - round(21 / spacing[0]), 0, shape[0] - 1))
    tendon = centre(("patellar_tendon",), 1)
    return [
        ("sagittal, condyle", 0, condyle),
        ("sagittal, notch", 0, notch),
        ("coronal", 2, centre(("acl", "pcl"), 2)),
        ("axial", 1, int(np.clip(tendon + round(42 / spacing[1]), 0, shape[1] - 1))),
    ]


def _display(volume: Volume, axis: int, place: int) -> tuple[np.ndarray, float]:
    """The plane as it is shown, and the height of its pixels over their width."""
    z, y, x = volume.spacing_mm
    plane = np.take(volume.array, place, axis)
    if axis == 0:
        return plane[::-1, ::-1], y / x
    if axis == 1:
        return plane[::-1, ::-1].T, x / z
    return plane[::-1, ::-1].T, y / z
