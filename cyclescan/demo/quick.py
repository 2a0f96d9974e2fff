"""What a model makes of two digital knees that nobody has seen, and the page that tells it; nothing is trained."""

from __future__ import annotations

import logging
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cyclescan import NOTICE
from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.common.files import make_folder, refuse_foreign, states, write_json
from cyclescan.reporting.tour import Clock

log = logging.getLogger(__name__)

MODEL = "digital-knee"
PAGE, FIGURES = "demo.html", "metrics.json"
NEW = 1000  # of the knees of a seed, the first that no model of ours was trained or chosen on
POOL = 3  # further knees, onto whose intensities histogram matching goes
LESION, IN_WORDS = "acl_tear", "torn cruciate ligament"
NAMES = ("Knee 1, healthy", f"Knee 2, {IN_WORDS}")
CONTRASTS = {"a": "ciss", "b": "dess"}


def quick(out: str | Path, seed: int, shape: Sequence[int]) -> dict:
    """Translate two new knees by the model that comes with cyclescan, and write the page.

    Args:
        out: a folder for scans/, translated/, metrics.json and the page; those of an earlier quick demo are replaced.
        seed: of the knees.
        shape: (sagittal slices, height, width) of each scan.

    Returns:
        What DIR/metrics.json says.

    Raises:
        InputError: the seed or the shape is not allowed; something else would be replaced.
    """
    clock = Clock()  # what is imported takes its time, too
    from cyclescan.inference.batch import translate_file
    from cyclescan.inference.translator import Translator
    from cyclescan.reporting import story
    from cyclescan.scans.volume import write
    from data_prep.phantom import DESCRIP

    out = Path(out)
    _refuse_foreign(out)
    log.info("1/3 %d digital knees of %s voxels, each scanned as CISS and as DESS", 2 + POOL, _times(shape))
    knees = _knees(seed, shape)
    make_folder(out)
    for name, scan in _scans(knees).items():
        write(scan, out / "scans" / name, descrip=DESCRIP, dtype=np.int16)
    clock.lap("knees")

    log.info("2/3 translating, in both directions, by the model %s", MODEL)
    translators = {direction: Translator.load(MODEL, direction) for direction in DIRECTIONS}
    shown = _shown(knees, translators)
    for direction, scan, made in _ways(out):
        translate_file(translators[direction], scan, made)
    clock.lap("translate")

    log.info("3/3 the page")
    further = (
        ("python -m cyclescan.demo", "the whole tour: the same from nothing, with training, in about 12 minutes"),
        ("python -m cyclescan.translate --help", f"your own scan by {MODEL} or by a model that you have trained"),
        ("python -m data_prep build --help", "your own two folders of scans: the first step of training"),
    )
    learnt = (
        "A network learnt from 24 knees scanned as CISS and 24 others scanned as DESS; no knee was scanned as both."
    )
    page = story.write(_story(shown, seed, MODEL, (learnt, "ten are in the model's card"), further), out / PAGE)
    clock.lap("page")

    seconds = {"laps": clock.laps, "total": clock.sum(*clock.laps)}
    metrics = {**story.metrics(shown), "model": MODEL, "seed": seed, "seconds": seconds, "notice": NOTICE}
    write_json(out / FIGURES, metrics)
    lines = [
        "",
        story.table(shown),
        "",
        f"time    {seconds['total']:.0f} s, nothing trained",
        f"scans   {out / 'scans'}, {out / 'translated'}",
        f"figures {out / FIGURES}",
        f"page    {page.resolve().as_uri()}",
        "",
    ]
    sys.stdout.write("\n".join(lines))
    return metrics


def tell(run: Path, out: Path, seed: int, shape: Sequence[int], training: int) -> Path:
    """Write the page of a model that a demo has trained: the same of new knees.

    Args:
        run: the training run.
        out: the page.
        seed, shape: of the knees.
        training: how many knees of each contrast it was trained on.
    """
    from cyclescan.inference.translator import Translator
    from cyclescan.reporting import story

    knees = _knees(seed, shape)
    shown = _shown(knees, {direction: Translator.load(run, direction) for direction in DIRECTIONS})
    learnt = (
        f"A network has just learnt from {training} knees scanned as CISS and {training} others scanned as DESS; no "
        "knee was scanned as both."
    )
    further = (
        ("report.html", "of this run: six test knees, losses, histograms, settings"),
        ("saved_models/", "the two models, to serve or to translate with"),
        ("python -m data_prep build --help", "your own two folders of scans: the first step of training"),
    )
    says = learnt, "six are in report.html, beside this page"
    return story.write(_story(shown, seed, "the run of this demo", says, further), out)


def open_page(page: Path) -> bool:
    """Show a page in the browser, where somebody sits before a display; return whether that was done."""
    display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return display and sys.stdout.isatty() and webbrowser.open(page.resolve().as_uri())


def _knees(seed: int, shape: Sequence[int]) -> list:
    """The two that are shown, the second one with its lesion, and those that histogram matching knows."""
    from cyclescan.evaluation.fresh import Lesion, Subject
    from data_prep.phantom import make_subject

    healthy, twin, *pool = (make_subject(seed, shape, index=NEW + i, lesions=()) for i in range(2 + POOL))
    ill = make_subject(seed, shape, index=NEW + 1, lesions=(LESION,))
    mask = np.zeros(shape) if ill.lesion is None else ill.lesion
    lesion = Lesion(IN_WORDS, mask, _volumes(twin))
    return [
        Subject(NAMES[0], _volumes(healthy)),
        Subject(NAMES[1], _volumes(ill), lesion),
        *(Subject(f"pool {i}", _volumes(knee)) for i, knee in enumerate(pool)),
    ]


def _volumes(knee) -> dict:
    from cyclescan.scans.volume import Volume

    return {domain: Volume(getattr(knee, contrast), knee.affine) for domain, contrast in CONTRASTS.items()}


def _shown(knees: list, translators: dict) -> list:
    from cyclescan.evaluation import fresh

    return fresh.show(knees[:2], translators, knees[2:])


def _story(shown: list, seed: int, model: str, says: tuple[str, str], further: Sequence[tuple[str, str]]):
    from cyclescan.reporting.story import Story

    made = (
        ("knees", f"numbers {NEW + 1} and {NEW + 2} of the seed {seed}; no model of cyclescan has learnt from them"),
        ("model", model),
        ("histogram matching", f"onto the intensities of {POOL} further knees"),
    )
    learnt, more = says
    return Story(shown, {NAMES[1]: IN_WORDS}, learnt, more, POOL, made, further)


def _scans(knees: list) -> dict:
    """The scans of the two knees by the names of their files."""
    return {
        _file(number, domain): scan for number, knee in enumerate(knees[:2], 1) for domain, scan in knee.scans.items()
    }


def _file(number: int, domain: str) -> str:
    return f"knee-{number}_{CONTRASTS[domain]}.nii.gz"


def _ways(out: Path) -> list[tuple[Direction, Path, Path]]:
    """Direction, scan and translation of each file that is translated."""
    return [
        (way, out / "scans" / _file(number, way.source), out / "translated" / _file(number, way.target))
        for number in (1, 2)
        for way in DIRECTIONS
    ]


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder in which something would be replaced that no quick demo made."""
    from cyclescan.inference.jobs import check_output
    from cyclescan.reporting import story
    from cyclescan.scans.volume import descrip_of
    from data_prep.phantom import DESCRIP

    story.refuse(out / PAGE)
    ours = ("a2b", "model", "seconds")
    refuse_foreign(out / FIGURES, lambda path: states(path, *ours), "list of a quick demo's figures")
    for _, scan, made in _ways(out):
        refuse_foreign(scan, lambda path: descrip_of(path).startswith(DESCRIP), "digital knee")
        check_output(scan, made)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
