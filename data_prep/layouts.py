"""Public data sets as they are unpacked: which file is whose scan, of what kind, from which site.

Sources of the facts: BIDS specification 1.10 (file names, participants.tsv); IXI, brain-development.org (file names,
three hospitals); OAI, the Osteoarthritis Initiative's image releases at NDA (RELEASE/PARTICIPANT/DATE/BARCODE/slice,
SeriesDescription SAG_3D_DESS_LEFT and so on); SynthRAD2023, Thummerer et al., Med. Phys. 50:4664 (2023), and
SynthRAD2025, arXiv 2502.17609 (task, region, centre and number in the patient's folder name); BraTS 2017 to 2025
challenge data (file names). Trees of these shapes are made in the tests; the data themselves were not at hand.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cyclescan.common.errors import InputError
from cyclescan.common.files import walk
from cyclescan.scans.dicom import rules, series
from data_prep import persons
from data_prep.scans import Scan

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the files of a data set are named.

    Attributes:
        patterns: of a path relative to the folder given, the first that fits, with the groups `subject`, `kind` and if
            known `site` and `acquisition`, which tells scans of one kind apart. A DICOM layout has no `kind`:
            SeriesDescription is it.
        kinds: the kinds that a domain's name stands for, in lower case; a name that is not here stands for itself.
        dicom: whether the scans are DICOM series.
    """

    patterns: tuple[str, ...]
    kinds: Mapping[str, tuple[str, ...]]
    dicom: bool = False


_ENTITY = "[A-Za-z0-9]+-[A-Za-z0-9]+"
_NIFTI = r"\.nii(\.gz)?$"

LAYOUTS = {
    "bids": Layout(
        (
            # derivatives, source data and code of a BIDS data set are no raw scans of it
            r"^(?!(.*/)?(derivatives|sourcedata|code)/)(.*/)?"
            rf"(?P<subject>sub-[A-Za-z0-9]+)(_(?!acq-){_ENTITY})*(_acq-(?P<acquisition>[A-Za-z0-9]+))?(_{_ENTITY})*"
            rf"_(?P<kind>[A-Za-z0-9]+){_NIFTI}",
        ),
        {"t1": ("t1w",), "t2": ("t2w",), "pd": ("pdw",), "t2star": ("t2starw",)},
    ),
    "brats": Layout(
        (
            # 2017 to 2019 name the institution, 2023 and later the visit after the subject
            rf"(^|/)(?P<subject>Brats1[789]_(?P<site>[A-Za-z0-9]+)_\w+)_(?P<kind>flair|t1ce|t1|t2|seg){_NIFTI}",
            rf"(^|/)(?P<subject>BraTS1[789]_(?P<site>[A-Za-z0-9]+)_\w+)_(?P<kind>flair|t1ce|t1|t2|seg){_NIFTI}",
            rf"(^|/)(?P<subject>BraTS20\w+)_(?P<kind>flair|t1ce|t1|t2|seg){_NIFTI}",
            rf"(^|/)(?P<subject>BraTS-[A-Za-z]+-\d+)-\d+-(?P<kind>[a-z0-9]+){_NIFTI}",
        ),
        {
            "t1": ("t1", "t1n"),
            "t1ce": ("t1ce", "t1c"),
            "t1c": ("t1ce", "t1c"),
            "t2": ("t2", "t2w"),
            "flair": ("flair", "t2f"),
        },
    ),
    "ixi": Layout(
        (rf"(^|/)(?P<subject>IXI\d+)-(?P<site>[A-Za-z]+)-\d+-(?P<kind>[A-Za-z0-9]+)(-\d+)?{_NIFTI}",),
        {},
    ),
    "oai": Layout(
        (r"(^|/)(?P<subject>9\d{6})/(data/)?\d{8}/\d{8}/[^/]+$",),
        {"dess": ("sag_3d_dess",), "t2map": ("sag_t2_map",), "iw": ("sag_iw_tse",), "flash": ("cor_t1_3d_flash",)},
        dicom=True,
    ),
    "synthrad2023": Layout(
        (rf"(^|/)(?P<subject>[12][BP](?P<site>[A-Z])\d+)/(?P<kind>mr|ct|cbct){_NIFTI}",),
        {"mri": ("mr",)},
    ),
    "synthrad2025": Layout(
        (r"(^|/)(?P<subject>[12](AB|HN|TH)(?P<site>[A-Z])\d+)/(?P<kind>mr|ct|cbct)\.mha$",),
        {"mri": ("mr",)},
    ),
}


def find(layout: str, domain: str, path: str | os.PathLike) -> list[Scan]:
    """Return the scans of one domain in a data set of a known layout, in a fixed order.

    Args:
        layout: a key of `LAYOUTS`.
        domain: the domain's name, which states the kind of scan: t1 for `*_T1w.nii.gz` of BIDS, ct for `ct.nii.gz` of
            SynthRAD; letter case does not count. Where BIDS has no such suffix, it is the entity `acq-`: ciss for
            `*_acq-ciss_T2w.nii.gz`, which is also acq-ciss_T2w.
        path: the unpacked download, or any folder of it; for a DICOM layout, rules may follow after a #.

    Raises:
        InputError: there is no such layout or folder, or no scan of this kind in it; the kinds there are named.
    """
    if layout not in LAYOUTS:
        raise InputError(f"There is no layout {layout!r}; allowed are {', '.join(LAYOUTS)}.")
    chosen = LAYOUTS[layout]
    folder, chosen_by = rules.split(path)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; the layout {layout} needs the folder of an unpacked download.")
    if chosen_by and not chosen.dicom:
        raise InputError(f"The layout {layout} is of NIfTI files; a rule after # is for DICOM.")
    wanted = chosen.kinds.get(domain.lower(), (domain.lower(),))
    listed = list(_of_dicom(chosen, folder, chosen_by) if chosen.dicom else _of_files(chosen, folder))
    scans = [each.scan for each in listed if _is_of(each.kind.lower(), wanted, chosen)]
    if scans:
        _warn_of_acquisitions(domain, [each for each in listed if _is_of(each.kind.lower(), wanted, chosen)])
    else:
        scans = [each.scan for each in _of_acquisition(listed, domain, chosen, folder)]
    if not scans:
        counts = collections.Counter(each.label for each in listed)
        there = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items())) or "none of this layout"
        raise InputError(
            f"{folder} holds no scan for the domain {domain} in the layout {layout}, which looks for "
            f"{' or '.join(wanted)}; there are {there}."
        )
    if layout == "bids":
        sites = _bids_sites(folder)
        scans = [dataclasses.replace(scan, site=sites.get(scan.subject)) for scan in scans]
    return scans


def warn_of(found: list[Scan], folder: str | os.PathLike) -> None:
    """Say so when file names look like those of a known data set whose subjects the names alone do not give."""
    for name, layout in LAYOUTS.items():
        if name != "bids" and any(_match(layout, scan.path.as_posix()) for scan in found[:20]):
            log.warning("%s looks like %s; --layout %s knows its subjects and sites.", folder, name, name)


def _match(layout: Layout, path: str) -> dict[str, str]:
    """The groups of the first pattern that fits; empty when none does."""
    return next((m.groupdict() for pattern in layout.patterns if (m := re.search(pattern, path))), {})


@dataclasses.dataclass(frozen=True)
class Found:
    """A scan, and its kind and acquisition ("" where none is named) as the file's name says them."""

    kind: str
    scan: Scan
    acquisition: str = ""

    @property
    def label(self) -> str:
        return f"acq-{self.acquisition}_{self.kind}" if self.acquisition else self.kind


def _of_acquisition(listed: list[Found], domain: str, layout: Layout, folder: Path) -> list[Found]:
    """The scans whose entity `acq-` a domain's name is, or whose `acq-` and suffix, as in acq-ciss_T2w."""
    name, _, kind = domain.lower().removeprefix("acq-").partition("_")
    found = [each for each in listed if each.acquisition.lower() == name]
    if kind:
        return [each for each in found if each.kind.lower() in layout.kinds.get(kind, (kind,))]
    labels = sorted({each.label for each in found})
    if len(labels) > 1:
        raise InputError(f"{domain} is of several kinds in {folder}; name the domain {' or '.join(labels)}.")
    return found


def _warn_of_acquisitions(domain: str, found: list[Found]) -> None:
    labels = collections.Counter(each.label for each in found if each.acquisition)
    if len(labels) > 1:
        counts = ", ".join(f"{label} ({count})" for label, count in sorted(labels.items()))
        log.warning("%s is of several acquisitions, %s; one of them as the domain's name chooses it.", domain, counts)


def _is_of(kind: str, wanted: tuple[str, ...], layout: Layout) -> bool:
    """Equal; a SeriesDescription goes on, with the side of the knee."""
    return any(kind == each or (layout.dicom and kind.startswith(f"{each}_")) for each in wanted)


def _of_files(layout: Layout, folder: Path):
    """Each file that fits."""
    for file in sorted(walk(folder), key=lambda p: p.relative_to(folder).as_posix()):
        if facts := _match(layout, file.relative_to(folder).as_posix()):
            scan = Scan(file, facts["subject"], site=facts.get("site"), named=persons.LAYOUT)
            yield Found(facts["kind"], scan, facts.get("acquisition") or "")


def _of_dicom(layout: Layout, folder: Path, chosen_by):
    """Each series of a subject's folder; its kind is SeriesDescription."""
    found = series.find(folder)
    for each in rules.choose(found, chosen_by, folder) if chosen_by else found:
        if facts := _match(layout, os.path.relpath(each.path, os.path.abspath(folder))):
            scan = Scan(each.path, facts["subject"], series=each, named=persons.LAYOUT)
            yield Found(each.facts.get("SeriesDescription", ""), scan)


def _bids_sites(folder: Path) -> dict[str, str]:
    """The column `site` of participants.tsv, where there is one."""
    try:
        with open(folder / "participants.tsv", newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    stated = {row.get("participant_id") or "": (row.get("site") or "").strip() for row in rows}
    return {subject: site for subject, site in stated.items() if site and site != "n/a"}
