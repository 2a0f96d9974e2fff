"""What dataset.json says of the shards that were written."""

from __future__ import annotations

import logging

import numpy as np

from cyclescan.common.errors import InputError
from data_prep import qc
from data_prep.build.request import BuildRequest
from data_prep.build.shards import Task, stated
from data_prep.build.sources import Source, failure
from data_prep.splits import DOMAINS, SPLITS

log = logging.getLogger(__name__)


def of(written: list[tuple[Task, dict]], request: BuildRequest) -> dict:
    """Return the entries `domains`, `splits` and `shards`.

    Raises:
        InputError: a domain is left without a training scan.
    """
    domains = {d: domain_entry(request, written, d) for d in DOMAINS}
    qc.add_guards(domains, written)
    divided = {s: {d: identities(written, s, d) for d in DOMAINS} for s in SPLITS}
    shards = {name: {"fingerprint": o["fingerprint"]} | stated(o) for name, o in named_shards(written).items()}
    return {"domains": domains, "splits": divided, "shards": shards}


def failures(written: list[tuple[Task, dict]]) -> list[dict]:
    """Return the scans that failed, logged by file and stated without names."""
    failed = []
    for task, outcome in written:
        by_path = {source.path: source for source in task.sources}
        for path, reason in outcome["failed"]:
            failed.append(failure(task.domain_name, by_path[path].identity, by_path[path], reason))
    return failed


def check_leaks(written: list[tuple[Task, dict]]) -> None:
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


def domain_entry(request: BuildRequest, written: list[tuple[Task, dict]], domain: str) -> dict:
    """Return what the data set says of a domain: its name, and what -1 and 1 of a translation into it become."""
    name = request.names[domain]
    scaling = next(task.scaling for task, _ in written if task.domain == domain)
    training = [outcome for task, outcome in written if (task.split, task.domain) == ("train", domain)]
    limits = [(about["low"], about["high"]) for outcome in training for about in outcome["scans"]]
    if not limits:
        reasons = [reason for task, o in written for _, reason in o["failed"] if task.domain == domain]
        raise InputError(f"No training scan of {name} can be used; the last of {len(reasons)}: {reasons[-1]}")
    low, high = (float(v) for v in np.median(limits, axis=0))
    stated = request.options.for_scaling(scaling).to_dict()
    return {
        "name": name,
        "scaling": scaling,
        "intensity": {"step": "intensity", "scaling": scaling, "low": low, "high": high},
        **({"preprocessing": stated} if stated else {}),
    }


def identities(written: list[tuple[Task, dict]], split: str, domain: str) -> list[str]:
    """Return the pseudonyms of the subjects whose scans are in a split and domain, in order."""
    outcomes = [outcome for task, outcome in written if (task.split, task.domain) == (split, domain)]
    return list(dict.fromkeys(about["subject"] for outcome in outcomes for about in outcome["scans"]))


def named_shards(written: list[tuple[Task, dict]]) -> dict[str, dict]:
    """Return the names of the shards that hold records, now that their number is known, and the outcome of each."""
    names = {}
    for split in SPLITS:
        for domain in DOMAINS:
            of_both = [o for task, o in written if (task.split, task.domain) == (split, domain) and o["records"]]
            for i, outcome in enumerate(of_both):
                names[f"{split}/{domain}-{i:05d}-of-{len(of_both):05d}.tfrecord"] = outcome
    return names
