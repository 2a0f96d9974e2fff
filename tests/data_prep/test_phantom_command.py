"""The digital knee's door: files, determinism, headers, the command line and its error sentences."""

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cyclescan.common.errors import InputError
from data_prep import __main__ as data_prep
from data_prep.phantom import DESCRIP, TYPES, make_subject, write_cohort

SHAPE = (10, 20, 24)


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.*"))}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    names = write_cohort(folder, 2, SHAPE, seed=3)
    assert names == ["sub-0001", "sub-0002"]
    return folder


def test_files_and_table(cohort):
    assert set(digests(cohort)) == {"participants.tsv"} | {
        f"{scan}/sub-000{i}.nii.gz" for scan in ("ciss", "dess", "ct", "labels") for i in (1, 2)
    }
    header, *rows = (line.split("\t") for line in (cohort / "participants.tsv").read_text().splitlines())
    assert header[:3] == ["participant_id", "side", "size"] and [r[0] for r in rows] == ["sub-0001", "sub-0002"]
    assert all(len(r) == len(header) and r[1] in ("left", "right") for r in rows)


def test_same_seed_same_bytes_in_two_processes(cohort, tmp_path):
    write_cohort(tmp_path, 2, SHAPE, seed=3, workers=2)
    assert digests(tmp_path) == digests(cohort)


def test_a_subject_does_not_depend_on_the_size_of_the_cohort(cohort, tmp_path):
    write_cohort(tmp_path, 1, SHAPE, seed=3)
    alone, together = digests(tmp_path), digests(cohort)
    for scan in TYPES:
        assert alone[f"{scan}/sub-0001.nii.gz"] == together[f"{scan}/sub-0001.nii.gz"]


def test_seeds_and_subjects_differ(cohort, tmp_path):
    write_cohort(tmp_path, 1, SHAPE, seed=4)
    other, first = digests(tmp_path), digests(cohort)
    for scan in TYPES:
        assert len({other[f"{scan}/sub-0001.nii.gz"], *(first[f"{scan}/sub-000{i}.nii.gz"] for i in (1, 2))}) == 3


def test_headers(cohort):
    for scan, dtype in TYPES.items():
        image = nib.load(cohort / scan / "sub-0001.nii.gz")
        assert image.shape == SHAPE and image.get_data_dtype() == dtype
        assert nib.aff2axcodes(image.affine) == ("R", "S", "A")
        assert image.header.get_zooms() == pytest.approx([96 / 10, 140 / 20, 140 / 24])
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.header["descrip"].item().decode() == DESCRIP and "not for clinical use" in DESCRIP
        centre = image.affine @ [*((n - 1) / 2 for n in SHAPE), 1]
        assert np.allclose(centre, [0, 0, 0, 1], atol=1e-4)


def test_files_hold_the_subject(cohort):
    subject = make_subject(3, SHAPE, index=1)
    for scan in TYPES:
        stored = np.asarray(nib.load(cohort / scan / "sub-0002.nii.gz").dataobj)
        assert np.abs(stored - getattr(subject, scan)).max() <= 0.5
    assert subject.participant["side"] == (cohort / "participants.tsv").read_text().splitlines()[2].split("\t")[1]


def test_spacing_is_taken(tmp_path):
    write_cohort(tmp_path, 1, SHAPE, (3.0, 4.0, 5.0))
    image = nib.load(tmp_path / "ct" / "sub-0001.nii.gz")
    assert image.header.get_zooms() == pytest.approx([3, 4, 5])
    narrow = np.asarray(image.dataobj)
    # the knee fills more of the 30 mm in depth than of 96 mm
    assert (narrow > -500).mean() > 0.5


def test_command_line_writes_everything(tmp_path):
    out = tmp_path / "knees"
    arguments = ["--out", str(out), "--subjects", "1", "--shape", "12", "24", "24", "--seed", "5", "--montage"]
    assert data_prep.main(["phantom", *arguments]) == 0
    assert {p.name for p in out.iterdir()} == {"ciss", "dess", "ct", "labels", "participants.tsv", "montage.png"}
    assert (out / "montage.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    stored = np.asarray(nib.load(out / "ct/sub-0001.nii.gz").dataobj)
    assert np.allclose(stored, make_subject(5, (12, 24, 24)).ct, atol=0.5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--subjects", "0"], "--subjects is 0; whole numbers from 1 are allowed."),
        (["--subjects", "-2"], "--subjects is -2; whole numbers from 1 are allowed."),
        (["--workers", "0"], "--workers is 0; whole numbers from 1 are allowed."),
        (["--seed", "-1"], "--seed is -1; whole numbers from 0 are allowed."),
        (["--shape", "7", "64", "64"], "--shape is 7 64 64; three whole numbers from 8 to 1024 are allowed."),
        (["--shape", "64", "64", "2000"], "--shape is 64 64 2000; three whole numbers from 8 to 1024 are allowed."),
        (["--spacing-mm", "1", "0", "1"], "--spacing-mm is 1 0 1; three positive numbers are allowed."),
        (["--spacing-mm", "1", "1", "-2.5"], "--spacing-mm is 1 1 -2.5; three positive numbers are allowed."),
        (["--spacing-mm", "nan", "1", "1"], "--spacing-mm is nan 1 1; three positive numbers are allowed."),
    ],
)
def test_error_sentences(arguments, sentence, tmp_path, capsys):
    out = tmp_path / "out"
    subjects = [] if "--subjects" in arguments else ["--subjects", "1"]
    given = ["phantom", "--out", str(out), "--shape", "8", "8", "8", *subjects]
    assert data_prep.main([*given, *arguments]) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert not out.exists()


def test_out_that_cannot_be_written(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert (
        data_prep.main(["phantom", "--out", str(blocked / "knees"), "--subjects", "1", "--shape", "8", "8", "8"]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith(f"error: The folder {blocked / 'knees'} cannot be written") and error.count("\n") == 1


def test_python_callers_get_the_same_errors():
    with pytest.raises(InputError, match="--shape is 8 8;"):
        make_subject(0, (8, 8))
    with pytest.raises(InputError, match="--spacing-mm is 1 2;"):
        make_subject(0, (8, 8, 8), (1.0, 2.0))
    with pytest.raises(InputError, match="--seed is -1;"):
        make_subject(-1, (8, 8, 8))
