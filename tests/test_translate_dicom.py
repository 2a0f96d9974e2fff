"""`translate` from DICOM: series in, derived series or NIfTI out, and every refusal."""

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from cyclescan import NOTICE, translate
from cyclescan.common.files import read_json
from cyclescan.inference.translator import Translator
from cyclescan.scans import volume
from cyclescan.scans.dicom import convert, series
from cyclescan.scans.volume import Volume
from tests.inference import tiny
from tests.scans.dicom.dicom_files import knee, multi_frame, same_voxels, save, slices, write_knee

SECRETS = ["Doe", "knee-1", "19700101", "20240102", "ACC4711", "House", "General Hospital", "MR7"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("translate") / "run")


@pytest.fixture
def call(run, capsys):
    """Run the command in this process; returns the exit code and what it said on stderr."""

    def call(*arguments, direction="a2b"):
        code = translate.main([str(a) for a in ["--model", run.path, "--direction", direction, *arguments]])
        return code, capsys.readouterr().err

    return call


def read(folder):
    (found,) = series.find(folder)
    return convert.read(found)


def refused(result, sentence):
    code, said = result
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2, said
    assert len(errors) == 1, said
    assert re.search(sentence, errors[0]), said


def test_from_series_to_series(run, call, caplog, tmp_path):
    """MR in, synthetic CT out, on the same slices, and nothing that names the patient."""
    array, affine = write_knee(tmp_path / "mr")
    out = tmp_path / "out" / "ct"
    with caplog.at_level("INFO"):
        code, said = call(tmp_path / "mr", out)
    assert code == 0, said
    assert NOTICE in caplog.text
    result = read(out)
    expected = Translator.load(run.path, "a2b").translate_volume(read(tmp_path / "mr"))
    np.testing.assert_allclose(result.array, np.rint(expected.array), atol=1)  # the same up to rounding
    same_voxels(Volume(np.ones_like(result.array), result.affine), np.ones(array.shape), affine)
    assert sorted(p.name for p in out.parent.iterdir()) == ["ct", "ct.json"]
    for ds in map(pydicom.dcmread, out.iterdir()):
        assert (ds.Modality, ds.SeriesDescription, ds.SyntheticData) == ("CT", "synthetic ct (cyclescan)", "YES")
    card = read_json(out.parent / "ct.json")
    assert (card["target"], card["notice"]) == ("ct", NOTICE)
    assert len(card["input_sha256"]) == 64
    written = "".join(p.read_bytes().decode("latin-1") for p in out.parent.rglob("*") if p.is_file())
    for secret in SECRETS:
        assert secret not in written + said + caplog.text


def test_back_to_mr_is_an_mr_image_with_a_slope(call, run, tmp_path):
    write_knee(tmp_path / "ct", contrast="ct", ct=True, slope=1, intercept=0)
    assert call(tmp_path / "ct", tmp_path / "out", direction="b2a")[0] == 0
    expected = Translator.load(run.path, "b2a").translate_volume(read(tmp_path / "ct"))
    result = read(tmp_path / "out")
    np.testing.assert_allclose(result.array, expected.array, atol=np.abs(expected.array).max() / 65000)
    ds = pydicom.dcmread(next((tmp_path / "out").iterdir()))
    assert (ds.Modality, ds.RescaleType) == ("MR", "US")
    assert 0 < float(ds.RescaleSlope) < 1


def test_a_nifti_name_gives_nifti(call, run, tmp_path):
    write_knee(tmp_path / "mr")
    assert call(tmp_path / "mr", tmp_path / "ct.nii.gz")[0] == 0
    image = nib.load(tmp_path / "ct.nii.gz")
    source = read(tmp_path / "mr")
    np.testing.assert_allclose(image.affine, source.affine)
    expected = Translator.load(run.path, "a2b").translate_volume(source)
    np.testing.assert_allclose(image.get_fdata(), expected.array, atol=1e-4 * 2500)
    assert read_json(tmp_path / "ct.json")["target"] == "ct"


def test_a_folder_of_series_and_files(call, tmp_path):
    """Each series goes where its slices lie, under its number, NIfTI files as ever."""
    source, out = tmp_path / "in", tmp_path / "out"
    write_knee(source / "anna" / "mr")
    write_knee(source / "ben", index=1)
    array, affine = knee()
    both = slices(array, affine, subject="carl") + slices(array, affine, subject="carl", name="2", SeriesNumber=6)
    save(both, source / "both")
    volume.write(Volume(tiny.head((9, 8, 7)), np.diag([8.0, 8, 8, 1])), source / "ben" / "scan.nii.gz")
    save(slices(array[:, :, :1], affine, name="loc", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), source / "loc")
    assert call(source, out)[0] == 0
    folders = {p.parent.relative_to(out).as_posix() for p in out.rglob("*.dcm")}
    assert folders == {"anna/mr/series-5", "ben/series-5", "both/series-5", "both/series-6"}
    for name in folders:
        assert len(series.find(out / name)[0].slices) == 10
        assert (out / f"{name}.json").exists()
    assert (out / "ben" / "scan.nii.gz").exists()
    nifti = tmp_path / "nifti"
    assert call(source, nifti, "--nifti")[0] == 0
    assert sorted(p.relative_to(nifti).as_posix() for p in nifti.rglob("*.nii.gz")) == [
        "anna/mr/series-5.nii.gz",
        "ben/scan.nii.gz",
        "ben/series-5.nii.gz",
        "both/series-5.nii.gz",
        "both/series-6.nii.gz",
    ]


def test_a_rule_chooses_the_series(call, tmp_path):
    array, affine = knee()
    save(slices(array, affine), tmp_path / "in")
    save(slices(array, affine, name="2", SeriesDescription="DESS sag", EchoTime="5"), tmp_path / "in" / "more")
    assert call(f"{tmp_path}/in#SeriesDescription~^ciss&EchoTime=2.70", tmp_path / "one")[0] == 0
    assert len(list((tmp_path / "one").glob("*.dcm"))) == 10
    refused(
        call(f"{tmp_path}/in#SeriesDescription~flair", tmp_path / "none"),
        r"The rule SeriesDescription~flair chooses none of the series of .*/in: 5 CISS sag \(10 slices, TE 2.7\), "
        r"5 DESS sag \(10 slices, TE 5\)",
    )
    refused(
        call(f"{tmp_path}/in#SeriesDescripton~x", tmp_path / "none"), "'SeriesDescripton'; SeriesDescription is one"
    )
    assert not (tmp_path / "none").exists()


def test_a_multi_frame_file_and_a_single_slice(call, tmp_path):
    array, affine = knee()
    save([multi_frame(slices(array, affine))], tmp_path, ["whole.dcm"])
    assert call(tmp_path / "whole.dcm", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out").iterdir())) == 10
    write_knee(tmp_path / "in")
    refused(call(tmp_path / "in" / "IM0000.dcm", tmp_path / "x"), "is a series of 1 slice; a volume needs at least 2")


def test_the_identity_is_kept_on_request(call, tmp_path):
    write_knee(tmp_path / "in")
    assert call(tmp_path / "in", tmp_path / "out", "--keep-identity")[0] == 0
    for ds in map(pydicom.dcmread, (tmp_path / "out").iterdir()):
        assert (ds.PatientID, str(ds.PatientName), ds.AccessionNumber) == ("knee-1", "Doe^Jane", "ACC4711")
    assert "knee-1" not in (tmp_path / "out.json").read_text()


def test_broken_series_of_a_batch_are_listed_and_the_rest_are_done(call, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    write_knee(source / "a")
    write_knee(source / "z", index=1)
    holed = slices(*knee(), subject="knee-3")
    save(holed[:4] + holed[5:], source / "gap")
    code, said = call(source, out)
    assert code == 1
    failed = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert "1 slice is missing between them" in failed[0]
    assert {p.parent.parent.name for p in out.rglob("*.dcm")} == {"a", "z"}
    refused(call(source / "gap", tmp_path / "one"), "1 slice is missing between them")


def test_inputs_and_other_folders_are_never_replaced(call, tmp_path):
    write_knee(tmp_path / "in")
    before = {p: p.read_bytes() for p in (tmp_path / "in").iterdir()}
    refused(call(tmp_path / "in", tmp_path / "in"), "which is no translated slice; name a new folder")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("important")
    refused(call(tmp_path / "in", tmp_path / "home"), "holds thesis.txt, which is no translated slice")
    refused(call(tmp_path / "in", tmp_path / "home" / "thesis.txt"), "must be a folder too, not the file")
    assert {p: p.read_bytes() for p in (tmp_path / "in").iterdir()} == before
    assert call(tmp_path / "in", tmp_path / "out")[0] == 0
    assert call(tmp_path / "in", tmp_path / "out")[0] == 0  # an earlier result is replaced


def test_a_synthetic_series_does_not_replace_itself(call, tmp_path):
    write_knee(tmp_path / "mr")
    assert call(tmp_path / "mr", tmp_path / "ct")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "ct").iterdir()}
    refused(call(tmp_path / "ct", tmp_path / "ct", direction="b2a"), "is the input itself")
    assert {path.name: path.read_bytes() for path in (tmp_path / "ct").iterdir()} == before


def test_folders_without_a_scan(call, tmp_path):
    array, affine = knee()
    save(slices(array, affine, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "loc")
    refused(
        call(tmp_path / "loc", tmp_path / "x"), "holds no series but localizers: 5 CISS sag .* a rule can choose them"
    )
    assert call(f"{tmp_path}/loc#Modality=MR", tmp_path / "x")[0] == 0
    reports = tmp_path / "reports"
    reports.mkdir()
    shutil.copy(Path(pydicom.__file__).parent / "data/test_files/test-SR.dcm", reports)
    refused(call(reports, tmp_path / "y"), "There is no NIfTI file .* and no DICOM series")
