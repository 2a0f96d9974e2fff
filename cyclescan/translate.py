"""`python -m cyclescan.translate`: translate scans with a trained model."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cyclescan import NOTICE, __version__
from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, read_json, sha256, walk, write_json
from cyclescan.preprocessing import guard
from cyclescan.scans import volume as volumes
from cyclescan.scans.dicom import convert, derived, rules, series
from cyclescan.scans.dicom.series import Series

if TYPE_CHECKING:
    from cyclescan.inference.translator import Origin, Progress, Translator

log = logging.getLogger(__name__)

NAMED = 4  # measures outside their limits in a warning; the JSON file has all
Job = tuple["Path | Series", Path]


def translate_file(
    translator: Translator,
    scan: str | Path | Series,
    output: str | Path,
    index: int | None = None,
    progress: Progress | None = None,
    side: str | None = None,
    keep_identity: bool = False,
) -> Path:
    """Translate one scan and write the result with a JSON file beside it.

    Args:
        translator: see `Translator.load`.
        scan: a NIfTI file or a DICOM series.
        output: name of the result, ending in `.nii` or `.nii.gz`; of a DICOM series also a folder for DICOM slices.
        index: which volume of a 4-D series (from 0); None for a 3-D file.
        progress: called with (windows done, windows in all).
        side: "left" or "right", which the scan shows; None for what its name, the JSON file beside it or DICOM says.
        keep_identity: DICOM slices get patient and study of their source; by default nothing that identifies.

    A translator with its `back` also writes the map of doubt, see `doubt_of`.

    Returns:
        The path of the JSON file. A scan unlike the training's is translated, and a warning is logged.

    Raises:
        InputError: the scan cannot be used, or the result cannot be written or would replace the scan.
    """
    scan, output = scan if isinstance(scan, Series) else Path(scan), Path(output)
    check_output(scan, output, translator.back is not None)
    array, records, findings = _read(translator, scan, index, side)
    _warn(scan, findings)
    result = _translate(translator, array, progress)
    return _write(translator, translator.origin, scan, output, index, keep_identity, *result, records, findings)


def translate_files(
    translator: Translator,
    jobs: list[Job],
    index: int | None = None,
    done: Callable[[Path, InputError | None], None] | None = None,
    side: str | None = None,
    keep_identity: bool = False,
) -> list[tuple[Path, InputError]]:
    """Translate many scans: while the network works on one, the next is read and the last is written.

    At most three volumes are in memory at a time.

    Args:
        translator: see `Translator.load`.
        jobs: pairs of scan and result.
        index: see `translate_file`.
        done: called for each scan as it ends, with the reason when it failed.
        side: see `translate_file`.
        keep_identity: see `translate_file`.

    Returns:
        The scans that failed, by their (first) file, each with its reason; the others are written.
    """
    failed: list[tuple[Path, InputError]] = []

    def ended(scan: Path | Series, error: InputError | None) -> None:
        if error:
            failed.append((path_of(scan), error))
        if done:
            done(path_of(scan), error)

    def read(scan: Path | Series, output: Path):
        check_output(scan, output, translator.back is not None)
        return _read(translator, scan, index, side)

    def written(writing: tuple[Path | Series, Future] | None) -> None:
        if writing:
            ended(writing[0], _error_of(writing[1]))

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        writing = None
        for scan, output, reading in _one_ahead(reader, read, jobs):
            try:
                array, records, findings = reading.result()
                _warn(scan, findings)
                result = _translate(translator, array)
            except InputError as error:
                ended(scan, error)
                continue
            written(writing)
            task = (translator, translator.origin, scan, output, index, keep_identity, *result, records, findings)
            writing = (scan, writer.submit(_write, *task))
        written(writing)
    return failed


def find_jobs(source: str | Path, output: str | Path, nifti: bool = False) -> list[Job]:
    """Pairs of scan and result for what the user gave.

    A folder is searched recursively and its sub-folders are kept; the output, where it lies within, is not searched,
    and maps of doubt are no scans. Results of NIfTI files in a folder end in `.nii.gz`; the result of a DICOM series is
    a folder of DICOM slices, unless the output is a NIfTI name: the output itself, or, where there are several
    scans, `series-N` with the number of the series.

    Args:
        source: a NIfTI file, a multi-frame DICOM file or a folder; after a #, rules that choose among DICOM series.
        output: a file or a folder.
        nifti: the results of DICOM series in a folder are NIfTI files too.

    Raises:
        InputError: there is nothing to translate, or the output is a file where a folder is needed.
    """
    source, chosen_by = rules.split(source)
    output = Path(output)
    if not source.exists():
        raise InputError(f"{source} does not exist.")
    if source.is_file() and not series.is_dicom(source):
        if output.is_dir() or not volumes.is_nifti(output):
            output = output / f"{volumes.stem(source)}.nii.gz"
        return [(source, output)]
    if output.is_file() and not volumes.is_nifti(output):
        raise InputError(f"{source} is a folder or DICOM, so the output must be a folder too, not the file {output}.")
    files = [] if chosen_by or source.is_file() else [p for p in walk(source) if volumes.is_nifti(p)]
    paths = sorted(p for p in files if not volumes.is_doubt_map(p))
    if len(paths) < len(files):
        log.info("Maps of doubt in %s that are passed over: %d.", source, len(files) - len(paths))
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
            f"There is no NIfTI file (.nii or .nii.gz) in {source} or its sub-folders, and no DICOM series."
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
    jobs, taken = [], set()
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
    """The file by which a scan is named."""
    return scan.path if isinstance(scan, Series) else scan


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
    for beside in _written_with(output)[1:]:
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


def _written_with(output: Path) -> tuple[Path, Path, Path]:
    """A result and what is, or may be, written beside it."""
    return output, sidecar_of(output), doubt_of(output)


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a NIfTI file or beside a folder of DICOM slices."""
    return path.with_name(f"{_plain_name(path)}.json")


def doubt_of(path: Path) -> Path:
    """The map of doubt beside a result, a NIfTI file; its JSON file is that of the result."""
    return path.with_name(f"{_plain_name(path)}{volumes.DOUBT}.nii.gz")


def _plain_name(path: Path) -> str:
    return volumes.stem(path) if volumes.is_nifti(path) else path.name


def _one_ahead(pool: ThreadPoolExecutor, read: Callable, jobs: list[Job]) -> Iterator:
    """Each job with the future of its reading; the next one is being read while the caller works on this one."""
    ahead = None
    for job in jobs:
        reading = (*job, pool.submit(read, *job))
        if ahead:
            yield ahead
        ahead = reading
    if ahead:
        yield ahead


def _error_of(future: Future) -> InputError | None:
    try:
        future.result()
    except InputError as error:
        return error
    return None


def _read(translator: Translator, scan: Path | Series, index: int | None, side: str | None):
    """A scan ready for the network, the record of how, and what `Translator.outside` finds in it."""
    volume = convert.read(scan) if isinstance(scan, Series) else volumes.read(scan, index)
    if side:
        volume = dataclasses.replace(volume, meta=volume.meta | {"side": side})
    array, records = translator.prepare(volume)
    return array, records, translator.outside(volume, records)


def _translate(translator: Translator, array, progress: Progress | None = None):
    """A translation, and the map of doubt or None."""
    translated = translator.translate_array(array, progress)
    return translated, translator.doubt(array, translated) if translator.back else None


def _warn(scan: Path | Series, findings: list[dict] | None) -> None:
    if not isinstance(scan, Series) and (doubt := volumes.placement(scan).doubt):
        log.warning("warning: %s %s.", scan, doubt)
    if findings:
        what = guard.sentence(findings, NAMED)
        log.warning("warning: %s is unlike the scans that the model was trained on: %s.", path_of(scan), what)


def _write(
    translator: Translator,
    origin: Origin,
    scan: Path | Series,
    output: Path,
    index: int | None,
    keep_identity: bool,
    array,
    doubts,
    records: list[dict],
    findings: list[dict] | None,
) -> Path:
    volume = translator.restore(array, records)
    placement = None if isinstance(scan, Series) else volumes.placement(scan)
    settings = {"window": list(translator.window), "overlap": translator.overlap, "mirror": translator.mirror}
    if volumes.is_nifti(output):
        volumes.write(volume, output, volumes.synthetic_descrip(f"v{__version__}"), placement=placement)
    else:
        target = translator.target_intensity
        derivation = derived.Derivation(
            target=translator.target_name,
            hounsfield=target["scaling"].startswith("window_hu"),
            model=f"{origin.sha256[:16]} {translator.direction} {settings}",
            window=(target["low"], target["high"]),
            keep_identity=keep_identity,
        )
        derived.write(scan, volume, output, derivation)
    about_doubt = None
    if doubts is not None:
        descrip = volumes.synthetic_descrip(volumes.DOUBT_MAP)
        volumes.write(translator.restore_doubt(doubts, records), doubt_of(output), descrip, placement=placement)
        about_doubt = {
            "file": doubt_of(output).name,
            "unit": "intensities of the result; 0 where the scan was cropped and nothing was translated",
            "mean_of_range": float(doubts.mean() / 2),
        }
    elif volumes.is_doubt_map(doubt_of(output)):
        doubt_of(output).unlink()  # of an earlier result
    sidecar = sidecar_of(output)
    write_json(
        sidecar,
        {
            "notice": NOTICE,
            # no folder and no file's name: they often carry what identifies a patient; the hash says which scan it was
            "model": origin.model if origin.kind == "served" else Path(origin.model).resolve().name,
            "model_kind": origin.kind,
            "model_sha256": origin.sha256,
            "version": origin.version,
            "weights": origin.weights,
            "step": origin.step,
            "preset": origin.preset,
            "direction": translator.direction,
            "source": translator.source_name,
            "target": translator.target_name,
            "input_sha256": _sha256(scan),
            "input_volume": index,
            "settings": settings,
            "spacing_mm": list(volume.spacing_mm),
            "working_spacing_mm": translator.data["spacing_mm"],
            "preprocessing": records,
            "guard": findings,
            "doubt": about_doubt,
            "target_intensity": translator.target_intensity,
            "cyclescan_version": __version__,
            "model_cyclescan_version": origin.cyclescan_version,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        },
    )
    return sidecar


def _sha256(scan: Path | Series) -> str:
    """Of a NIfTI file; of a DICOM series the SHA-256 of its files' SHA-256s, in the order of the slices."""
    if isinstance(scan, Series):
        return hashlib.sha256("".join(map(sha256, scan.files)).encode()).hexdigest()
    return sha256(scan)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="a training run, a folder made by `cyclescan export`, or the name of a model that comes with cyclescan, "
        "such as digital-knee",
    )
    parser.add_argument(
        "--direction", required=True, help="a2b: from the contrast of `build --a` to that of `--b`; b2a: the reverse"
    )
    add_file_arguments(parser)
    parser.add_argument(
        "--window",
        type=int,
        nargs=3,
        default=None,
        metavar=("D", "H", "W"),
        help="voxels that are worked on at once, multiples of the network's stride; decides over memory and speed and "
        "not over the result, which is that of the whole volume in one piece",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=None,
        help="fraction that windows share, at least 0 and below 1; costs time and changes nothing; default: 0",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="average with the translation of the volume mirrored left to right; takes twice as long",
    )
    parser.add_argument(
        "--doubt",
        action="store_true",
        help="also write NAME_doubt.nii.gz: where the way there and back changes the scan, and where the result "
        "depends on mirroring, position and field of view (0 where the scan was cropped); about six times as long",
    )
    parser.add_argument("--weights", default="last", help="of a run: last, best or a step")


def add_file_arguments(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """What is translated and where to, the same wherever the model is; see `run_with`."""
    parser.add_argument(
        "input",
        nargs=nargs,
        help="a NIfTI file, or a folder that is searched for NIfTI files and DICOM series; "
        "PATH#KEYWORD~REGEX&KEYWORD=VALUE chooses among DICOM series",
    )
    parser.add_argument(
        "output",
        nargs=nargs,
        help="a NIfTI file (.nii or .nii.gz) or a folder; of a DICOM series, a NIfTI file, or else a folder that "
        "becomes a new DICOM series on the geometry of its source, marked as derived and synthetic",
    )
    parser.add_argument("--nifti", action="store_true", help="write NIfTI files for DICOM series in a folder too")
    parser.add_argument(
        "--keep-identity",
        action="store_true",
        help="DICOM slices get the patient and study fields of their source, so that the new series files beside it; "
        "without it, no name, id, birth date, date, accession or institution is written",
    )
    parser.add_argument("--volume", type=int, default=None, help="which volume of a 4-D file, from 0")
    parser.add_argument(
        "--side",
        choices=volumes.SIDES,
        default=None,
        help="which side the scans show, for a model that was trained on one; default: what a name (BIDS hemi-L, "
        "hemi-R) or the JSON file beside a scan (Laterality) says",
    )


def run(arguments: argparse.Namespace) -> int | None:
    def load() -> Translator:
        from cyclescan.inference.translator import Translator

        return Translator.load(
            arguments.model,
            arguments.direction,
            arguments.weights,
            arguments.window,
            arguments.overlap,
            arguments.mirror,
            arguments.doubt,
        )

    return run_with(load, arguments)


def run_with(load: Callable[[], Translator], arguments: argparse.Namespace) -> int:
    """Translate the file or the folder that a command line names; the exit code.

    Args:
        load: makes the translator; called once the input is known to be there, because it takes seconds.
        arguments: see `add_file_arguments`.
    """
    jobs = find_jobs(arguments.input, arguments.output, arguments.nifti)
    _check_distinct(jobs)
    translator = load()
    for folder in sorted({output.parent for _, output in jobs}):
        make_folder(folder)  # learnt before an hour of translating rather than after
    if len(jobs) == 1 and (isinstance(jobs[0][0], Series) or Path(arguments.input).is_file()):
        scan, output = jobs[0]
        with command.progress(unit="window") as bar:
            scan_options = (arguments.side, arguments.keep_identity)
            translate_file(translator, scan, output, arguments.volume, _on(bar), *scan_options)
        log.info("%s is written; it is a %s.", output, NOTICE)
        return command.DONE
    with command.progress(total=len(jobs), unit="file") as bar:

        def done(path: Path, error: InputError | None) -> None:
            bar.update()
            if error:
                with bar.external_write_mode(file=sys.stderr):
                    sys.stderr.write(f"failed: {path}: {' '.join(str(error).split())}\n")

        failed = translate_files(translator, jobs, arguments.volume, done, arguments.side, arguments.keep_identity)
    if len(failed) == len(jobs):
        raise InputError(f"None of the {len(jobs)} files of {arguments.input} could be translated.")
    number = len(jobs) - len(failed)
    log.info("%d of %d files are translated into %s; each is a %s.", number, len(jobs), arguments.output, NOTICE)
    return command.SOME_FAILED if failed else command.DONE


def _check_distinct(jobs: list[Job]) -> None:
    taken: dict[Path, Path] = {}
    for scan, output in jobs:
        path = path_of(scan)
        for written in _written_with(output):
            if written in taken:
                raise InputError(f"{taken[written]} and {path} would both be written to {written}; rename one of them.")
            taken[written] = path


def _on(bar) -> Progress:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


def main(arguments: list[str] | None = None) -> int:
    return command.run(__doc__.split(": ")[1], add_arguments, run, "python -m cyclescan.translate", arguments)


if __name__ == "__main__":
    sys.exit(main())
