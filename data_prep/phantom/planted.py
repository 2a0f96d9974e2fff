"""Plain lesions of one size, planted into one subject: benchmarks compare what translations make of them.

A cohort's lesions are those of `pathology`. All three here are bright on fluid-sensitive scans: free water in the place
of cartilage, of marrow fat or of torn fibres. Sizes are engineering choices within the usual range of reports, not
measurements.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep.phantom.anatomy import Tissues


@dataclasses.dataclass(frozen=True)
class Kind:
    """Which tissues become fluid, how much of them at the centre, and how far from it (mm)."""

    tissues: tuple[str, ...]
    share: float
    radius_mm: float


KINDS = {
    "cartilage_defect": Kind(("cartilage_deep", "cartilage_superficial"), 1.0, 7.0),
    # oedema is water between the trabeculae, beside fat that stays
    "marrow_oedema": Kind(("marrow_epiphysis",), 0.5, 10.0),
    "ligament_tear": Kind(("acl",), 0.9, 7.0),
}
EDGE_MM = 2.0  # over which a lesion fades out


def plant(tissues: Tissues, kind: str, spacing_mm, rng: np.random.Generator) -> tuple[Tissues, np.ndarray]:
    """Turn a part of a tissue into fluid.

    The place is drawn from where the tissue is; voxels that it fills are likelier than those that it shares.

    Args:
        tissues: of one knee.
        kind: a key of `KINDS`.
        spacing_mm: (depth, height, width).
        rng: of the place.

    Returns:
        The knee with the lesion, and the fraction of each voxel that became fluid, float32 (depth, height, width).

    Raises:
        KeyError: there is no such kind.
        ValueError: the field of view has none of the tissue.
    """
    about = KINDS[kind]
    there = sum(tissues.fractions[name] for name in about.tissues)
    # where it fills voxels best: not at the border of the field of view's last slice of it
    likely = np.where(there > 0.5 * there.max(), there.astype(np.float64) ** 2, 0.0)
    if not likely.sum():
        raise ValueError(f"This knee has no {' or '.join(about.tissues)} in its field of view.")
    place = np.unravel_index(rng.choice(likely.size, p=likely.ravel() / likely.sum()), likely.shape)
    axes = [(np.arange(n) - p) * s for n, p, s in zip(likely.shape, place, spacing_mm, strict=True)]
    distance = np.sqrt(sum(a.reshape([-1 if i == j else 1 for j in range(3)]) ** 2 for i, a in enumerate(axes)))
    share = about.share * np.clip((about.radius_mm - distance) / EDGE_MM + 0.5, 0, 1).astype(np.float32)
    fractions = dict(tissues.fractions)
    moved = np.zeros(likely.shape, np.float32)
    for name in about.tissues:
        moved += share * fractions[name]
        fractions[name] = fractions[name] * (1 - share)
    fractions["fluid"] = fractions["fluid"] + moved
    return dataclasses.replace(tissues, fractions=fractions), moved
