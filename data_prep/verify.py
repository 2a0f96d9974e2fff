"""Trust nothing: every shard is read again and compared with what dataset.json says."""

from __future__ import annotations

import argparse
import collections
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cyclescan import records
from cyclescan.common import command
from cyclescan.common.command import DONE, progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, sha256
from cyclescan.scans.volume import spacing_of
from data_prep import pseudonyms, workspace
from data_prep.splits import DOMAINS, SPLITS
from data_prep.workspace import PAIRS

log = logging.getLogger(__name__)

SHARD_NAME = re.compile(rf"({'|'.join([*SPLITS, PAIRS])})/[ab]-\d{{5}}-of-\d{{5}}\.tfrecord")
SAME_SPACING = 1e-3  # relative, as in preprocessing.geometry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", metavar="RECORDS", help="a folder written by `data_prep build`")


def run(args: argparse.Namespace) -> int:
    result = verify(args.records)
    problems = result["problems"]
    for problem in problems:
        log.error("problem: %s", problem)
    if problems:
        raise InputError(f"{args.records} has {len(problems)} problems.")
    log.info(
        "%s is sound: %d records of %d subjects in %d shards, %.1f MB",
        args.records,
        result["records"],
        result["subjects"],
        result["shards"],
        result["bytes"] / 1e6,
    )
    command.next_step(command.call("train", "--data", args.records, "--run", "RUN"))
    return DONE


def verify(records_dir: str | os.PathLike) -> dict:
    """Read every shard of a data set, and of its pseudo-pairs where there are some.

    Checked are: each shard's presence, bytes, SHA-256 and number of records; the checksums of every record; the
    schema; voxels on [-1, 1]; shape, spacing, domain and subject against dataset.json; shards that dataset.json does
    not know; subjects in two splits; with disjoint training, subjects in both domains; pairs of one subject with
    itself, unless they were made as true pairs, or with a subject outside training; the same voxels in two splits or in
    both domains, by what dataset.json says about the scans and by the records themselves.

    Returns:
        "problems": one sentence each, empty when all is well; "records", "subjects", "shards" and "bytes": how many.

    Raises:
        InputError: there is no dataset.json, or it is not one of this version.
    """
    folder = Path(records_dir)
    info = workspace.read_info(folder)
    shards, own = dict(info["shards"]), False
    known = {path.relative_to(folder).as_posix() for split in SPLITS for path in records.shards(folder / split)}
    if (folder / PAIRS / "pairs.json").exists():
        pairs = read_json(folder / PAIRS / "pairs.json")
        if not isinstance(pairs, dict) or not workspace.are_shards(pairs.get("shards")):
            raise InputError(f"{folder / PAIRS / 'pairs.json'} is not what `pair` writes there.")
        shards |= pairs["shards"]
        own = "own" in pairs
        known |= {path.relative_to(folder).as_posix() for path in records.shards(folder / PAIRS)}
    problems = [f"{name} is not listed in the data set's JSON." for name in sorted(known - set(shards))]
    problems += _leaks(info)
    seen = collections.defaultdict(set)
    contents: dict[str, tuple[str, int]] = {}
    total = 0
    for name, facts in progress(sorted(shards.items()), desc="shards", unit="shard"):
        if not SHARD_NAME.fullmatch(name):
            problems.append(f"{name!r} is not the name of a shard.")
            continue
        shard = folder / name
        if not shard.is_file():
            problems.append(f"{name} is missing.")
            continue
        size, digest, count = shard.stat().st_size, sha256(shard), 0
        if (size, digest) != (facts["bytes"], facts["sha256"]):
            problems.append(
                f"{name} has {size} bytes with the SHA-256 {digest[:12]}; "
                f"{facts['bytes']} with {facts['sha256'][:12]} are stated."
            )
        try:
            for number, record in enumerate(records.read_shard(shard)):
                count += 1
                problems += [f"{name}, record {number}, {text}." for text in _faults(record, name, info, own)]
                seen[_place(name)].add(record.subject)
                if record.kind == "scan":
                    content = pseudonyms.content("", record.voxels)
                    problems += _twins(contents, content, name, number)
        except InputError as error:
            problems.append(str(error))
        else:
            if count != facts["records"]:
                problems.append(f"{name} has {count} records; {facts['records']} are stated.")
        total += count
    stated: dict[str, tuple[str, int]] = {}
    for name, facts in sorted(info["shards"].items()):
        for number, about in enumerate(facts.get("scans", ())):
            problems += _twins(stated, about["content"], name, number)
    for (split, domain), subjects in seen.items():
        if split in SPLITS and subjects < set(info["splits"][split][domain]):
            absent = sorted(set(info["splits"][split][domain]) - subjects)
            problems.append(f"The subject {absent[0]} of {split}, domain {domain}, has no record.")
    return {
        "problems": problems,
        "records": total,
        "subjects": len(set().union(*seen.values())) if seen else 0,
        "shards": len(shards),
        "bytes": sum(facts["bytes"] for facts in shards.values()),
    }


def _place(name: str) -> tuple[str, str]:
    """The folder and the domain that a shard's name states."""
    folder, _, file = name.partition("/")
    return folder, file.partition("-")[0]


def _leaks(info: dict) -> Iterator[str]:
    """Subjects that stand where they must not, from the lists of dataset.json."""
    member = {split: {d: set(info["splits"][split][d]) for d in DOMAINS} for split in SPLITS}
    for i, first in enumerate(SPLITS):
        for second in SPLITS[i + 1 :]:
            for subject in sorted(
                (member[first]["a"] | member[first]["b"]) & (member[second]["a"] | member[second]["b"])
            ):
                yield f"The subject {subject} is in two splits, {first} and {second}."
    if info["disjoint"]:
        for subject in sorted(member["train"]["a"] & member["train"]["b"]):
            yield f"The training subject {subject} is in both domains of a data set that is said to be disjoint."


def _twins(contents: dict[str, tuple[str, int]], content: str, name: str, number: int) -> Iterator[str]:
    """Say it when the same content stands in another split or domain; `contents` remembers where each was first."""
    first = contents.setdefault(content, (name, number))
    if _place(first[0]) != _place(name):
        yield f"{first[0]}, record {first[1]}, and {name}, record {number}, are of one scan."


def _faults(record: records.Record, name: str, info: dict, own: bool) -> Iterator[str]:
    """What is wrong with one record, each as the end of a sentence; `own`: true pairs are stated."""
    folder, domain = _place(name)
    # NaN is what a partner has beyond its field of view
    known = [] if record.partner is None else [record.partner[~np.isnan(record.partner)]]
    for voxels in (record.voxels, *known):
        if not np.abs(voxels).max(initial=0) <= 1:  # true for NaN as well
            yield "has voxels outside [-1, 1]"
    if record.partner_detail is not None and not np.nanmin(record.partner_detail, initial=0) >= 0:
        yield "has partners whose detail is below 0"
    if not 0 < record.weight <= 1:
        yield f"has the weight {record.weight:g}; above 0 and at most 1 is allowed"
    if record.mask is not None and not record.mask.any():
        yield "has a mask without a body"
    if record.voxels.ndim != 3 or (info["shape"] and list(record.voxels.shape) != list(info["shape"])):
        yield f"has the shape {list(record.voxels.shape)}; {info['shape'] or 'three axes'} is stated"
    if not np.allclose(spacing_of(record.affine), info["spacing_mm"], rtol=SAME_SPACING):
        found = [round(s, 4) for s in spacing_of(record.affine)]
        yield f"has the spacing {found} mm; {info['spacing_mm']} is stated"
    if (record.domain, record.domain_name) != (domain, info["domains"][domain]["name"]):
        yield f"is of domain {record.domain} ({record.domain_name}), in a shard of domain {domain}"
    if record.kind != ("pair" if folder == PAIRS else "scan"):
        yield f"is a {record.kind}, in the folder {folder}"
    elif record.kind == "scan" and record.subject not in info["splits"][folder][domain]:
        yield f"is of the subject {record.subject}, who is not listed for {folder}, domain {domain}"
    elif record.kind == "pair":
        other = "b" if domain == "a" else "a"
        for subject, where in ((record.subject, domain), *((s, other) for s in record.partner_subjects)):
            if subject not in info["splits"]["train"][where]:
                yield f"is of the subject {subject}, who is not a training subject of domain {where}"
        if not record.partner_subjects:
            yield "is a pair that names no partner"
        if record.subject in record.partner_subjects and not (own and record.is_own):
            yield f"pairs the subject {record.subject} with itself"
