"""Is a scan like those a model was trained on? Measures of one scan, the limits of a cohort, and what lies outside.

A network translates whatever it is given, also a scan of the wrong contrast or of half a knee. The limits of each
domain's training scans stand in dataset.json under `domains`, go from there into a run's config and an exported card,
and are looked at whenever a scan is translated. They find what is plainly different; a scan inside them can still be
one that the model does not understand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from cyclescan.preprocessing import body, fill, geometry, intensity
from cyclescan.scans.acquisition import PARAMETERS
from cyclescan.scans.volume import Volume

SPREAD = 5.0  # limits are the median and so many robust standard deviations to either side,
SMALL_COHORT = 5.0  # and more, by this share of one over the number of scans: a small cohort does not know its spread
FEWEST = 4  # scans in which a measure must be known to have limits
COARSE_VOXELS = 64  # for the contrast an axis of twice as many is halved, of three times as many divided by three
RIND_VOXELS = 2  # the outermost voxels of the body are partly air
SMOOTH_VOXELS = 1.0  # before differences are taken as edges
QUANTILES = (5, 10, 25, 50, 75, 90)
AXES = ("depth", "height", "width")
CONTRAST = (*(f"body_{q}" for q in QUANTILES), "edges", "snr")
RIDGE = 0.2  # of the correlations between them, where few scans would make them up
FAR = 3.0  # robust standard deviations
FEWEST_TO_COMPARE = 6  # scans of each domain: two halves of one domain then seem to differ in 1 of 100 draws
SEPARATION = 4.0  # standard deviations between two domains from which on their scans can be told apart
HALFWAY = 0.5
LIKENESS, JOINT = "likeness", "contrast"


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a measure is named and how wide its limits are at least.

    Attributes:
        label: in a sentence.
        unit: after a number; "" for none.
        is_ratio: spread and width are factors and not differences.
        width: the least distance of a limit from the median: so small cohorts, in which all scans are alike by chance
            or by protocol, do not warn of everything.
    """

    label: str
    unit: str
    is_ratio: bool
    width: float


MEASURES = {
    **{f"spacing_{axis}_mm": Measure(f"spacing along {axis}", "mm", True, 1.2) for axis in AXES},
    **{f"extent_{axis}_mm": Measure(f"field of view along {axis}", "mm", True, 1.2) for axis in AXES},
    "tilt_deg": Measure("tilt of the axes", "degrees", False, 15.0),
    "air": Measure("share of air", "", False, 0.15),
    **{f"body_{q}": Measure(f"intensity below which {q} % of the body lie", "", False, 0.15) for q in QUANTILES},
    "edges": Measure("strength of edges", "", True, 1.4),
    "snr": Measure("signal-to-noise ratio", "", True, 1.5),
    "repetition_time_ms": Measure("repetition time", "ms", True, 1.25),
    "echo_time_ms": Measure("echo time", "ms", True, 1.25),
    "flip_deg": Measure("flip angle", "degrees", True, 1.25),
    "field_tesla": Measure("magnetic field", "T", True, 1.25),
    LIKENESS: Measure("likeness to the other domain of the model", "", False, 0.0),
    JOINT: Measure("distance from the usual contrast", "SD", False, 1.0),
}


def measure(scan: Volume, steps: Sequence[Mapping]) -> dict[str, float]:
    """Return the measures of one scan.

    Args:
        scan: as it was read, in any orientation; `meta["acquisition"]` holds what is known of its sequence.
        steps: what `preprocessing.prepare` recorded for it; its intensity step scales the histogram.

    Returns:
        Finite numbers by the keys of `MEASURES`; a parameter of the sequence only where it is known.
    """
    canonical, _ = geometry.to_canonical(scan)
    spacing_mm = canonical.spacing_mm
    values = {f"spacing_{axis}_mm": s for axis, s in zip(AXES, spacing_mm, strict=True)}
    values |= {f"extent_{axis}_mm": n * s for axis, n, s in zip(AXES, canonical.shape, spacing_mm, strict=True)}
    values["tilt_deg"] = _tilt_deg(canonical.affine)
    scale = next(step for step in steps if step["step"] == "intensity")
    filled = fill.find(canonical.array) if any(step["step"] == "fill" for step in steps) else None
    factors = [max(1, n // COARSE_VOXELS) for n in canonical.shape]
    coarse = body.block_means(filled.removed(canonical.array) if filled else canonical.array, factors)
    outside = body.block_means(filled.outside, factors) > 0.5 if filled else None
    inside = body.mask(coarse, outside)
    core = ndimage.binary_erosion(inside, iterations=RIND_VOXELS, border_value=1)
    core = core if core.any() else inside
    values["air"] = 1.0 - float((inside if outside is None else inside[~outside]).mean())
    scaled = intensity.apply(coarse, dict(scale))
    values |= {f"body_{q}": float(v) for q, v in zip(QUANTILES, np.percentile(scaled[core], QUANTILES), strict=True)}
    edges = ndimage.gaussian_gradient_magnitude(scaled, SMOOTH_VOXELS)
    values["edges"] = max(float(np.median(edges[core])), 1e-6)
    noise = noise_sd(canonical, filled.outside if filled else None)
    signal = float(np.median(coarse[core])) - scale["low"]
    if noise > 0 and signal > 0:
        values["snr"] = signal / noise
    known = scan.meta.get("acquisition", {})
    values |= {key: float(known[key]) for key, _, _ in PARAMETERS if key in known}
    return {key: _short(value) for key, value in values.items() if math.isfinite(value)}


def noise_sd(volume: Volume, outside: np.ndarray | None = None) -> float:
    """Return the standard deviation of the noise, in the scan's unit, from the middle half of each axis.

    What lies `outside` the field of view (bool, of the volume's shape) is left out, and what is next to it.

    The second difference along both axes of the finest plane removes what is smooth there; of the rest the median
    absolute value is hardly moved by edges.

    Source: Immerkaer, Fast noise variance estimation, Comput. Vis. Image Underst. 64 (1996); here with the median.
    """
    middle = tuple(slice(n // 4, n - n // 4) if n >= 8 else slice(None) for n in volume.shape)
    rest = volume.array[middle].astype(np.float64)
    known = None if outside is None else ~outside[middle]
    for axis in finest_plane(volume.spacing_mm):
        if rest.shape[axis] < 3:
            return 0.0
        rest = np.diff(rest, 2, axis)
        if known is not None:
            known = np.logical_and.reduce([np.roll(known, -n, axis) for n in range(3)])
            known = np.take(known, np.arange(rest.shape[axis]), axis)
    rest = np.abs(rest if known is None else rest[known])
    # the weights 1, -2, 1 squared sum to 6, along both axes 36
    return body.SD_OF_MAD * float(np.median(rest)) / 6 if rest.size else 0.0


def finest_plane(spacing_mm: Sequence[float]) -> tuple[int, int]:
    """The two axes of a volume whose voxels are smallest, the smallest first, of equal ones the earlier."""
    first, second = np.argsort(spacing_mm, kind="stable")[:2]
    return int(first), int(second)


def limits_of(cohort: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]] = ()) -> dict:
    """Return the limits of a cohort, robust against a few outliers in it.

    Args:
        cohort: `measure` of each scan.
        other: the same of the other domain, to be told apart from this one.

    Returns:
        Plain JSON: "scans", their number; "limits" with "low", "median", "high" and "scans" (in which it is known)
        for each measure that at least `FEWEST` scans have; "likeness", see `_likeness`, and "contrast", see `_joint`,
        or None.
    """
    limits = {}
    for key, about in MEASURES.items():
        known = np.array([_linear(key, values[key]) for values in cohort if key in values], np.float64)
        if len(known) < FEWEST:
            continue
        median = float(np.median(known))
        spread = SPREAD * (1 + SMALL_COHORT / len(known)) * body.SD_OF_MAD * float(np.median(np.abs(known - median)))
        width = max(math.log(about.width) if about.is_ratio else about.width, spread)
        ends = [median - width, median, median + width]
        low, median, high = (math.exp(v) for v in ends) if about.is_ratio else ends
        limits[key] = {"low": _short(low), "median": _short(median), "high": _short(high), "scans": len(known)}
    return {"scans": len(cohort), "limits": limits, LIKENESS: _likeness(cohort, other), JOINT: _joint(cohort)}


def outside(values: Mapping[str, float], cohort: Mapping) -> list[dict]:
    """Return the measures of a scan that lie outside the limits of its cohort.

    Args:
        values: from `measure`.
        cohort: from `limits_of`.

    Returns:
        "measure", "value", "low" and "high" of each; a limit that does not exist is None.
    """
    found = [
        {"measure": key, "value": values[key], "low": limit["low"], "high": limit["high"]}
        for key, limit in cohort["limits"].items()
        if key in values and not limit["low"] <= values[key] <= limit["high"]
    ]
    joint = cohort.get(JOINT)  # cards of before it have none
    if joint and all(key in values for key in joint["keys"]):
        value = _short(_distance(joint, values))
        if value > joint["high"]:
            found.insert(0, {"measure": JOINT, "value": value, "low": None, "high": joint["high"]})
    likeness = cohort[LIKENESS]
    if likeness and all(key in values for key in likeness["weights"]):
        parts = (weight * _linear(key, values[key]) for key, weight in likeness["weights"].items())
        value = _short(likeness["offset"] + sum(parts))
        if value > HALFWAY:
            found.insert(0, {"measure": LIKENESS, "value": value, "low": None, "high": HALFWAY})
    return found


def _linear(key: str, value: float) -> float:
    """Where differences count: the logarithm of a measure whose ratios matter."""
    return math.log(value) if MEASURES[key].is_ratio else value


def _likeness(cohort: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]]) -> dict | None:
    """A weighted sum of the measures of contrast that is 0 at the median of this domain and 1 at that of the other.

    Two contrasts of one anatomy overlap in every single measure; together they are told apart.

    Returns:
        "weights" by measure and "offset"; None where scans are too few, or too alike for it to mean anything.

    Source: Fisher, The use of multiple measurements in taxonomic problems, Annals of Eugenics 7 (1936); with
    robust deviations, none below that of the least limits, and correlations shrunk towards 0.
    """
    keys = [key for key in CONTRAST if all(key in values for values in (*cohort, *other))]
    if min(len(cohort), len(other)) < FEWEST_TO_COMPARE or not keys:
        return None
    ours, theirs = (np.array([[_linear(key, v[key]) for key in keys] for v in group]) for group in (cohort, other))
    centre, difference = np.median(ours, 0), np.median(theirs, 0) - np.median(ours, 0)
    deviation, correlation = _spread(keys, np.concatenate([ours - centre, theirs - centre - difference]))
    weights = np.linalg.solve(correlation, difference / deviation) / deviation
    squared = float(weights @ difference)
    if squared < SEPARATION**2:
        return None
    weights /= squared
    return {
        "weights": {key: _short(w) for key, w in zip(keys, weights, strict=True)},
        "offset": _short(-weights @ centre),
    }


def _joint(cohort: Sequence[Mapping[str, float]]) -> dict | None:
    """Say how far from its cohort a scan is in all measures of contrast together.

    A third contrast, such as DESS given to a model of CISS and CT, can lie within the limits of each measure, and not
    look like either domain of the model.

    Returns:
        "keys" of the measures, their "centre" and "deviation", "inverse" (of the matrix of their correlations) and
        "high", the largest distance that is usual; None where scans are too few.

    Source: Mahalanobis, On the generalised distance in statistics, Proc. Natl. Inst. Sci. India 2 (1936); per
    measure, with robust deviations and correlations shrunk towards 0 as in `_likeness`.
    """
    keys = [key for key in CONTRAST if all(key in values for values in cohort)]
    if len(cohort) < FEWEST_TO_COMPARE or not keys:
        return None
    values = np.array([[_linear(key, v[key]) for key in keys] for v in cohort])
    # each scan by what the others say, since a scan is nearer to a cohort that it belongs to than a new one is
    others = (_shape_of(keys, np.delete(values, i, 0)) for i in range(len(values)))
    distances = np.array([_distance(shape, scan) for shape, scan in zip(others, cohort, strict=True)])
    median = float(np.median(distances))
    spread = SPREAD * (1 + SMALL_COHORT / len(cohort)) * body.SD_OF_MAD * float(np.median(np.abs(distances - median)))
    return _shape_of(keys, values) | {"high": _short(median + max(MEASURES[JOINT].width, spread))}


def _shape_of(keys: Sequence[str], values: np.ndarray) -> dict:
    """Centre, deviation and inverse correlations of the measures (scans, keys), see `_joint`."""
    centre = np.median(values, 0)
    deviation, correlation = _spread(keys, values - centre)
    inverse = [_all_short(row) for row in np.linalg.inv(correlation)]
    return {"keys": keys, "centre": _all_short(centre), "deviation": _all_short(deviation), "inverse": inverse}


def _spread(keys: Sequence[str], rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of residuals (scans, measures): robust deviations, none below that of the least limits, and correlations."""
    least = [_linear(key, MEASURES[key].width) / SPREAD for key in keys]
    deviation = np.maximum(body.SD_OF_MAD * np.median(np.abs(rest), 0), least)
    standard = np.clip(rest / deviation, -FAR, FAR)  # a scan that does not belong to its cohort counts for little
    return deviation, (1 - RIDGE) * standard.T @ standard / len(standard) + RIDGE * np.eye(len(keys))


def _distance(joint: Mapping, values: Mapping[str, float]) -> float:
    """Root mean square of how many standard deviations a scan is off, correlations considered."""
    found = np.array([_linear(key, values[key]) for key in joint["keys"]])
    standard = (found - joint["centre"]) / joint["deviation"]
    return math.sqrt(max(0.0, standard @ np.array(joint["inverse"]) @ standard) / len(standard))


def sentence(findings: Sequence[Mapping], most: int | None = None) -> str:
    """Return what `outside` found as the end of a sentence, without a full stop; beyond `most` measures only their
    number.
    """
    parts = []
    for finding in findings[:most]:
        about = MEASURES[finding["measure"]]
        unit = f" {about.unit}" if about.unit else ""
        low, high = finding["low"], finding["high"]
        allowed = f"at most {high:.3g}" if low is None else f"{low:.3g} to {high:.3g}"
        parts.append(f"{about.label} {finding['value']:.3g}{unit} ({allowed})")
    if len(findings) > len(parts):
        parts.append(f"and {len(findings) - len(parts)} more")
    return ", ".join(parts)


def _tilt_deg(affine: np.ndarray) -> float:
    """The largest angle between an axis of the array and the patient's axis that it follows."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(directions).max(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())


def _all_short(values: np.ndarray) -> list[float]:
    return [_short(float(value)) for value in values]


def _short(value: float) -> float:
    """Six digits: what a float32 of a header has, and all that a limit needs."""
    return float(f"{value:.6g}")
