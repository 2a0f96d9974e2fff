"""The page of endpoints for a trial's statistician: agreement in words, tables and Bland-Altman plots."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cyclescan import NOTICE, __version__
from cyclescan.common import page
from cyclescan.common.files import make_folder, replacing, write_text
from cyclescan.evaluation import endpoints
from cyclescan.evaluation.agreement import DEFINITIONS
from cyclescan.reporting.figures import BLUE, GREY, ORANGE, QUIET, STYLE, SURFACE

PICTURED = ("signal", "relative_signal", "area_mm2", "volume_mm3")
MARKERS = "osD^vPX*"
# the same bytes each time
_UNDATED: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
CALLED = {"predicted": "translated", "source": "not translated"}


def write(
    rows: Sequence[Mapping], compared: Sequence[Mapping], sites: Sequence[str], out: Path, n4: bool = False
) -> None:
    """Write OUT/endpoints.html and, for print, OUT/figures/REGION.svg and .pdf.

    Args:
        rows: one a subject and region, see `endpoints.compare`.
        compared: what `endpoints.compare` returned.
        sites: their names; none where there is one.
        out: an existing folder.
        n4: whether the scans had their bias field corrected before.
    """
    make_folder(out / "figures")
    regions = []
    for name in dict.fromkeys(row["region"] for row in rows):
        figure = bland_altman([row for row in rows if row["region"] == name], compared, name, sites)
        stem = "".join(letter if letter.isalnum() else "-" for letter in name)
        for kind in ("svg", "pdf"):
            with replacing(out / "figures" / f"{stem}.{kind}") as temporary, matplotlib.rc_context(STYLE):
                figure.savefig(temporary, format=kind, metadata=_UNDATED[kind])
        table = [_cells(row) for row in compared if row["region"] == name]
        regions.append({"name": name, "id": stem, "picture": _as_image(figure), "table": table})
    text = page.render(
        "cyclescan.reporting",
        "endpoints.html.j2",
        notice=NOTICE,
        headline=headline(compared),
        regions=regions,
        sites=list(sites),
        subjects=len({row["subject"] for row in rows}),
        measures=endpoints.MEASURES,
        definitions=DEFINITIONS,
        rules=(endpoints.N4_RULE, *endpoints.RULES) if n4 else endpoints.RULES,
        few=any(row["n"] < 10 for row in compared if row["site"] == "all"),
        version=__version__,
    )
    write_text(out / "endpoints.html", text)


def headline(compared: Sequence[Mapping]) -> list[str]:
    """Return one sentence a region: how far the signal of a translation can stand for that of the true scan."""
    sentences = []
    for row in compared:
        if (row["measure"], row["site"], row["image"]) != ("signal", "all", "predicted") or row["icc"] is None:
            continue
        width = 100 * (row["upper"][0] - row["lower"][0]) / 2 / abs(row["reference"]) if row["reference"] else None
        spread = f"; a single value is off by up to {width:.0f} % of the mean" if width is not None else ""
        icc, low, high = row["icc"]
        sentences.append(
            f"{row['region']}: ICC {icc:.2f} ({low:.2f} to {high:.2f}), {_grade(low)} agreement of the signal with the "
            f"true scan's over {row['n']} subjects{spread}."
        )
    return sentences


def _grade(low: float) -> str:
    """The words of Koo and Li 2016 for the lower bound of an ICC's interval."""
    for limit, word in ((0.9, "excellent"), (0.75, "good"), (0.5, "moderate")):
        if low >= limit:
            return f"at least {word}"
    return "no proof of even moderate"


def bland_altman(rows: Sequence[Mapping], compared: Sequence[Mapping], region: str, sites: Sequence[str]) -> Figure:
    """Draw differences against means for each measure, with bias and limits; each site has a marker of its own."""
    shown = [name for name in PICTURED if any(row.get(f"predicted_{name}") is not None for row in rows)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(shown), 3.1), facecolor=SURFACE, layout="constrained")
        for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            for image, colour in (("source", GREY), ("predicted", BLUE)):
                for site, marker in zip(sites or [""], MARKERS * 9, strict=False):
                    pairs = [
                        (row[f"{image}_{name}"], row[f"reference_{name}"])
                        for row in rows
                        if site in ("", row["site"])
                        and row.get(f"{image}_{name}") is not None
                        and row[f"reference_{name}"] is not None
                    ]
                    label = CALLED[image] + (f", {site}" if site else "")
                    axes.scatter(
                        [(a + b) / 2 for a, b in pairs],
                        [a - b for a, b in pairs],
                        s=16,
                        c=colour,
                        marker=marker,
                        label=label if pairs else None,
                        alpha=0.85,
                        linewidths=0,
                    )
            _limits(axes, next(row for row in compared if _is(row, region, name)))
            axes.set_title(endpoints.MEASURES[name].split(",")[0], fontsize=9)
            axes.set_xlabel("mean of translated and true")
        figure.axes[0].set_ylabel("translated − true")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _is(row: Mapping, region: str, name: str) -> bool:
    return (row["region"], row["measure"], row["site"], row["image"]) == (region, name, "all", "predicted")


def _limits(axes, row: Mapping) -> None:
    axes.axhline(0, color=QUIET, linewidth=0.8)
    if row["bias"] is None:
        return
    for key, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
        value, low, high = row[key]
        axes.axhline(value, color=ORANGE, linewidth=1.2, linestyle=style)
        axes.axhspan(low, high, color=ORANGE, alpha=0.10, linewidth=0)


def _cells(row: Mapping) -> dict:
    def interval(key: str) -> str:
        if row[key] is None:
            return "–"
        value, low, high = (_short(number) for number in row[key])
        return f"{value} ({low} to {high})"

    return {
        "measure": row["measure"],
        "site": row["site"],
        "image": CALLED[row["image"]],
        "own": row["image"] == "predicted" and row["site"] == "all",
        "n": row["n"],
        "predicted": _short(row["predicted"]),
        "reference": _short(row["reference"]),
        **{key: interval(key) for key in ("bias", "lower", "upper", "icc", "ccc")},
    }


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _as_image(figure: Figure) -> str:
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata=_UNDATED["svg"])
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"
