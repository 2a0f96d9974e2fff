"""Which subject goes where. The unit is the subject, across both domains: nobody is in two splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from cyclescan.errors import InputError

SPLITS = ("train", "val", "test")
DOMAINS = ("a", "b")
DEFAULT_SPLIT = (0.8, 0.1, 0.1)


def shuffled(subjects: Iterable[str], seed: int) -> list[str]:
    """The subjects in an order given by the seed.

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
    return numbers


def assign(subjects: Mapping[str, Iterable[str]], split: Sequence[float], seed: int) -> dict[str, str]:
    """Divide subjects into training, validation and test.

    Subjects that have both domains, only a and only b are shuffled each and then interleaved evenly, so that every
    split has about the same mixture of them.

    Args:
        subjects: the subjects of domain "a" and of domain "b"; names that are equal mean the same person.
        split: TRAIN VAL TEST as fractions, or as numbers of subjects (subjects beyond their sum are left out).
        seed: of the shuffle.

    Returns:
        The split ("train", "val" or "test") of each subject.

    Raises:
        InputError: more subjects are asked for than there are.
    """
    numbers = parse(split)
    a, b = set(subjects["a"]), set(subjects["b"])
    placed = []
    for rank, group in enumerate((a & b, a - b, b - a)):
        placed += [((i + 0.5) / len(group), rank, s) for i, s in enumerate(shuffled(group, seed))]
    order = [subject for _, _, subject in sorted(placed)]
    if _are_fractions(numbers):
        counts = _apportion(len(order), numbers)
    else:
        counts = [int(n) for n in numbers]
        if sum(counts) > len(order):
            raise InputError(
                f"The split {' '.join(map(str, counts))} asks for {sum(counts)} subjects; there are {len(order)}."
            )
    names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(order, names, strict=False))


def disjoint(subjects: Mapping[str, Iterable[str]], split: Mapping[str, str], seed: int) -> dict[str, str]:
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
