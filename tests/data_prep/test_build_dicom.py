"""`build` and `scans` from DICOM: the records of a series are those of the same voxels as NIfTI, and silent."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cyclescan import records
from cyclescan.scans import volume
from cyclescan.scans.dicom import convert, series
from data_prep import scans
from data_prep.__main__ import main
from data_prep.build import build
from tests.data_prep.scan_files import save as save_nifti
from tests.scans.dicom.dicom_files import knee, save, slices, write_knee

ROOT = Path(__file__).parents[2]
SECRETS = [
    b"Doe",
    b"knee-",
    b"19700101",  # "1970" alone comes in hashes by chance
    b"20240102",
    b"ACC4711",
    b"House",
    b"General Hospital",
    b"MR7",
    b"1.2.826",
    b"CISS sag",
]


@pytest.fixture(autouse=True)
def key_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path / "keys" / "key"))


@pytest.fixture
def hospital(tmp_path):
    """Three subjects, each with a CISS, a DESS and a localizer in one study."""
    folder = tmp_path / "hospital"
    for index in range(3):
        name = f"knee-{index + 1}"
        for number, contrast in enumerate(("ciss", "dess")):
            array, affine = knee(index, contrast)
            text = f"{contrast.upper()} sag"
            options = {"subject": name, "name": contrast, "SeriesDescription": text, "SeriesNumber": number + 2}
            save(slices(array, affine, **options), folder / name / f"{contrast}")
        localizer = slices(
            array[:, :, ::4],
            affine,
            subject=name,
            name="loc",
            SeriesDescription="scout",
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        )
        save(localizer, folder / name / "loc")
    return folder


def every_record(out):
    return {p.relative_to(out).as_posix(): list(records.read_shard(p)) for p in sorted(out.rglob("*.tfrecord"))}


def test_records_of_dicom_are_those_of_the_same_nifti(hospital, tmp_path):
    for contrast in ("ciss", "dess"):
        for scan in scans.find(f"{hospital}#SeriesDescription~{contrast}"):
            volume.write(convert.read(scan.series), tmp_path / contrast / f"{scan.subject}.nii")
    dicom = [(c, f"{hospital}#SeriesDescription~{c}") for c in ("ciss", "dess")]
    build(*dicom, tmp_path / "one", split=(1, 1, 1), workers=1)
    build(("ciss", tmp_path / "ciss"), ("dess", tmp_path / "dess"), tmp_path / "two", split=(1, 1, 1), workers=1)
    one, two = every_record(tmp_path / "one"), every_record(tmp_path / "two")
    assert list(one) == list(two)
    assert sum(map(len, one.values())) == 6
    for name in one:
        for x, y in zip(one[name], two[name], strict=True):
            assert (x.subject, x.domain_name) == (y.subject, y.domain_name)
            np.testing.assert_array_equal(x.voxels, y.voxels)
            np.testing.assert_allclose(x.affine, y.affine, atol=1e-4)


def test_the_command_line_with_two_workers_writes_the_same_bytes(hospital, tmp_path):
    arguments = ["build", "--split", "1", "1", "1", "--shape", "10", "24", "20"]
    for contrast, domain in (("ciss", "a"), ("dess", "b")):
        arguments += [f"--{domain}", f"{contrast}={hospital}#SeriesDescription~^{contrast}&Modality=MR"]
    assert main([*arguments, "--out", str(tmp_path / "1"), "--workers", "1"]) == 0
    command = [sys.executable, "-m", "data_prep", *arguments, "--out", str(tmp_path / "2"), "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = [{p.relative_to(tmp_path / w): p.read_bytes() for p in (tmp_path / w).rglob("*.*")} for w in ("1", "2")]
    assert files[0] == files[1]
    for content in files[0].values():
        for secret in SECRETS:
            assert secret not in content


def test_a_subject_without_an_id_is_its_folder(tmp_path):
    for name, index in (("ward/anna", 0), ("sub-07/scan", 1)):
        array, affine = knee(index)
        save(slices(array, affine, subject="", name=name), tmp_path / "a" / name)
    assert sorted(s.subject for s in scans.find(tmp_path / "a")) == ["sub-07", "ward"]


def test_a_table_of_folders_and_files(hospital, tmp_path):
    save_nifti(tmp_path / "old.nii.gz")
    (tmp_path / "t.csv").write_text(
        "subject,path,split,site\n"
        f"anna,{hospital.name}/knee-1#SeriesDescription~ciss,train,north\n"
        f"ben,{hospital.name}/knee-2/ciss,test,south\n"
        "carl,old.nii.gz,val,\n"
    )
    listed = scans.find(tmp_path / "t.csv")
    assert [(s.subject, s.split, s.site, s.series is not None) for s in listed] == [
        ("anna", "train", "north", True),
        ("ben", "test", "south", True),
        ("carl", "val", None, False),
    ]
    array, _ = knee(1)
    assert scans.read_header(listed[1])[0] == array.shape
    assert scans.read(listed[2]).shape == (10, 12, 14)
    assert scans.files(listed[1]) == series.find(hospital / "knee-2" / "ciss")[0].files


def test_how_a_scan_was_made_goes_with_the_volume(tmp_path):
    write_knee(tmp_path, Laterality="L")
    (scan,) = scans.find(tmp_path)
    meta = scans.read(scan).meta
    stated = {"repetition_time_ms": 6.1, "echo_time_ms": 2.7, "flip_deg": 40.0, "field_tesla": 3.0}
    assert meta["acquisition"] == pytest.approx(stated)
    assert meta["side"] == "left"


def test_the_list_of_a_hospital_folder(hospital, tmp_path, capsys):
    holed = slices(*knee(), subject="knee-9")
    save(holed[:4] + holed[5:], hospital / "knee-9")
    assert main(["scans", str(hospital)]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    head, rows = lines[0].split(), [line.split() for line in lines[1:]]
    assert head[:4] == ["subject", "number", "description", "protocol"]
    assert len(rows) == 10
    assert [row[0] for row in rows] == ["1"] * 3 + ["2"] * 3 + ["3"] * 3 + ["4"]
    ciss = "1 2 CISS sag knee ciss *tfi3d1 3 6.1 2.7 40 20x24x10 1.5 x 1.25 x 3 sagittal PIR"
    assert " ".join(rows[0]) == f"{ciss} knee-1/ciss"
    assert sum(row[-1] == "localizer" for row in rows) == 3
    assert "1 slice is missing between them" in lines[10]
    for word in ("Doe", "1970", "ACC4711", "House", "General", "MR7"):
        assert word not in said
    assert main(["scans", f"{hospital}#SeriesDescription~dess"]) == 0
    assert capsys.readouterr().out.count("DESS sag") == 3


def test_the_list_of_nifti_files_and_of_nothing(tmp_path, capsys):
    save_nifti(tmp_path / "n" / "sub-1.nii.gz")
    (tmp_path / "n" / "broken.nii").write_text("x")
    assert main(["scans", str(tmp_path / "n")]) == 0
    head, broken, sound = capsys.readouterr().out.splitlines()
    assert head.split() == ["subject", "voxels", "spacing", "mm", "slices", "axes", "path", "note"]
    assert "truncated: it holds 1 bytes" in broken
    assert sound.split() == "2 10x12x14 3 x 2 x 1.5 coronal RSA sub-1.nii.gz".split()
    for place, sentence in (("none", "does not exist"), ("e", "holds no NIfTI file .* and no DICOM")):
        (tmp_path / "e").mkdir(exist_ok=True)
        assert main(["scans", str(tmp_path / place)]) == 2
        assert re.search(sentence, capsys.readouterr().err)


def test_a_build_that_is_repeated_reads_only_what_has_changed(hospital, tmp_path):
    dicom = [(c, f"{hospital}#SeriesDescription~{c}") for c in ("ciss", "dess")]
    out = tmp_path / "records"
    first = build(*dicom, out, split=(3, 0, 0), workers=1)
    times = {p.name: p.stat().st_mtime_ns for p in out.rglob("*.tfrecord")}
    assert build(*dicom, out, split=(3, 0, 0), workers=1) == first
    assert {p.name: p.stat().st_mtime_ns for p in out.rglob("*.tfrecord")} == times
    path = next((hospital / "knee-2" / "ciss").glob("*"))
    ds = pydicom.dcmread(path)
    ds.PixelData = (ds.pixel_array + 1).tobytes()
    ds.save_as(path)
    second = build(*dicom, out, split=(3, 0, 0), workers=1)
    changed = [name for name in first["shards"] if first["shards"][name] != second["shards"][name]]
    assert [name[:7] for name in changed] == ["train/a"]
