"""How much two volumes tell of each other, from the joint histogram of their values; pure NumPy.

The checkpoint score of the training and the measures of the evaluation are made of it.
"""

from __future__ import annotations

import numpy as np
from skimage import metrics as measured

from cyclescan.common.errors import InputError

MI_BINS = 32  # few, since the estimate is too high by about (bins - 1)^2 / (2 voxels) nats


def mi(predicted: np.ndarray, reference: np.ndarray, bins: int = MI_BINS) -> float:
    """Return the mutual information H(A) + H(B) - H(A, B) in nats; each axis of the joint histogram spans its volume's
    range.
    """
    predicted, reference = checked_pair(predicted, reference)
    joint = np.histogram2d(predicted.ravel(), reference.ravel(), bins=bins)[0] / predicted.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return max(0.0, float((joint[seen] * np.log(joint[seen] / independent[seen])).sum()))


def nmi(predicted: np.ndarray, reference: np.ndarray, bins: int = MI_BINS) -> float:
    """Return the normalised mutual information (H(A) + H(B)) / H(A, B), from 1 (independent) to 2 (one determines the
    other).
    """
    predicted, reference = checked_pair(predicted, reference)
    if np.ptp(predicted) == 0 or np.ptp(reference) == 0:
        return 1.0  # a constant tells nothing; with two of them the ratio is 0 / 0
    return float(measured.normalized_mutual_information(predicted, reference, bins=bins))


def checked_pair(predicted, reference) -> tuple[np.ndarray, np.ndarray]:
    """Return two volumes as float64.

    Raises:
        InputError: their shapes differ, one is not 3-D, or a voxel is not finite.
    """
    predicted, reference = np.asarray(predicted, np.float64), np.asarray(reference, np.float64)
    if predicted.shape != reference.shape or predicted.ndim != 3:
        raise InputError(f"Two 3-D volumes of one shape are needed, not {predicted.shape} and {reference.shape}.")
    for name, array in (("predicted", predicted), ("reference", reference)):
        if not np.isfinite(array).all():
            raise InputError(f"The {name} volume has voxels that are NaN or infinite; every voxel must be finite.")
    return predicted, reference
