"""Finding scans and the subjects they belong to, and reading them, whatever their format."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from cyclescan.common import tables
from cyclescan.common.errors import InputError
from cyclescan.scans import acquisition, volume
from cyclescan.scans.dicom import convert, rules, series, tags
from cyclescan.scans.volume import Volume
from data_prep import persons
from data_prep.splits import SPLITS

log = logging.getLogger(__name__)

BIDS_SUBJECT = re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+")


@dataclasses.dataclass(frozen=True)
class Scan:
    """A scan file, the subject it shows, and what a table or a layout states about it (None: not stated).

    Attributes:
        path: the file; of a DICOM series the first of its files.
        subject: the user's name for the person; of a DICOM series PatientID.
        split: train, val or test.
        side: left or right.
        site: where it was made.
        series: the DICOM series, None for a NIfTI file.
        named: how the subject was found, see `persons`.
    """

    path: Path
    subject: str
    split: str | None = None
    side: str | None = None
    site: str | None = None
    series: series.Series | None = None
    named: str = dataclasses.field(default=persons.NAME, compare=False)


class Readable(Protocol):
    """What has a file, and perhaps a DICOM series: a `Scan`, or a source of `build`."""

    @property
    def path(self) -> str | os.PathLike: ...

    @property
    def series(self) -> series.Series | None: ...


def count(scan: Readable) -> int:
    """Return how many volumes the scan's file holds, see `volume.count`; 1 for a DICOM series."""
    return 1 if scan.series else volume.count(scan.path)


def read_header(scan: Readable, index: int | None = None) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return shape and affine, from headers alone, see `volume.read_header`.

    A DICOM series has the axes (column, row, slice) here; `read` may give them another order or direction.
    """
    if scan.series:
        affine = scan.series.affine  # refuses a series with a problem
        return scan.series.shape, affine
    return volume.read_header(scan.path, index)


def doubt_of_place(scan: Readable) -> str | None:
    """Return the end of a sentence about a NIfTI file that leaves its place in doubt, see `volume.Placement`; else
    None.
    """
    placement = None if scan.series else volume.placement(scan.path)
    return placement.doubt if placement else None


def read(scan: Readable, index: int | None = None) -> Volume:
    """Return the voxels, see `volume.read` and `dicom.convert.read`."""
    if scan.series:
        return convert.read(scan.series)
    return volume.read(scan.path, index)


def files(scan: Readable) -> list[str]:
    """Return all files of a scan, absolute: one, or the slices of a DICOM series."""
    return scan.series.files if scan.series else [os.path.abspath(scan.path)]


def find(path: str | os.PathLike, subject: re.Pattern | None = None) -> list[Scan]:
    """Return the scans of one domain, in a fixed order.

    Args:
        path: a folder, searched recursively for .nii, .nii.gz and .mha (names that begin with a dot are passed over)
            and for DICOM series, or where a rule is given for these alone; or a .csv or .tsv table with the columns
            subject and path (relative to the table: a file, or a DICOM folder) and, if wanted, split (train, val or
            test), side (left or right) and site; or one file. What follows a # chooses among DICOM series, see
            `dicom.rules`. The subject of a file in a folder is the BIDS entity `sub-XXXX` of its name or of a folder
            above it, else its name; where several files have the same name, the folder they lie in. The subject of a
            DICOM series is PatientID; where that is missing, the BIDS entity or the first folder below `path`.
        subject: what finds the subject in the path of a file below the folder, see `persons.by_pattern`; None: as
            said above. A table states its subjects itself.

    Raises:
        InputError: there is no scan there, a rule chooses none or is missing, the table is not understood or lists
            a file twice, or `subject` finds nobody in a path. A scan that is there and cannot be used is returned: it
            fails when it is read.
    """
    path, chosen_by = rules.split(path)
    if not os.path.exists(path):  # pathlib raises where a name is too long
        raise InputError(
            f"{path} does not exist; a folder of NIfTI files or DICOM series, a .csv or .tsv table or a scan is needed."
        )
    if path.is_dir():
        return _in_folder(path, chosen_by, subject)
    if path.suffix.lower() in tables.DELIMITERS:
        return _in_table(path)
    if tags.is_dicom(path):
        return _of_dicom(path, chosen_by, subject)
    if not volume.is_scan(path):
        raise InputError(
            f"{path} is neither a folder, a .csv or .tsv table, a NIfTI file (.nii or .nii.gz), a .mha file, nor DICOM."
        )
    return [_of_file(path, Path(path.name), subject)]


def _of_file(path: Path, relative: Path, subject: re.Pattern | None, folder: str = "") -> Scan:
    """A scan with its subject: what `subject` or BIDS says, else the folder where one is given, else its name."""
    if subject:
        return Scan(path, persons.by_pattern(subject, relative), named=persons.PATTERN)
    if entity := _bids_subject(relative):
        return Scan(path, entity, named=persons.BIDS)
    return Scan(path, folder or volume.stem(path), named=persons.FOLDER if folder else persons.NAME)


def _in_folder(folder: Path, chosen_by: Sequence[rules.Rule], subject: re.Pattern | None) -> list[Scan]:
    found = [] if chosen_by else files_in(folder, subject)
    if not found:
        return _of_dicom(folder, chosen_by, subject)
    if any(map(rules.is_candidate, series.find(folder))):
        beside = _of_dicom(folder, (), subject)
        log.info("%s holds %d files of scans and %d DICOM series; all are taken.", folder, len(found), len(beside))
        found += beside
    return found


def files_in(folder: Path, subject: re.Pattern | None = None) -> list[Scan]:
    """Return the scans of a folder that are files, see `find`."""
    paths = volume.files_below(folder)
    stems = Counter(volume.stem(p) for p in paths)
    scans = []
    for path in paths:
        relative, stem = path.relative_to(folder), volume.stem(path)
        above = "" if relative.parent == Path() else relative.parent.as_posix()
        scans.append(_of_file(path, relative, subject, above if stems[stem] > 1 else ""))
    return scans


def _of_dicom(path: Path, chosen_by: Sequence[rules.Rule], subject: re.Pattern | None) -> list[Scan]:
    found = series.find(path)
    if not found:
        raise InputError(
            f"The folder {path} holds no DICOM series, which the rule after # is for."
            if chosen_by
            else f"The folder {path} holds no NIfTI file (.nii or .nii.gz), no .mha file and no DICOM; it was searched "
            "recursively."
        )
    return [_scan_of(each, path, subject) for each in rules.choose(found, chosen_by, path)]


def _scan_of(each: series.Series, place: Path, subject: re.Pattern | None) -> Scan:
    relative = Path(os.path.relpath(each.path, os.path.abspath(place)))
    above = relative.parts[0] if len(relative.parts) > 1 else ""
    if subject:
        name, named = persons.by_pattern(subject, relative), persons.PATTERN
    elif each.subject:
        name, named = each.subject, persons.PATIENT_ID
    elif entity := _bids_subject(relative):
        name, named = entity, persons.BIDS
    else:
        name, named = above or str(each.path), persons.FOLDER
        if not above and not each.problem:
            problem = f"{each.path} has no PatientID; state the subject with --subject or in a .csv or .tsv table."
            each = dataclasses.replace(each, problem=problem)
    return Scan(each.path, name, series=each, named=named)


def _bids_subject(relative: Path) -> str | None:
    """The entity `sub-XXXX` of the file's name, else of the nearest folder above it."""
    for part in reversed(relative.parts):
        if found := BIDS_SUBJECT.search(part):
            return found.group()
    return None


def _in_table(path: Path) -> list[Scan]:
    scans: dict[str, Scan] = {}
    for number, row in tables.read(path, ("subject", "path")):
        if not row["subject"] or not row["path"]:
            raise InputError(f"Line {number} of the table {path} has no {'path' if row['subject'] else 'subject'}.")
        split = row.get("split") or None
        if split and split not in SPLITS:
            raise InputError(
                f"Line {number} of the table {path} has the split {split!r}; allowed are {', '.join(SPLITS)}."
            )
        side = acquisition.side_of(row.get("side") or "")
        if row.get("side") and not side:
            raise InputError(
                f"Line {number} of the table {path} has the side {row['side']!r}; allowed are left and right."
            )
        stated = {
            "subject": row["subject"],
            "named": persons.TABLE,
            "split": split,
            "side": side,
            "site": row.get("site") or None,
        }
        for each in _of_row(path.parent / row["path"]):
            scan = dataclasses.replace(each, **stated)  # type: ignore[arg-type]  # texts, of fields that are
            if scans.setdefault(os.path.realpath(scan.path), scan) is not scan:
                raise InputError(f"Line {number} of the table {path} lists {row['path']} a second time.")
    if not scans:
        raise InputError(f"The table {path} lists no scans.")
    return list(scans.values())


def _of_row(given: Path) -> list[Scan]:
    """The scans that one line of a table names."""
    path, chosen_by = rules.split(given)
    if not os.path.isdir(path) and not tags.is_dicom(path):
        return [Scan(path, "")]
    found = series.find(path) or [series.broken(path, f"{os.path.abspath(path)} is a folder without DICOM.")]
    return [Scan(each.path, "", series=each) for each in rules.choose(found, chosen_by, path)]
