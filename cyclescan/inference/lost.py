"""Does a scan show something that its translation loses, more than the scans of the training do?

A generator that paints what knees usually have over a lesion cannot give the lesion back: on the way there and back it
is gone. So each voxel where much of the scan does not come back is flagged. How much comes back of any scan differs
from model to model, and is measured on scans of the training when it ends; what a network keeps is not flagged, whether
it is healthy or not. `benchmarks/results/structure.md` says how well the flag finds planted lesions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy import ndimage

LIMITS = "lost"  # the key of a domain's limits beside "guard"
SCANS = 8  # of each domain that are translated there and back when training ends
AIR = -0.9  # what is darker does not count
PERCENTILE = 99.9  # of the voxels of these scans lie below the level
MARGIN = 1.5  # a flagged region is so much larger than the largest of these scans


def region(cycle: np.ndarray, array: np.ndarray, level: float) -> int:
    """Count the voxels of the largest connected region that does not come back.

    Args:
        cycle: the map "cycle" of `doubt.parts`, (depth, height, width).
        array: the prepared scan of the same shape, on [-1, 1].
        level: of the map, from which on a voxel counts.
    """
    labels, count = ndimage.label((cycle > level) & (array > AIR))
    return int(np.bincount(labels.ravel())[1:].max()) if count else 0


def limits_of(scans: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict | None:
    """Say how much of usual scans does not come back.

    Args:
        scans: the map "cycle" and the prepared scan of each.

    Returns:
        Plain JSON: "level" of the map below which nearly all their voxels lie, "largest_voxels" of a region above it,
        and "scans", their number; None where there is nothing but air.
    """
    scans = list(scans)
    tissue = np.concatenate([cycle[array > AIR] for cycle, array in scans]) if scans else np.empty(0)
    if not tissue.size:
        return None
    level = float(np.percentile(tissue, PERCENTILE))
    return {"level": level, "largest_voxels": max(region(*scan, level) for scan in scans), "scans": len(scans)}


def find(cycle: np.ndarray, array: np.ndarray, limits: Mapping, voxel_mm3: float | None) -> dict:
    """Compare one scan with these limits.

    Returns:
        Plain JSON: "voxels" of its largest region, "usual_voxels" of that of the training's scans, "volume_mm3" or None
        where voxels are of no known size, and whether it "fires".
    """
    voxels = region(cycle, array, limits["level"])
    found = {"voxels": voxels, "usual_voxels": limits["largest_voxels"]}
    volume_mm3 = None if voxel_mm3 is None else round(voxels * voxel_mm3, 1)
    return found | {"volume_mm3": volume_mm3, "fires": voxels > MARGIN * limits["largest_voxels"]}


def sentence(found: Mapping) -> str:
    """Say what `find` found, as the end of a sentence without a full stop."""
    size = f"{found['voxels']} voxels" if found["volume_mm3"] is None else f"{found['volume_mm3'] / 1000:.2g} ml"
    times = f"{found['voxels'] / found['usual_voxels']:.2g} times" if found["usual_voxels"] else "more than"
    return (
        f"shows something in a region of {size} that its translation may have lost, such as a lesion: "
        f"{times} the largest such region of the training's scans"
    )
