"""What trials measure in a scan: signal, area and volume of a region such as a ligament, and how two scans agree.

One rule for every image, `RULES`, so that a translation and its truth are measured alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from cyclescan.common import tables
from cyclescan.common.errors import InputError
from cyclescan.evaluation.agreement import agreement
from cyclescan.preprocessing import bias_field, fill, geometry, guard
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume

RING_MM = 4.0
GROWN_MM = 1.5
MOST_NEGATIVE = 0.05  # of the voxels of an MR scan: a translation may be a little below 0 in air
RULES = (
    "signal: the mean over the voxels of the region in the mask.",
    "relative signal: that, over the mean of a reference tissue of the same scan, which takes out the scanner's gain.",
    "CNR: region less surroundings, over the SD of the scan's noise. Surroundings are the voxels within "
    f"{RING_MM:g} mm of the region that belong to no region of the mask.",
    "volume: of the voxels that look like the region: within "
    f"{GROWN_MM:g} mm of the mask and nearer in value to the median of the region than to the median of its "
    "surroundings. So the volume follows the image, not the mask alone.",
    "cross-sectional area: that volume over the length of the region in the mask along its own longest axis (the "
    "distance between the 1st and the 99th percentile of the positions along the first principal axis).",
)
N4_RULE = (
    "before everything: every scan, translated, true and source alike, is divided by the slow field of its coil, which "
    "N4 estimates from that scan alone; its mean logarithm over the body is 0."
)
MEASURES = {
    "signal": "mean signal, in the unit of the scan",
    "relative_signal": "mean signal over that of the reference tissue",
    "cnr": "contrast to the surroundings over the noise",
    "area_mm2": "mean cross-sectional area, mm2",
    "volume_mm3": "volume, mm3",
}


@dataclasses.dataclass(frozen=True)
class Regions:
    """The regions that a mask may show: their names by their whole number, and the one that signals are divided by.

    Attributes:
        names: such as {9: "acl"}.
        reference: the number of the reference tissue, which is measured, too; None for none.
    """

    names: dict[int, str]
    reference: int | None = None

    @classmethod
    def of(cls, masks: Sequence[np.ndarray], table: Path | None, reference: str | None) -> Regions:
        """Return the regions of a cohort.

        Args:
            masks: of all subjects, whole numbers.
            table: a .tsv or .csv with the columns index and name, as BIDS has beside a segmentation; None names regions
                by their numbers.
            reference: name or number of the reference tissue; None for none.

        Raises:
            InputError: the table is not understood, names a region that no mask has, or the reference tissue is none.
        """
        found = sorted({int(label) for mask in masks for label in np.unique(mask)} - {0})
        if not found:
            raise InputError("No mask has a region: every voxel is 0.")
        names = {label: f"region {label}" for label in found}
        if table is not None:
            names = {}
            for number, row in tables.read(table, ("index", "name")):
                if not row["index"].isdigit():
                    raise InputError(
                        f"Line {number} of {table} has the index {row['index']!r}; a whole number is needed."
                    )
                names[int(row["index"])] = row["name"]
            names.pop(0, None)
            empty = [name for label, name in names.items() if label not in found]
            if empty:
                raise InputError(f"The region {empty[0]} of {table} is empty in every mask; leave it out of the table.")
        if reference is None:
            return cls(names)
        chosen = [label for label, name in names.items() if reference in (name, str(label))]
        if not chosen:
            raise InputError(
                f"--reference-tissue is {reference!r}; the masks have "
                f"{', '.join(f'{name} ({label})' for label, name in names.items())}."
            )
        return cls(names, chosen[0])


def read_mask(path: Path) -> np.ndarray:
    """Return the labels of one subject as whole numbers, int32.

    Raises:
        InputError: a voxel is no whole number of at least 0.
    """
    array = volumes.read(path).array
    labels = np.rint(array)
    wrong = np.abs(array - labels) > 1e-3
    if wrong.any() or labels.min() < 0:
        value = float(array[wrong].flat[0]) if wrong.any() else float(labels.min())
        raise InputError(f"The mask {path} has a voxel of {value:g}; labels must be whole numbers of at least 0.")
    return labels.astype(np.int32)


def bias_corrected(scan: Volume) -> Volume:
    """Divide a scan by the slow field of its coil, estimated from itself by N4, on its own grid.

    Args:
        scan: an MR scan or a translation into one, in any orientation and unit.

    Raises:
        InputError: more than a twentieth of the voxels is negative, as in CT; or N4 fails, see `bias_field.correct`.
    """
    negative = float((scan.array < 0).mean())
    if negative > MOST_NEGATIVE:
        raise InputError(f"{negative:.0%} of the voxels are negative, as in CT; N4 bias correction is for MR scans.")
    canonical, turned = geometry.to_canonical(scan)
    if filled := fill.find(canonical.array):
        canonical, _ = fill.remove(canonical, filled)
    corrected, _ = bias_field.correct(canonical)
    return geometry.undo(corrected, turned)


def measure(scan: Volume, mask: np.ndarray, regions: Regions) -> dict[str, dict[str, float | None]]:
    """Return the measures of each region of one scan, by its name.

    Args:
        scan: in any orientation and unit.
        mask: whole numbers of the scan's shape.
        regions: which numbers count.

    Returns:
        For each region that the mask shows, `MEASURES`; `relative_signal` is None without a reference tissue, `cnr`,
        `area_mm2` and `volume_mm3` are None where a region has no surroundings.
    """
    spacing = scan.spacing_mm
    noise = guard.noise_sd(scan)
    reference = None
    if regions.reference is not None and (mask == regions.reference).any():
        reference = float(scan.array[mask == regions.reference].mean())
    measured = {}
    for label, name in regions.names.items():
        inside = mask == label
        if inside.any():
            measured[name] = _of_region(scan.array, inside, mask, spacing, noise)
            signal = measured[name]["signal"]
            measured[name]["relative_signal"] = signal / reference if reference else None
    return measured


def _of_region(array: np.ndarray, inside: np.ndarray, mask: np.ndarray, spacing_mm, noise: float) -> dict:
    box = _around(inside, spacing_mm)
    array, inside, mask = array[box], inside[box], mask[box]
    distance = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    ring = (distance <= RING_MM) & (mask == 0)
    result: dict[str, float | None] = dict.fromkeys(MEASURES)
    result["signal"] = float(array[inside].mean())
    if not ring.any():
        return result
    result["cnr"] = float((array[inside].mean() - array[ring].mean()) / noise) if noise > 0 else None
    own, around = float(np.median(array[inside])), float(np.median(array[ring]))
    near = (distance <= GROWN_MM) & (inside | (mask == 0))
    alike = near & (np.abs(array - own) < np.abs(array - around))
    volume_mm3 = float(alike.sum() * np.prod(spacing_mm))
    result |= {"volume_mm3": volume_mm3, "area_mm2": volume_mm3 / _length_mm(inside, spacing_mm)}
    return result


def _around(inside: np.ndarray, spacing_mm) -> tuple[slice, ...]:
    """The box of a region and its surroundings; distances in the whole volume would take seconds a region."""
    where = np.argwhere(inside)
    margin = np.ceil(RING_MM / np.asarray(spacing_mm)).astype(int) + 1
    low, high = np.maximum(where.min(0) - margin, 0), where.max(0) + margin + 1
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _length_mm(inside: np.ndarray, spacing_mm) -> float:
    places = np.argwhere(inside) * np.asarray(spacing_mm)
    if len(places) < 2:
        return float(max(spacing_mm))
    centred = places - places.mean(0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    along = centred @ axis
    low, high = np.percentile(along, [1, 99])
    # the voxels at both ends reach half a voxel further
    return float(high - low + np.abs(axis) @ np.asarray(spacing_mm))


def compare(rows: Sequence[Mapping], sites: Sequence[str]) -> list[dict]:
    """Return agreement of every measure of every region, over all subjects and in each site.

    Args:
        rows: one a subject and region, with `region`, `site` and, for each of `MEASURES`, the columns
            `predicted_NAME`, `reference_NAME` and perhaps `source_NAME`.
        sites: their names; none where there is one.

    Returns:
        Rows with `region`, `measure`, `site` ("all" for every subject), `image` ("predicted" or "source") and what
        `agreement` gives.
    """
    images = ["predicted", *(["source"] if any("source_signal" in row for row in rows) else [])]
    found = []
    for region in dict.fromkeys(row["region"] for row in rows):
        for name in MEASURES:
            for site in ("all", *sites):
                own = [row for row in rows if row["region"] == region and site in ("all", row["site"])]
                for image in images:
                    pairs = [(row[f"{image}_{name}"], row[f"reference_{name}"]) for row in own]
                    pairs = [pair for pair in pairs if None not in pair]
                    if pairs:
                        values = agreement(*zip(*pairs, strict=True))
                        found.append({"region": region, "measure": name, "site": site, "image": image, **values})
    return found
