"""Which subject goes where. The unit is the subject, or the site, across both domains: nobody is in two splits."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cyclescan.common import tables
from cyclescan.common.errors import InputError
from cyclescan.common.files import write_text

SPLITS = ("train", "val", "test")
DOMAINS = ("a", "b")
DEFAULT_SPLIT = (0.8, 0.1, 0.1)
LEFT_OUT = "none"  # in a split file, of a subject that is in no split
COLUMNS = ("subject", "split", "only_domain", "site")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a subject stands, one row of a split file.

    Attributes:
        split: "train", "val" or "test"; None: left out.
        only_domain: "a" or "b" where the subject gives its scans to this domain alone; None: to each it has.
    """

    split: str | None
    only_domain: str | None = None


def shuffled(subjects: Iterable[str], seed: int) -> list[str]:
    """Return the subjects in an order given by the seed.

    Each subject is placed by a hash of the seed and its own name, so the order of two subjects does not depend on
    who else is there, nor on any library's random numbers.
    """
    return sorted(set(subjects), key=lambda s: (_hash(seed, s), s))


def parse(split: Sequence[float]) -> tuple[float, float, float]:
    """Check three fractions that sum to 1, or three whole numbers of subjects.

    Raises:
        InputError: neither of the two.
    """
    allowed = "allowed are three fractions that sum to 1 or three whole numbers of subjects, the first at least 1"
    numbers = tuple(float(n) for n in split)
    good = len(numbers) == 3 and all(math.isfinite(n) and n >= 0 for n in numbers) and numbers[0] > 0
    if not good or not (_are_fractions(numbers) or all(n.is_integer() for n in numbers)):
        raise InputError(f"The split {' '.join(f'{n:g}' for n in numbers)} is not allowed; {allowed}.")
    return numbers[0], numbers[1], numbers[2]


def position(subject: str, seed: int) -> int:
    """Return a number below 2**32 that grows along the order of `shuffled`, and that no other subject changes."""
    return int.from_bytes(_hash(seed, subject)[:4], "big")


def assign(
    subjects: Mapping[str, Iterable[str]], split: Sequence[float], seed: int, sites: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Divide subjects into training, validation and test.

    Subjects that have both domains, only a and only b, of each site, are shuffled each and then interleaved evenly,
    so that every split has about the same mixture of them.

    Args:
        subjects: the subjects of domain "a" and of domain "b"; names that are equal mean the same person.
        split: TRAIN VAL TEST as fractions, or as numbers of subjects (subjects beyond their sum are left out).
        seed: of the shuffle.
        sites: the site of each subject, where it is known.

    Returns:
        The split ("train", "val" or "test") of each subject.

    Raises:
        InputError: more subjects are asked for than there are.
    """
    numbers = parse(split)
    a, b = set(subjects["a"]), set(subjects["b"])
    groups = collections.defaultdict(set)
    for subject in a | b:
        rank = 0 if subject in a & b else 1 if subject in a else 2
        groups[rank, (sites or {}).get(subject) or ""].add(subject)
    placed = []
    for (rank, site), group in sorted(groups.items()):
        # the middle of each interval; for a site a place of its own, or all small sites would stand in the middle
        start = position(f"{rank}:{site}", seed) / 2**32 if site else 0.5
        placed += [((i + start) / len(group), rank, site, s) for i, s in enumerate(shuffled(group, seed))]
    order = [subject for *_, subject in sorted(placed)]
    counts = _counts(numbers, len(order), "subjects")
    names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(order, names, strict=False))


def assign_sites(sites: Mapping[str, str], split: Sequence[float], seed: int) -> dict[str, str]:
    """Divide whole sites into training, validation and test, so that a test site is one that training never saw.

    Args:
        sites: the site of each subject.
        split: TRAIN VAL TEST as fractions of the sites, or as numbers of sites (sites beyond their sum are left out).
        seed: of the shuffle.

    Returns:
        The split of each subject of the sites that are in one.

    Raises:
        InputError: more sites are asked for than there are.
    """
    order = shuffled(sites.values(), seed)
    counts = _counts(parse(split), len(order), "sites")
    names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    of_site = dict(zip(order, names, strict=False))
    return {subject: of_site[site] for subject, site in sites.items() if site in of_site}


def read_file(path: str | os.PathLike) -> dict[str, Place]:
    """Read a split file: the place of each subject, by the name that the file has for it.

    The file is a .csv or .tsv table with the columns subject and split (train, val, test or none) and, if wanted,
    only_domain (a, b or nothing). `write_file` writes one.

    Raises:
        InputError: it is not understood, or lists a subject twice.
    """
    path = Path(path)
    if path.suffix.lower() not in tables.DELIMITERS:
        raise InputError(f"The split file {path} is no table; its name must end in .csv or .tsv.")
    places: dict[str, Place] = {}
    for number, row in tables.read(path, COLUMNS[:2]):
        allowed = {"subject": None, "split": (*SPLITS, LEFT_OUT), "only_domain": ("", *DOMAINS)}
        for column, values in allowed.items():
            value = row.get(column, "")
            if value not in values if values else not value:
                these = ", ".join(v or "nothing" for v in values) if values else "a name"
                raise InputError(
                    f"Line {number} of the split file {path} has the {column} {value!r}; allowed is {these}."
                )
        if row["subject"] in places:
            raise InputError(f"Line {number} of the split file {path} lists the subject {row['subject']} again.")
        split = None if row["split"] == LEFT_OUT else row["split"]
        places[row["subject"]] = Place(split, row.get("only_domain") or None)
    return places


def write_file(path: str | os.PathLike, places: Mapping[str, Place], sites: Mapping[str, str]) -> None:
    """Write a split file (.tsv). Names of subjects and sites are those given: pseudonyms, in a data set."""
    rows = [COLUMNS]
    rows += [(s, p.split or LEFT_OUT, p.only_domain or "", sites.get(s, "")) for s, p in sorted(places.items())]
    write_text(path, "".join("\t".join(row) + "\n" for row in rows))


def disjoint(subjects: Mapping[str, Iterable[str]], split: Mapping[str, str | None], seed: int) -> dict[str, str]:
    """Choose for each training subject that has both domains the one it gives its scans to.

    Subjects with one domain count first; the others, in shuffled order, go to the domain that has fewer so far,
    to a where both have as many.

    Returns:
        "a" or "b" for each training subject that has both.
    """
    train = {d: {s for s in subjects[d] if split.get(s) == "train"} for d in DOMAINS}
    counts = {"a": len(train["a"] - train["b"]), "b": len(train["b"] - train["a"])}
    chosen = {}
    for subject in shuffled(train["a"] & train["b"], seed):
        domain = min(DOMAINS, key=counts.__getitem__)
        chosen[subject] = domain
        counts[domain] += 1
    return chosen


def _counts(numbers: Sequence[float], total: int, units: str) -> list[int]:
    """How many of `total` subjects or sites each split gets."""
    if _are_fractions(numbers):
        return _apportion(total, numbers)
    counts = [int(n) for n in numbers]
    if sum(counts) > total:
        raise InputError(f"The split {' '.join(map(str, counts))} asks for {sum(counts)} {units}; there are {total}.")
    return counts


def _are_fractions(numbers: Sequence[float]) -> bool:
    return abs(sum(numbers) - 1) < 1e-6


def _apportion(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers in proportion, by the largest remainders; the earlier split wins a tie."""
    exact = [total * f for f in fractions]
    counts = [math.floor(e + 1e-9) for e in exact]
    by_remainder = sorted(range(3), key=lambda i: (-round(exact[i] - counts[i], 9), i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _hash(seed: int, subject: str) -> bytes:
    return hashlib.sha256(f"{seed}:{subject}".encode("utf-8", "surrogateescape")).digest()
