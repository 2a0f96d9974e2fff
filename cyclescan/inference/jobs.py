"""What is to be translated and where each result goes; nothing is read but headers, and nothing written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from cyclescan import NOTICE
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.scans import volume as volumes
from cyclescan.scans.dicom import derived, rules, series, tags
from cyclescan.scans.dicom.series import Series

log = logging.getLogger(__name__)

Job = tuple[Path | Series, Path]


def find_jobs(source: str | Path, output: str | Path, nifti: bool = False) -> list[Job]:
    """Return pairs of scan and result for what the user gave.

    A folder is searched recursively and its sub-folders are kept; the output, where it lies within, is not searched,
    and maps of doubt are no scans. Results of files (NIfTI, .mha) in a folder end in `.nii.gz`; the result of a DICOM
    series is a folder of DICOM slices, unless the output is a NIfTI name: the output itself, or, where there are
    several scans, `series-N` with the number of the series.

    Args:
        source: a NIfTI or .mha file, a multi-frame DICOM file or a folder; after a #, rules that choose among DICOM
            series.
        output: a file or a folder.
        nifti: the results of DICOM series in a folder are NIfTI files too.

    Raises:
        InputError: there is nothing to translate, or the output is a file where a folder is needed.
    """
    source, chosen_by = rules.split(source)
    output = Path(output)
    if not source.exists():
        raise InputError(f"{source} does not exist.")
    if source.is_file() and not tags.is_dicom(source):
        if output.is_dir() or not volumes.is_nifti(output):
            output = output / f"{volumes.stem(source)}.nii.gz"
        return [(source, output)]
    if output.is_file() and not volumes.is_nifti(output):
        raise InputError(f"{source} is a folder or DICOM, so the output must be a folder too, not the file {output}.")
    paths = [] if chosen_by or source.is_file() else volumes.files_below(source)
    found = series.find(source)
    if within := _inside(source, output):
        everything = len(paths) + len(found)
        paths = [path for path in paths if not within(path)]
        found = [each for each in found if not within(each.path)]
        if passed := everything - len(paths) - len(found):
            log.info("Scans in the output %s that are passed over: %d.", output, passed)
    chosen = rules.choose(found, chosen_by, source) if chosen_by else list(filter(rules.is_candidate, found))
    if not chosen and not paths:
        if found:
            found[0].check()
            raise InputError(
                f"{source} holds no series but localizers: {rules.listing(found)}; a rule can choose them."
            )
        raise InputError(
            f"There is no NIfTI file (.nii or .nii.gz), no .mha file and no DICOM series in {source} or its "
            "sub-folders."
        )
    if len(chosen) < len(found):
        log.info("%d of the %d DICOM series in %s are chosen.", len(chosen), len(found), source)
    if len(chosen) == 1 and not paths:
        if nifti and not volumes.is_nifti(output):
            output = output / f"{_name(chosen[0])}.nii.gz"
        return [(chosen[0], Path(os.path.abspath(output)))]
    if volumes.is_nifti(output) and not output.is_dir():
        raise InputError(f"{source} is a folder, so the output must be a folder too, not the file {output}.")
    jobs: list[Job] = [(p, (output / p.relative_to(source)).with_name(f"{volumes.stem(p)}.nii.gz")) for p in paths]
    return jobs + _series_jobs(chosen, source, output, nifti)


def _inside(source: Path, output: Path) -> Callable[[Path], bool] | None:
    """Whether a path lies in the output, where that is a folder inside the source: earlier results are no scans."""
    folder = output.resolve()
    if folder == source.resolve() or not folder.is_relative_to(source.resolve()):
        return None
    return lambda path: path.resolve().is_relative_to(folder)


def _series_jobs(chosen: list[Series], source: Path, output: Path, nifti: bool) -> list[Job]:
    """Each series goes where its slices lie, into a folder of its own: a folder of slices is replaced as a whole."""
    jobs: list[Job] = []
    taken: set[Path] = set()
    for each in chosen:
        folder = Path(os.path.abspath(output / os.path.relpath(each.path.parent, os.path.abspath(source))))
        name, again = _name(each), 1
        while folder / name in taken:
            again += 1
            name = f"{_name(each)}-{again}"
        taken.add(folder / name)
        jobs.append((each, folder / (f"{name}.nii.gz" if nifti else name)))
    return jobs


def _name(each: Series) -> str:
    number = each.facts.get("SeriesNumber", "")
    return f"series-{number if number.isdigit() else 0}"


def path_of(scan: Path | Series) -> Path:
    """Return the file by which a scan is named."""
    return scan.path if isinstance(scan, Series) else scan


def check_distinct(jobs: list[Job]) -> None:
    """Refuse jobs of which two would write one file.

    Raises:
        InputError: they would; the message names both scans and the file.
    """
    taken: dict[Path, Path] = {}
    for scan, output in jobs:
        path = path_of(scan)
        for written in written_with(output):
            if written in taken:
                raise InputError(f"{taken[written]} and {path} would both be written to {written}; rename one of them.")
            taken[written] = path


def check_output(scan: Path | Series, output: Path, doubted: bool = False) -> None:
    """Refuse a result that would replace its scan, the JSON file beside the scan, or what is no result.

    Args:
        scan: what is translated.
        output: its result.
        doubted: a map of doubt is written too.

    Raises:
        InputError: it would, or the name is no NIfTI name or that of a folder.
    """
    path = path_of(scan)
    if isinstance(scan, Series) and not volumes.is_nifti(output):
        derived.check_folder(output)
        if any(Path(each.path).resolve().parent == output.resolve() for each in scan.slices):
            raise InputError(f"The output {output} is the input itself; choose another folder.")
    elif not volumes.is_nifti(output):
        raise InputError(f"The output {output} is not a NIfTI name; it must end in .nii or .nii.gz.")
    elif output.is_dir():
        raise InputError(f"The output {output} is a folder.")
    for beside in written_with(output)[1:]:
        if beside.is_dir():
            raise InputError(f"The output {beside} is a folder.")
    for written, is_ours in ((output, volumes.is_synthetic), (doubt_of(output), volumes.is_doubt_map)):
        if written.exists() and path.exists() and written.samefile(path):
            raise InputError(f"The output {written} is the input itself; choose another name or folder.")
        replaced = written.is_file() and written.stat().st_size > 0 and (doubted or written == output)
        if replaced and not is_ours(written):
            raise InputError(f"The output {written} exists and is no result of a translation; choose another name.")
    if sidecar_of(output).resolve() == sidecar_of(path).resolve():
        raise InputError(
            f"The output {output} has the name of its input {path.name}, whose JSON file it would replace; choose "
            "another name or folder."
        )
    if sidecar_of(output).exists() and not _is_ours(sidecar_of(output)):
        raise InputError(f"{sidecar_of(output)} exists and is not of a translation; choose another output.")


def _is_ours(sidecar: Path) -> bool:
    try:
        return read_json(sidecar).get("notice") == NOTICE
    except (InputError, AttributeError):
        return False


def written_with(output: Path) -> tuple[Path, Path, Path]:
    """Return a result and what is, or may be, written beside it."""
    return output, sidecar_of(output), doubt_of(output)


def sidecar_of(path: Path) -> Path:
    """Return the JSON file beside a NIfTI file or beside a folder of DICOM slices."""
    return path.with_name(f"{_plain_name(path)}.json")


def doubt_of(path: Path) -> Path:
    """Return the map of doubt beside a result, a NIfTI file; its JSON file is that of the result."""
    return path.with_name(f"{_plain_name(path)}{volumes.DOUBT}.nii.gz")


def _plain_name(path: Path) -> str:
    return volumes.stem(path) if volumes.is_nifti(path) else path.name
