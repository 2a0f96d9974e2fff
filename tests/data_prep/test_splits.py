from collections import Counter

import pytest

from cyclescan.errors import InputError
from data_prep import splits


def names(prefix, count):
    return [f"{prefix}{i}" for i in range(count)]


def counts(assigned):
    found = Counter(assigned.values())
    return tuple(found[s] for s in splits.SPLITS)


@pytest.mark.parametrize(
    ("total", "split", "expected"),
    [
        (10, (0.8, 0.1, 0.1), (8, 1, 1)),
        (1, (0.8, 0.1, 0.1), (1, 0, 0)),
        (7, (0.5, 0.25, 0.25), (3, 2, 2)),
        (48, (1 / 3, 1 / 3, 1 / 3), (16, 16, 16)),
        (5, (1, 0, 0), (5, 0, 0)),
        (10, (6, 1, 3), (6, 1, 3)),
        (10, (2, 1, 1), (2, 1, 1)),
    ],
)
def test_fractions_and_counts(total, split, expected):
    both = names("s", total)
    assigned = splits.assign({"a": both, "b": both}, split, seed=0)
    assert counts(assigned) == expected


def test_the_seed_decides_and_the_order_of_the_input_does_not():
    both = names("s", 40)
    first = splits.assign({"a": both, "b": both}, (0.5, 0.25, 0.25), seed=1)
    assert first == splits.assign({"a": both[::-1], "b": set(both)}, (0.5, 0.25, 0.25), seed=1)
    assert first != splits.assign({"a": both, "b": both}, (0.5, 0.25, 0.25), seed=2)


def test_a_new_subject_does_not_reorder_the_others():
    both = names("s", 20)
    with_more = splits.shuffled([*both, "new"], 3)
    assert [s for s in with_more if s != "new"] == splits.shuffled(both, 3)
    assert splits.shuffled(both, 3) != sorted(both)


def test_every_split_has_the_same_mixture_of_domains():
    a, b = names("x", 20) + names("a", 40), names("x", 20) + names("b", 40)
    assigned = splits.assign({"a": a, "b": b}, (0.5, 0.3, 0.2), seed=0)
    for name, share in zip(splits.SPLITS, (0.5, 0.3, 0.2), strict=True):
        found = Counter(s[0] for s in assigned if assigned[s] == name)
        for prefix, size in (("x", 20), ("a", 40), ("b", 40)):
            assert abs(found[prefix] - share * size) <= 1


@pytest.mark.parametrize(
    "split", [(0.5, 0.5, 0.5), (0, 0.5, 0.5), (-1, 1, 1), (1.5, 1, 1), (0, 3, 3), (float("nan"), 0, 1), (1, 1)]
)
def test_splits_that_are_not_allowed(split):
    with pytest.raises(InputError, match="is not allowed; allowed are three fractions that sum to 1 or three whole"):
        splits.parse(split)


def test_more_subjects_than_there_are():
    with pytest.raises(InputError, match="The split 5 3 3 asks for 11 subjects; there are 10"):
        splits.assign({"a": names("s", 10), "b": names("s", 4)}, (5, 3, 3), seed=0)


def test_disjoint_balances_the_domains():
    subjects = {"a": names("x", 10) + names("a", 4), "b": names("x", 10)}
    split = dict.fromkeys(subjects["a"], "train") | {"x0": "test"}
    chosen = splits.disjoint(subjects, split, seed=0)
    assert set(chosen) == set(names("x", 10)) - {"x0"}  # test subjects and those with one domain are not asked
    # 4 have a alone and 9 have both: 13 scans, 6 and 7
    assert sorted(Counter(chosen.values()).items()) in ([("a", 2), ("b", 7)], [("a", 3), ("b", 6)])
    assert chosen == splits.disjoint(subjects, split, seed=0)
    assert chosen != splits.disjoint(subjects, split, seed=1)
