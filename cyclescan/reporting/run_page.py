"""The page of a training run: one HTML file that loads nothing from outside."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclescan import NOTICE, __version__
from cyclescan import records as scans
from cyclescan.artifacts import runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.runs import Run
from cyclescan.common import page
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, refuse_foreign, write_text
from cyclescan.config import Config
from cyclescan.config.presets import PRESETS
from cyclescan.evaluation import histograms, seams
from cyclescan.evaluation import metrics as measures
from cyclescan.evaluation import sites as site_tables
from cyclescan.preprocessing import Options, intensity
from cyclescan.scans import viewer
from cyclescan.scans.viewer import Kind, Layer, Study

if TYPE_CHECKING:
    from cyclescan.evaluation.paired import Case

log = logging.getLogger(__name__)

# characters of pictures and viewer together, which keeps a page below 8 MB, and what the viewer has in any case
ROOM, LEAST_ROOM = 7_000_000, 1_000_000
METHODS = {"identity": "identity (no change)", "histogram_matching": "histogram matching", "translated": "translated"}
# key, heading, decimals, whether higher is better
COLUMNS = (
    ("psnr", "PSNR, dB", 2, True),
    ("ssim", "SSIM", 3, True),
    ("mae", "MAE", 3, False),
    ("ncc", "NCC", 3, True),
    ("mi", "MI, nats", 3, True),
    ("nmi", "NMI", 3, True),
    ("kl_histogram", "KL, nats", 3, False),
)


def write(
    run_path: str | Path,
    records: str | Path | None,
    out: str | Path | None = None,
    weights: str | int = "last",
    limit: int | None = None,
    evaluated: tuple[dict, list, dict] | None = None,
    sites: str | Path | None = None,
) -> Path:
    """Write the report of a run, a single HTML file that loads nothing from outside.

    Args:
        run_path: a training run.
        records: the data set whose test volumes are translated, measured and shown; None for loss curves and settings
            only.
        out: the page; None for RUN/report.html.
        weights: "last", "best" or a step.
        limit: at most so many test volumes of each direction; None for all.
        evaluated: what `evaluation.paired.evaluate_on_records` returned for this run and these records, if that has
            been done already; None to do it here.
        sites: a table with the columns subject and site, see `evaluation.sites.read`, for the histograms.

    Returns:
        The path of the page. Beside it are PAGE-histograms.csv and, for each direction, .svg and .pdf.

    Raises:
        InputError: the run or the records cannot be read, or do not belong together.
    """
    from cyclescan.reporting import histograms_page

    run = runs.read_run(run_path)
    out = run.path / "report.html" if out is None else Path(out)
    if out.is_dir():
        raise InputError(f"The output {out} is a folder; give the name of the page, such as {out / 'report.html'}.")
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"The output {out} is not the name of a page; it must end in .html.")
    refuse_foreign(out, page.is_ours, "page of cyclescan")
    if records is not None:
        histograms_page.check(out.parent, f"{out.stem}-histograms", DIRECTIONS)
    notes, info = [], None
    if records is None:
        notes.append("The training data were not at hand: this page has no measures and no pictures.")
    else:
        info = scans.read_info(records)
        _check_belongs(run, info, records)
    if info and not run.checkpoints:
        notes.append("The run has no checkpoint yet: this page has no measures and no pictures.")
    elif info and records is not None:
        evaluated = evaluated or _evaluate(run, records, weights, limit)
        if evaluated[0]["about"]["split"] == "val":
            notes.append(
                "The data set has no test volumes: measures and pictures are of its validation volumes. Choosing the "
                "best checkpoint may have looked at them."
            )
    if info and evaluated:
        found = _by_site({direction: of["subjects"] for direction, of in evaluated[2].items()}, sites)
        histograms_page.write(found, out.parent, f"{out.stem}-histograms")
        compared = {direction: of | {"subjects": found[direction]} for direction, of in evaluated[2].items()}
        evaluated = (*evaluated[:2], compared)
    write_text(out, _page(run, info, evaluated if info else None, weights, notes))
    return out


def _by_site(found: dict[str, dict], table: str | Path | None) -> dict[str, dict]:
    """The histograms of both directions with the site of each subject, where a table says it."""
    if table is None:
        return found
    names = sorted({row["subject"] for of in found.values() for row in of["values"]})
    site_of, placed = site_tables.read(table, names), {}
    for direction, of in found.items():
        values = [row | {"site": site_of[row["subject"]]} for row in of["values"]]
        placed[direction] = of | {"values": values, "summary": histograms.summarize(values)}
    return placed


def _check_belongs(run: Run, info: dict, records: str | Path) -> None:
    def essence(about):
        kinds = {
            d: (domain["name"], domain["scaling"], domain.get("preprocessing", {}))
            for d, domain in about["domains"].items()
        }
        return kinds, about["spacing_mm"]

    if essence(info) != essence(run.data):
        raise InputError(
            f"{records} is not the kind of data that {run.path} was trained on: its domains, scaling, further steps "
            f"and spacing are {essence(info)}, those of the run {essence(run.data)}."
        )


def _evaluate(run: Run, records: str | Path, weights: str | int, limit: int | None) -> tuple[dict, list, dict]:
    from cyclescan.evaluation.paired import evaluate_on_records
    from cyclescan.inference.translator import Translator

    translators: dict[str, Any] = {direction: Translator.load(run.path, direction, weights) for direction in DIRECTIONS}
    return evaluate_on_records(translators, records, limit)


def _page(run: Run, info: dict | None, evaluated: tuple | None, weights: str | int, notes: list[str]) -> str:
    names = {domain: display_name(about["name"]) for domain, about in run.data["domains"].items()}
    metrics, cases, compared = evaluated or ({}, [], {})
    about = metrics.get("about", {"split": "test", "data_range": None, "histogram_matching": ""})
    pictures = _pictures(cases, names)
    return page.render(
        "cyclescan.reporting",
        "report.html.j2",
        notice=NOTICE,
        names=names,
        notes=notes,
        about=about,
        split={"test": "test", "val": "validation"}[about["split"]],
        directions=[_direction(d, names, metrics[d], cases, compared[d]) for d in DIRECTIONS if d in metrics],
        columns=COLUMNS,
        definitions=measures.DEFINITIONS,
        seams=seams.DEFINITION,
        pictures=pictures,
        viewer=_viewer(cases, names, sum(len(each["picture"]) for each in pictures)) if cases else None,
        curves=_curves(run, names),
        settings=_settings(run),
        facts=_data_facts(run, info),
        made=_made(run, weights),
    )


def _direction(direction: str, names: Mapping[str, str], metrics: dict, cases: list, compared: dict) -> dict:
    """What the page says of one direction."""
    from cyclescan.reporting import histograms_page

    source, target = names[direction[0]], names[direction[2]]
    methods = [method for method in METHODS if method in metrics]
    best = {}
    for key, _, decimals, higher in COLUMNS:
        values = [round(metrics[method][key], decimals) for method in methods]
        best[key] = (max if higher else min)(values, default=None)
    rows = [
        {
            "method": METHODS[method],
            "cells": [
                {
                    "mean": number(metrics[method][key], decimals),
                    "sd": number(metrics[method]["sd"][key], decimals),
                    "best": round(metrics[method][key], decimals) == best[key],
                }
                for key, _, decimals, _ in COLUMNS
            ],
        }
        for method in methods
    ]
    subjects = [
        {"subject": row["subject"], "cells": [number(row[key], decimals) for key, _, decimals, _ in COLUMNS]}
        for row in metrics.get("translated", {}).get("subjects", [])
    ]
    return {
        "key": direction,
        "source": source,
        "target": target,
        "title": f"{source} to {target}",
        "headline": headline(metrics, compared, target),
        "of_body": histograms_page.headline(compared["subjects"], target),
        "by_subject": histograms_page.tables(compared["subjects"], number),
        "rows": rows,
        "subjects": subjects,
        "unpaired": metrics["unpaired"],
        "seams": {
            way: {key: f"{100 * value:.2g} %" for key, value in scores.items()}
            for way, scores in metrics["unpaired"]["seams"].items()
        },
        "histograms": compared,
        "histogram_picture": histograms_page.picture(compared["subjects"]),
        "range": [number(limit, 0) for limit in compared["range"]],
        "kl": {key: number(value, 3) for key, value in compared["kl"].items()},
    }


def headline(metrics: dict, compared: dict, target: str) -> tuple[str, str]:
    """Return the result of one direction: the number, and the rest of the sentence."""
    if "translated" not in metrics:
        kl, volumes = compared["kl"], metrics["unpaired"]["volumes"]
        return (
            f"{number(kl['target_generated'], 2)} nats KL from real {target}",
            f"{number(kl['target_input'], 2)} nats before translation; {volumes} volumes without a paired truth, so "
            "intensities alone are compared",
        )
    own = metrics["translated"]["psnr"]

    def gain(method: str) -> str:
        difference = own - metrics[method]["psnr"]
        if not math.isfinite(difference):
            return f"not comparable with {METHODS[method].split(' (')[0]}"
        return f"{abs(difference):.1f} dB {'above' if difference >= 0 else 'below'} {METHODS[method].split(' (')[0]}"

    count = len(metrics["translated"]["subjects"])
    volumes = "1 subject" if count == 1 else f"the mean of {count} subjects"
    return (
        f"{number(own, 1)} dB PSNR",
        f"{gain('identity')}, {gain('histogram_matching')}; SSIM {number(metrics['translated']['ssim'], 2)}, {volumes}",
    )


def _pictures(cases: list, names: Mapping[str, str]) -> list[dict]:
    from cyclescan.reporting import figures

    limit = figures.error_limit(cases)
    pictures = []
    for case in cases:
        source, target = names[case.direction[0]], names[case.direction[2]]
        shown = dataclasses.replace(case, source=source, target=target)
        columns = f"input {source}, translation to {target}"
        if case.truth is not None:
            columns += f", true {target}, error (translated minus truth)"
        if case.cycled is not None:
            columns += f", cycled back to {source}"
        if case.truth is None and case.cycled is not None:
            columns += ", error of the cycle (cycled minus input)"
        pictures.append(
            {
                "direction": case.direction,
                "subject": case.subject,
                "columns": columns,
                "limit": limit,
                "score": f"{number(case.scores['psnr'], 1)} dB PSNR, SSIM {number(case.scores['ssim'], 2)}"
                if case.scores
                else "no truth",
                "shape": times(case.input.shape),
                "spacing": times(f"{s:.3g}" for s in case.spacing_mm),
                "picture": figures.planes(shown, limit),
            }
        )
    return pictures


def _viewer(cases: Sequence[Case], names: Mapping[str, str], taken: int) -> viewer.Viewer:
    """The viewer of the cases, at least of the first of each direction; pictures have `taken` a part of the room."""
    room = min(viewer.BUDGET, max(LEAST_ROOM, ROOM - taken))
    return viewer.embed(studies(cases, names), least=len({case.direction for case in cases}), budget=room)


def studies(cases: Sequence[Case], names: Mapping[str, str]) -> list[Study]:
    """Return what the viewer shows of each `evaluation.paired.Case`, the first one of each direction before the others.

    Args:
        cases: in any order.
        names: of the domains "a" and "b", as they are displayed.
    """
    counts: dict[str, Any] = {case.direction: itertools.count() for case in cases}
    places = [next(counts[case.direction]) for case in cases]
    found = []
    for case in (cases[i] for i in np.argsort(places, kind="stable")):
        source, target = names[case.direction[0]], names[case.direction[2]]
        title = f"{source} to {target}, subject {case.subject}"
        found.append(Study(title, case.affine, layers_of(case, source, target)))
    return found


def layers_of(case: Case, source: str, target: str) -> list[Layer]:
    """Return what a case has to show: scan, translation, and truth and uncertainty where they are known.

    Args:
        case: one volume and its translation.
        source, target: the two domains, as they are displayed.
    """
    arrays = (
        (Kind.SOURCE, source, case.input),
        (Kind.TRANSLATION, f"{target}, synthetic", case.translated),
        (Kind.TRUTH, f"{target}, true", case.truth),
        (Kind.DOUBT, "uncertainty", case.doubt),
    )
    return [Layer(kind, name, array) for kind, name, array in arrays if array is not None]


def _curves(run: Run, names: Mapping[str, str]) -> dict | None:
    from cyclescan.reporting import figures

    history = read_history(run.path / "history.csv")
    scores = {
        step: facts["score"]
        for step, path in run.checkpoints.items()
        if (facts := read_json(path / "checkpoint.json")).get("score") is not None
    }
    picture = figures.loss_curves(history, scores, dict(names))
    if picture is None:
        return None
    return {"picture": picture, "steps": int(max([*history.get("step", [0]), *scores])), "scored": bool(scores)}


def read_history(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of history.csv as floats; NaN where a term was not computed, or where a line was cut off."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if not math.isnan(_float(row.get("step")))]
    return {key: np.array([_float(row[key]) for row in rows]) for key in rows[0] if key} if rows else {}


def _float(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _settings(run: Run) -> dict:
    """Every setting beside the preset's, those that differ first."""
    base = PRESETS[run.preset][1] if run.preset in PRESETS else Config()
    own, preset = run.config.to_dict(), base.to_dict()
    rows = [{"key": key, "value": _text(own[key]), "preset": _text(preset[key])} for key in own]
    return {
        "changed": [row for row in rows if row["value"] != row["preset"]],
        "same": [row for row in rows if row["value"] == row["preset"]],
        "base": f"the preset {run.preset}" if run.preset in PRESETS else "the defaults",
    }


def _data_facts(run: Run, info: dict | None) -> list[tuple[str, str]]:
    facts = []
    for domain in "ab":
        about = run.data["domains"][domain]
        limits, top = about["intensity"], intensity.upper(about["scaling"])
        facts.append(
            (
                f"domain {domain}",
                f"{about['name']}; scaling {about['scaling']}; −1 and {top:g} of a translation become "
                f"{limits['low']:g} and {limits['high']:g}",
            )
        )
    for domain in "ab":
        about = run.data["domains"][domain]
        if steps := Options.of(about).sentences():
            facts.append((f"further steps of {about['name']}", f"each scan {', '.join(steps)}"))
    facts.append(
        ("working grid", f"{times(f'{s:g}' for s in run.data['spacing_mm'])} mm, axes {''.join(run.data['axes'])}")
    )
    if info is None:
        return facts
    if info.get("shape"):
        facts.append(("shape", f"{times(info['shape'])} voxels"))
    for split, about in info.get("splits", {}).items():
        shared = len(set(about["a"]) & set(about["b"]))
        sizes = ", ".join(f"{len(about[d])} {run.data['domains'][d]['name']}" for d in "ab")
        facts.append((f"{split} volumes", f"{sizes}; {shared} subjects in both domains"))
    facts.append(("no training subject in both domains", "yes" if info.get("disjoint") else "not enforced"))
    facts.append(("seed of the split", str(info.get("seed"))))
    if info.get("notice"):
        facts.append(("note of the data", info["notice"]))
    return facts


def _made(run: Run, weights: str | int) -> list[tuple[str, str]]:
    trained_by = read_json(run.path / "config.json").get("cyclescan_version", "unknown")
    rows = [
        ("run", run.path.resolve().name),  # the name alone: folders often carry what identifies a patient
        ("preset", run.preset or "none"),
        ("seed of the training", str(run.seed)),
    ]
    if run.checkpoints:
        path = runs.find(run, weights)
        facts = read_json(path / "checkpoint.json")
        rows.append(("weights", f"{weights}: step {facts['step']} of {run.config.steps}"))
        if facts.get("seconds") is not None:
            rows.append(("training time", duration(facts["seconds"])))
        average = f"running average, decay {run.config.average_decay:g}" if run.config.average_decay else "last step's"
        rows.append(("generators", average))
    rows.append(("trained by", f"cyclescan {trained_by}"))
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    rows.append(("page made by", f"cyclescan {__version__}, {date}"))
    return rows


def display_name(name: str) -> str:
    """A short name in lower case is an abbreviation of a contrast: "ciss" is CISS; others stay as they are."""
    return name.upper() if name.isalnum() and name.islower() and len(name) <= 5 else name


def number(value: float | None, decimals: int) -> str:
    """Return a number as it is printed, with a true minus sign; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def duration(seconds: float) -> str:
    """Write a duration as 42 s, 3 min 5 s, 2 h 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def times(values) -> str:
    """Write a shape as 3 × 2 × 2"""
    return " × ".join(map(str, values))


def _text(value) -> str:
    return times(value) if isinstance(value, list) else str(value)
