"""The page with which the demo ends: what went in, what came out, how good it is, how far to trust it."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from cyclescan import NOTICE, __version__
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common import page
from cyclescan.common.files import refuse_foreign, write_text
from cyclescan.evaluation.fresh import Remains, Shown
from cyclescan.evaluation.metrics import summarize
from cyclescan.preprocessing import guard
from cyclescan.reporting.run_page import METHODS, display_name, layers_of, number, times
from cyclescan.scans import viewer
from cyclescan.scans.viewer import Kind, Layer, Study

MEASURES = (("psnr", "PSNR, dB", 1, True), ("ssim", "SSIM", 2, True), ("mae", "MAE", 3, False))
LOST, FADED = 0.25, 0.75  # shares of a lesion's contrast below which it is called so
CLOSE_UP_MM = 32.0  # from the middle of a lesion to the edges of its picture, where the scan reaches so far


@dataclasses.dataclass(frozen=True)
class Story:
    """What the page tells beside what was shown.

    Attributes:
        shown: see `evaluation.fresh.show`.
        lesions: what was planted, in words, by subject.
        learnt: one sentence: where the model comes from.
        more: the end of a sentence: where more knees are measured.
        pool: how many other subjects histogram matching knows.
        made: further facts, a name and a text each.
        further: files of the demo and what they are, a name and a text each.
    """

    shown: Sequence[Shown]
    lesions: Mapping[str, str]
    learnt: str
    more: str
    pool: int
    made: Sequence[tuple[str, str]]
    further: Sequence[tuple[str, str]]


def refuse(out: Path) -> None:
    """Raise `InputError` where something else than a page of ours would be replaced."""
    refuse_foreign(out, page.is_ours, "page of cyclescan")


def write(story: Story, out: Path) -> Path:
    """Write the page.

    Raises:
        InputError: the file cannot be written, or is there and not ours.
    """
    refuse(out)
    subjects = list(dict.fromkeys(shown.case.subject for shown in story.shown))
    text = page.render(
        "cyclescan.reporting",
        "story.html.j2",
        notice=NOTICE,
        version=__version__,
        story=story,
        subjects=subjects,
        directions=[_direction(direction, story.shown) for direction in DIRECTIONS],
        grid=_grid(story.shown[0]),
        viewer=viewer.embed((_study(shown, story.lesions) for shown in story.shown), least=len(story.shown)),
        findings=_findings(story.shown),
        lesions=[_close_up(shown, shown.remains) for shown in story.shown if shown.remains],
        measures=MEASURES,
    )
    write_text(out, text)
    return out


def table(shown: Sequence[Shown]) -> str:
    """Write the measures as the demo prints them."""
    lines = [f"{'':22}{'PSNR dB':>10}{'SSIM':>8}{'MAE':>8}   against the true scan, on [-1, 1]"]
    for about in (_direction(direction, shown) for direction in DIRECTIONS):
        lines.append(about["title"])
        for method, means in about["means"].items():
            lines.append(f"  {method.replace('_', ' '):20}{means['psnr']:10.2f}{means['ssim']:8.3f}{means['mae']:8.3f}")
    return "\n".join(lines)


def metrics(shown: Sequence[Shown]) -> dict:
    """Return what metrics.json says of each direction."""
    found = {}
    for about in (_direction(direction, shown) for direction in DIRECTIONS):
        of_lesion = {"contrast": about["contrast"], "surviving": about["surviving"]}
        found[about["key"]] = {**about["means"], "lesion": of_lesion, "doubted": about["doubted"]}
    return found


def _names(shown: Shown) -> tuple[str, str]:
    return display_name(shown.case.source), display_name(shown.case.target)


def _direction(direction: str, every: Sequence[Shown]) -> dict:
    """What the page says of one direction: means over the subjects."""
    shown = [each for each in every if each.case.direction == direction]
    source, target = _names(shown[0])
    keys = [key for key, *_ in MEASURES]
    means = {method: summarize((dict(each.measures[method]) for each in shown), keys)[0] for method in METHODS}
    best = {key: (max if up else min)(means[method][key] for method in METHODS) for key, _, _, up in MEASURES}
    remains = [each.remains for each in shown if each.remains]
    contrasts = [each.contrast for each in remains]
    surviving = [each.surviving for each in remains if each.surviving is not None]
    own = means["translated"]["psnr"]
    return {
        "key": direction,
        "title": f"{source} to {target}",
        "source": source,
        "target": target,
        "means": means,
        "psnr": number(own, 1),
        "gain": number(own - means["identity"]["psnr"], 1),
        "gain_on_matching": number(own - means["histogram_matching"]["psnr"], 1),
        "rows": [
            {
                "method": METHODS[method],
                "own": method == "translated",
                "cells": [
                    {"text": number(means[method][key], decimals), "best": means[method][key] == best[key]}
                    for key, _, decimals, _ in MEASURES
                ],
            }
            for method in METHODS
        ],
        "doubted": float(np.mean([each.doubted for each in shown])),
        "contrast": float(np.mean(contrasts)) if contrasts else None,
        "surviving": float(np.mean(surviving)) if surviving else None,
    }


def _study(shown: Shown, lesions: Mapping[str, str]) -> Study:
    source, target = _names(shown)
    case = shown.case
    layers = layers_of(case, source, target)
    if shown.remains:
        layers.append(Layer(Kind.OUTLINE, f"where the {lesions[case.subject]} was put", shown.remains.mask))
    return Study(f"{case.subject}: {source} to {target}", case.affine, layers)


def _grid(shown: Shown) -> str:
    spacing = times(f"{s:.3g}" for s in shown.case.spacing_mm)
    return f"{times(shown.case.input.shape)} voxels of {spacing} mm"


def _findings(every: Sequence[Shown]) -> list[str]:
    """What is unlike the training's scans, a sentence each."""
    return [
        f"{shown.case.subject}, {_names(shown)[0]}: {guard.sentence(shown.findings)}"
        for shown in every
        if shown.findings
    ]


def _close_up(shown: Shown, remains: Remains) -> dict:
    """Pictures of a lesion in the sagittal slice that has most of it, and of the same place in the healthy knee."""
    source, target = _names(shown)
    case = shown.case
    at = int(remains.mask.sum(axis=(1, 2)).argmax())
    reach = np.divide(CLOSE_UP_MM, case.spacing_mm[1:])
    middle = ndimage.center_of_mass(remains.mask[at])
    rows, columns = (slice(max(0, round(m - r)), round(m + r) + 1) for m, r in zip(middle, reach, strict=True))
    arrays = {
        f"{source}, with it": case.input,
        f"{target}, synthetic": case.translated,
        f"{target}, true": shown.truth,
        f"{target}, true, without it": remains.healthy,
    }
    pictures = [
        {"title": title, "source": _png(array[at, rows, columns][::-1, ::-1])} for title, array in arrays.items()
    ]
    height_mm, width_mm = np.multiply(case.input[at, rows, columns].shape, case.spacing_mm[1:])
    return {
        "title": f"{source} to {target}",
        "pictures": pictures,
        "aspect": f"{width_mm:.1f} / {height_mm:.1f}",
        "contrast": number(remains.contrast, 2),
        "surviving": None if remains.surviving is None else f"{number(100 * remains.surviving, 0)} %",
        "verdict": _verdict(remains.surviving),
    }


def _verdict(surviving: float | None) -> str:
    """What became of a lesion, in a word."""
    if surviving is None:
        return "not to be seen"
    return "lost" if surviving < LOST else "faded" if surviving < FADED else "kept"


def _png(shown: np.ndarray) -> str:
    """A plane on [-1, 1] as the text of an image in a page."""
    stream = io.BytesIO()
    grey = np.rint((np.clip(shown, -1, 1) + 1) * 127.5).astype(np.uint8)
    Image.fromarray(grey).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
