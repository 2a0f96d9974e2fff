"""Intensity histograms and their Kullback-Leibler divergence, as the seed report measures translations (equation 4).

The seed compares the histogram of the input X with that of the generated image x': KL(X || x') = sum P(X) log(P(X) /
P(x')). It is small when the translation changes nothing, so it is read beside KL(target || generated), which is small
when the generated intensities are those of the target domain.
"""

from __future__ import annotations

import numpy as np

from cyclescan.common.errors import InputError

BINS = 128
EPSILON = 1e-6  # added to each bin's probability: an empty bin would make the divergence infinite
UNIT = "nats"


def count(array: np.ndarray, limits: tuple[float, float], bins: int = BINS) -> np.ndarray:
    """Return how many voxels fall into each of `bins` equal intervals of `limits`; the rest into the end bins."""
    low, high = map(float, limits)
    if not low < high:
        raise InputError(f"The histogram range is {low:g} to {high:g}; the second must be larger.")
    return np.histogram(np.clip(np.asarray(array), low, high), bins=bins, range=(low, high))[0]


def kl_divergence(p_counts: np.ndarray, q_counts: np.ndarray, epsilon: float = EPSILON) -> float:
    """Return KL(P || Q) = sum P log(P / Q) in nats, with P and Q = (counts / sum + epsilon) / (1 + bins * epsilon).

    With `epsilon` > 0 it is never above log((1 + epsilon) / epsilon), 13.8 nats for the default.

    >>> round(kl_divergence([1, 1], [1, 3], epsilon=0), 6) == round(0.5 * np.log(4 / 3), 6)
    True

    Raises:
        InputError: the histograms have different bins, or one is empty.
    """
    p, q = (_probabilities(counts, epsilon) for counts in (p_counts, q_counts))
    if p.shape != q.shape:
        raise InputError(f"The histograms have {p.size} and {q.size} bins; they must have the same.")
    seen = p > 0
    with np.errstate(divide="ignore"):
        return max(0.0, float((p[seen] * np.log(p[seen] / q[seen])).sum()))


def compare(
    input_counts: np.ndarray, generated_counts: np.ndarray, target_counts: np.ndarray, limits: tuple[float, float]
) -> dict:
    """Return the histograms of one direction with the KL values of the seed and everything that defines them.

    Returns:
        `bins`, `range`, `epsilon`, `unit`, `counts` (lists of input, generated, target) and `kl`:
        `input_generated` = KL(input || generated), `target_generated` = KL(target || generated), and for comparison
        `target_input` = KL(target || input), what the second was before the translation.
    """
    counts = {"input": input_counts, "generated": generated_counts, "target": target_counts}
    pairs = (("input", "generated"), ("target", "generated"), ("target", "input"))
    return {
        **settings(limits, len(input_counts)),
        "kl": {f"{p}_{q}": kl_divergence(counts[p], counts[q]) for p, q in pairs},
        "counts": {name: [int(n) for n in values] for name, values in counts.items()},
    }


def settings(limits: tuple[float, float], bins: int = BINS) -> dict:
    """Return what has to stand beside every KL value."""
    return {"bins": bins, "range": [float(x) for x in limits], "epsilon": EPSILON, "unit": UNIT}


def _probabilities(counts, epsilon: float) -> np.ndarray:
    counts = np.asarray(counts, np.float64)
    if counts.sum() <= 0:
        raise InputError("A histogram is empty; its divergence is not defined.")
    return (counts / counts.sum() + epsilon) / (1 + counts.size * epsilon)
