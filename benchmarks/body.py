"""How much of the body the mask is: Dice overlap with the truth on digital knees, with and without fill.

    python -m benchmarks.body

Each knee is measured as it is and turned onto other axes, as a resampling leaves it: zeros (CT: -2048) in the corners.
Settings of `cyclescan.preprocessing.body` were chosen on others: cohorts 17 and 101 of A, 3 of the random makes.

Writes benchmarks/results/body.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cyclescan.common.files import write_text
from cyclescan.preprocessing import body
from data_prep.phantom import Subject, make_subject, makes

RESULTS = Path(__file__).parent / "results" / "body.md"
SHAPE = (32, 64, 64)
COHORTS = {"A": (2309, 40), "B": (2310, 40), "random": (2311, 20)}  # seed and number of knees
LOW = 0.97
CONTRASTS = {"ciss": 0.0, "dess": 0.0, "ct": -2048.0}  # and their fill


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth))


def turned(array: np.ndarray, value: float, order: int = 1) -> np.ndarray:
    """An array on axes that are turned by 20, 8 and -6 degrees, with `value` where nothing was."""
    matrix = Rotation.from_euler("xyz", (20, 8, -6), degrees=True).as_matrix()
    centre = (np.array(array.shape) - 1) / 2
    return ndimage.affine_transform(array, matrix, centre - matrix @ centre, order=order, cval=value)


def knees(name: str) -> Iterator[Subject]:
    seed, count = COHORTS[name]
    for index in range(count):
        yield make_subject(seed, SHAPE, index=index, make=makes.named(name, seed + index))


def measure() -> dict[tuple[str, str, str, bool], list[float]]:
    """Dice by make, contrast, "plain" or "fill", and whether dark tissue is looked for: one value for each knee."""
    found: dict[tuple[str, str, str, bool], list[float]] = {}
    outside = turned(np.ones(SHAPE, np.float32), 0.0, order=0) < 0.5
    for name in COHORTS:
        for knee in knees(name):
            truth = knee.labels > 0
            away = turned(truth.astype(np.float32), 0.0) > 0.5
            for contrast, value in CONTRASTS.items():
                scan = getattr(knee, contrast).astype(np.float32)
                filled = turned(scan, value)
                cases = {"plain": (scan, None, truth), "fill": (filled, outside, away)}
                for kind, (array, beyond, expected) in cases.items():
                    for dark in (False, True):
                        overlap = dice(body.mask(array, beyond, dark_tissue=dark), expected)
                        found.setdefault((name, contrast, kind, dark), []).append(overlap)
    return found


def main() -> None:
    """Measure, and write the page."""
    lines = [
        "# The mask of the body",
        "",
        "`python -m benchmarks.body`: Dice overlap of `body.mask` with the truth, digital knees of 32x64x64, as they "
        "are and turned onto other axes with fill in the corners: the least and the median. *Bright alone* is the "
        "mask before 2026-12-01, which lost dark muscle in the noise. Nothing was chosen on these knees; the settings "
        "were, on cohorts 17 and 101 of A and 3 of the random makes.",
        "",
        "| make | knees | contrast | bright alone | **now** | with fill, bright alone | **now** |",
        "|---|---|---|---|---|---|---|",
    ]
    found = measure()
    for name, (_, count) in COHORTS.items():
        for contrast in CONTRASTS:
            values = [found[name, contrast, kind, dark] for kind in ("plain", "fill") for dark in (False, True)]
            cells = [f"{min(each):.3f}, {np.median(each):.3f}" for each in values]
            lines.append(f"| {name} | {count} | {contrast.upper()} | {' | '.join(cells)} |")
    low = [
        f"{n} {c.upper()} {v:.3f}"
        for (n, c, k, dark), of in found.items()
        for v in of
        if dark and k == "plain" and v < LOW
    ]
    lines += ["", f"Below {LOW:g} without fill: {', '.join(low) or 'none'}."]
    write_text(RESULTS, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
