"""The one way from a scan to what a network sees, and back.

`prepare` and `restore` serve building records, training and translating; the exported graph repeats the
intensity part in TensorFlow and a parity test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cyclescan.preprocessing import geometry, intensity
from cyclescan.volume import Volume

__all__ = ["geometry", "intensity", "prepare", "restore"]


def prepare(
    volume: Volume,
    scaling: str | None,
    spacing_mm: Sequence[float] | None = None,
    shape: Sequence[int] | None = None,
) -> tuple[Volume, list[dict]]:
    """Bring a scan onto the working grid and its intensities onto [-1, 1].

    Args:
        volume: a scan in any orientation.
        scaling: how intensities are scaled, see `intensity.measure`; None leaves them as they are, for a served model,
            which scales them itself.
        spacing_mm: working spacing (depth, height, width); None keeps the scan's own.
        shape: working shape (depth, height, width) to crop or pad to; None keeps what the scan has.

    Returns:
        The prepared volume and the record of every step, in order; `restore` walks it backwards.
    """
    records = []
    volume, record = geometry.to_canonical(volume)
    records.append(record)
    if spacing_mm is not None:
        volume, record = geometry.resample(volume, spacing_mm)
        records.append(record)
    if scaling is not None:
        record = intensity.measure(volume.array, scaling)
        records.append(record)
        volume = Volume(intensity.apply(volume.array, record), volume.affine, volume.meta)
    if shape is not None:
        volume, record = geometry.crop_or_pad(volume, shape, fill=-1.0)
        records.append(record)
    return volume, records


def restore(array: np.ndarray, records: list[dict], target: dict | None = None) -> Volume:
    """Bring an array on the working grid back onto the grid of the scan it came from.

    Args:
        array: float32 (depth, height, width) on [-1, 1], on the grid that `prepare` returned; where that left the
            intensities as they were, in those of the result.
        records: what `prepare` recorded.
        target: the intensity record of the domain the array now belongs to; None inverts the scan's own.

    Returns:
        The volume with the shape and the affine of the original scan, in the intensities of `target`.
    """
    volume = Volume(np.asarray(array, np.float32), geometry.working_affine(records))
    for record in reversed(records):
        if record["step"] == "intensity":
            volume = Volume(intensity.invert(volume.array, target or record), volume.affine)
        else:
            fill = -1.0 if record["step"] == "crop_or_pad" else 0.0
            volume = geometry.undo(volume, record, fill)
    return volume
