"""Shards: which scans make up which, and the work of a Beam worker that writes one."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from cyclescan import records
from cyclescan.common.errors import InputError, of_item
from cyclescan.common.files import sha256
from cyclescan.preprocessing import Options, body, geometry, guard, prepare
from cyclescan.scans.volume import Volume
from data_prep import beam, pseudonyms, scans, splits, workspace
from data_prep.build.grid import extent_of
from data_prep.build.request import BuildRequest
from data_prep.build.sources import Source, changed_ns

SHARD_BYTES = 256 * 2**20
SHARD_SCANS = 4  # enough shards for all workers where scans are small; a constant, so that workers change no byte
BYTES_PER_VOXEL = 2


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


@dataclasses.dataclass(frozen=True)
class How:
    """How scans are prepared, the same for all shards; see `Task`."""

    scalings: dict[str, str]
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int] | None
    options: Options
    content_key: str


def plan(chosen: dict[tuple[str, str], list[Source]], request: BuildRequest, how: How) -> list[Task]:
    """Divide each (split, domain) into shards.

    A subject's shard is given by the first bits of its own hash, the one by which subjects are shuffled, and the
    number of shards is a power of two: a scan that comes or goes changes one shard, not all that follow it.
    """
    tasks = []
    for (split, domain), each in chosen.items():
        size = sum(BYTES_PER_VOXEL * math.prod(how.shape or extent_of(s, how.spacing_mm)) for s in each)
        bits = max(1, round(size / SHARD_BYTES), round(len(each) / SHARD_SCANS)).bit_length() - 1
        parts = collections.defaultdict(list)
        for source in each:
            parts[splits.position(source.subject, request.seed) >> (32 - bits)].append(source)
        for _, part in sorted(parts.items()):
            tasks.append(
                Task(
                    split=split,
                    domain=domain,
                    domain_name=request.names[domain],
                    sources=tuple(part),
                    scaling=how.scalings[domain],
                    spacing_mm=how.spacing_mm,
                    shape=how.shape,
                    options=how.options.for_scaling(how.scalings[domain]),
                    content_key=how.content_key,
                )
            )
    return tasks


def name_of(task: Task, key: bytes, folder: Path, before: workspace.Previous | None) -> str:
    """Return the fingerprint of a task, and another one where a scan of its shard is no longer what it was.

    A scan may change and keep its size and its time of modification, which is all that a fingerprint knows; it cannot
    keep the time that the system notes (ctime). That changes for other reasons, too, so where it is later than the
    shard the scan is read again, and the shard counts as looked at from then on.
    """
    name, changed = workspace.fingerprint(key, task), max(map(changed_ns, task.sources))
    renewed = workspace.fingerprint(key, task, changed)
    shard, facts = file_of(name, folder, before), _facts_of(name, folder, before)
    if facts is None:
        return name if _facts_of(renewed, folder, before) is None else renewed
    if shard.stat().st_mtime_ns >= changed:
        return name
    if not _holds(task, facts):
        return renewed
    with contextlib.suppress(OSError):
        os.utime(shard)
    return name


def _holds(task: Task, facts: dict) -> bool:
    """Whether the scans of a task have the voxels of which a shard was made."""
    contents = [about["content"] for about in facts["scans"]]
    try:
        return contents == [_content(task, scans.read(source, source.index)) for source in task.sources]
    except InputError:
        return False


def _content(task: Task, raw: Volume) -> str:
    return pseudonyms.content(task.content_key, geometry.to_canonical(raw)[0].array)


def _facts_of(name: str, folder: Path, before: workspace.Previous | None) -> dict | None:
    """What is known of the shard of a fingerprint; None where there is none that is whole."""
    return (before.facts(name) if before else None) or workspace.done(folder, name)


def write(
    tasks: Mapping[str, Task], folder: Path, before: workspace.Previous | None, runner: str, request: BuildRequest
) -> list[tuple[Task, dict]]:
    """Write the shards that are not there yet; returns each task, in order, with what `write_shard` returned for it."""
    outcomes: dict[str, dict | None] = {name: _kept(task, name, folder, before) for name, task in tasks.items()}
    todo = [(name, str(folder.absolute()), task) for name, task in tasks.items() if outcomes[name] is None]
    if todo:
        # the largest first: the workers end at about the same time
        todo.sort(key=lambda job: -sum(math.prod(source.shape) for source in job[2].sources))
        total = sum(len(task.sources) for _, _, task in todo)
        workers = request.workers or usable_cpus()
        for outcome in beam.run(
            write_shard, todo, folder, runner, workers=workers, options=request.runner_options, total=total
        ):
            if outcome["unwritable"]:
                raise InputError(outcome["unwritable"])
            outcomes[outcome["fingerprint"]] = outcome
    return [(task, outcomes[name] or {}) for name, task in tasks.items()]


def _kept(task: Task, name: str, folder: Path, before: workspace.Previous | None) -> dict | None:
    """What `write_shard` returned for this task in an earlier run, when its shard is still there and no scan failed."""
    facts = _facts_of(name, folder, before)
    if facts is None or facts["records"] < len(task.sources):
        return None
    return {"fingerprint": name, "failed": []} | stated(facts)


def stated(facts: dict) -> dict:
    """Return what the data set says about a shard."""
    return {key: facts[key] for key in ("records", "bytes", "sha256", "scans")}


def file_of(name: str, folder: Path, before: workspace.Previous | None) -> Path:
    """Return where the shard of a fingerprint is."""
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
    facts: dict[str, Any] = {"fingerprint": name, "failed": [], "unwritable": None}
    facts |= {"records": 0, "bytes": 0, "sha256": "", "scans": []}

    def prepared() -> Iterator[records.Record]:
        for source in task.sources:
            try:
                raw = scans.read(source, source.index)
                if source.side:
                    raw = dataclasses.replace(raw, meta=raw.meta | {"side": source.side})
                content = _content(task, raw)
                scan, steps = prepare(raw, task.scaling, task.spacing_mm, task.shape, task.options)
                (limits,) = (r for r in steps if r["step"] == "intensity")
                about: dict[str, Any] = {"scan": source.scan, "subject": source.identity, "content": content}
                about |= {"low": limits["low"], "high": limits["high"], "measures": guard.measure(raw, steps)}
                record = records.Record(
                    voxels=scan.array,
                    affine=scan.affine,
                    domain=task.domain,
                    domain_name=task.domain_name,
                    subject=source.identity,
                    preprocessing=steps,
                    mask=body.mask(scan.array),
                )
            except Exception as error:  # of whatever class: the others are written
                facts["failed"].append((source.path, str(of_item(error, source.path))))
            else:
                facts["scans"].append(about)
                yield record
            with open(shard.with_name(beam.COUNTER), "ab") as stream:
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


def usable_cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
