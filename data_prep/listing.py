"""`python -m data_prep scans PATH`: what is there, as a table from headers alone, without what identifies a patient."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import nibabel as nib

from cyclescan.common import command
from cyclescan.common.command import DONE
from cyclescan.common.errors import InputError
from cyclescan.scans import acquisition
from cyclescan.scans.dicom import rules, series, tags
from cyclescan.scans.volume import spacing_of, stem
from data_prep import scans

PLANES = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal", "S": "transverse", "I": "transverse"}
COLUMNS = (
    "subject", "number", "description", "protocol", "sequence", "field T", "TR ms", "TE ms", "flip deg", "voxels",
    "spacing mm", "slices", "axes", "path", "note",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a folder searched recursively for NIfTI and .mha files and for DICOM series; "
        "PATH#KEYWORD~REGEX&KEYWORD=VALUE shows what such a rule chooses, with any keyword of the DICOM dictionary",
    )


def run(args: argparse.Namespace) -> int:
    sys.stdout.write(table(args.path))
    domains = ("--a", "NAME=PATH", "--b", "NAME=PATH", "--out", "RECORDS")
    command.next_step(f"choose what each domain holds: {command.call('data-prep build', *domains)}")
    return DONE


def table(path: str) -> str:
    """Return lines of aligned columns: one for each file of a scan and each DICOM series below `path`, of which it says
    where.

    Subjects are numbered in the order in which they come, so that what belongs to one is seen, and nobody is named but
    by a path.

    Raises:
        InputError: there is nothing to list, or a rule chooses nothing or is not understood.
    """
    place, chosen_by = rules.split(path)
    if not place.exists():
        raise InputError(f"{place} does not exist; a folder of DICOM series or NIfTI files is needed.")
    found = series.find(place) if place.is_dir() or tags.is_dicom(place) else []
    found = rules.choose(found, chosen_by, place) if chosen_by else found
    if place.is_dir():
        listed = [] if chosen_by else scans.files_in(place)
    else:
        listed = [] if found else scans.find(path)
    if not found and not listed:
        scans.find(path)  # says what is missing
    root = os.path.abspath(place if place.is_dir() else place.parent)
    subjects = _numbered([scan.subject for scan in listed] + [each.subject for each in found])
    rows = [_of_file(scan, root) for scan in listed] + [_of_series(each, root) for each in found]
    rows = [(subject, *row) for subject, row in zip(subjects, rows, strict=True)]
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    shown = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    lines = ("  ".join(f"{row[i]:{widths[i]}}" for i in shown).rstrip() for row in [COLUMNS, *rows])
    return "\n".join(lines) + "\n"


def _numbered(subjects: Sequence[str]) -> list[str]:
    order = {subject: str(number) for number, subject in enumerate(dict.fromkeys(s for s in subjects if s), 1)}
    return [order.get(subject, "?") for subject in subjects]


def _of_series(each: series.Series, root: str) -> tuple[str, ...]:
    facts = each.facts
    words = tuple(facts.get(name, "") for name in ("SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName"))
    note = each.problem or ("localizer" if each.is_localizer else each.note or "")
    grid: tuple[str, ...] = ("", "", "", "")
    if not each.problem:
        grid = _grid(each.shape, each.affine)
    place = os.path.relpath(each.path if len(set(each.files)) == 1 else each.path.parent, root)
    return (*words, *_settings(each.meta), *grid, place, note)


def _of_file(scan: scans.Scan, root: str) -> tuple[str, ...]:
    try:
        grid, note = _grid(*scans.read_header(scan)), scans.doubt_of_place(scan) or ""
    except InputError as error:
        grid, note = ("", "", "", ""), str(error)
    settings = _settings(acquisition.beside(scan.path, stem(scan.path)))
    return ("", "", "", "", *settings, *grid, os.path.relpath(scan.path, root), note)


def _settings(meta: dict) -> tuple[str, ...]:
    keys = ("field_tesla", "repetition_time_ms", "echo_time_ms", "flip_deg")
    return tuple(f"{meta['acquisition'][key]:.5g}" if key in meta["acquisition"] else "" for key in keys)


def _grid(shape: Sequence[int], affine) -> tuple[str, ...]:
    """Voxels, spacing, the plane of the slices (the last axis) and the axes' directions."""
    axes = nib.aff2axcodes(affine)
    spacing_mm = " x ".join(f"{s:.4g}" for s in spacing_of(affine))
    return "x".join(map(str, shape)), spacing_mm, PLANES[axes[2]], "".join(axes)
