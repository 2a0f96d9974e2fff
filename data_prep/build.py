"""Two folders of scans to one data set of TFRecords.

Everything that can be known from names and headers is settled before Apache Beam starts: which scans are sound, the
working grid, the split, and which scans make up which shard. A task of the Beam graph is one shard, whose scans are
read, prepared and written one after the other: a worker holds one volume at a time, and the bytes do not depend on the
number of workers. The whole folder is built under a temporary name and renamed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import os
import re
import shlex
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import cyclescan
from cyclescan import records
from cyclescan.command import DONE, SOME_FAILED, progress
from cyclescan.dicom.series import Series
from cyclescan.errors import InputError
from cyclescan.files import make_folder, replacing, sha256, write_json
from cyclescan.preprocessing import geometry, intensity, prepare
from cyclescan.volume import CANONICAL_AXES, MAX_VOXELS
from data_prep import layouts, pseudonyms, scans, splits
from data_prep.splits import DOMAINS, SPLITS

log = logging.getLogger(__name__)

DATASET = "dataset.json"
SHARD_BYTES = 256 * 2**20
SHARD_SCANS = 8  # enough shards for all workers where scans are small; a constant, so that workers change no byte
BYTES_PER_VOXEL = 2
LARGEST_PAD = 2  # --shape may be this many times the largest scan
AXES = ("depth", "height", "width")


@dataclasses.dataclass(frozen=True)
class Source:
    """A scan whose header is sound.

    Attributes:
        path: absolute.
        subject: the user's name for the person.
        identity: its pseudonym, the only name that is written.
        index: which volume of a 4-D series; None for a 3-D file.
        series: the DICOM series, None for other files.
        shape: number of voxels along the canonical axes.
        spacing_mm: along the canonical axes.
    """

    path: str
    subject: str
    identity: str
    index: int | None
    series: Series | None
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard to be written: its file, its scans in order, and how they are prepared."""

    path: str
    split: str
    domain: str
    domain_name: str
    sources: tuple[Source, ...]
    scaling: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int] | None
    counter: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    path_help = (
        "name and scans of domain {}: a folder searched recursively for .nii and .nii.gz, or for DICOM series where "
        "there are none; a .csv or .tsv table with the columns subject, path and if wanted split and site; or one "
        "file. PATH#KEYWORD~REGEX&KEYWORD=VALUE chooses among DICOM series, see `python -m data_prep scans PATH`"
    )
    for domain in DOMAINS:
        parser.add_argument(f"--{domain}", metavar="NAME=PATH", required=True, help=path_help.format(domain))
    parser.add_argument(
        "--layout", metavar="NAME", choices=list(layouts.LAYOUTS),
        help="both paths are of an unpacked public data set, of which the domain's name chooses the scans, as in "
        f"--a t1=DIR --b t2=DIR --layout ixi; {', '.join(layouts.LAYOUTS)}",
    )  # fmt: skip
    parser.add_argument("--out", metavar="RECORDS", required=True, help="folder to write: shards and dataset.json")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that is there")
    parser.add_argument(
        "--spacing-mm", type=float, nargs=3, metavar=("Z", "Y", "X"),
        help="working voxel size along right, superior, anterior; without it, the median of all scans",
    )  # fmt: skip
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar=("D", "H", "W"),
        help="crop or pad every scan to this many voxels; without it, every scan keeps its extent",
    )  # fmt: skip
    parser.add_argument(
        "--split", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"),
        help="subjects as fractions that sum to 1, or as whole numbers (subjects beyond their sum are left out); "
        f"without it, what the tables say, else {' '.join(map(str, splits.DEFAULT_SPLIT))}",
    )  # fmt: skip
    parser.add_argument(
        "--disjoint", action="store_true", help="each training subject gives its scans to one domain only"
    )
    for domain in DOMAINS:
        parser.add_argument(
            f"--scaling-{domain}", metavar="KIND:LOW,HIGH",
            help=f"intensities of domain {domain} that become -1 and 1: percentile:LOW,HIGH of the whole volume or "
            f"window_hu:LOW,HIGH; without it, {intensity.CT_SCALING} for the name ct, else {intensity.MR_SCALING}",
        )  # fmt: skip
    parser.add_argument("--volume", type=int, metavar="N", help="which volume of 4-D files to take, from 0")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; without it, one for each CPU")
    parser.add_argument("--runner", metavar="NAME", default="DirectRunner", help="a runner of Apache Beam")
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
    log.info("%s written, %d scans failed", args.out, len(info["failed"]))
    return SOME_FAILED if info["failed"] else DONE


def build(
    a: tuple[str, str | os.PathLike],
    b: tuple[str, str | os.PathLike],
    out: str | os.PathLike,
    *,
    spacing_mm: Sequence[float] | None = None,
    shape: Sequence[int] | None = None,
    split: Sequence[float] | None = None,
    disjoint: bool = False,
    scaling_a: str | None = None,
    scaling_b: str | None = None,
    volume: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    runner: str = "DirectRunner",
    key_file: str | os.PathLike | None = None,
    overwrite: bool = False,
    layout: str | None = None,
) -> dict:
    """Turn the scans of two domains into TFRecords, split by subject.

    Args:
        a: name and scans of domain a, such as ("ciss", "scans/ciss"); see `scans.find` for what the path may be.
        b: the same for domain b. A subject of the same name in both is the same person.
        out: the folder to write. It must not hold anything, unless `overwrite` and it is a data set.
        spacing_mm: working voxel size (depth, height, width) along right, superior, anterior; None: the median of
            all scans.
        shape: voxels (depth, height, width) to crop or pad to; None: every scan keeps its extent.
        split: TRAIN VAL TEST, see `splits.assign`; None: what the tables say, else `splits.DEFAULT_SPLIT`.
        disjoint: each training subject gives its scans to one domain only; validation and test keep both.
        scaling_a: see `intensity.measure`; None: a fixed HU window for a domain named "ct", else percentiles.
        scaling_b: the same for domain b.
        volume: which volume of 4-D files to take, from 0; None refuses them.
        seed: of the split. The same seed gives the same bytes, but for the pseudonyms, whose key is secret.
        workers: processes; None: one for each CPU.
        runner: a runner of Apache Beam by name. DirectRunner is Beam's FnApiRunner, with one process for each worker.
        key_file: the key of the pseudonyms; None: see `pseudonyms.key_file`.
        overwrite: replace an existing data set.
        layout: the public data set that both paths are of, see `layouts`; None: see `scans.find`.

    Returns:
        What RECORDS/dataset.json says. "failed" lists the scans that could not be used, which are logged by name.

    Raises:
        InputError: an argument is not allowed, or a domain is left without a training scan; nothing is written then.
    """
    out = Path(out)
    names = _checked_names(a[0], b[0])
    scalings = {
        d: given or (intensity.CT_SCALING if names[d].lower() == "ct" else intensity.MR_SCALING)
        for d, given in (("a", scaling_a), ("b", scaling_b))
    }
    for scaling in scalings.values():
        intensity.parse(scaling)
    if split is not None:
        split = splits.parse(split)
    workers = _cpus() if workers is None else workers
    if workers < 1:
        raise InputError(f"--workers is {workers}; at least 1 is needed.")
    if volume is not None and volume < 0:
        raise InputError(f"--volume is {volume}; volumes are counted from 0.")
    beam_runner = _beam_runner(runner)
    _check_output(out, overwrite)
    found = {d: _find(names[d], path, layout) for d, path in (("a", a[1]), ("b", b[1]))}
    key = _key(pseudonyms.key_file(key_file), out)

    sources, failed = _read_headers(found, names, key, volume)
    spacing_mm = _working_spacing(sources, spacing_mm)
    shape = _checked_shape(sources, spacing_mm, shape)
    chosen = _divide(found, sources, names, split=split, disjoint=disjoint, seed=seed)
    with replacing(out) as folder:
        for name in SPLITS:
            make_folder(folder / name)
        tasks = _plan(chosen, folder, names=names, scalings=scalings, spacing_mm=spacing_mm, shape=shape)
        outcomes = _run_graph(tasks, folder, beam_runner, workers)
        by_path = {s.path: s for each in sources.values() for s in each}
        for domain, path, reason in (f for outcome in outcomes for f in outcome["failed"]):
            failed.append(_failure(names[domain], by_path[path].identity, by_path[path], reason))
        info = {
            "schema_version": records.SCHEMA_VERSION,
            "cyclescan_version": cyclescan.__version__,
            "seed": seed,
            "disjoint": disjoint,
            "axes": list(CANONICAL_AXES),
            "spacing_mm": list(spacing_mm),
            "shape": None if shape is None else list(shape),
            "domains": {d: _domain(names[d], scalings[d], outcomes, d) for d in DOMAINS},
            "splits": {s: {d: _identities(outcomes, s, d) for d in DOMAINS} for s in SPLITS},
            "shards": _name_shards(outcomes, folder),
            "failed": failed,
            "notice": cyclescan.NOTICE,
        }
        write_json(folder / DATASET, info)
    return info


def _find(name: str, path: str | os.PathLike, layout: str | None) -> list[scans.Scan]:
    if layout:
        return layouts.find(layout, name, path)
    found = scans.find(path)
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


def _check_output(out: Path, overwrite: bool) -> None:
    """Refuse what must not be replaced, before any work is done."""
    make_folder(out.parent)
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a folder.")
    if (out / DATASET).exists():
        if not overwrite:
            raise InputError(f"{out} already holds a data set; give --overwrite to replace it, or another --out.")
    elif any(out.iterdir()):
        raise InputError(f"{out} holds files that are no data set; give another --out.")


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
        sources[domain] = []
        for each in progress(listed, desc=f"headers of {names[domain]}", unit="scan", leave=False):
            path = os.path.abspath(each.path)
            scan = dataclasses.replace(each, path=Path(path))
            identity = pseudonyms.pseudonym(key, scan.subject)
            try:
                # --volume is about 4-D files; 3-D files beside them are taken as they are
                wanted = index if index is not None and scans.count(scan) > 1 else None
                grid = geometry.canonical_grid(*scans.read_header(scan, wanted))
            except InputError as error:
                failed.append(_failure(names[domain], identity, scan, str(error)))
                last = str(error)
            else:
                shape, affine = grid
                spacing_mm = geometry.spacing_of(affine)
                sources[domain].append(Source(path, scan.subject, identity, wanted, scan.series, shape, spacing_mm))
        if not sources[domain]:
            raise InputError(f"No scan of {names[domain]} can be used; the last of {len(listed)}: {last}")
    return sources, failed


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


def _divide(
    found: dict[str, list[scans.Scan]],
    sources: dict[str, list[Source]],
    names: dict[str, str],
    *,
    split: Sequence[float] | None,
    disjoint: bool,
    seed: int,
) -> dict[tuple[str, str], list[Source]]:
    """The scans of each (split, domain), in an order that depends on the seed and the subjects' names alone."""
    subjects = {d: {s.subject for s in sources[d]} for d in DOMAINS}
    stated = _stated_splits([scan for d in DOMAINS for scan in found[d]])
    if not stated:
        assigned = splits.assign(subjects, split or splits.DEFAULT_SPLIT, seed)
    elif split is not None:
        raise InputError("A table states splits and --split is given as well; only one of the two is allowed.")
    else:
        assigned = stated
        if missing := sorted((subjects["a"] | subjects["b"]) - set(stated)):
            raise InputError(f"The tables state splits, but none for the subject {missing[0]}; all need one.")
    only = splits.disjoint(subjects, assigned, seed) if disjoint else {}
    place = {subject: i for i, subject in enumerate(splits.shuffled(subjects["a"] | subjects["b"], seed))}
    chosen = {(s, d): [] for s in SPLITS for d in DOMAINS}
    for domain in DOMAINS:
        for source in sorted(sources[domain], key=lambda s: place[s.subject]):
            if source.subject in assigned and only.get(source.subject, domain) == domain:
                chosen[assigned[source.subject], domain].append(source)
        if not chosen["train", domain]:
            raise InputError(
                f"The domain {names[domain]} has no training scan: of its {len(subjects[domain])} subjects none is in "
                "the training split; more subjects or a larger TRAIN in --split are needed."
            )
    return chosen


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
    folder: Path,
    *,
    names: dict[str, str],
    scalings: dict[str, str],
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, int, int] | None,
) -> list[Task]:
    """Divide each (split, domain) into shards of equal numbers of scans, the largest shards first."""
    tasks = []
    for (split, domain), each in chosen.items():
        size = sum(BYTES_PER_VOXEL * math.prod(shape or _extent(s, spacing_mm)) for s in each)
        total = min(len(each), max(math.ceil(size / SHARD_BYTES), math.ceil(len(each) / SHARD_SCANS)))
        for i in range(total):
            path = str((folder / split / f"{domain}-part-{i:05d}.tfrecord").absolute())
            part = tuple(each[i * len(each) // total : (i + 1) * len(each) // total])
            counter = str((folder / "counter").absolute())
            tasks.append(Task(path, split, domain, names[domain], part, scalings[domain], spacing_mm, shape, counter))
    return sorted(tasks, key=lambda t: -len(t.sources))


def _beam_runner(name: str):
    """A runner of Beam by name; `InputError` for a name that Beam does not know."""
    with _quiet():
        from apache_beam.runners import runner

    if name.lower() in ("direct", "directrunner"):
        # Beam's own DirectRunner first tries Prism, a program that it downloads
        return None
    try:
        return runner.create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(f"The runner {name!r} cannot be used: {error}") from error


def _run_graph(tasks: list[Task], folder: Path, runner, workers: int) -> list[dict]:
    """Write all shards; returns what `write_shard` returned for each, in no fixed order."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    workers = min(workers, len(tasks))
    if runner is None:
        environment = None
        if workers > 1:
            environment = SubprocessSDKEnvironment.from_command_string(_worker_command())
        runner = FnApiRunner(default_environment=environment)
    outcomes = folder / "outcomes.json"
    counter = folder / "counter"
    counter.touch()
    # flags=[]: Beam would read this program's own command line otherwise
    options = PipelineOptions(flags=[], direct_num_workers=workers)
    pipeline = beam.Pipeline(runner=runner, options=options)
    (
        pipeline
        | "shards" >> beam.Create(tasks)
        | "read, prepare, write" >> beam.Map(write_shard)
        | "gather" >> beam.combiners.ToList()
        | "outcomes" >> beam.Map(_save, str(outcomes.absolute()))
    )
    with _quiet(), _watched(counter, sum(len(t.sources) for t in tasks)):
        pipeline.run().wait_until_finish()
    result = json.loads(outcomes.read_text(encoding="utf-8"))
    for outcome in result:
        if outcome["unwritable"]:
            raise InputError(outcome["unwritable"])
    outcomes.unlink()
    counter.unlink()
    return sorted(result, key=lambda o: (SPLITS.index(o["split"]), o["domain"], o["path"]))


def write_shard(task: Task) -> dict:
    """Read, prepare and write the scans of one shard, one after the other; the work of a Beam worker.

    A scan that fails is reported and does not stop the others. A shard without records is not written.

    Returns:
        Plain facts: split, domain, path, records, bytes, sha256, identities in order, limits (the low and high
        intensity of each scan), failed ((domain, path, reason) of each), unwritable (why the file could not be
        written, or None).
    """
    facts = {"split": task.split, "domain": task.domain, "path": task.path, "failed": [], "unwritable": None}
    facts |= {"records": 0, "bytes": 0, "sha256": "", "identities": [], "limits": []}

    def prepared() -> Iterator[records.Record]:
        for source in task.sources:
            try:
                scan, steps = prepare(scans.read(source, source.index), task.scaling, task.spacing_mm, task.shape)
            except InputError as error:
                facts["failed"].append((task.domain, source.path, str(error)))
            else:
                facts["identities"].append(source.identity)
                facts["limits"] += [(r["low"], r["high"]) for r in steps if r["step"] == "intensity"]
                yield records.Record(scan.array, scan.affine, task.domain, task.domain_name, source.identity, steps)
            with open(task.counter, "ab") as stream:
                stream.write(b".")

    try:
        records.write_shard(task.path, prepared())
    except InputError as error:
        return facts | {"unwritable": str(error)}
    if not facts["identities"]:
        os.unlink(task.path)
        return facts
    size = os.path.getsize(task.path)
    return facts | {"records": len(facts["identities"]), "bytes": size, "sha256": sha256(task.path)}


def _save(outcomes: list[dict], path: str) -> None:
    Path(path).write_text(json.dumps(outcomes), encoding="utf-8")


def _worker_command() -> str:
    """The shell command of a worker process: Beam's own, which finds every module that this process finds.

    Beam's multi_processing mode has a command of its own; it breaks where the interpreter's path has a space in it,
    finds cyclescan only where it is installed, and writes its life story to stderr.
    """
    path = [p or os.getcwd() for p in sys.path]
    code = (
        f"import logging, sys; sys.path[:] = {path!r}; logging.disable(logging.WARNING); "
        "from apache_beam.runners.worker import sdk_worker_main; sdk_worker_main.main([])"
    )
    return shlex.join([sys.executable, "-c", code])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back Beam's warnings: about services that are not used here, and about workers it did not start itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _watched(counter: Path, total: int) -> Iterator[None]:
    """Show a bar while the workers append one byte to `counter` for every scan."""
    done = threading.Event()
    with progress(total=total, desc="scans", unit="scan") as bar:

        def show():
            while not done.wait(0.3):
                bar.update(counter.stat().st_size - bar.n)

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            bar.update(counter.stat().st_size - bar.n)


def _domain(name: str, scaling: str, outcomes: list[dict], domain: str) -> dict:
    limits = [pair for o in outcomes if (o["split"], o["domain"]) == ("train", domain) for pair in o["limits"]]
    if not limits:
        reasons = [reason for o in outcomes for d, _, reason in o["failed"] if d == domain]
        raise InputError(f"No training scan of {name} can be used; the last of {len(reasons)}: {reasons[-1]}")
    low, high = (float(v) for v in np.median(limits, axis=0))
    return {
        "name": name,
        "scaling": scaling,
        "intensity": {"step": "intensity", "scaling": scaling, "low": low, "high": high},
    }


def _identities(outcomes: list[dict], split: str, domain: str) -> list[str]:
    every = [i for o in outcomes if (o["split"], o["domain"]) == (split, domain) for i in o["identities"]]
    return list(dict.fromkeys(every))


def _name_shards(outcomes: list[dict], folder: Path) -> dict[str, dict]:
    """Give the shards that hold records their final names, now that their number is known."""
    shards = {}
    for split in SPLITS:
        for domain in DOMAINS:
            written = [o for o in outcomes if (o["split"], o["domain"]) == (split, domain) and o["records"]]
            for i, outcome in enumerate(written):
                name = f"{split}/{domain}-{i:05d}-of-{len(written):05d}.tfrecord"
                os.rename(outcome["path"], folder / name)
                shards[name] = {key: outcome[key] for key in ("records", "bytes", "sha256")}
    return shards


def _records_in(info: dict, split: str, domain: str) -> int:
    return sum(s["records"] for name, s in info["shards"].items() if name.startswith(f"{split}/{domain}-"))


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
