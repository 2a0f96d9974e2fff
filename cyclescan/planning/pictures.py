"""A picture for each X-ray: with the lines, the bone's computed image, and both as a checkerboard."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from scipy import ndimage

from cyclescan.planning import NOTICE
from cyclescan.planning.xray import Xray

SOFTWARE = "cyclescan plan"  # stands in the PNG, by which it is known again
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442")  # Okabe and Ito
SQUARES = 8  # of the checkerboard along the longer side
INCHES, DPI = 4.6, 130


def is_ours(path: Path) -> bool:
    """Return whether a file is a picture of this kind."""
    return SOFTWARE.encode() in path.read_bytes()[:4096]


def overlay(xray: Xray, drr: np.ndarray, lines: Sequence[dict], accepted: bool) -> bytes:
    """Return a PNG of three panels.

    Args:
        xray: the X-ray.
        drr: the bone at the pose that was found, as computed from the synthetic CT, of the X-ray's size.
        lines: "name", "points_px" and "before_px" of each.
        accepted: a refused result is marked as such on each panel.
    """
    # outlines are compared, so slow shades of soft tissue are taken out
    plain, ours = (_scaled(image) for image in (xray.image, drr))
    flat_xray, flat_drr = (_scaled(image - ndimage.gaussian_filter(image, len(image) / 12)) for image in (plain, ours))
    rows, columns = drr.shape
    square = max(rows, columns) / SQUARES
    dark = (np.arange(rows)[:, None] // square + np.arange(columns)[None, :] // square) % 2 > 0
    panels = {
        f"X-ray {xray.name} and the plan": plain,
        "The bone from MR, by synthetic CT": ours,
        "Checkerboard of both, outlines": np.where(dark, flat_drr, flat_xray),
    }
    figure = Figure(figsize=(3 * INCHES, INCHES * rows / columns + 0.85), dpi=DPI, facecolor="white")
    axes = figure.subplots(1, 3)
    figure.subplots_adjust(0.005, 0.075, 0.995, 0.93, 0.02)
    for ax, (title, image) in zip(axes, panels.items(), strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=11, loc="left")
        ax.set_xlim(-0.5, columns - 0.5)
        ax.set_ylim(rows - 0.5, -0.5)
        ax.axis("off")
        for number, line in enumerate(lines):
            _draw(ax, line, COLOURS[number % len(COLOURS)])
        if not accepted:
            ax.text(0.5, 0.5, "REFUSED", transform=ax.transAxes, color="#d55e00", fontsize=34, weight="bold")
            ax.texts[-1].set(ha="center", va="center", rotation=30, alpha=0.8)
    axes[0].legend(loc="lower left", fontsize=8, framealpha=0.85)
    text = f"{NOTICE}.  Solid: the line where the bone was found; dashed: where the search began; dot: its target."
    figure.text(0.006, 0.02, text, fontsize=10, color="#8a4b00", weight="bold")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": SOFTWARE, "Description": NOTICE})
    return stream.getvalue()


def _draw(ax, line: dict, colour: str) -> None:
    outline = [patheffects.withStroke(linewidth=3.4, foreground="black", alpha=0.6)]
    before, after = np.array(line["before_px"]), np.array(line["points_px"])
    ax.plot(*before.T, color=colour, linewidth=1.2, linestyle=(0, (3, 2)))
    label = "\n".join(textwrap.wrap(line["name"], 24))
    ax.plot(*after.T, color=colour, linewidth=2, path_effects=outline, label=label)
    ax.plot(*after[1], "o", color=colour, markersize=5, path_effects=outline)


def _scaled(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (1, 99))
    return np.clip((image - low) / max(float(high - low), 1e-6), 0, 1).astype(np.float32)
