"""Two folders of scans to one data set of TFRecords.

Everything that can be known from names and headers is settled before Apache Beam starts: which scans are sound, the
working grid, the split, and which scans make up which shard. A task of the Beam graph is one shard, whose scans are
read, prepared and written one after the other: a worker holds one volume at a time, and the bytes do not depend on the
number of workers nor on the runner. Shards that are there from an earlier run are not made again, and the data set
takes its place in one step when all is done (`workspace.py`).
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import cyclescan
from cyclescan import records
from cyclescan.common.command import DONE, SOME_FAILED, progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, sha256
from cyclescan.preprocessing import Options, body, geometry, guard, intensity, prepare
from cyclescan.scans.dicom.series import Series
from cyclescan.scans.volume import CANONICAL_AXES, MAX_VOXELS, SIDES
from data_prep import graph, layouts, persons, pseudonyms, qc, scans, splits, workspace
from data_prep.splits import DOMAINS, SPLITS

log = logging.getLogger(__name__)

SHARD_BYTES = 256 * 2**20
SHARD_SCANS = 4  # enough shards for all workers where scans are small; a constant, so that workers change no byte
BYTES_PER_VOXEL = 2
ONLY_HOW = ("workers", "runner", "runner_options", "key_file", "overwrite")  # arguments of `build` that change no byte
MUCH = 0.75  # of a scan; if --shape keeps less of it, the user is told
LARGEST_PAD = 2  # --shape may be this many times the largest scan
AXES = ("depth", "height", "width")


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


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard to be written: its scans in order and how they are prepared.

    Every field decides bytes of the shard and enters its fingerprint.
    """

    split: str
    domain: str
    domain_name: str
    sources: tuple[Source, ...]
    scaling: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int] | None
    options: Options
    content_key: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    path_help = (
        "name and scans of domain {}: a folder searched recursively for .nii and .nii.gz, or for DICOM series where "
        "there are none; a .csv or .tsv table with the columns subject, path and if wanted split, side and site; "
        "or one file. PATH#KEYWORD~REGEX&KEYWORD=VALUE chooses among DICOM series, see `python -m data_prep scans PATH`"
    )
    for domain in DOMAINS:
        parser.add_argument(f"--{domain}", metavar="NAME=PATH", required=True, help=path_help.format(domain))
    parser.add_argument(
        "--layout", metavar="NAME", choices=list(layouts.LAYOUTS),
        help="both paths are of an unpacked public data set, of which the domain's name chooses the scans, as in "
        f"--a t1=DIR --b t2=DIR --layout ixi; {', '.join(layouts.LAYOUTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--subject", metavar="REGEX",
        help="who a scan in a folder shows: what this finds in its path below the folder (its first group, or all), as "
        "in '^([^/]+)/' for the first folder's name; without it, BIDS' sub-, PatientID, or the name of file or folder, "
        "where names that differ in visit, run, side or the domain's own name are of one person",
    )  # fmt: skip
    parser.add_argument("--out", metavar="RECORDS", required=True, help="folder to write: shards and dataset.json")
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace a data set that another command made; the same command brings it up to date without this",
    )  # fmt: skip
    parser.add_argument(
        "--spacing-mm", type=float, nargs=3, metavar=("R", "S", "A"),
        help="working voxel size along right, superior, anterior; without it, the median of all scans",
    )  # fmt: skip
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar=("D", "H", "W"),
        help="crop or pad every scan about its centre to this many voxels of the working size along right, superior, "
        "anterior; without it, every scan keeps its extent",
    )  # fmt: skip
    parser.add_argument(
        "--split", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"),
        help="subjects as fractions that sum to 1, or as whole numbers (subjects beyond their sum are left out); "
        f"without it, what the tables say, else {' '.join(map(str, splits.DEFAULT_SPLIT))}",
    )  # fmt: skip
    parser.add_argument(
        "--split-by", choices=("subject", "site"), default="subject",
        help="what is divided: subjects, of each site its share, or whole sites (the column site of the tables)",
    )  # fmt: skip
    parser.add_argument(
        "--split-file", metavar="FILE",
        help=f"divide as this table says: RECORDS/{workspace.SPLIT_FILE} of an earlier data set of the same key, or "
        f"your own with the columns subject and split ({', '.join(SPLITS)} or {splits.LEFT_OUT})",
    )  # fmt: skip
    parser.add_argument(
        "--disjoint",
        action="store_true",
        help="each training subject gives its scans to one domain only: for experiments on subjects who have both, "
        "half of whose training scans are left out",
    )
    for domain in DOMAINS:
        parser.add_argument(
            f"--scaling-{domain}", metavar="KIND:LOW,HIGH",
            help=f"intensities of domain {domain} that become -1 and 1: percentile:LOW,HIGH of the whole volume, which "
            f"cuts off what lies beyond; soft_percentile:LOW,HIGH, such as {intensity.UNCUT_MR_SCALING}, which cuts "
            f"off no signal; or window_hu:LOW,HIGH. Without it, {intensity.CT_SCALING} for the name ct, else "
            f"{intensity.MR_SCALING}",
        )  # fmt: skip
    parser.add_argument("--n4", action="store_true", help="correct the bias field of MR scans (N4; seconds for a scan)")
    parser.add_argument(
        "--side", choices=SIDES,
        help="mirror scans of the other side, so that all show this one; a table's column side, the BIDS entity hemi-L "
        "or hemi-R, or Laterality in the JSON file beside a scan says which side it shows",
    )  # fmt: skip
    parser.add_argument(
        "--crop-body", type=float, metavar="MM", dest="crop_body_mm", help="crop to the body and this margin around it"
    )
    parser.add_argument(
        "--exclude", metavar="FILE", help="scans to leave out: their ids, one a line, as `data_prep qc` writes them"
    )
    parser.add_argument("--volume", type=int, metavar="N", help="which volume of 4-D files to take, from 0")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; without it, one for each CPU")
    parser.add_argument("--runner", metavar="NAME", default="DirectRunner", help="a runner of Apache Beam")
    parser.add_argument(
        "runner_options", nargs="*", metavar="RUNNER_OPTION",
        help="after --: options of Beam and its runner, such as -- --job_endpoint=HOST:8099",
    )  # fmt: skip
    parser.add_argument(
        "--key-file", metavar="FILE",
        help="the secret key of the pseudonyms, made when it is missing; keep it outside the data set; without it, "
        f"${pseudonyms.KEY_VARIABLE} or {pseudonyms.DEFAULT_KEY_FILE}",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    options = vars(args).copy()
    for domain in DOMAINS:
        options[domain] = _name_and_path(domain, options[domain])
    info = build(**options)
    for split in SPLITS:
        counts = {d: _records_in(info, split, d) for d in DOMAINS}
        names = ", ".join(f"{counts[d]} {info['domains'][d]['name']}" for d in DOMAINS)
        log.info("%-5s %s", split, names)
    log.info("%s is complete, %d scans failed", args.out, len(info["failed"]))
    return SOME_FAILED if info["failed"] else DONE


def build(
    a: tuple[str, str | os.PathLike],
    b: tuple[str, str | os.PathLike],
    out: str | os.PathLike,
    *,
    spacing_mm: Sequence[float] | None = None,
    shape: Sequence[int] | None = None,
    split: Sequence[float] | None = None,
    split_by: str = "subject",
    split_file: str | os.PathLike | None = None,
    disjoint: bool = False,
    scaling_a: str | None = None,
    scaling_b: str | None = None,
    n4: bool = False,
    side: str | None = None,
    crop_body_mm: float | None = None,
    exclude: str | os.PathLike | None = None,
    volume: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    runner: str = "DirectRunner",
    runner_options: Sequence[str] = (),
    key_file: str | os.PathLike | None = None,
    overwrite: bool = False,
    layout: str | None = None,
    subject: str | None = None,
) -> dict:
    """Turn the scans of two domains into TFRecords, split by subject or by site.

    A second call with the same arguments does only what is missing or has changed; so does one after a call that was
    killed. A scan that fails is reported and does not stop the others.

    Args:
        a: name and scans of domain a, such as ("ciss", "scans/ciss"); see `scans.find` for what the path may be.
        b: the same for domain b. A subject of the same name in both is the same person.
        out: the folder to write. It must not hold anything but a data set that a call with the same arguments made,
            or with `overwrite` any data set.
        spacing_mm: working voxel size (depth, height, width) along right, superior, anterior; None: the median of
            all scans.
        shape: voxels (depth, height, width) to crop or pad to; None: every scan keeps its extent.
        split: TRAIN VAL TEST, see `splits.assign`; None: what the tables say, else `splits.DEFAULT_SPLIT`.
        split_by: "subject", of each site its share, or "site", see `splits.assign_sites`.
        split_file: divide as this table says instead, see `splits.read_file`; its subjects are the user's names or
            pseudonyms of the same key.
        disjoint: each training subject gives its scans to one domain only; validation and test keep both.
        scaling_a: see `intensity.measure`; None: a fixed HU window for a domain named "ct", else percentiles.
        scaling_b: the same for domain b.
        n4: see `preprocessing.Options`, as the next two.
        side: "left" or "right".
        crop_body_mm: a margin.
        exclude: a file with the ids of scans to leave out, see `qc.read_ids`.
        volume: which volume of 4-D files to take, from 0; None refuses them.
        seed: of the split. The same seed gives the same records, but for the pseudonyms, whose key is secret.
        workers: processes; None: one for each CPU.
        runner: a runner of Apache Beam by name. DirectRunner is Beam's FnApiRunner, with one process for each worker.
        runner_options: options of Beam and of the runner, as on a command line.
        key_file: the key of the pseudonyms; None: see `pseudonyms.key_file`.
        overwrite: replace an existing data set.
        layout: the public data set that both paths are of, see `layouts`; None: see `scans.find`.
        subject: a regular expression that finds the subject in a path, see `scans.find`; None: see `persons`.

    Returns:
        What RECORDS/dataset.json says. "failed" lists the scans that could not be used, which are logged by name.

    Raises:
        InputError: an argument is not allowed, a domain is left without a training scan, or the same voxels stand in
            two splits or in both domains; `out` is left as it was then.
    """
    # every argument but those that change no byte of the data set
    request = {k: v for k, v in locals().items() if k not in ("out", *ONLY_HOW)}
    if subject is None:
        del request["subject"]  # so that a data set of a version that did not know it is brought up to date
    out = Path(out)
    names = _checked_names(a[0], b[0])
    scalings = {
        d: given or (intensity.CT_SCALING if names[d].lower() == "ct" else intensity.MR_SCALING)
        for d, given in (("a", scaling_a), ("b", scaling_b))
    }
    for scaling in scalings.values():
        intensity.parse(scaling)
    options = Options(n4, side, crop_body_mm)
    if split is not None:
        split = splits.parse(split)
    workers = _cpus() if workers is None else workers
    if workers < 1:
        raise InputError(f"--workers is {workers}; at least 1 is needed.")
    if volume is not None and volume < 0:
        raise InputError(f"--volume is {volume}; volumes are counted from 0.")
    beam_runner = graph.find_runner(runner, runner_options)
    _check_output(out)
    key = _key(pseudonyms.key_file(key_file), out)
    request |= {"a": (names["a"], os.path.abspath(a[1])), "b": (names["b"], os.path.abspath(b[1]))}
    request = pseudonyms.digest(key, json.dumps(request, sort_keys=True, default=str))
    before = _before(out, request, overwrite)
    found = {d: _find(names[d], path, layout, subject) for d, path in (("a", a[1]), ("b", b[1]))}
    found = persons.settled(found, names, {"a": a[1], "b": b[1]})

    sources, failed = _read_headers(found, names, key, volume)
    excluded = qc.exclude(sources, exclude)
    spacing_mm = _working_spacing(sources, spacing_mm)
    shape = _checked_shape(sources, spacing_mm, shape)
    _warn_of_cropping(sources, spacing_mm, shape)
    places, sites = _divide(
        found, sources, key, split=split, split_by=split_by, split_file=split_file, disjoint=disjoint, seed=seed
    )
    chosen = _chosen(sources, places, names, seed)
    content_key = pseudonyms.digest(key, "content")
    how = {"names": names, "scalings": scalings, "spacing_mm": spacing_mm, "shape": shape, "options": options}
    tasks = _plan(chosen, seed, content_key, **how)
    tasks = {workspace.fingerprint(key, task): task for task in tasks}
    settings = {
        "schema_version": records.SCHEMA_VERSION,
        "cyclescan_version": cyclescan.__version__,
        "request": request,
        "seed": seed,
        "disjoint": disjoint,
        "split_by": split_by,
        "axes": list(CANONICAL_AXES),
        "spacing_mm": list(spacing_mm),
        "shape": None if shape is None else list(shape),
        **({"excluded": excluded} if excluded else {}),
        "notice": cyclescan.NOTICE,
    }
    with workspace.opened(out) as folder:
        written = _write(tasks, folder, before, beam_runner, workers, runner_options)
        failed += _failures(written)
        _check_leaks(written)
        domains = {d: _domain(names[d], scalings[d], options, written, d) for d in DOMAINS}
        qc.add_guards(domains, written)
        divided = {s: {d: _identities(written, s, d) for d in DOMAINS} for s in SPLITS}
        shards = _name_shards(written)
        stated = {name: {"fingerprint": o["fingerprint"]} | _stated(o) for name, o in shards.items()}
        all_there = before is not None and {o["fingerprint"] for o in shards.values()} <= set(before.shards)
        info = settings | {"domains": domains, "splits": divided, "shards": stated, "failed": failed}
        if not all_there or info != before.info:
            files = {name: _file(o["fingerprint"], folder, before) for name, o in shards.items()}
            with workspace.publishing(out, info, files, before) as new:
                _write_split_file(new / workspace.SPLIT_FILE, places, sites, key)
    return info


def _find(name: str, path: str | os.PathLike, layout: str | None, subject: str | None) -> list[scans.Scan]:
    if layout and subject:
        raise InputError(f"The layout {layout} knows its subjects; --subject is for folders without one.")
    if layout:
        return layouts.find(layout, name, path)
    found = scans.find(path, persons.pattern(subject))
    layouts.warn_of(found, path)
    return found


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name_and_path(domain: str, text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"--{domain} is {text!r}; it must be NAME=PATH, for instance ciss=scans/ciss.")
    return name, path


def _checked_names(a: str, b: str) -> dict[str, str]:
    for name in (a, b):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise InputError(f"The domain name {name!r} is not allowed; use letters, digits, '.', '-' and '_'.")
    if a == b:
        raise InputError(f"Both domains are named {a!r}; they need different names.")
    return {"a": a, "b": b}


def _check_output(out: Path) -> None:
    """Refuse what must not be replaced, before any work is done."""
    make_folder(out.parent)
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a folder.")
    if not (out / workspace.DATASET).exists() and any(out.iterdir()):
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


def _read_headers(
    found: dict[str, list[scans.Scan]], names: dict[str, str], key: bytes, index: int | None
) -> tuple[dict[str, list[Source]], list[dict]]:
    """The scans with a sound header, and an entry of dataset.json for each of the others."""
    sources, failed = {}, []
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
            except InputError as error:
                failed.append(_failure(names[domain], identity, scan, str(error)))
                last = str(error)
            else:
                shape, affine = grid
                spacing_mm = geometry.spacing_of(affine)
                own = pseudonyms.scan_pseudonym(key, scan.subject, names[domain], os.path.relpath(path, root))
                about = (path, scan.subject, identity, own, scan.side, wanted, scan.series, _stamp(scan))
                sources[domain].append(Source(*about, shape, spacing_mm))
                doubts += [f"{path} {doubt}"] if doubt else []
        if doubts:
            more = f" (one of {len(doubts)} scans of {names[domain]} whose place is in doubt)" if doubts[1:] else ""
            log.warning("%s%s.", doubts[0], more)
        if not sources[domain]:
            raise InputError(f"No scan of {names[domain]} can be used; the last of {len(listed)}: {last}")
    return sources, failed


def _stamp(scan: scans.Readable) -> str:
    """Changes when a file of the scan does."""
    seen = hashlib.sha256()
    for file in scans.files(scan):
        status = os.stat(file)
        seen.update(f"{status.st_size} {status.st_mtime_ns} ".encode())
    return seen.hexdigest()


def _failure(domain_name: str, identity: str, scan: scans.Readable, reason: str) -> dict:
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


def _working_spacing(sources: dict[str, list[Source]], given: Sequence[float] | None) -> tuple[float, float, float]:
    every = [s for each in sources.values() for s in each]
    if given is None:
        # six digits: a header's float32 has no more
        return tuple(float(f"{statistics.median(s.spacing_mm[axis] for s in every):.6g}") for axis in range(3))
    spacing_mm = tuple(float(v) for v in given)
    if len(spacing_mm) != 3 or not all(math.isfinite(v) and v > 0 for v in spacing_mm):
        raise InputError(f"The spacing {_numbers(spacing_mm)} mm is not allowed; it must be three positive numbers.")
    return spacing_mm


def _extent(source: Source, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """The number of voxels of a scan at the working spacing."""
    return tuple(round(n * s / w) for n, s, w in zip(source.shape, source.spacing_mm, spacing_mm, strict=True))


def _checked_shape(
    sources: dict[str, list[Source]], spacing_mm: Sequence[float], shape: Sequence[int] | None
) -> tuple[int, int, int] | None:
    """Refuse a working grid that the scans cannot fill or that no memory holds."""
    extents = [_extent(s, spacing_mm) for each in sources.values() for s in each]
    largest = [max(axis) for axis in zip(*extents, strict=True)]
    if min(largest) < 1:
        axis = largest.index(min(largest))
        raise InputError(
            f"The spacing of {spacing_mm[axis]:g} mm along {AXES[axis]} is larger than any scan; allowed is less."
        )
    voxels = max(map(math.prod, extents))
    if voxels > MAX_VOXELS:
        raise InputError(
            f"The spacing {_numbers(spacing_mm)} mm gives a scan {voxels} voxels; at most {MAX_VOXELS} are allowed."
        )
    if shape is None:
        return None
    if len(shape) != 3 or not all(float(n).is_integer() and n >= 1 for n in shape):
        raise InputError(f"The shape {_numbers(shape)} is not allowed; it must be three positive whole numbers.")
    for axis, n in enumerate(shape):
        if n > LARGEST_PAD * largest[axis]:
            raise InputError(
                f"The shape {_numbers(shape)} is not reachable: along {AXES[axis]} the largest scan has "
                f"{largest[axis]} voxels of {spacing_mm[axis]:g} mm, and at most {LARGEST_PAD * largest[axis]} are "
                "allowed."
            )
    return tuple(int(n) for n in shape)


def _warn_of_cropping(
    sources: dict[str, list[Source]], spacing_mm: Sequence[float], shape: Sequence[int] | None
) -> None:
    """Say how much of the scans a shape keeps, where it is less than `MUCH` of them along an axis."""
    if shape is None:
        return
    every = [s for each in sources.values() for s in each]
    extent = [statistics.median(s.shape[axis] * s.spacing_mm[axis] for s in every) for axis in range(3)]
    kept = [n * w for n, w in zip(shape, spacing_mm, strict=True)]
    if any(k < MUCH * e for k, e in zip(kept, extent, strict=True)):
        log.warning(
            "--shape %s keeps the middle %s mm of scans of %s mm (median); --spacing-mm, now %s, decides how much "
            "of a scan that is.",
            *(" x ".join(f"{v:.3g}" for v in values) for values in (shape, kept, extent, spacing_mm)),
        )


def _divide(
    found: dict[str, list[scans.Scan]],
    sources: dict[str, list[Source]],
    key: bytes,
    *,
    split: Sequence[float] | None,
    split_by: str,
    split_file: str | os.PathLike | None,
    disjoint: bool,
    seed: int,
) -> tuple[dict[str, splits.Place], dict[str, str]]:
    """The place of every subject, and its site where one is stated."""
    subjects = {d: {s.subject for s in sources[d]} for d in DOMAINS}
    every = subjects["a"] | subjects["b"]
    sites = _sites([scan for d in DOMAINS for scan in found[d] if scan.subject in every])
    stated = _stated_splits([scan for d in DOMAINS for scan in found[d]])
    ways = {"a table states splits": stated, "--split-file is given": split_file is not None}
    ways |= {"--split is given": split is not None, "--split-by is site": split_by == "site"}
    if len(given := [way for way, used in ways.items() if used]) > 1 and given[0] != "--split is given":
        raise InputError(f"The split is stated twice: {given[0]} and {given[1]}; only one of the two is allowed.")
    if split_file is not None:
        listed = splits.read_file(split_file)
        by_pseudonym = {s: listed.get(s) or listed.get(pseudonyms.pseudonym(key, s)) for s in every}
        if missing := sorted(s for s in every if by_pseudonym[s] is None):
            raise InputError(
                f"The split file {split_file} does not list the subject {missing[0]}, nor its pseudonym of this key "
                f"({len(missing)} of {len(every)} are missing); all need a row."
            )
        places = by_pseudonym
    elif stated:
        if missing := sorted(every - set(stated)):
            raise InputError(f"The tables state splits, but none for the subject {missing[0]}; all need one.")
        places = {s: splits.Place(stated[s]) for s in every}
    else:
        if split_by == "site":
            assigned = splits.assign_sites(_one_site_each(every, sites), split or splits.DEFAULT_SPLIT, seed)
        else:
            joined = {subject: ", ".join(sorted(names)) for subject, names in sites.items()}
            assigned = splits.assign(subjects, split or splits.DEFAULT_SPLIT, seed, joined)
        places = {s: splits.Place(assigned.get(s)) for s in every}
    if disjoint:
        free = {d: {s for s in subjects[d] if places[s].only_domain in (None, d)} for d in DOMAINS}
        only = splits.disjoint(free, {s: place.split for s, place in places.items()}, seed)
        places |= {s: splits.Place("train", domain) for s, domain in only.items()}
    return places, {subject: ", ".join(sorted(names)) for subject, names in sites.items()}


def _chosen(
    sources: dict[str, list[Source]], places: dict[str, splits.Place], names: dict[str, str], seed: int
) -> dict[tuple[str, str], list[Source]]:
    """The scans of each (split, domain), in an order that depends on the seed and the subjects' names alone."""
    number = {subject: i for i, subject in enumerate(splits.shuffled(places, seed))}
    chosen = {(s, d): [] for s in SPLITS for d in DOMAINS}
    for domain in DOMAINS:
        for source in sorted(sources[domain], key=lambda s: number[s.subject]):
            place = places[source.subject]
            if place.split and place.only_domain in (None, domain):
                chosen[place.split, domain].append(source)
        if not chosen["train", domain]:
            raise InputError(
                f"The domain {names[domain]} has no training scan: of its {len({s.subject for s in sources[domain]})} "
                "subjects none is in the training split; more subjects or a larger TRAIN in --split are needed."
            )
    return chosen


def _sites(listed: list[scans.Scan]) -> dict[str, set[str]]:
    """The sites at which each subject was scanned, of those for which one is stated."""
    sites = collections.defaultdict(set)
    for scan in listed:
        if scan.site:
            sites[scan.subject].add(scan.site)
    return dict(sites)


def _one_site_each(subjects: set[str], sites: dict[str, set[str]]) -> dict[str, str]:
    for subject in sorted(subjects):
        found = sorted(sites.get(subject, ()))
        if len(found) != 1:
            has = f"is of the sites {', '.join(found)}" if found else "has no site"
            raise InputError(f"The subject {subject} {has}; --split-by site needs one site for each subject.")
    return {subject: site for subject in subjects for site in sites[subject]}


def _stated_splits(listed: list[scans.Scan]) -> dict[str, str]:
    stated: dict[str, str] = {}
    for scan in listed:
        if scan.split and stated.setdefault(scan.subject, scan.split) != scan.split:
            raise InputError(
                f"The subject {scan.subject} is in two splits, {stated[scan.subject]} and {scan.split}; one is allowed."
            )
    return stated


def _plan(
    chosen: dict[tuple[str, str], list[Source]],
    seed: int,
    content_key: str,
    *,
    names: dict[str, str],
    scalings: dict[str, str],
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, int, int] | None,
    options: Options,
) -> list[Task]:
    """Divide each (split, domain) into shards.

    A subject's shard is given by the first bits of its own hash, the one by which subjects are shuffled, and the
    number of shards is a power of two: a scan that comes or goes changes one shard, not all that follow it.
    """
    tasks = []
    for (split, domain), each in chosen.items():
        size = sum(BYTES_PER_VOXEL * math.prod(shape or _extent(s, spacing_mm)) for s in each)
        bits = max(1, round(size / SHARD_BYTES), round(len(each) / SHARD_SCANS)).bit_length() - 1
        parts = collections.defaultdict(list)
        for source in each:
            parts[splits.position(source.subject, seed) >> (32 - bits)].append(source)
        for _, part in sorted(parts.items()):
            how = (scalings[domain], spacing_mm, shape, options.for_scaling(scalings[domain]), content_key)
            tasks.append(Task(split, domain, names[domain], tuple(part), *how))
    return tasks


def _write(
    tasks: dict[str, Task],
    folder: Path,
    before: workspace.Previous | None,
    runner,
    workers: int,
    runner_options: Sequence[str],
) -> list[tuple[Task, dict]]:
    """Write the shards that are not there yet; returns each task, in order, with what `write_shard` returned for it."""
    outcomes = {name: _kept(task, name, folder, before) for name, task in tasks.items()}
    todo = [(name, str(folder.absolute()), task) for name, task in tasks.items() if outcomes[name] is None]
    if todo:
        # the largest first: the workers end at about the same time
        todo.sort(key=lambda job: -sum(math.prod(source.shape) for source in job[2].sources))
        total = sum(len(task.sources) for _, _, task in todo)
        for outcome in graph.run(
            write_shard, todo, folder, runner, workers=workers, options=runner_options, total=total
        ):
            if outcome["unwritable"]:
                raise InputError(outcome["unwritable"])
            outcomes[outcome["fingerprint"]] = outcome
    return [(task, outcomes[name]) for name, task in tasks.items()]


def _kept(task: Task, name: str, folder: Path, before: workspace.Previous | None) -> dict | None:
    """What `write_shard` returned for this task in an earlier run, when its shard is still there and no scan failed."""
    facts = (before.facts(name) if before else None) or workspace.done(folder, name)
    if facts is None or facts["records"] < len(task.sources):
        return None
    return {"fingerprint": name, "failed": []} | _stated(facts)


def _stated(facts: dict) -> dict:
    """What the data set says about a shard."""
    return {key: facts[key] for key in ("records", "bytes", "sha256", "scans")}


def _file(name: str, folder: Path, before: workspace.Previous | None) -> Path:
    """Where the shard of a fingerprint is."""
    return before.shards[name] if before and name in before.shards else folder / (name + workspace.SHARD)


def write_shard(job: tuple[str, str, Task]) -> dict:
    """Read, prepare and write the scans of one shard, one after the other; the work of a Beam worker.

    A scan that fails is reported and does not stop the others. A shard without records is not written.

    Args:
        job: the shard's fingerprint, the working folder, and the task.

    Returns:
        Plain facts: fingerprint, records, bytes, sha256, scans (of each record in order: scan, subject, content, the
        intensities low and high that became -1 and 1, and measures, see `guard.measure`), failed ((path, reason) of
        each), unwritable (why the file could not be written, or None).
    """
    name, folder, task = job
    shard = Path(folder) / (name + workspace.SHARD)
    facts = {"fingerprint": name, "failed": [], "unwritable": None}
    facts |= {"records": 0, "bytes": 0, "sha256": "", "scans": []}

    def prepared() -> Iterator[records.Record]:
        for source in task.sources:
            try:
                raw = scans.read(source, source.index)
                if source.side:
                    raw = dataclasses.replace(raw, meta=raw.meta | {"side": source.side})
                content = pseudonyms.content(task.content_key, geometry.to_canonical(raw)[0].array)
                scan, steps = prepare(raw, task.scaling, task.spacing_mm, task.shape, task.options)
            except InputError as error:
                facts["failed"].append((source.path, str(error)))
            else:
                (limits,) = (r for r in steps if r["step"] == "intensity")
                about = {"scan": source.scan, "subject": source.identity, "content": content}
                about |= {"low": limits["low"], "high": limits["high"], "measures": guard.measure(raw, steps)}
                facts["scans"].append(about)
                names = (task.domain, task.domain_name, source.identity)
                yield records.Record(scan.array, scan.affine, *names, steps, mask=body.mask(scan.array))
            with open(shard.with_name(graph.COUNTER), "ab") as stream:
                stream.write(b".")

    try:
        # one thread: the workers share the processors, and sums must not depend on how many there are
        with threadpool_limits(1):
            records.write_shard(shard, prepared())
        if not facts["scans"]:
            os.unlink(shard)
            return facts
        facts |= {"records": len(facts["scans"]), "bytes": os.path.getsize(shard), "sha256": sha256(shard)}
        workspace.save_facts(shard, facts)
    except InputError as error:
        facts["unwritable"] = str(error)
    return facts


def _failures(written: list[tuple[Task, dict]]) -> list[dict]:
    failed = []
    for task, outcome in written:
        by_path = {source.path: source for source in task.sources}
        for path, reason in outcome["failed"]:
            failed.append(_failure(task.domain_name, by_path[path].identity, by_path[path], reason))
    return failed


def _check_leaks(written: list[tuple[Task, dict]]) -> None:
    """Refuse a scan that stands in two splits or in both domains under whatever name; warn of one that is twice."""
    seen: dict[str, tuple[Task, Source]] = {}
    for task, outcome in written:
        failed = {path for path, _ in outcome["failed"]}
        for source, about in zip((s for s in task.sources if s.path not in failed), outcome["scans"], strict=True):
            other, twin = seen.setdefault(about["content"], (task, source))
            if twin is source:
                continue
            both = f"{twin.path} and {source.path} hold the same voxels"
            if other.domain != task.domain:
                raise InputError(f"{both}, as {other.domain_name} and as {task.domain_name}; a scan is of one domain.")
            if other.split != task.split:
                raise InputError(
                    f"{both}, as the subject {twin.subject} in {other.split} and {source.subject} in {task.split}; "
                    "a person may be in one split only: give both the same subject in a table, or take one away."
                )
            log.warning("%s; both are in %s.", both, task.split)


def _domain(name: str, scaling: str, options: Options, written: list[tuple[Task, dict]], domain: str) -> dict:
    training = [outcome for task, outcome in written if (task.split, task.domain) == ("train", domain)]
    limits = [(about["low"], about["high"]) for outcome in training for about in outcome["scans"]]
    if not limits:
        reasons = [reason for task, o in written for _, reason in o["failed"] if task.domain == domain]
        raise InputError(f"No training scan of {name} can be used; the last of {len(reasons)}: {reasons[-1]}")
    low, high = (float(v) for v in np.median(limits, axis=0))
    stated = options.for_scaling(scaling).to_dict()
    return {
        "name": name,
        "scaling": scaling,
        "intensity": {"step": "intensity", "scaling": scaling, "low": low, "high": high},
        **({"preprocessing": stated} if stated else {}),
    }


def _identities(written: list[tuple[Task, dict]], split: str, domain: str) -> list[str]:
    outcomes = [outcome for task, outcome in written if (task.split, task.domain) == (split, domain)]
    return list(dict.fromkeys(about["subject"] for outcome in outcomes for about in outcome["scans"]))


def _name_shards(written: list[tuple[Task, dict]]) -> dict[str, dict]:
    """The names of the shards that hold records, now that their number is known, and the outcome of each."""
    names = {}
    for split in SPLITS:
        for domain in DOMAINS:
            of_both = [o for task, o in written if (task.split, task.domain) == (split, domain) and o["records"]]
            for i, outcome in enumerate(of_both):
                names[f"{split}/{domain}-{i:05d}-of-{len(of_both):05d}.tfrecord"] = outcome
    return names


def _write_split_file(path: Path, places: dict[str, splits.Place], sites: dict[str, str], key: bytes) -> None:
    """Write the division so that --split-file can read it again, without the names of people and places."""
    subjects = {subject: pseudonyms.pseudonym(key, subject) for subject in places}
    of_subject = {subjects[s]: pseudonyms.pseudonym(key, f"site {site}") for s, site in sites.items()}
    splits.write_file(path, {subjects[s]: place for s, place in places.items()}, of_subject)


def _records_in(info: dict, split: str, domain: str) -> int:
    return sum(s["records"] for name, s in info["shards"].items() if name.startswith(f"{split}/{domain}-"))


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
