"""Histograms before and after translation for a statistician: a sentence, a CSV, figures for print."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cyclescan.common.files import begins_with, refuse_foreign, replacing
from cyclescan.evaluation.histograms import MEASURES, REGIONS
from cyclescan.reporting.figures import BLUE, GREY, INK, ORANGE, STYLE, SURFACE, as_svg

COLUMNS = (
    *("direction", "subject", "site", "region", "against", "measure", "value", "unit"),
    *("bins", "low", "high", "epsilon", "definition"),
)
# the same bytes each time, and a sign by which our figures are known
_METADATA: dict[str, Any] = {
    "svg": {"Date": None, "Creator": "cyclescan"},
    "pdf": {"CreationDate": None, "Creator": "cyclescan"},
}
TITLES = {"body": "Body", "everything": "Everything, air included"}


def write(found: Mapping[str, Mapping], out: Path, stem: str) -> list[Path]:
    """Write OUT/STEM.csv, one line a value with its definition, and OUT/STEM-DIRECTION.svg and .pdf.

    Args:
        found: what `histograms.Comparison.found` returned, by direction ("" where there is one alone).
        out: an existing folder.
        stem: of the files' names.

    Raises:
        InputError: a file of such a name is there and not ours.
    """
    check(out, stem, list(found))
    table, pictures = out / f"{stem}.csv", _pictures(out, stem, list(found))
    with replacing(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        stream.write(as_csv(found))
    for (direction, kind), path in pictures.items():
        with replacing(path) as temporary, matplotlib.rc_context(STYLE):
            figure(found[direction]).savefig(temporary, format=kind, metadata=_METADATA[kind])
    return [table, *pictures.values()]


def check(out: Path, stem: str, directions: Sequence[str]) -> None:
    """Refuse a folder in which `write` would replace what is not ours; for before any work is done.

    Raises:
        InputError: it would.
    """
    table = out / f"{stem}.csv"
    refuse_foreign(table, lambda path: begins_with(path, ",".join(COLUMNS)), "table of histograms")
    for path in _pictures(out, stem, directions).values():
        refuse_foreign(path, lambda path: b"cyclescan" in path.read_bytes(), "figure of histograms")


def _pictures(out: Path, stem: str, directions: Sequence[str]) -> dict[tuple[str, str], Path]:
    return {
        (direction, kind): out / f"{'-'.join(part for part in (stem, direction) if part)}.{kind}"
        for direction in directions
        for kind in _METADATA
    }


def as_csv(found: Mapping[str, Mapping]) -> str:
    """One line for each subject, region and measure, with what defines the value beside it."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for direction, of in found.items():
        settings = {"unit": of["unit"], "bins": of["bins"], "epsilon": of["epsilon"]}
        settings |= dict(zip(("low", "high"), of["range"], strict=True))
        for row in of["values"]:
            about = {key: row[key] for key in ("subject", "site", "region", "against")}
            for measure, definition in MEASURES.items():
                if measure in row:
                    own = {"direction": direction, "measure": measure, "value": f"{row[measure]:.6g}"}
                    text = f"{definition}; over {row['region']}: {REGIONS[row['region']]}"
                    writer.writerow({**about, **settings, **own, "definition": text})
    return stream.getvalue()


def headline(found: Mapping, target: str) -> tuple[str, str]:
    """The result over the body: the number, and the rest of the sentence in a statistician's words."""
    medians = {row["measure"]: row for row in found["summary"] if (row["region"], row["site"]) == ("body", "all")}
    best = medians.get("real_noisy", medians["real_after"])
    value, before = best["median"], medians["real_before"]["median"]
    count = best["subjects"]
    subjects = "1 subject" if count == 1 else f"median of {count} subjects, {best['least']:.2f} to {best['most']:.2f}"
    told = f"one voxel of real {target} tells it from a translation by odds of {math.exp(value):.2f} on average"
    before_odds = f"{math.exp(before):.2f} before translation ({before:.2f} nats)"
    noise = f"; {medians['real_after']['median']:.2f} nats as a mean, without noise" if "real_noisy" in medians else ""
    kind = "with noise of the target's level" if "real_noisy" in medians else "the mean, without noise"
    return (
        f"{value:.2f} nats KL over the body",
        f"{kind} ({subjects}): {told}, of {before_odds}; 1 would be no difference{noise}",
    )


def figure(found: Mapping) -> Figure:
    """Pooled histograms of the body and of everything: before, after, with noise, and real."""
    low, high = found["range"]
    edges = np.linspace(low, high, found["bins"] + 1)
    styles = {
        "before": ("before", GREY, "-"),
        "after": ("after", BLUE, (0, (3, 1.2))),
        "noisy": ("after, with noise", BLUE, "-"),
        "real": ("real", ORANGE, "-"),
    }
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(7.0, 2.9), facecolor=SURFACE, layout="constrained")
        for axes, (region, title) in zip(drawn.subplots(1, 2), TITLES.items(), strict=True):
            for name, counts in found["counts"][region].items():
                label, colour, style = styles[name]
                share = np.asarray(counts, float) / max(1, sum(counts))
                axes.stairs(share, edges, color=colour, linestyle=style, label=label, linewidth=1.3)
            axes.set_title(title)
            axes.set_yscale("log")
            axes.set_ylim(bottom=1e-5)
            axes.set_xlim(*found["range"])
            axes.set_xlabel("intensity")
        drawn.axes[0].set_ylabel("share of the voxels", color=INK)
        handles, labels = drawn.axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return drawn


def picture(found: Mapping) -> str:
    """`figure` as the text of an `<img src="data:...">`."""
    with matplotlib.rc_context(STYLE):
        return as_svg(figure(found))


def tables(found: Mapping, number: Callable[[float | None, int], str]) -> dict:
    """What the page of a run shows: the summary by region and site, and the values of each subject.

    Args:
        found: see `write`.
        number: prints a value with so many decimals; None as a dash.
    """
    measures = [name for name in MEASURES if any(row["measure"] == name for row in found["summary"])]
    by_place: dict[tuple[str, str], dict[str, Mapping]] = {}
    for row in found["summary"]:
        by_place.setdefault((row["region"], row["site"]), {})[row["measure"]] = row
    summary = [
        {
            "region": region,
            "site": site,
            "subjects": max(row["subjects"] for row in rows.values()),
            "cells": [
                f"{number(rows[m]['median'], 3)} ({number(rows[m]['least'], 2)} to {number(rows[m]['most'], 2)})"
                if m in rows
                else number(None, 3)
                for m in measures
            ],
        }
        for (region, site), rows in by_place.items()
    ]
    subjects = [
        {key: row[key] for key in ("subject", "site", "region", "against")}
        | {"cells": [number(row.get(m), 3) for m in measures]}
        for row in found["values"]
    ]
    definitions = [(m.replace("_", " "), MEASURES[m]) for m in measures] + list(REGIONS.items())
    return {"measures": [m.replace("_", " ") for m in measures], "summary": summary, "subjects": subjects,
            "definitions": definitions, "sites": any(row["site"] for row in found["values"])}  # fmt: skip
