"""Finding scans and the subjects they belong to."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cyclescan import volume
from cyclescan.errors import InputError
from data_prep import tables
from data_prep.splits import SPLITS

BIDS_SUBJECT = re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+")


@dataclasses.dataclass(frozen=True)
class Scan:
    """A scan file, the subject it shows, and the split and the site that a table states (None: not stated)."""

    path: Path
    subject: str
    split: str | None = None
    site: str | None = None


def find(path: str | os.PathLike) -> list[Scan]:
    """The scans of one domain, in a fixed order.

    Args:
        path: a folder, searched recursively for .nii and .nii.gz (names that begin with a dot are passed over); or a
            .csv or .tsv table with the columns subject and path (relative to the table) and, if wanted, split
            (train, val or test) and site; or one NIfTI file. In a folder the subject is the BIDS entity `sub-XXXX` of
            the file's name or of a folder above it, else the file's name; where several files have the same name, the
            folder they lie in.

    Raises:
        InputError: there is no scan there, or the table is not understood, or it lists a file twice.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; a folder of NIfTI files, a .csv or .tsv table or a scan is needed.")
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() in tables.DELIMITERS:
        return _in_table(path)
    if not volume.is_nifti(path):
        _refuse_dicom(path, [path])
        raise InputError(f"{path} is neither a folder, a .csv or .tsv table, nor a NIfTI file (.nii or .nii.gz).")
    return [Scan(path, _bids_subject(Path(path.name)) or volume.stem(path))]


def _in_folder(folder: Path) -> list[Scan]:
    files = sorted(_walk(folder), key=lambda p: p.relative_to(folder).as_posix())
    paths = [p for p in files if volume.is_nifti(p)]
    if not paths:
        _refuse_dicom(folder, files)
        raise InputError(f"The folder {folder} holds no NIfTI file (.nii or .nii.gz), searched recursively.")
    stems = Counter(volume.stem(p) for p in paths)
    scans = []
    for path in paths:
        relative, stem = path.relative_to(folder), volume.stem(path)
        above = "" if relative.parent == Path() else relative.parent.as_posix()
        scans.append(Scan(path, _bids_subject(relative) or (above if stems[stem] > 1 and above else stem)))
    return scans


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder. Links are followed, each folder is entered once: a loop of links ends."""
    seen = set()

    def stop(error: OSError):
        raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    for root, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # sorted, because which of two links to one folder is entered must not depend on the file system
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in names if not name.startswith("."))


def _bids_subject(relative: Path) -> str | None:
    """The entity `sub-XXXX` of the file's name, else of the nearest folder above it."""
    for part in reversed(relative.parts):
        if found := BIDS_SUBJECT.search(part):
            return found.group()
    return None


def _refuse_dicom(path: Path, files: list[Path]) -> None:
    """Say what to do with DICOM. The reader of DICOM series takes this function's place."""
    for file in files:
        try:
            with open(file, "rb") as stream:
                stream.seek(128)
                is_dicom = stream.read(4) == b"DICM"
        except OSError:
            continue
        if is_dicom:
            raise InputError(
                f"{path} holds DICOM files, which are not read yet; convert them first: "
                f"dcm2niix -z y -o OUTPUT_FOLDER {path}"
            )


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
        scan = Scan(path.parent / row["path"], row["subject"], split, row.get("site") or None)
        if scans.setdefault(os.path.realpath(scan.path), scan) is not scan:
            raise InputError(f"Line {number} of the table {path} lists {row['path']} a second time.")
    if not scans:
        raise InputError(f"The table {path} lists no scans.")
    return list(scans.values())
