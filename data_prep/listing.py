"""`python -m data_prep scans PATH`: what is there, as a table from headers alone, without what identifies a patient."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import nibabel as nib

from cyclescan.common.command import DONE
from cyclescan.common.errors import InputError
from cyclescan.scans import acquisition
from cyclescan.scans.dicom import rules, series, tags
from cyclescan.scans.volume import spacing_of, stem
from data_prep import scans

PLANES = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal", "S": "transverse", "I": "transverse"}
COLUMNS = (
    "subject", "number", "description", "protocol", "sequence", "field T", "TR ms", "TE ms", "flip deg", "voxels",
    "spacing mm", "slices", "axes", "note",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a folder searched recursively for DICOM series, or else for NIfTI files; "
        "PATH#KEYWORD~REGEX&KEYWORD=VALUE shows what such a rule chooses, with any keyword of the DICOM dictionary",
    )


def run(args: argparse.Namespace) -> int:
    sys.stdout.write(table(args.path))
    return DONE


def table(path: str) -> str:
    """Lines of aligned columns: one for each DICOM series below `path`, or for each NIfTI file where there is none.

    Subjects are numbered in the order in which they come, so that what belongs to one is seen and nobody is named.

    Raises:
        InputError: there is nothing to list, or a rule chooses nothing or is not understood.
    """
    place, chosen_by = rules.split(path)
    if not place.exists():
        raise InputError(f"{place} does not exist; a folder of DICOM series or NIfTI files is needed.")
    found = series.find(place) if place.is_dir() or tags.is_dicom(place) else []
    if found:
        found = rules.choose(found, chosen_by, place) if chosen_by else found
        subjects = _numbered([each.subject for each in found])
        rows = [(subject, *_of_series(each)) for subject, each in zip(subjects, found, strict=True)]
    else:
        listed = scans.find(path)
        subjects = _numbered([each.subject for each in listed])
        rows = [(subject, *_of_file(each)) for subject, each in zip(subjects, listed, strict=True)]
    widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    shown = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    lines = ("  ".join(f"{row[i]:{widths[i]}}" for i in shown).rstrip() for row in [COLUMNS, *rows])
    return "\n".join(lines) + "\n"


def _numbered(subjects: Sequence[str]) -> list[str]:
    order = {subject: str(number) for number, subject in enumerate(dict.fromkeys(s for s in subjects if s), 1)}
    return [order.get(subject, "?") for subject in subjects]


def _of_series(each: series.Series) -> tuple[str, ...]:
    facts = each.facts
    words = tuple(facts.get(name, "") for name in ("SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName"))
    note = each.problem or ("localizer" if each.is_localizer else each.note or "")
    grid: tuple[str, ...] = ("", "", "", "")
    if not each.problem:
        grid = _grid(each.shape, each.affine)
    return (*words, *_settings(each.meta), *grid, note)


def _of_file(scan: scans.Scan) -> tuple[str, ...]:
    try:
        grid, note = _grid(*scans.read_header(scan)), scans.doubt_of_place(scan) or ""
    except InputError as error:
        grid, note = ("", "", "", ""), str(error)
    return ("", scan.path.name, "", "", *_settings(acquisition.beside(scan.path, stem(scan.path))), *grid, note)


def _settings(meta: dict) -> tuple[str, ...]:
    keys = ("field_tesla", "repetition_time_ms", "echo_time_ms", "flip_deg")
    return tuple(f"{meta['acquisition'][key]:.5g}" if key in meta["acquisition"] else "" for key in keys)


def _grid(shape: Sequence[int], affine) -> tuple[str, ...]:
    """Voxels, spacing, the plane of the slices (the last axis) and the axes' directions."""
    axes = nib.aff2axcodes(affine)
    spacing_mm = " x ".join(f"{s:.4g}" for s in spacing_of(affine))
    return "x".join(map(str, shape)), spacing_mm, PLANES[axes[2]], "".join(axes)
