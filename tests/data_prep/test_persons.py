"""Who is who: names of one person are joined where a rule tells, and said where they merely look alike."""

import logging
import re
from pathlib import Path

import pytest

from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from data_prep import persons, scans
from data_prep.__main__ import main
from tests.data_prep.scan_files import save, voxels

NAMES = {"a": "flair", "b": "t1"}
PATHS = {"a": "scans/a", "b": "scans/b"}


def settled(a, b, how=persons.NAME, names=NAMES):
    """The subjects of both domains, of scans that are named so."""
    given = {d: [scans.Scan(Path(PATHS[d], n), n, named=how) for n in each] for d, each in (("a", a), ("b", b))}
    return tuple([scan.subject for scan in each] for each in persons.settled(given, names, PATHS).values())


def numbered(text, numbers=range(5)):
    return [text.format(n) for n in numbers]


@pytest.mark.parametrize(
    ("a", "b", "subject"),
    [
        ("k{:02d}_flair", "k{:02d}_t1", "k{:02d}"),
        ("FLAIR-k{:02d}", "T1.k{:02d}", "k{:02d}"),
        ("k{:02d} flair left", "k{:02d}", "k{:02d}"),
        ("hip_{:02d}_0000", "hip_{:02d}_0001", "hip_{:02d}"),
        ("p{}_ses-base_acq-sag_run-1", "p{}_ses-late", "p{}"),
        ("p{}/visit 1", "p{}/visit 3", "p{}"),
        ("site/p{}/baseline", "site/p{}/week12", "site/p{}"),
        ("p{}_R", "p{}_L", "p{}"),
        ("p{}_run2", "p{}_run-1", "p{}"),
    ],
)
def test_names_of_one_person_are_joined(a, b, subject, caplog):
    caplog.set_level(logging.INFO)
    assert settled(numbered(a), numbered(b)) == (numbered(subject), numbered(subject))
    assert "Subjects: 5 of flair, 5 of t1, 5 in both, told by the file's name (10 scans)." in caplog.text
    assert f"Of them 5 have several names, as {subject.format(0)} is " in caplog.text
    assert "look like one person" not in caplog.text


def test_two_visits_in_one_domain_are_joined_and_single_names_stay():
    a = ["anna/ses1", "anna/ses2", "ben/ses1", "carl"]
    assert settled(a, ["anna"], persons.FOLDER) == (["anna", "anna", "ben/ses1", "carl"], ["anna"])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (numbered("sub{:03d}"), numbered("sub{:03d}")),
        (numbered("hospital_{:04d}"), numbered("hospital_{:04d}", range(5, 9))),  # no channels: the numbers differ
        (numbered("x{}_0000"), numbered("x{}_0000")),  # the same in both already
        (numbered("flair_{}"), numbered("mask_{}")),
        (numbered("knee_run{:02d}", range(20)), numbered("hip_{}")),  # so many runs are people
        (["run1", "run2"], ["t1", "left"]),  # nothing would be left
        (numbered("v{:02d}"), numbered("w{:02d}")),
    ],
)
def test_names_of_well_formed_data_sets_stay(a, b):
    assert settled(a, b) == (a, b)


@pytest.mark.parametrize("how", [persons.TABLE, persons.LAYOUT, persons.PATTERN, persons.BIDS, persons.PATIENT_ID])
def test_what_is_stated_is_never_joined(how, caplog):
    a, b = numbered("k{}_flair"), numbered("k{}_t1")
    assert settled(a, b, how) == (a, b)
    assert "look like one person" not in caplog.text


def test_a_guess_is_joined_with_what_is_stated():
    given = {
        "a": [scans.Scan(Path("a/k7_flair"), "k7_flair"), scans.Scan(Path("a/k8_flair"), "k8_flair")],
        "b": [scans.Scan(Path("b/1.dcm"), "k7", named=persons.PATIENT_ID)],
    }
    found = persons.settled(given, NAMES, PATHS)
    assert [scan.subject for scan in found["a"]] == ["k7", "k8_flair"]


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (["K01", "K2"], ["k1", "K3"], "K01 and k1"),
        (["K01_20190304", "K01_20200506", "M"], ["N"], "K01_20190304 and K01_20200506"),
        (["K01_v1", "K01_v2", "M"], ["N"], "K01_v1 and K01_v2"),
        (["patient_9", "M"], ["9", "N"], "9 and patient_9"),
        (numbered("k{}_T2SPACE"), numbered("k{}_SAGPD"), "k0_SAGPD and k0_T2SPACE and 4 more such groups"),
        (numbered("space k{}"), numbered("k{}"), "k0 and space k0 and 4 more such groups"),
    ],
)
def test_names_that_look_alike_are_said(a, b, alike, caplog):
    assert settled(a, b) == (a, b)
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"may stand in several splits: {alike}; if they are one, state who is who with --subject REGEX" in said


def test_folders_that_look_like_people_are_said(caplog):
    names = [f"{person}/{scan}" for person in "pqrs" for scan in (f"x{person}", f"y{person}")]
    given = {"a": [scans.Scan(Path("scans/a", n), n[2:]) for n in names], "b": [scans.Scan(Path("scans/b/z"), "z")]}
    persons.settled(given, NAMES, PATHS)
    assert (
        "Folders of flair hold several subjects each, as p does; if a folder is one person, give --subject"
        in caplog.text
    )
    caplog.clear()
    sites = [scans.Scan(Path(f"scans/a/{site}/{n}{site}"), f"{n}{site}") for site in "pqrs" for n in range(9)]
    persons.settled(given | {"a": sites}, NAMES, PATHS)
    assert "Folders of" not in caplog.text


def test_a_pattern_takes_its_group():
    relative = Path("site/K07-lr/scan.nii.gz")
    for text, subject in (("K[0-9]+", "K07"), ("/(K[0-9]+)-", "K07"), ("(site)/(?P<subject>[^-]+)", "K07")):
        assert persons.by_pattern(persons.pattern(text), relative) == subject
    with pytest.raises(InputError, match=r"--subject Q finds nobody in site/K07-lr/scan\.nii\.gz"):
        persons.by_pattern(persons.pattern("Q"), relative)
    with pytest.raises(InputError, match="which is no regular expression"):
        persons.pattern("(")


def test_nobody_is_in_two_splits(tmp_path, monkeypatch, capsys, caplog):
    """Ten people with two contrasts and two visits each: as many subjects, each in one split."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path / "keys" / "key"))
    for person in range(10):
        save(tmp_path / f"a/h{person}_flair.nii", voxels(person, (6, 7, 8)))
        for visit in (1, 2):
            save(tmp_path / f"b/h{person}/visit {visit}/scan.nii", voxels(50 * visit + person, (6, 7, 8)))

    def build(*more):
        given = ["build", "--a", f"flair={tmp_path / 'a'}", "--b", f"t1={tmp_path / 'b'}", "--workers", "1"]
        code = main([*given, "--split", "0.6", "0.2", "0.2", *more])
        return code, capsys.readouterr().err

    assert build("--out", str(tmp_path / "records"))[0] == 0
    said = caplog.text
    assert (
        "Subjects: 10 of flair, 10 of t1, 10 in both, told by the file's name (10 scans), the folder's name (20" in said
    )
    divided = read_json(tmp_path / "records/dataset.json")["splits"]
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        assert sorted(divided[split]["a"]) == sorted(divided[split]["b"])
        assert len(set(divided[split]["a"])) == count
    assert build("--out", str(tmp_path / "by_pattern"), "--subject", "h[0-9]")[0] == 0
    assert read_json(tmp_path / "by_pattern/dataset.json")["splits"] == divided
    assert "10 in both, told by --subject (30 scans)" in caplog.text
    code, error = build("--out", str(tmp_path / "none"), "--subject", "visit")
    assert code == 2
    assert re.search("error: --subject visit finds nobody in h0_flair.nii; every scan needs a subject", error)
    assert build("--out", str(tmp_path / "none"), "--subject", "x", "--layout", "bids")[0] == 2
