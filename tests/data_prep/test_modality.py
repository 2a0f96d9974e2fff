"""CT is known by what it is."""

import logging

import numpy as np
import pytest

from cyclescan.preprocessing.intensity import CT_SCALING, MR_SCALING
from data_prep.build import BuildRequest, modality
from data_prep.build.sources import read_headers
from data_prep.phantom import make_subject
from data_prep.scans import find
from tests.data_prep.scan_files import AFFINE, save, voxels
from tests.scans.dicom.dicom_files import save as save_dicom
from tests.scans.dicom.dicom_files import slices


@pytest.fixture(scope="module")
def ct():
    return np.rint(make_subject(2, (16, 32, 32)).ct).astype(np.int16)


def scalings(folder, name, other="mr", **given):
    """What is chosen for the domain `name`, whose scans lie in `folder`; the other domain is MR."""
    save(folder.parent / "other/x.nii", voxels(7))
    request = BuildRequest((name, folder), (other, folder.parent / "other"), folder.parent / "records", **given)
    found = {d: find(path) for d, path in request.paths.items()}
    sources, failed = read_headers(found, request.names, b"key", None)
    assert not failed
    return modality.scalings(request, sources)


@pytest.mark.parametrize("name", ["ct", "CT", "cbct", "ct_knee", "planning-ct", "bone", "x1"])
def test_ct_gets_its_window_whatever_its_name(tmp_path, ct, name, caplog):
    caplog.set_level(logging.INFO)
    for number, padding in enumerate((None, -3024, -1024)):
        array = ct.copy()
        if padding:
            array[:, :9, :9] = padding
        save(tmp_path / f"scans/{number}.nii.gz", array)
    assert scalings(tmp_path / "scans", name) == {"a": CT_SCALING, "b": MR_SCALING}
    said = [r.getMessage() for r in caplog.records]
    if name in ("bone", "x1"):
        assert said == [f"{name} is CT by its values: {CT_SCALING}; --scaling-a chooses another."]
    else:
        assert said == []


@pytest.mark.parametrize("name", ["ciss", "contrast", "t2_direct", "octa"])
def test_mr_is_scaled_as_mr(tmp_path, name):
    rng = np.random.default_rng(0)
    phase = rng.integers(-4096, 4095, (12, 20, 20)).astype(np.int16)
    for kind, array in (("magnitude", voxels(1)), ("phase", phase), ("normal", rng.normal(0, 1, (9, 9, 9)))):
        save(tmp_path / kind / "scans/1.nii", array)
        assert scalings(tmp_path / kind / "scans", name)["a"] == MR_SCALING


def test_a_name_that_says_ct_of_what_is_none_is_warned_of(tmp_path, caplog):
    save(tmp_path / "scans/1.nii", voxels(1))
    assert scalings(tmp_path / "scans", "cbct")["a"] == CT_SCALING
    (said,) = [r.getMessage() for r in caplog.records]
    assert said.startswith(f"cbct is taken for CT by its name and gets {CT_SCALING}, and is not CT by its values")
    assert scalings(tmp_path / "scans", "cbct", scaling_a="percentile:1,99")["a"] == "percentile:1,99"
    assert len(caplog.records) == 1  # what is asked for needs no looking at


def test_dicom_says_it_itself(tmp_path):
    for kind, named, expected in (
        ("MR", "ct_like", CT_SCALING),
        ("CT", "bone", CT_SCALING),
        ("MR", "bone", MR_SCALING),
    ):
        folder = tmp_path / kind / named
        save_dicom(slices(voxels(3), AFFINE, ct=kind == "CT"), folder / "scans")
        assert scalings(folder / "scans", named)["a"] == expected


def test_scans_that_cannot_be_read_are_passed_over(tmp_path, ct):
    for number in range(2):
        (tmp_path / "scans").mkdir(exist_ok=True)
        data = save(tmp_path / f"scans/{number}.nii", ct).read_bytes()
        (tmp_path / f"scans/{number}.nii").write_bytes(data[:352] + bytes(len(data) - 352))  # constant
    save(tmp_path / "scans/9.nii", ct)
    assert scalings(tmp_path / "scans", "bone")["a"] == CT_SCALING
