"""What the commands have in common that translate files, wherever the model is: arguments, progress, exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cyclescan import NOTICE
from cyclescan.common import command
from cyclescan.common.errors import InputError, of_item
from cyclescan.common.files import make_folder

if TYPE_CHECKING:
    from cyclescan.inference.translator import Progress, Translator


log = logging.getLogger(__name__)


def add_file_arguments(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add what is translated and where to, the same wherever the model is; see `run_with`."""
    from cyclescan.scans.volume import SIDES

    parser.add_argument(
        "input",
        nargs=nargs,
        help="a NIfTI or .mha file, or a folder that is searched for such files and DICOM series; "
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
    parser.add_argument(
        "--noise",
        action="store_true",
        help="add as much noise of the target's scans as the result lacks, which is a mean: for histograms and for "
        "images that look measured; leave it out to measure or to look for structure",
    )
    parser.add_argument("--seed", type=int, default=None, help="of the noise; default: 0")
    parser.add_argument("--volume", type=int, default=None, help="which volume of 4-D files to take, from 0")
    parser.add_argument(
        "--side",
        choices=SIDES,
        default=None,
        help="which side the scans show, for a model that was trained on one; default: what a name (BIDS hemi-L, "
        "hemi-R) or the JSON file beside a scan (Laterality) says",
    )


def run_with(load: Callable[[], Translator], arguments: argparse.Namespace) -> int:
    """Translate the file or the folder that a command line names; the exit code.

    Args:
        load: makes the translator; called once the input is known to be there, because it takes seconds.
        arguments: see `add_file_arguments`.
    """
    from cyclescan.inference import batch
    from cyclescan.inference.jobs import check_distinct, find_jobs, path_of
    from cyclescan.scans.dicom.series import Series

    noise_seed = _noise_seed(arguments)
    jobs = find_jobs(arguments.input, arguments.output, arguments.nifti)
    check_distinct(jobs)
    translator = load()
    if noise_seed is not None:
        translator.noise  # noqa: B018, a model that does not know it says so before anything is written
    options = batch.TranslateOptions(arguments.volume, arguments.side, arguments.keep_identity, noise_seed)
    for folder in sorted({output.parent for _, output in jobs}):
        make_folder(folder)  # learnt before an hour of translating rather than after
    if len(jobs) == 1 and (isinstance(jobs[0][0], Series) or Path(arguments.input).is_file()):
        scan, output = jobs[0]
        with command.progress(unit="window") as bar:
            try:
                batch.translate_file(translator, scan, output, options, _on(bar))
            except InputError:
                raise
            except Exception as error:  # a defect names its scan here too, as in a batch
                raise of_item(error, path_of(scan)) from error
        log.info("%s is written; it is a %s.", output, NOTICE)
        _next(output)
        return command.DONE
    with command.progress(total=len(jobs), unit="file") as bar:

        def done(path: Path, error: InputError | None) -> None:
            bar.update()
            if error:
                with bar.external_write_mode(file=sys.stderr):
                    sys.stderr.write(f"failed: {path}: {' '.join(str(error).split())}\n")

        failed = batch.translate_files(translator, jobs, options, done)
    if len(failed) == len(jobs):
        raise InputError(f"None of the {len(jobs)} files of {arguments.input} could be translated.")
    number = len(jobs) - len(failed)
    log.info("%d of %d files are translated into %s; each is a %s.", number, len(jobs), arguments.output, NOTICE)
    _next(arguments.output)
    return command.SOME_FAILED if failed else command.DONE


def _noise_seed(arguments: argparse.Namespace) -> int | None:
    if arguments.seed is not None and not arguments.noise:
        raise InputError(f"--seed {arguments.seed} is of --noise, which is not given.")
    if arguments.seed is not None and arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}; whole numbers from 0 are allowed.")
    return (arguments.seed or 0) if arguments.noise else None


def _next(output: Path | str) -> None:
    compare = command.call("evaluate", "--predicted", output, "--reference", "TRUTH")
    command.next_step(f"look at it beside the scan it was made of; where there is a true scan: {compare}")


def _on(bar) -> Progress:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show
