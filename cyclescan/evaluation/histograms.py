"""Intensity histograms and their Kullback-Leibler divergence, as the seed report measures translations (equation 4).

The seed compares the histogram of the input X with that of the generated image x': KL(X || x') = sum P(X) log(P(X) /
P(x')). It is small when the translation changes nothing, so it is read beside KL(target || generated), which is small
when the generated intensities are those of the target domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cyclescan.common.errors import InputError

BINS = 128
EPSILON = 1e-6  # added to each bin's probability: an empty bin would make the divergence infinite
UNIT = "nats"

IMAGES = ("before", "after", "noisy", "real")
REGIONS = {
    "body": "the voxels of the body, found in the real scan where there is one, else in the scan that was translated",
    "everything": "every voxel, of which most are air in many scans",
}
MEASURES = {
    "real_before": "KL(real || before): what doing nothing gives, the untranslated scan taken for the translation",
    "real_after": "KL(real || after): how far the translation's intensities are from those of real scans; 0: alike",
    "real_noisy": "KL(real || after with noise): the same once the translation, which is a mean, has noise of the "
    "level of real scans (translate --noise)",
    "before_after": "KL(before || after), the value of the CycleScan report: how far the translation changes the "
    "histogram; small where it changes nothing, so it says nothing of quality",
}


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


class Comparison:
    """Histograms of scans before and after translation beside those of real scans, subject by subject and pooled.

    Args:
        limits: intensities that the bins span.
        own_limits: those of "before" and of "after" where KL(before || after) compares each on its own range, as the
            CycleScan report compares images that are scaled to one range; None for `limits`.
    """

    def __init__(
        self, limits: tuple[float, float], own_limits: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        self._limits = limits
        self._own = own_limits or {}
        self._subjects: list[dict] = []
        self._counts: list[dict[str, dict[str, np.ndarray]]] = []

    def add(self, subject: str, site: str, images: Mapping[str, np.ndarray], body: np.ndarray) -> None:
        """Count one subject's images.

        Args:
            subject: its name in the rows.
            site: where it was scanned; "" where that is not known.
            images: "before", "after" and perhaps "noisy" and "real", arrays of one shape; without "real" the subject is
                compared with all real scans, see `values`.
            body: bool, of the same shape, not empty.
        """
        counts: dict[str, dict[str, np.ndarray]] = {}
        for region, where in (("body", body), ("everything", np.ones_like(body))):
            counts[region] = {name: count(array[where], self._limits) for name, array in images.items()}
            for name, limits in self._own.items():
                counts[region][f"own_{name}"] = count(images[name][where], limits)
        self._subjects.append({"subject": subject, "site": site})
        self._counts.append(counts)

    def __len__(self) -> int:
        return len(self._subjects)

    def found(self, real: Mapping[str, np.ndarray] | None = None) -> dict:
        """All that there is to say, as plain values.

        Args:
            real: counts of all real scans by region, for subjects without a real scan of their own.

        Returns:
            `values` and `counts` of this class, `summary`, see `summarize`, `definitions` of measures and regions, and
            what has to stand beside every value, see `settings`.
        """
        values = self.values(real)
        return {
            **settings(self._limits),
            "definitions": {**MEASURES, **REGIONS},
            "values": values,
            "summary": summarize(values),
            "counts": self.counts(real),
        }

    def values(self, real: Mapping[str, np.ndarray] | None = None) -> list[dict]:
        """One row a subject and region: subject, site, region, against and each of `MEASURES` that is known.

        Args:
            real: counts of all real scans by region, for subjects without a real scan of their own.
        """
        rows = []
        for about, counts in zip(self._subjects, self._counts, strict=True):
            for region, of in counts.items():
                own = of.get("real")
                against = own if own is not None else (real or {}).get(region)
                row = {**about, "region": region, "against": "own scan" if own is not None else "all real scans"}
                rows.append(row | _divergences(of, against))
        return rows

    def counts(self, real: Mapping[str, np.ndarray] | None = None) -> dict[str, dict[str, list[int]]]:
        """The sums of all counts by region and image; "real" is of the subjects' own scans, or else of `real`."""
        found: dict[str, dict[str, list[int]]] = {}
        for region in REGIONS:
            each = [counts[region] for counts in self._counts]
            shared = set.intersection(*map(set, each))
            sums = {name: np.sum([one[name] for one in each], axis=0) for name in IMAGES if name in shared}
            if "real" not in sums and real is not None:
                sums["real"] = real[region]
            found[region] = {name: [int(n) for n in values] for name, values in sums.items()}
        return found


def _divergences(counts: Mapping[str, np.ndarray], real: np.ndarray | None) -> dict[str, float]:
    found = {}
    if real is not None:
        found = {
            f"real_{name}": kl_divergence(real, counts[name]) for name in ("before", "after", "noisy") if name in counts
        }
    before, after = (counts.get(f"own_{name}", counts[name]) for name in ("before", "after"))
    return found | {"before_after": kl_divergence(before, after)}


def summarize(rows: Sequence[Mapping]) -> list[dict]:
    """Median, smallest and largest value over subjects, of all and of each site: rows with region, site and measure."""
    sites = sorted({row["site"] for row in rows} - {""})
    found = []
    for region in REGIONS:
        for site in ("all", *sites):
            own = [row for row in rows if row["region"] == region and site in ("all", row["site"])]
            for measure in MEASURES:
                values = [row[measure] for row in own if measure in row]
                if values:
                    about = {"region": region, "site": site, "measure": measure, "subjects": len(values)}
                    spread = {"median": float(np.median(values)), "least": min(values), "most": max(values)}
                    found.append(about | spread)
    return found
