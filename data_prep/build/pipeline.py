"""From a request to a data set; the steps in order."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import cyclescan
from cyclescan import records
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, states
from cyclescan.scans.volume import CANONICAL_AXES
from data_prep import beam, layouts, persons, pseudonyms, qc, scans, workspace
from data_prep.build import entries, grid, modality, shards
from data_prep.build.division import chosen_scans, divide, write_split_file
from data_prep.build.request import BuildRequest
from data_prep.build.sources import read_headers
from data_prep.splits import DOMAINS


def build(a: tuple[str, str | os.PathLike], b: tuple[str, str | os.PathLike], out: str | os.PathLike, **more) -> dict:
    """Turn the scans of two domains into TFRecords, split by subject or by site.

    A second call with the same arguments does only what is missing or has changed; so does one after a call that was
    killed. A scan that fails is reported and does not stop the others.

    Args:
        a: name and scans of domain a, such as ("ciss", "scans/ciss").
        b: the same for domain b.
        out: the folder to write.
        more: see `BuildRequest`.

    Returns:
        What RECORDS/dataset.json says. "failed" lists the scans that could not be used, which are logged by name.

    Raises:
        InputError: an argument is not allowed, a domain is left without a training scan, or the same voxels stand in
            two splits or in both domains; `out` is left as it was then.
    """
    return build_request(BuildRequest(a, b, out, **more))


def build_request(request: BuildRequest) -> dict:
    """Make the data set of a request; see `build`."""
    names, out, options = request.names, request.folder, request.options
    runner = beam.find_runner(request.runner, request.runner_options)
    _check_output(out)
    key = _key(pseudonyms.key_file(request.key_file), out)
    digest = pseudonyms.digest(key, json.dumps(request.identity(), sort_keys=True, default=str))
    before = _before(out, digest, request.overwrite)
    found = {d: _find(request, d) for d in DOMAINS}
    found = persons.settled(found, names, request.paths)

    sources, failed = read_headers(found, names, key, request.volume)
    excluded = qc.exclude(sources, request.exclude)
    scalings = modality.scalings(request, sources)
    request = dataclasses.replace(request, scaling_a=scalings["a"], scaling_b=scalings["b"])
    spacing_mm = grid.working_spacing(sources, request.spacing_mm)
    shape = grid.checked_shape(sources, spacing_mm, request.shape)
    grid.warn_of_cropping(sources, spacing_mm, shape)
    division = divide(found, sources, key, request)
    how = shards.How(scalings, spacing_mm, shape, options, pseudonyms.digest(key, "content"))
    planned = shards.plan(chosen_scans(sources, division, request), request, how)
    partial = workspace.partial(out)
    tasks = {shards.name_of(task, key, partial, before): task for task in planned}
    settings = {
        "schema_version": records.SCHEMA_VERSION,
        "cyclescan_version": cyclescan.__version__,
        "request": digest,
        "seed": request.seed,
        "disjoint": request.disjoint,
        "split_by": request.split_by,
        "axes": list(CANONICAL_AXES),
        "spacing_mm": list(spacing_mm),
        "shape": None if shape is None else list(shape),
        **({"excluded": excluded} if excluded else {}),
        "notice": cyclescan.NOTICE,
    }
    with workspace.opened(out) as folder:
        written = shards.write(tasks, folder, before, runner, request)
        failed += entries.failures(written)
        entries.check_leaks(written)
        info = settings | entries.of(written, request) | {"failed": failed}
        files = {name: shards.file_of(s["fingerprint"], folder, before) for name, s in info["shards"].items()}
        known = set(before.shards) if before is not None else set()
        all_there = before is not None and {s["fingerprint"] for s in info["shards"].values()} <= known
        if before is None or not all_there or info != before.info:
            with workspace.publishing(out, info, files, before) as new:
                write_split_file(new / workspace.SPLIT_FILE, division, key)
    return info


def _find(request: BuildRequest, domain: str) -> list[scans.Scan]:
    name, path = request.names[domain], request.paths[domain]
    if request.layout:
        return layouts.find(request.layout, name, path)
    found = scans.find(path, persons.pattern(request.subject))
    layouts.warn_of(found, path)
    return found


def _check_output(out: Path) -> None:
    """Refuse what must not be replaced, before any work is done."""
    make_folder(out.parent)
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a folder.")
    if not states(out / workspace.DATASET, "schema_version", "shards") and any(out.iterdir()):
        raise InputError(f"{out} holds files that are no data set; give another --out.")
    for path in sorted(out.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name not in workspace.FOLDERS:
            raise InputError(
                f"{out} holds the folder {path.name}, which is no part of a data set and would be lost when it is "
                "replaced; move it away, or give another --out."
            )


def _before(out: Path, request: str, overwrite: bool) -> workspace.Previous | None:
    """The data set that is there; it must be of the same request, or allowed to be replaced."""
    before = workspace.previous(out)
    same = before is not None and before.info.get("request") == request
    if (out / workspace.DATASET).exists() and not (same or overwrite):
        raise InputError(
            f"{out} already holds a data set, made with other arguments; give --overwrite to replace it, or another "
            "--out."
        )
    return before


def _key(path: Path, out: Path) -> bytes:
    if path.resolve().is_relative_to(out.resolve()):
        raise InputError(f"The key file {path} lies in the data set {out}; it must be kept outside.")
    return pseudonyms.load_key(path)
