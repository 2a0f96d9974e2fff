"""Volumes to look at in a notebook: linked planes by NiiVue, which comes with the widget and needs no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.scans import volume as scans
from cyclescan.scans.volume import Volume

WINDOW_PERCENTILES = (0.5, 99.5)
DOUBT_PERCENTILE = 99.5  # where the colours of the uncertainty end
DOUBT_FROM = 0.1  # of that, below which it is not drawn: there it hides the scan and says nothing


def show(
    *volumes: Volume | str | os.PathLike,
    names: Sequence[str] | None = None,
    uncertainty: Volume | str | os.PathLike | None = None,
    height: int = 360,
) -> Any:
    """Look at volumes in a notebook: planes and cross linked in mm, each volume on its own grid, one below the other.

    Mouse: click for the cross, wheel for the slices, right button and drag for window and level. As radiologists look
    at planes: the patient's right on the left, anterior on the left in sagittal ones.

    Args:
        volumes: what `read` gives, or files that it reads: a scan, its translation, its truth, in any number; they may
            have different grids.
        names: of the volumes; by default those of their files, else their numbers.
        uncertainty: a map on any grid, as `translate --doubt` writes it, drawn in colour over every volume but the
            first; over the only one.
        height: of each volume, in pixels.

    Returns:
        A widget (`ipywidgets.VBox`), which a notebook displays.

    Raises:
        InputError: there is no volume, or a file cannot be read; there are not as many names as volumes; the packages
            of notebooks are not installed.

    >>> import cyclescan
    >>> scan = cyclescan.read("scan.nii.gz")                                     # doctest: +SKIP
    >>> translated = cyclescan.Translator.load("digital-knee", "a2b").translate_volume(scan)  # doctest: +SKIP
    >>> cyclescan.show(scan, translated, names=["CISS", "DESS, synthetic"])      # doctest: +SKIP
    """
    if not volumes:
        raise InputError("cyclescan.show needs a volume, or the name of a file.")
    if names is not None and len(names) != len(volumes):
        raise InputError(f"cyclescan.show has {len(volumes)} volumes and {len(names)} names; each needs one.")
    try:
        import ipyniivue
        import ipywidgets
    except ImportError:
        raise InputError("cyclescan.show needs ipyniivue: pip install 'cyclescan[notebooks]'.") from None
    read = [_read(each) for each in volumes]
    names = list(names) if names is not None else [_name(each, i) for i, each in enumerate(read, 1)]
    doubt = None if uncertainty is None else _read(uncertainty)
    views = []
    for number, (each, name) in enumerate(zip(read, names, strict=True)):
        low, high = np.percentile(each.array, WINDOW_PERCENTILES)
        layers = [_layer(ipyniivue, each, name, colormap="gray", cal_min=float(low), cal_max=float(high))]
        if doubt is not None and (number or len(read) == 1):
            top = max(float(np.percentile(doubt.array, DOUBT_PERCENTILE)), 1e-6)
            colours = {"colormap": "warm", "cal_min": DOUBT_FROM * top, "cal_max": top, "opacity": 0.5}
            layers.append(_layer(ipyniivue, doubt, "uncertainty", **colours))
        view = ipyniivue.NiiVue(
            height=height,
            slice_type=ipyniivue.SliceType.MULTIPLANAR,
            multiplanar_show_render=ipyniivue.ShowRender.NEVER,
            is_radiological_convention=True,
            sagittal_nose_left=True,
        )
        view.load_volumes(layers)
        views.append(view)
    for view in views:
        view.broadcast_to([other for other in views if other is not view], {"2d": True, "3d": True})
    rows = [part for view, name in zip(views, names, strict=True) for part in (ipywidgets.Label(value=name), view)]
    return ipywidgets.VBox(rows)


def _read(given: Volume | str | os.PathLike) -> Volume:
    return given if isinstance(given, Volume) else scans.read(given)


def _name(volume: Volume, number: int) -> str:
    return scans.stem(Path(volume.meta["path"])) if "path" in volume.meta else f"volume {number}"


def _layer(ipyniivue: Any, volume: Volume, name: str, **look: Any) -> Any:
    """A volume as NiiVue takes it: a NIfTI file in memory, whose name says so."""
    image = nib.Nifti1Image(np.asarray(volume.array, np.float32), volume.affine)
    image.header.set_xyzt_units("mm")
    return ipyniivue.Volume(data=image.to_bytes(), name=f"{name}.nii", colorbar_visible=False, **look)
