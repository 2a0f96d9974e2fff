"""The pictures of a report, each as the text of an `<img src="data:...">`: pixels as PNG, curves as SVG.

Figures are made without pyplot, which keeps them in a global list.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.evaluation.paired import Case
from cyclescan.scans.volume import plane
from cyclescan.training.terms import PAIR, Counts, Group, Part, all_terms

DPI = 140
SURFACE, INK, QUIET, RULE = "#ffffff", "#1b2733", "#5c6b7a", "#d8dfe6"
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7a8793"  # told apart with every kind of colour vision (Okabe & Ito)
STYLE: Any = {
    "svg.hashsalt": "cyclescan",  # the same page for the same run
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9edf1",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}
# name, array axis that is fixed, letters at the left, right, top and bottom of the picture
PLANES = (
    ("sagittal", 0, ("A", "P", "S", "I")),
    ("coronal", 2, ("R", "L", "S", "I")),
    ("axial", 1, ("R", "L", "A", "P")),
)
# how the terms of a loss are drawn: prefix of the name in history.csv, label, line style
# of the curves of a diagram, told apart by term
LINES = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (4, 1, 1, 1)), (0, (1, 1)), "-.")
MANY_ROWS = 120  # from here on a running mean is drawn over the single values


def planes(case: Case, error_limit: float) -> str:
    """Return three planes through the middle of a test volume, all at one scale of millimetres.

    Displayed as radiologists do: superior up; anterior to the left in sagittal and up in axial planes; the patient's
    right on the left.

    Args:
        case: columns are input, translation, truth, error and cycled; without truth the cycle and its error.
        error_limit: the colours of the error span -error_limit to error_limit.
    """
    columns = [(f"input\n{case.source}", case.input, False), (f"translated\nto {case.target}", case.translated, False)]
    if case.truth is not None:
        columns += [(f"truth\n{case.target}", case.truth, False)]
        columns += [("error\ntranslated − truth", case.translated - case.truth, True)]
    if case.cycled is not None:
        columns += [(f"cycled\nback to {case.source}", case.cycled, False)]
    if case.truth is None and case.cycled is not None:
        columns += [("cycle error\ncycled − input", case.cycled - case.input, True)]

    extent_mm = [n * s for n, s in zip(case.input.shape, case.spacing_mm, strict=True)]
    depth_mm, height_mm, width_mm = extent_mm
    sizes_mm = ((width_mm, height_mm), (depth_mm, height_mm), (depth_mm, width_mm))
    column_mm = max(width for width, _ in sizes_mm)
    rows_mm = [height for _, height in sizes_mm]
    # in inches; every panel is placed by hand, so that a millimetre is the same length everywhere
    left, top, bottom, gap, panel = 0.3, 0.5, 0.5, 0.07, 1.85
    scale = panel / column_mm
    width = left + len(columns) * (panel + gap)
    height = top + sum(rows_mm) * scale + 2 * gap + bottom
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), facecolor=SURFACE)
        image = None
        for c, (title, array, is_error) in enumerate(columns):
            upper = height - top
            x = left + c * (panel + gap)
            figure.text((x + panel / 2) / width, (height - 0.06) / height, _plain(title), ha="center", va="top")
            for (name, axis, letters), (w_mm, h_mm) in zip(PLANES, sizes_mm, strict=True):
                box = (x + (panel - w_mm * scale) / 2, upper - h_mm * scale, w_mm * scale, h_mm * scale)
                axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
                limit = error_limit if is_error else 1.0
                shown = axes.imshow(
                    plane(array, axis),
                    cmap="RdBu_r" if is_error else "gray",
                    vmin=-limit,
                    vmax=limit,
                    aspect="auto",  # the box has the shape in millimetres
                    interpolation="nearest" if is_error else "bilinear",
                )
                image = shown if is_error else image
                axes.set_axis_off()
                if c == 0:
                    figure.text(
                        0.13 / width, (box[1] + box[3] / 2) / height, name, rotation=90, va="center", ha="center"
                    )
                    _letters(axes, letters)
                if is_error:
                    axes.add_patch(_frame(axes))
                upper -= h_mm * scale + gap
        bar_mm = _round_length(column_mm / 3)
        _scale_bar(figure, (left, bottom - 0.14), bar_mm, scale, (width, height))
        if image is not None:
            c = next(i for i, column in enumerate(columns) if column[2])
            x = left + c * (panel + gap) + 0.15  # room for the numbers at both ends
            box = (x / width, (bottom - 0.17) / height, (panel - 0.3) / width, 0.09 / height)
            bar = figure.colorbar(image, cax=figure.add_axes(box), orientation="horizontal")
            bar.set_ticks([-error_limit, 0, error_limit])
            bar.ax.set_xticklabels([f"−{error_limit:g}", "0", f"+{error_limit:g}"])
            bar.ax.tick_params(labelsize=8, length=2, pad=1)
            bar.outline.set_visible(False)
        return _png(figure)


def error_limit(cases: Sequence[Case]) -> float:
    """Return one colour range for the errors of all cases: their 99.5th percentile, rounded up to a tenth."""
    errors = []
    for case in cases:
        if case.truth is not None:
            errors.append(np.abs(case.translated - case.truth))
        elif case.cycled is not None:
            errors.append(np.abs(case.cycled - case.input))
    largest = max((float(np.percentile(error, 99.5)) for error in errors), default=1.0)
    return max(0.1, math.ceil(10 * largest - 1e-9) / 10)


def loss_curves(history: dict[str, np.ndarray], scores: dict[int, float], names: dict[str, str]) -> str | None:
    """Return the losses of a run over its steps, in groups of one scale, and the validation score where there is one.

    Args:
        history: columns of history.csv as floats, NaN where a term was not computed.
        scores: validation score of each checkpoint's step.
        names: of the domains "a" and "b".

    Returns:
        None when there is nothing to draw.
    """
    groups = [(group.value, found) for group in Group if (found := _curves(history, group))]
    count = len(groups) + bool(scores)
    if not count:
        return None
    warm = warmup_end(history)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 2.5 * count), facecolor=SURFACE, layout="constrained")
        grid = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, found) in zip(grid, groups, strict=False):
            for part, style in found:
                domains = part.term.path.domains(part.direction)
                name = _plain(f"{part.term.label} {'→'.join(names.get(domain, domain) for domain in domains)}")
                colour = BLUE if domains[0] == "a" else ORANGE  # by the domain that a term begins in
                _curve(axes, history["step"], history[part.name], name, colour, style)
            axes.set_title(title)
            axes.set_ylim(bottom=0)
        if scores:
            axes = grid[-1]
            axes.plot(list(scores), list(scores.values()), color=INK, marker="o", markersize=3.5)
            best = min(scores, key=lambda step: scores[step])
            axes.plot(
                best, scores[best], color=ORANGE, marker="o", markersize=7, linestyle="", label=f"best: step {best}"
            )
            axes.set_title("Validation score (lower is better)")
            axes.set_ylim(bottom=0)
        for axes in grid:
            if warm:
                axes.axvline(warm, color=QUIET, linewidth=1, linestyle=(0, (3, 2)))
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02))
        if warm:
            place = (warm, 1.0)
            transform = grid[0].get_xaxis_transform()
            grid[0].text(*place, " warm-up ends", transform=transform, va="top", color=QUIET, fontsize=8)
        grid[-1].set_xlabel("step")
        return as_svg(figure)


def warmup_end(history: dict[str, np.ndarray]) -> float | None:
    """Return the last logged step of the warm-up, before adversarial and other terms came."""
    parts = [Part(term, direction) for term in all_terms() for direction in DIRECTIONS]
    others = [part.name for part in parts if part.term.counts is Counts.AFTER_WARMUP and part.name in history]
    paired = [part.name for part in parts if part.term is PAIR and part.name in history]
    if not others or not paired:
        return None
    alone = np.all([np.isnan(history[c]) for c in others], axis=0) & ~np.isnan(history[paired[0]])
    return float(history["step"][alone].max()) if alone.any() and not alone.all() else None


def _curves(history: dict, group: Group) -> list[tuple[Part, Any]]:
    """The terms of a group that a history has, with the style of their lines."""
    found = []
    for term, style in zip([term for term in all_terms() if term.group is group], itertools.cycle(LINES)):
        parts = sorted((Part(term, direction) for direction in DIRECTIONS), key=lambda part: part.name)
        found += [(part, style) for part in parts if part.name in history and not np.isnan(history[part.name]).all()]
    return found


def _curve(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str, colour: str, style) -> None:
    seen = ~np.isnan(values)
    steps, values = steps[seen], values[seen]
    if len(values) < MANY_ROWS:
        axes.plot(steps, values, color=colour, linestyle=style, label=label, marker="." if len(values) == 1 else "")
        return
    axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
    width = len(values) // 40
    weights = np.ones(2 * width + 1)
    mean = np.convolve(values, weights, "same") / np.convolve(np.ones_like(values), weights, "same")
    axes.plot(steps, mean, color=colour, linestyle=style, label=label)


def _letters(axes: Axes, letters) -> None:
    """The patient's directions at the four edges."""
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.97), (0.5, 0.03))
    alignments = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (ha, va) in zip(letters, places, alignments, strict=True):
        text = axes.text(x, y, letter, transform=axes.transAxes, ha=ha, va=va, color="#ffd54f", fontsize=8)
        text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])  # readable on white, too


def _frame(axes: Axes):
    return Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=RULE, linewidth=1)


def _scale_bar(figure: Figure, place: tuple[float, float], length_mm: float, scale: float, size) -> None:
    (x, y), (width, height) = place, size
    ends = [x / width, (x + length_mm * scale) / width]
    figure.add_artist(Line2D(ends, [y / height] * 2, color=INK, linewidth=2, solid_capstyle="butt"))
    figure.text(ends[0], (y - 0.06) / height, f"{length_mm:g} mm", va="top", ha="left", fontsize=8)


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5, 10, ... that is not longer."""
    power = 10 ** math.floor(math.log10(length))
    return max(step * power for step in (1, 2, 5) if step * power <= length)


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def as_svg(figure: Figure) -> str:
    """A figure as the text of an `<img src="data:...">`, the same each time."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"
