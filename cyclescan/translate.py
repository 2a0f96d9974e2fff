"""`python -m cyclescan.translate`: translate scans with a trained model."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cyclescan import NOTICE, __version__, command, guard
from cyclescan import volume as volumes
from cyclescan.errors import InputError
from cyclescan.files import make_folder, sha256, write_json

if TYPE_CHECKING:
    from cyclescan.inference.translator import Origin, Progress, Translator

log = logging.getLogger(__name__)

NAMED = 4  # measures outside their limits in a warning; the JSON file has all


def translate_file(
    translator: Translator,
    path: str | Path,
    output: str | Path,
    index: int | None = None,
    progress: Progress | None = None,
    side: str | None = None,
) -> Path:
    """Translate one NIfTI file and write the result with a JSON file beside it.

    Args:
        translator: see `Translator.load`.
        path: the scan.
        output: name of the result, ending in `.nii` or `.nii.gz`.
        index: which volume of a 4-D series (from 0); None for a 3-D file.
        progress: called with (windows done, windows in all).
        side: "left" or "right", which the scan shows; None for what its name or the JSON file beside it says.

    Returns:
        The path of the JSON file. A scan unlike the training's is translated, and a warning is logged.

    Raises:
        InputError: the scan cannot be used, or the result cannot be written or would replace the scan.
    """
    path, output = Path(path), Path(output)
    check_output(path, output)
    array, records, findings = _read(translator, path, index, side)
    _warn(path, findings)
    translated = translator.translate_array(array, progress)
    return _write(translator, translator.origin, path, output, index, translated, records, findings)


def translate_files(
    translator: Translator,
    jobs: list[tuple[Path, Path]],
    index: int | None = None,
    done: Callable[[Path, InputError | None], None] | None = None,
    side: str | None = None,
) -> list[tuple[Path, InputError]]:
    """Translate many files: while the network works on one, the next is read and the last is written.

    At most three volumes are in memory at a time.

    Args:
        translator: see `Translator.load`.
        jobs: pairs of scan and result.
        index: see `translate_file`.
        done: called for each file as it ends, with the reason when it failed.
        side: see `translate_file`.

    Returns:
        The files that failed, each with its reason; the others are written.
    """
    failed: list[tuple[Path, InputError]] = []

    def ended(path: Path, error: InputError | None) -> None:
        if error:
            failed.append((path, error))
        if done:
            done(path, error)

    def read(path: Path, output: Path):
        check_output(path, output)
        return _read(translator, path, index, side)

    def written(writing: tuple[Path, Future] | None) -> None:
        if writing:
            ended(writing[0], _error_of(writing[1]))

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        writing = None
        for path, output, reading in _one_ahead(reader, read, jobs):
            try:
                array, records, findings = reading.result()
                _warn(path, findings)
                array = translator.translate_array(array)
            except InputError as error:
                ended(path, error)
                continue
            written(writing)
            job = (translator, translator.origin, path, output, index, array, records, findings)
            writing = (path, writer.submit(_write, *job))
        written(writing)
    return failed


def find_jobs(source: str | Path, output: str | Path) -> list[tuple[Path, Path]]:
    """Pairs of scan and result for what the user gave.

    A folder is searched recursively and its sub-folders are kept. Results of a folder end in `.nii.gz`.

    Raises:
        InputError: there is nothing to translate, or the output is a file where a folder is needed.
    """
    source, output = Path(source), Path(output)
    if not source.exists():
        raise InputError(f"{source} does not exist.")
    if source.is_file():
        if is_dicom(source):
            raise InputError(_dicom_sentence(source))
        if output.is_dir() or not volumes.is_nifti(output):
            output = output / f"{volumes.stem(source)}.nii.gz"
        return [(source, output)]
    if output.is_file() or (volumes.is_nifti(output) and not output.is_dir()):
        raise InputError(f"{source} is a folder, so the output must be a folder too, not the file {output}.")
    files = sorted(p for p in source.rglob("*") if p.is_file() and not p.name.startswith("."))
    scans = [p for p in files if volumes.is_nifti(p)]
    dicom = sum(map(is_dicom, set(files) - set(scans)))
    if not scans:
        if dicom:
            raise InputError(_dicom_sentence(source))
        raise InputError(f"There is no NIfTI file (.nii or .nii.gz) in {source} or its sub-folders.")
    if dicom:
        log.warning("%d DICOM files in %s are left out; convert them to NIfTI first.", dicom, source)
    return [(p, (output / p.relative_to(source)).with_name(f"{volumes.stem(p)}.nii.gz")) for p in scans]


def check_output(path: Path, output: Path) -> None:
    """Refuse a result that would replace its scan, or the JSON file beside the scan.

    Raises:
        InputError: it would, or the name is no NIfTI name or that of a folder.
    """
    if not volumes.is_nifti(output):
        raise InputError(f"The output {output} is not a NIfTI name; it must end in .nii or .nii.gz.")
    for name in (output, sidecar_of(output)):
        if name.is_dir():
            raise InputError(f"The output {name} is a folder.")
    if output.exists() and path.exists() and output.samefile(path):
        raise InputError(f"The output {output} is the input itself; choose another name or folder.")
    if sidecar_of(output).resolve() == sidecar_of(path).resolve():
        raise InputError(
            f"The output {output} has the name of its input {path.name}, whose JSON file it would replace; choose "
            "another name or folder."
        )


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a NIfTI file."""
    return path.with_name(f"{volumes.stem(path)}.json")


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file: `DICM` after a preamble of 128 bytes."""
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _dicom_sentence(path: Path) -> str:
    return f"{path} holds DICOM, which cannot be translated yet; convert it to NIfTI first, for instance with dcm2niix."


def _one_ahead(pool: ThreadPoolExecutor, read: Callable, jobs: list[tuple[Path, Path]]) -> Iterator:
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


def _read(translator: Translator, path: Path, index: int | None, side: str | None):
    """A scan ready for the network, the record of how, and what `Translator.outside` finds in it."""
    scan = volumes.read(path, index)
    if side:
        scan = dataclasses.replace(scan, meta=scan.meta | {"side": side})
    array, records = translator.prepare(scan)
    return array, records, translator.outside(scan, records)


def _warn(path: Path, findings: list[dict] | None) -> None:
    if findings:
        what = guard.sentence(findings, NAMED)
        log.warning("warning: %s is unlike the scans that the model was trained on: %s.", path, what)


def _write(
    translator: Translator,
    origin: Origin,
    path: Path,
    output: Path,
    index: int | None,
    array,
    records: list[dict],
    findings: list[dict] | None,
) -> Path:
    volume = translator.restore(array, records)
    volumes.write(volume, output, volumes.synthetic_descrip(__version__))
    sidecar = sidecar_of(output)
    write_json(
        sidecar,
        {
            "notice": NOTICE,
            # no folder and no file's name: they often carry what identifies a patient; the hash says which scan it was
            "model": Path(origin.model).resolve().name,
            "model_kind": origin.kind,
            "model_sha256": origin.sha256,
            "version": origin.version,
            "weights": origin.weights,
            "step": origin.step,
            "preset": origin.preset,
            "direction": translator.direction,
            "source": translator.source_name,
            "target": translator.target_name,
            "input_sha256": sha256(path),
            "input_volume": index,
            "settings": {
                "window": list(translator.window),
                "overlap": translator.overlap,
                "mirror": translator.mirror,
            },
            "spacing_mm": list(volume.spacing_mm),
            "working_spacing_mm": translator.data["spacing_mm"],
            "preprocessing": records,
            "guard": findings,
            "target_intensity": translator.target_intensity,
            "cyclescan_version": __version__,
            "model_cyclescan_version": origin.cyclescan_version,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        },
    )
    return sidecar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a training run, or a folder made by `cyclescan export`")
    parser.add_argument("--direction", required=True, help="a2b or b2a")
    parser.add_argument("input", help="a NIfTI file, or a folder that is searched for NIfTI files")
    parser.add_argument("output", help="a NIfTI file (.nii or .nii.gz) or a folder")
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
    parser.add_argument("--weights", default="last", help="of a run: last, best or a step")
    add_scan_arguments(parser)


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be said of scans, whoever translates them; see `run_with`."""
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
        )

    return run_with(load, arguments)


def run_with(load: Callable[[], Translator], arguments: argparse.Namespace) -> int:
    """Translate the file or the folder that a command line names; the exit code.

    Args:
        load: makes the translator; called once the input is known to be there, because it takes seconds.
        arguments: with `input`, `output` and what `add_scan_arguments` adds.
    """
    jobs = find_jobs(arguments.input, arguments.output)
    _check_distinct(jobs)
    translator = load()
    for folder in sorted({output.parent for _, output in jobs}):
        make_folder(folder)  # learnt before an hour of translating rather than after
    if len(jobs) == 1 and Path(arguments.input).is_file():
        path, output = jobs[0]
        with command.progress(unit="window") as bar:
            translate_file(translator, path, output, arguments.volume, _on(bar), arguments.side)
        log.info("%s is written; it is a %s.", output, NOTICE)
        return command.DONE
    with command.progress(total=len(jobs), unit="file") as bar:

        def done(path: Path, error: InputError | None) -> None:
            bar.update()
            if error:
                with bar.external_write_mode(file=sys.stderr):
                    sys.stderr.write(f"failed: {path}: {' '.join(str(error).split())}\n")

        failed = translate_files(translator, jobs, arguments.volume, done, arguments.side)
    if len(failed) == len(jobs):
        raise InputError(f"None of the {len(jobs)} files of {arguments.input} could be translated.")
    log.info("%d of %d files are translated into %s.", len(jobs) - len(failed), len(jobs), arguments.output)
    return command.SOME_FAILED if failed else command.DONE


def _check_distinct(jobs: list[tuple[Path, Path]]) -> None:
    taken: dict[Path, Path] = {}
    for path, output in jobs:
        if output in taken:
            raise InputError(f"{taken[output]} and {path} would both be written to {output}; rename one of them.")
        taken[output] = path


def _on(bar) -> Progress:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


def main(arguments: list[str] | None = None) -> int:
    return command.run(__doc__.split(": ")[1], add_arguments, run, "python -m cyclescan.translate", arguments)


if __name__ == "__main__":
    sys.exit(main())
