"""Who goes into which split: what tables say, what the user gives, or by chance."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

from cyclescan.common.errors import InputError
from data_prep import pseudonyms, scans, splits
from data_prep.build.request import BuildRequest
from data_prep.build.sources import Source
from data_prep.splits import DOMAINS, SPLITS


@dataclasses.dataclass(frozen=True)
class Division:
    """Where every subject goes, and at which sites it was scanned where that is stated."""

    places: dict[str, splits.Place]
    sites: dict[str, str]


def divide(
    found: dict[str, list[scans.Scan]], sources: dict[str, list[Source]], key: bytes, request: BuildRequest
) -> Division:
    """Return the place of every subject.

    Args:
        found: all scans of each domain, which may state splits and sites.
        sources: those with a sound header.
        key: of the pseudonyms.
        request: which way of the division counts.

    Raises:
        InputError: the split is stated twice, or lacks a subject or a site.
    """
    split = None if request.split is None else splits.parse(request.split)
    subjects = {d: {s.subject for s in sources[d]} for d in DOMAINS}
    every = subjects["a"] | subjects["b"]
    sites = _sites([scan for d in DOMAINS for scan in found[d] if scan.subject in every])
    stated = _stated_splits([scan for d in DOMAINS for scan in found[d]])
    ways = {"a table states splits": stated, "--split-file is given": request.split_file is not None}
    ways |= {"--split is given": split is not None, "--split-by is site": request.split_by == "site"}
    if len(given := [way for way, used in ways.items() if used]) > 1 and given[0] != "--split is given":
        raise InputError(f"The split is stated twice: {given[0]} and {given[1]}; only one of the two is allowed.")
    if request.split_file is not None:
        listed = splits.read_file(request.split_file)
        by_pseudonym = {s: listed.get(s) or listed.get(pseudonyms.pseudonym(key, s)) for s in every}
        if missing := sorted(s for s in every if by_pseudonym[s] is None):
            raise InputError(
                f"The split file {request.split_file} does not list the subject {missing[0]}, nor its pseudonym of "
                f"this key ({len(missing)} of {len(every)} are missing); all need a row."
            )
        places = {s: place for s, place in by_pseudonym.items() if place is not None}
    elif stated:
        if missing := sorted(every - set(stated)):
            raise InputError(f"The tables state splits, but none for the subject {missing[0]}; all need one.")
        places = {s: splits.Place(stated[s]) for s in every}
    else:
        if request.split_by == "site":
            assigned = splits.assign_sites(_one_site_each(every, sites), split or splits.DEFAULT_SPLIT, request.seed)
        else:
            joined = {subject: ", ".join(sorted(names)) for subject, names in sites.items()}
            assigned = splits.assign(subjects, split or splits.DEFAULT_SPLIT, request.seed, joined)
        places = {s: splits.Place(assigned.get(s)) for s in every}
    if request.disjoint:
        free = {d: {s for s in subjects[d] if places[s].only_domain in (None, d)} for d in DOMAINS}
        only = splits.disjoint(free, {s: place.split for s, place in places.items()}, request.seed)
        places |= {s: splits.Place("train", domain) for s, domain in only.items()}
    return Division(places, {subject: ", ".join(sorted(names)) for subject, names in sites.items()})


def chosen_scans(
    sources: dict[str, list[Source]], division: Division, request: BuildRequest
) -> dict[tuple[str, str], list[Source]]:
    """Return the scans of each (split, domain), in an order that depends on the seed and the subjects' names alone.

    Raises:
        InputError: a domain is left without a training scan.
    """
    places = division.places
    number = {subject: i for i, subject in enumerate(splits.shuffled(places, request.seed))}
    chosen: dict[tuple[str, str], list[Source]] = {(s, d): [] for s in SPLITS for d in DOMAINS}
    for domain in DOMAINS:
        for source in sorted(sources[domain], key=lambda s: number[s.subject]):
            place = places[source.subject]
            if place.split and place.only_domain in (None, domain):
                chosen[place.split, domain].append(source)
        if not chosen["train", domain]:
            subjects = {source.subject for source in sources[domain]}
            raise InputError(
                f"The domain {request.names[domain]} has no training scan: of its {len(subjects)} "
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


def write_split_file(path: Path, division: Division, key: bytes) -> None:
    """Write the division so that --split-file can read it again, without the names of people and places."""
    subjects = {subject: pseudonyms.pseudonym(key, subject) for subject in division.places}
    of_subject = {subjects[s]: pseudonyms.pseudonym(key, f"site {site}") for s, site in division.sites.items()}
    splits.write_file(path, {subjects[s]: place for s, place in division.places.items()}, of_subject)
