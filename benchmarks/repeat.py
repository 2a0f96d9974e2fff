"""The ceiling of benchmarks.endpoints: how well does a true scan agree with the same knee scanned once more?

    python -m benchmarks.repeat [--subjects 24]

The same knees with the same lesions in the same examination, with another draw of the coil's and other fields and of
noise; measured as there. A translation can hardly agree with a scan better than that scan repeated: of the fields it
shares the main and the transmit field with its target, not the coil's. Half a minute of a core.

Writes benchmarks/results/repeat.md.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from benchmarks.endpoints import COHORT, RATE, REGIONS, RESULTS, SHAPE, regions_of
from cyclescan.common.files import write_text
from cyclescan.evaluation.agreement import agreement
from cyclescan.preprocessing import intensity
from data_prep import phantom
from data_prep.phantom import makes

AGAIN = 77  # of the seed of the second scan
# -1 and 1 of every scan become these: about what shipped models have for DESS, whose lower end is not 0
LOW, HIGH = 61.0, 1537.0


def scanned(cohort: int, index: int, lesions: tuple[str, ...], again: bool) -> phantom.Subject:
    """One knee of a cohort with these lesions; `again` has other fields and noise in the same examination."""
    shape, spacing_mm = phantom.checked_grid(SHAPE, None, makes.A)
    streams = phantom.streams_of(cohort, index)
    if again:
        streams[2] = np.random.default_rng([cohort, index, AGAIN])
    return phantom._scanned(streams, shape, spacing_mm, makes.A, lesions=lesions, ct=False)


def signals(index: int, again: bool, contrasts: tuple[str, ...]) -> dict:
    """Mean signal of each region in each contrast, on the scan's own range; NaN where a lesion left nothing of it."""
    knee = scanned(COHORT, index, phantom.lesions_of(COHORT, index, RATE), again)
    mask = regions_of(knee.labels)
    found = {}
    for contrast in contrasts:
        array = np.round(getattr(knee, contrast))
        record = intensity.measure(array, intensity.MR_SCALING)
        array = intensity.invert(intensity.apply(array, record), record | {"low": LOW, "high": HIGH})
        for number, region in enumerate(REGIONS, 1):
            inside = mask == number
            found[contrast, region] = float(array[inside].mean()) if inside.any() else float("nan")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=24)
    subjects = parser.parse_args().subjects
    contrasts = ("ciss", "dess")
    pairs = [[signals(index, again, contrasts) for again in (False, True)] for index in range(subjects)]
    lines = [
        "# A true scan against the same knee scanned once more",
        "",
        f"`python -m benchmarks.repeat --subjects {subjects}`: the knees of [endpoints.md](endpoints.md), the same "
        "examination with another draw of the coil's and other fields and of the noise. ICC(2,1) and its 95 % "
        "interval. **A translation can hardly agree with a scan better than that** (it shares two of the fields with "
        "its target, not the coil's).",
        "",
        "The same where half of the knees have an injured ACL: [trial.md](trial.md).",
        "",
        "| contrast | region | signal | signal over muscle |",
        "|---|---|---|---|",
    ]
    for contrast in contrasts:
        for region in list(REGIONS)[:-1]:
            cells = []
            for of_muscle in (False, True):
                values = np.array([[s[contrast, region] / (s[contrast, "muscle"] if of_muscle else 1) for s in pair]
                                   for pair in pairs])  # fmt: skip
                values = values[np.isfinite(values).all(1)]
                cells.append("{:.2f} ({:.2f} to {:.2f})".format(*agreement(*values.T)["icc"]))
            lines.append(f"| {contrast.upper()} | {region} | {' | '.join(cells)} |")
    write_text(RESULTS / "repeat.md", "\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
