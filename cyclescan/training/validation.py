"""How good the networks look without paired truth; the "best" checkpoint is the one with the lowest score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cyclescan import dataset

PATCHES = 4  # of each domain; a score, not a measurement


def patches(data: str | Path, patch_shape: Sequence[int]) -> dict[str, np.ndarray]:
    """A few fixed patches of each domain from the validation split, or from training where that is empty.

    Returns:
        "a" and "b", float32 (PATCHES, *patch_shape, 1).
    """
    split = "val" if all(any((Path(data) / "val").glob(f"{d}-*.tfrecord")) for d in "ab") else "train"
    streams = {domain: dataset.open_stream(data, split, domain) for domain in ("a", "b")}
    batches = dataset.batches(streams, patch_shape, 1, seed=0, augment=False)
    items = list(itertools.islice(batches.as_numpy_iterator(), PATCHES))
    return {domain: np.concatenate([item[f"real_{domain}"] for item in items]) for domain in ("a", "b")}


def score(generators: dict, validating: dict[str, np.ndarray]) -> float:
    """Lower is better: how far the translated intensities are from the target's, plus how much a cycle loses.

    The first part is the Wasserstein distance of the two intensity distributions (the mean difference of the sorted
    voxels), the second the mean absolute difference after a cycle; both on [-1, 1], summed over the two directions.
    """
    total = 0.0
    for source, target in (("a", "b"), ("b", "a")):
        for patch in validating[source]:
            fake = generators[f"{source}2{target}"](patch[None], training=False)
            cycled = np.asarray(generators[f"{target}2{source}"](fake, training=False))
            total += float(np.abs(cycled - patch[None]).mean())
            wanted = np.sort(validating[target], axis=None)[:: len(validating[target])]
            total += float(np.abs(np.sort(np.asarray(fake), axis=None) - wanted).mean())
    return total / PATCHES
