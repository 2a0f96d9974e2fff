"""The one way from a scan to what a network sees, and back.

`prepare` and `restore` serve building records, training and translating; the exported graph repeats the
intensity part in TensorFlow and a parity test holds the two together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import bias_field, body, fill, geometry, intensity
from cyclescan.scans.volume import SIDES, Volume

__all__ = ["Options", "bias_field", "body", "fill", "geometry", "intensity", "prepare", "prepare_as", "restore"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Steps that are taken only where they are asked for; kept with the domain in dataset.json and in a run's config.

    Attributes:
        n4: divide an MR scan by its bias field.
        side: "left" or "right": scans of the other side are mirrored; None leaves every scan as it is.
        crop_body_mm: crop to the body and this margin around it; None keeps the whole field of view.

    Raises:
        InputError: a value is not allowed.
    """

    n4: bool = False
    side: str | None = None
    crop_body_mm: float | None = None

    def __post_init__(self):
        if self.side is not None and self.side not in SIDES:
            raise InputError(f"The side is {self.side!r}; allowed is {' or '.join(SIDES)}.")
        if self.crop_body_mm is not None:
            body.check_margin(self.crop_body_mm)

    def for_scaling(self, scaling: str) -> Options:
        """Return these options for scans that are scaled by `scaling`: Hounsfield units have no bias field."""
        return dataclasses.replace(self, n4=self.n4 and intensity.parse(scaling)[0] != "window_hu")

    def to_dict(self) -> dict:
        """Return plain JSON values of what differs from the default."""
        default = Options()
        return {k: v for k, v in dataclasses.asdict(self).items() if v != getattr(default, k)}

    @classmethod
    def of(cls, domain: Mapping) -> Options:
        """Return the options that an entry of `domains` in dataset.json states; older ones state none."""
        return cls(**domain.get("preprocessing", {}))

    def sentences(self) -> list[str]:
        """Return what a scan must have undergone before it is given to a graph that cannot do these steps."""
        parts = []
        if self.side is not None:
            parts.append(f"shows a {self.side} side, or is the mirror image of the other one")
        if self.n4:
            parts.append("is bias-corrected (N4)")
        if self.crop_body_mm is not None:
            parts.append(f"is cropped to the body and {self.crop_body_mm:g} mm around it")
        return parts


def prepare(
    volume: Volume,
    scaling: str,
    spacing_mm: Sequence[float] | None = None,
    shape: Sequence[int] | None = None,
    options: Options | None = None,
) -> tuple[Volume, list[dict]]:
    """Bring a scan onto the working grid and its intensities onto [-1, 1].

    Args:
        volume: a scan in any orientation. `meta["side"]` says which side it shows, where `options.side` is given.
        scaling: how intensities are scaled, see `intensity.measure`.
        spacing_mm: working spacing (depth, height, width); None keeps the scan's own.
        shape: working shape (depth, height, width) to crop or pad to; None keeps what the scan has.
        options: further steps; None for none.

    Returns:
        The prepared volume and every step that was taken, in order; `restore` walks it backwards.

    Raises:
        InputError: the scan has too little contrast; its side is asked for and not known; N4 fails.
    """
    options = options or Options()
    steps = []
    volume, step = geometry.to_canonical(volume)
    steps.append(step)
    if filled := fill.find(volume.array):
        volume, step = fill.remove(volume, filled)
        steps.append(step)
    if options.side is not None and _side_of(volume) != options.side:
        volume, step = geometry.mirror(volume)
        steps.append(step)
    if options.n4:
        volume, step = bias_field.correct(volume)
        steps.append(step)
    if options.crop_body_mm is not None:
        volume, step = body.crop(volume, options.crop_body_mm)
        steps.append(step)
    if spacing_mm is not None:
        volume, step = geometry.resample(volume, spacing_mm)
        steps.append(step)
    measured = volume.array[~geometry.follow(filled.outside, steps)] if filled else volume.array
    step = intensity.measure(measured, scaling)
    steps.append(step)
    volume = Volume(intensity.apply(volume.array, step), volume.affine, volume.meta)
    if shape is not None:
        volume, step = geometry.crop_or_pad(volume, shape, fill=-1.0)
        steps.append(step)
    return volume, steps


def prepare_as(volume: Volume, data: Mapping, domain: str) -> tuple[Volume, list[dict]]:
    """Prepare (see `prepare`) a scan as those of a data set were, so that a model trained on them can be given it.

    Args:
        volume: a scan in any orientation.
        data: dataset.json, or the `data` of a run's config or a model's card.
        domain: "a" or "b".
    """
    about = data["domains"][domain]
    return prepare(volume, about["scaling"], data["spacing_mm"], options=Options.of(about))


def _side_of(volume: Volume) -> str:
    side = volume.meta.get("side")
    if side not in SIDES:
        raise InputError(
            "It is not known which side the scan shows; say it with the column `side` of a table, the BIDS entity "
            "`hemi-L` or `hemi-R` of the file's name, `Laterality` in the JSON file beside it, or --side of translate."
        )
    return side


def restore(array: np.ndarray, steps: list[dict], target: dict | None = None) -> Volume:
    """Bring an array on the working grid back onto the grid of the scan it came from.

    Args:
        array: float32 (depth, height, width) on [-1, 1], on the grid that `prepare` returned.
        steps: what `prepare` recorded.
        target: the intensity step of the domain the array now belongs to; None inverts the scan's own.

    Returns:
        The volume with the shape and the affine of the original scan, in the intensities of `target`. What was
        cropped away or lay beyond the field of view is air. A bias field comes back with the scan's own intensities
        only: those of a target domain are corrected ones.
    """
    volume = Volume(np.asarray(array, np.float32), geometry.working_affine(steps))
    air = -1.0
    for step in reversed(steps):
        if step["step"] == "intensity":
            scale = target or step
            volume = Volume(intensity.invert(volume.array, scale), volume.affine)
            air = scale["low"]
        elif step["step"] == "bias_field":
            volume = volume if target else bias_field.undo(volume, step)
        elif step["step"] == "fill":
            continue
        else:
            volume = geometry.undo(volume, step, air)
    return volume
