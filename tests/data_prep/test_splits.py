from collections import Counter

import pytest

from cyclescan.common.errors import InputError
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


def test_every_split_has_its_share_of_each_site():
    """Two large sites, one of seven subjects and thirty of one subject each."""
    sites = {s: "north" for s in names("n", 40)} | {s: "south" for s in names("s", 20)}
    sites |= {s: "east" for s in names("e", 7)} | {s: f"alone {s}" for s in names("x", 30)}
    assigned = splits.assign({"a": sites, "b": sites}, (0.6, 0.2, 0.2), seed=0, sites=sites)
    for name, share in zip(splits.SPLITS, (0.6, 0.2, 0.2), strict=True):
        found = Counter(s[0] for s in assigned if assigned[s] == name)
        for prefix, size in (("n", 40), ("s", 20), ("e", 7)):
            assert abs(found[prefix] - share * size) <= 1.5
        # small sites have no split of their own
        assert abs(found["x"] - share * 30) <= 5


def test_whole_sites_are_divided():
    sites = {s: f"site {i % 5}" for i, s in enumerate(names("s", 23))}
    assigned = splits.assign_sites(sites, (3, 1, 1), seed=2)
    assert set(assigned) == set(sites)
    for site in set(sites.values()):
        assert len({assigned[s] for s in sites if sites[s] == site}) == 1
    assert {n: len({sites[s] for s in assigned if assigned[s] == n}) for n in splits.SPLITS} == {
        "train": 3, "val": 1, "test": 1,
    }  # fmt: skip
    assert assigned != splits.assign_sites(sites, (3, 1, 1), seed=3)
    # sites beyond the sum are left out
    assert len({sites[s] for s in splits.assign_sites(sites, (1, 1, 0), seed=2)}) == 2
    with pytest.raises(InputError, match="The split 4 1 1 asks for 6 sites; there are 5"):
        splits.assign_sites(sites, (4, 1, 1), seed=0)


def test_a_position_follows_the_order():
    both = names("s", 50)
    positions = [splits.position(s, 3) for s in splits.shuffled(both, 3)]
    assert positions == sorted(positions)
    assert 0 <= positions[0] < 2**30 and 3 * 2**30 < positions[-1] < 2**32


def test_a_split_file_comes_back(tmp_path):
    places = {"s1": splits.Place("train", "b"), "s2": splits.Place("test"), "s3": splits.Place(None)}
    splits.write_file(tmp_path / "splits.tsv", places, {"s1": "north"})
    assert (tmp_path / "splits.tsv").read_text() == (
        "subject\tsplit\tonly_domain\tsite\ns1\ttrain\tb\tnorth\ns2\ttest\t\t\ns3\tnone\t\t\n"
    )
    assert splits.read_file(tmp_path / "splits.tsv") == places
    (tmp_path / "own.csv").write_text("split,subject\nval, anna \n")
    assert splits.read_file(tmp_path / "own.csv") == {"anna": splits.Place("val")}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("s.txt", "subject,split\n", "is no table; its name must end in .csv or .tsv"),
        ("s.csv", "subject,fold\nanna,1\n", "has the columns subject, fold; split must be among them"),
        ("s.csv", "subject,split\nanna,dev\n", "Line 2 .* has the split 'dev'; allowed is train, val, test, none"),
        ("s.csv", "subject,split\n,train\n", "Line 2 .* has the subject ''; allowed is a name"),
        ("s.csv", "subject,split,only_domain\nx,train,c\n", "has the only_domain 'c'; allowed is nothing, a, b"),
        ("s.csv", "subject,split\nanna,val\nanna,test\n", "Line 3 .* lists the subject anna again"),
    ],
)
def test_split_files_that_are_wrong(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        splits.read_file(tmp_path / name)
