"""How well two ways of measuring one thing agree over subjects: Bland-Altman, ICC(2,1), Lin's concordance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from cyclescan.common.errors import InputError

CONFIDENCE = 0.95
FEWEST = 3  # with two subjects every interval is as wide as the scale

DEFINITIONS = {
    "bias": "mean over subjects of predicted minus reference, with its t interval",
    "limits": "bias -+ 1.96 SD of the differences: where 95 % of single differences lie (Bland and Altman 1986); the "
    "interval of each limit has the variance SD^2 (1/n + 1.96^2 / (2 (n - 1))) and Student's t (Bland and Altman 1999)",
    "icc": "ICC(2,1) of Shrout and Fleiss 1979, ICC(A,1) of McGraw and Wong 1996: the share of the variance of single "
    "measurements that lies between subjects, where a difference in level between predicted and reference counts as "
    "error; 1 is perfect, computed with pingouin",
    "ccc": "Lin's concordance correlation coefficient (Lin 1989) with the interval of its Fisher transformation: "
    "correlation times how near the points lie to the line of equality; 1 is perfect",
}


def agreement(predicted: Sequence[float], reference: Sequence[float]) -> dict:
    """Return agreement of two measurements of the same subjects.

    Args:
        predicted: one value a subject.
        reference: one value a subject, in the same order and unit.

    Returns:
        `n`, the means `predicted` and `reference`, `sd` of the differences and, each as [value, low, high] with the
        bounds of a 95 % interval, `bias`, `lower` and `upper` limit, `icc` and `ccc`. What cannot be computed, with
        fewer than three subjects or without any variance, is None.

    Raises:
        InputError: the lengths differ, or a value is not finite.
    """
    a, b = np.asarray(predicted, float), np.asarray(reference, float)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"Two measurements of the same subjects are needed, not {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("A measurement is not finite; leave its subject out of both.")
    n = len(a)
    result: dict = {"n": n, "predicted": _mean(a), "reference": _mean(b)}
    if n < FEWEST:
        return result | dict.fromkeys(("sd", "bias", "lower", "upper", "icc", "ccc"))
    differences = a - b
    bias, sd = float(differences.mean()), float(differences.std(ddof=1))
    t, z = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)), float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    of_bias = t * sd / math.sqrt(n)
    of_limit = t * sd * math.sqrt(1 / n + z**2 / (2 * (n - 1)))
    low, high = bias - z * sd, bias + z * sd
    return result | {
        "sd": sd,
        "bias": [bias, bias - of_bias, bias + of_bias],
        "lower": [low, low - of_limit, low + of_limit],
        "upper": [high, high - of_limit, high + of_limit],
        "icc": _icc(a, b),
        "ccc": concordance(a, b),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _icc(a: np.ndarray, b: np.ndarray) -> list[float] | None:
    try:
        import pandas as pd
        import pingouin
    except ImportError as error:
        raise InputError("Agreement needs pingouin: pip install cyclescan[endpoints].") from error
    if np.ptp(np.concatenate([a, b])) == 0:
        return None
    n = len(a)
    table = pd.DataFrame(
        {"subject": [*range(n), *range(n)], "image": ["predicted"] * n + ["reference"] * n, "value": [*a, *b]}
    )
    if np.array_equal(a, b):
        return [1.0, 1.0, 1.0]  # its interval divides by an error of 0
    rows = pingouin.intraclass_corr(table, targets="subject", raters="image", ratings="value")
    # ICC2 and CI95% are the names that pingouin had until 0.6
    row = rows[rows["Type"].isin(["ICC(A,1)", "ICC2"])].iloc[0]
    low, high = row[next(name for name in rows.columns if name.startswith("CI95"))]
    return [float(row["ICC"]), float(low), float(high)]


def concordance(a: np.ndarray, b: np.ndarray) -> list[float] | None:
    """Return Lin's concordance correlation coefficient and the bounds of its 95 % interval; None without any variance.

    Source: Lin 1989, Biometrics 45:255, with the variance as corrected in Biometrics 56:324 (2000).
    """
    n = len(a)
    va, vb = a.var(), b.var()
    shift = float(a.mean() - b.mean())
    if va + vb + shift**2 == 0 or va == 0 or vb == 0:
        return None
    covariance = float(((a - a.mean()) * (b - b.mean())).mean())
    value = 2 * covariance / (va + vb + shift**2)
    r = covariance / math.sqrt(va * vb)
    if abs(r) >= 1 - 1e-12 or abs(value) >= 1 - 1e-12 or r == 0:
        return [float(value), float(value), float(value)]
    u2 = shift**2 / math.sqrt(va * vb)
    square = value**2
    variance = (
        (1 - r**2) * square / ((1 - square) * r**2)
        + 2 * value**3 * (1 - value) * u2 / (r * (1 - square) ** 2)
        - value**4 * u2**2 / (2 * r**2 * (1 - square) ** 2)
    ) / (n - 2)
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(max(variance, 0.0))
    middle = math.atanh(value)
    return [float(value), math.tanh(middle - half), math.tanh(middle + half)]
