"""Scans whose headers are sound, known before any voxel is read."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from pathlib import Path

from cyclescan.common.command import progress
from cyclescan.common.errors import InputError, of_item
from cyclescan.preprocessing import geometry
from cyclescan.scans.dicom.series import Series
from data_prep import pseudonyms, scans

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """A scan whose header is sound.

    Attributes:
        path: absolute.
        subject: the user's name for the person.
        identity: its pseudonym, the only name that is written.
        scan: the pseudonym of the scan.
        side: "left" or "right" where a table states it.
        index: which volume of a 4-D series; None for a 3-D file.
        series: the DICOM series, None for other files.
        stamp: changes when a file of the scan does: the sizes and the times of their last change.
        shape: number of voxels along the canonical axes.
        spacing_mm: along the canonical axes.
    """

    path: str
    subject: str
    identity: str
    scan: str
    side: str | None
    index: int | None
    series: Series | None
    stamp: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


def read_headers(
    found: dict[str, list[scans.Scan]], names: dict[str, str], key: bytes, index: int | None
) -> tuple[dict[str, list[Source]], list[dict]]:
    """Return the scans with a sound header, and an entry of dataset.json for each of the others."""
    sources: dict[str, list[Source]] = {}
    failed: list[dict] = []
    for domain, listed in found.items():
        sources[domain], doubts = [], []
        root = os.path.commonpath([os.path.dirname(os.path.abspath(scan.path)) for scan in listed])
        for each in progress(listed, desc=f"headers of {names[domain]}", unit="scan", leave=False):
            path = os.path.abspath(each.path)
            scan = dataclasses.replace(each, path=Path(path))
            identity = pseudonyms.pseudonym(key, scan.subject)
            try:
                # --volume is about 4-D files; 3-D files beside them are taken as they are
                wanted = index if index is not None and scans.count(scan) > 1 else None
                grid = geometry.canonical_grid(*scans.read_header(scan, wanted))
                doubt = scans.doubt_of_place(scan)
            except Exception as error:  # of whatever class: the others are read
                last = str(of_item(error, path))
                failed.append(failure(names[domain], identity, scan, last))
            else:
                shape, affine = grid
                spacing_mm = geometry.spacing_of(affine)
                own = pseudonyms.scan_pseudonym(key, scan.subject, names[domain], os.path.relpath(path, root))
                sources[domain].append(
                    Source(
                        path=path,
                        subject=scan.subject,
                        identity=identity,
                        scan=own,
                        side=scan.side,
                        index=wanted,
                        series=scan.series,
                        stamp=_stamp(scan),
                        shape=shape,
                        spacing_mm=spacing_mm,
                    )
                )
                doubts += [f"{path} {doubt}"] if doubt else []
        if doubts:
            more = f" (one of {len(doubts)} scans of {names[domain]} whose place is in doubt)" if doubts[1:] else ""
            log.warning("%s%s.", doubts[0], more)
        if not sources[domain]:
            raise InputError(f"No scan of {names[domain]} can be used; the last of {len(listed)}: {last}")
    return sources, failed


def changed_ns(source: Source) -> int:
    """Return when a file of a scan last changed in any way, even if size and time of modification did not (ctime)."""
    return max(os.stat(file).st_ctime_ns for file in scans.files(source))


def _stamp(scan: scans.Readable) -> str:
    """Changes when a file of the scan does."""
    seen = hashlib.sha256()
    for file in scans.files(scan):
        status = os.stat(file)
        seen.update(f"{status.st_size} {status.st_mtime_ns} ".encode())
    return seen.hexdigest()


def failure(domain_name: str, identity: str, scan: scans.Readable, reason: str) -> dict:
    """Log a scan that cannot be used by its file; return what may stand in the data set."""
    files = scans.files(scan)
    named = any(file in reason for file in files)
    log.warning("failed: %s", reason if named else f"{scan.path}: {reason}")
    anonymous = reason
    for file in files:
        anonymous = anonymous.replace(file, "The scan")
    if not scan.series:  # slices are named by their whole path, and may be called "1"
        anonymous = anonymous.replace(os.path.basename(scan.path), "the scan")
    return {"file": identity, "domain": domain_name, "reason": anonymous}
