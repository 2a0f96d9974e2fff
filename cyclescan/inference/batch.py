"""Scans to scans: one, or a batch of which the failures are listed and the others done."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cyclescan import NOTICE, __version__
from cyclescan.common.errors import InputError, of_item
from cyclescan.common.files import sha256, write_json
from cyclescan.inference import doubt, lost
from cyclescan.inference.jobs import Job, check_output, doubt_of, path_of, sidecar_of
from cyclescan.inference.translator import Origin, Progress, Translator
from cyclescan.preprocessing import guard
from cyclescan.scans import volume as volumes
from cyclescan.scans.dicom import convert, derived
from cyclescan.scans.dicom.series import Series

log = logging.getLogger(__name__)

NAMED = 4  # measures outside their limits in a warning; the JSON file has all


@dataclasses.dataclass(frozen=True)
class TranslateOptions:
    """How scans are read and results written; the same for all of a batch.

    Attributes:
        index: which volume of a 4-D file (from 0); None for a 3-D file. 3-D files in a batch are taken as they are.
        side: "left" or "right", which the scan shows; None for what its name, the JSON file beside it or DICOM says.
        keep_identity: DICOM slices get patient and study of their source; by default nothing that identifies.
        noise_seed: add noise of the target's level, see `preprocessing.noise`, a function of this number and the scan;
            None for none.
    """

    index: int | None = None
    side: str | None = None
    keep_identity: bool = False
    noise_seed: int | None = None


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A scan ready for the network, the steps that led there, and what `Translator.outside` finds in it."""

    array: np.ndarray
    steps: list[dict]
    findings: list[dict] | None


@dataclasses.dataclass(frozen=True)
class _Translated:
    """A translation, the map of doubt and what is lost or None, and the model: a server may have a newer one soon."""

    array: np.ndarray
    doubt: np.ndarray | None
    lost: dict | None
    origin: Origin


def translate_file(
    translator: Translator,
    scan: str | Path | Series,
    output: str | Path,
    options: TranslateOptions = TranslateOptions(),
    progress: Progress | None = None,
) -> Path:
    """Translate one scan and write the result with a JSON file beside it.

    A translator with its `back` also writes the map of doubt, see `jobs.doubt_of`.

    Args:
        translator: see `Translator.load`.
        scan: a NIfTI file or a DICOM series.
        output: name of the result, ending in `.nii` or `.nii.gz`; of a DICOM series also a folder for DICOM slices.
        options: how it is read and written.
        progress: called with (windows done, windows in all).

    Returns:
        The path of the JSON file. A scan unlike the training's is translated, and a warning is logged.

    Raises:
        InputError: the scan cannot be used, or the result cannot be written or would replace the scan.
    """
    scan, output = scan if isinstance(scan, Series) else Path(scan), Path(output)
    check_output(scan, output, translator.back is not None)
    prepared = _read(translator, scan, options)
    _warn(scan, prepared.findings)
    translated = _translate(translator, prepared.array, progress)
    _warn_of_loss(scan, translated.lost)
    return _write(translator, (scan, output), options, prepared, translated)


def translate_files(
    translator: Translator,
    jobs: Sequence[Job],
    options: TranslateOptions = TranslateOptions(),
    done: Callable[[Path, InputError | None], None] | None = None,
) -> list[tuple[Path, InputError]]:
    """Translate many scans: while the network works on one, the next is read and the last is written.

    At most three volumes are in memory at a time.

    Args:
        translator: see `Translator.load`.
        jobs: pairs of scan and result.
        options: how they are read and written.
        done: called for each scan as it ends, with the reason when it failed.

    Returns:
        The scans that failed, by their (first) file, each with its reason; the others are written.
    """
    failed: list[tuple[Path, InputError]] = []

    def ended(scan: Path | Series, error: InputError | None) -> None:
        if error:
            failed.append((path_of(scan), error))
        if done:
            done(path_of(scan), error)

    def of(scan: Path | Series) -> TranslateOptions:
        """Return the options for one scan: an index is about 4-D files, and others may lie beside them."""
        if options.index is None or (not isinstance(scan, Series) and volumes.count(scan) > 1):
            return options
        return dataclasses.replace(options, index=None)

    def read(scan: Path | Series, output: Path) -> _Prepared:
        check_output(scan, output, translator.back is not None)
        return _read(translator, scan, of(scan))

    def written(writing: tuple[Path | Series, Future] | None) -> None:
        if writing:
            scan, task = writing
            try:
                task.result()
            except Exception as error:  # of whatever class, as below
                ended(scan, of_item(error, path_of(scan)))
            else:
                ended(scan, None)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        writing = None
        for job, reading in _one_ahead(reader, read, jobs):
            scan = job[0]
            try:
                prepared = reading.result()
                _warn(scan, prepared.findings)
                translated = _translate(translator, prepared.array)
                _warn_of_loss(scan, translated.lost)
            except Exception as error:  # of whatever class: the others are done
                ended(scan, of_item(error, path_of(scan)))
                continue
            written(writing)
            writing = scan, writer.submit(_write, translator, job, of(scan), prepared, translated)
        written(writing)
    return failed


def _one_ahead(
    pool: ThreadPoolExecutor, read: Callable[[Path | Series, Path], _Prepared], jobs: Sequence[Job]
) -> Iterator[tuple[Job, Future]]:
    """Each job with the future of its reading; the next one is being read while the caller works on this one."""
    ahead = None
    for job in jobs:
        reading = job, pool.submit(read, *job)
        if ahead:
            yield ahead
        ahead = reading
    if ahead:
        yield ahead


def _read(translator: Translator, scan: Path | Series, options: TranslateOptions) -> _Prepared:
    volume = convert.read(scan) if isinstance(scan, Series) else volumes.read(scan, options.index)
    if options.side:
        volume = dataclasses.replace(volume, meta=volume.meta | {"side": options.side})
    array, steps = translator.prepare(volume)
    return _Prepared(array, steps, translator.outside(volume, steps))


def _translate(translator: Translator, array: np.ndarray, progress: Progress | None = None) -> _Translated:
    translated = translator.translate_array(array, progress)
    if translator.back is None:
        return _Translated(translated, None, None, translator.origin)
    parts = translator.doubt_parts(array, translated)
    return _Translated(translated, doubt.doubt(parts), translator.lost(array, parts), translator.origin)


def _warn(scan: Path | Series, findings: list[dict] | None) -> None:
    placement = None if isinstance(scan, Series) else volumes.placement(scan)
    if placement and placement.doubt:
        log.warning("warning: %s %s.", scan, placement.doubt)
    if findings:
        what = guard.sentence(findings, NAMED)
        log.warning("warning: %s is unlike the scans that the model was trained on: %s.", path_of(scan), what)


def _warn_of_loss(scan: Path | Series, found: dict | None) -> None:
    if found and found["fires"]:
        log.warning("warning: %s %s.", path_of(scan), lost.sentence(found))


def _write(
    translator: Translator,
    job: Job,
    options: TranslateOptions,
    prepared: _Prepared,
    translated: _Translated,
) -> Path:
    """Write a result, its map of doubt and its JSON file; the path of the latter."""
    scan, output = job
    volume = translator.restore(translated.array, prepared.steps)
    digest, noise = _sha256(scan), None
    if options.noise_seed is not None:
        # each scan its own noise, whatever else is in the batch
        rng = np.random.default_rng([options.noise_seed, int(digest, 16)])
        volume, noise = translator.noise.add(volume, rng)
        noise |= {"seed": options.noise_seed, "unit": "intensities of the result"}
    placement = None if isinstance(scan, Series) else volumes.placement(scan)
    if not isinstance(scan, Series) or volumes.is_nifti(output):
        volumes.write(volume, output, volumes.synthetic_descrip(f"v{__version__}"), placement=placement)
    else:
        derived.write(scan, volume, output, _derivation(translator, translated.origin, options))
    about_doubt = None
    if translated.doubt is not None:
        descrip = volumes.synthetic_descrip(volumes.DOUBT_MAP)
        restored = translator.restore_doubt(translated.doubt, prepared.steps)
        volumes.write(restored, doubt_of(output), descrip, placement=placement)
        about_doubt = {
            "file": doubt_of(output).name,
            "unit": "intensities of the result; 0 where the scan was cropped and nothing was translated",
            "mean_of_range": float(translated.doubt.mean() / 2),
            "lost": translated.lost,
        }
    elif volumes.is_doubt_map(doubt_of(output)):
        doubt_of(output).unlink()  # of an earlier result
    facts = _facts(translator, translated.origin) | {
        "input_sha256": digest,
        "input_volume": options.index,
        "spacing_mm": list(volume.spacing_mm),
        "preprocessing": prepared.steps,
        "guard": prepared.findings,
        "doubt": about_doubt,
        "noise": noise,
    }
    write_json(sidecar_of(output), facts)
    return sidecar_of(output)


def _settings(translator: Translator) -> dict:
    return {"window": list(translator.window), "overlap": translator.overlap, "mirror": translator.mirror}


def _derivation(translator: Translator, origin: Origin, options: TranslateOptions) -> derived.Derivation:
    target = translator.target_intensity
    noise = "" if options.noise_seed is None else f", noise added, seed {options.noise_seed}"
    return derived.Derivation(
        target=translator.target_name,
        hounsfield=target["scaling"].startswith("window_hu"),
        model=f"{origin.sha256[:16]} {translator.direction} {_settings(translator)}{noise}",
        window=(target["low"], target["high"]),
        keep_identity=options.keep_identity,
    )


def _facts(translator: Translator, origin: Origin) -> dict:
    """What the JSON file beside a result says of the model and how it was used."""
    return {
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
        "settings": _settings(translator),
        "working_spacing_mm": translator.data["spacing_mm"],
        "target_intensity": translator.target_intensity,
        "cyclescan_version": __version__,
        "model_cyclescan_version": origin.cyclescan_version,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _sha256(scan: Path | Series) -> str:
    """Of a NIfTI file; of a DICOM series the SHA-256 of its files' SHA-256s, in the order of the slices."""
    if isinstance(scan, Series):
        return hashlib.sha256("".join(map(sha256, scan.files)).encode()).hexdigest()
    return sha256(scan)
