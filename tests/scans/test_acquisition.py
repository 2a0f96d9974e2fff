import json

import pytest

from cyclescan.scans import acquisition, volume
from tests.data_prep.scan_files import save

BIDS = {"RepetitionTime": 0.0169, "EchoTime": 0.00571, "FlipAngle": 25, "MagneticFieldStrength": 2.89}
OURS = {"repetition_time_ms": 16.9, "echo_time_ms": 5.71, "flip_deg": 25, "field_tesla": 2.89}


def read_beside(tmp_path, content, name="scan"):
    (tmp_path / f"{name}.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return acquisition.beside(tmp_path / f"{name}.nii.gz", name)


def test_parameters_come_in_our_units_and_nothing_else_comes(tmp_path):
    facts = read_beside(tmp_path, BIDS | {"PatientName": "Doe^Jane", "EchoTrainLength": 1, "Laterality": "R"})
    assert facts == {"acquisition": pytest.approx(OURS), "side": "right"}


def test_reading_a_scan_reads_what_is_beside_it(tmp_path):
    path = save(tmp_path / "sub-1.nii.gz")
    assert "side" not in volume.read(path).meta and volume.read(path).meta["acquisition"] == {}
    (tmp_path / "sub-1.json").write_text(json.dumps(BIDS | {"ImageLaterality": "l"}))
    meta = volume.read(path).meta
    assert meta["acquisition"] == pytest.approx(OURS) and meta["side"] == "left"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"[" * 100_000, b"NaN", b'"text"',
        {"RepetitionTime": "2", "EchoTime": None, "FlipAngle": [3], "MagneticFieldStrength": True},
        {"RepetitionTime": -1, "EchoTime": 0, "FlipAngle": float("nan"), "MagneticFieldStrength": float("inf")},
        {"Laterality": "B", "FrameLaterality": 7},
        b" " * acquisition.LARGEST_SIDECAR + json.dumps(BIDS).encode(),
    ],
)  # fmt: skip
def test_a_file_beside_the_scan_that_says_nothing(tmp_path, content):
    assert read_beside(tmp_path, content) == {"acquisition": {}}


def test_a_missing_file_and_a_folder_in_its_place(tmp_path):
    assert acquisition.beside(tmp_path / "scan.nii", "scan") == {"acquisition": {}}
    (tmp_path / "scan.json").mkdir()
    assert acquisition.beside(tmp_path / "scan.nii", "scan") == {"acquisition": {}}


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("sub-1_hemi-L_dess", "left"),
        ("sub-1_hemi-R_dess", "right"),
        ("sub-1_side-left", "left"),
        ("hemi-r", "right"),
        ("sub-1_hemi-Lr", None),
        ("sub-1_bhemi-L", None),
        ("sub-L", None),
    ],
)
def test_the_side_in_a_name_goes_before_that_of_the_file_beside_it(tmp_path, name, side):
    assert read_beside(tmp_path, {}, name).get("side") == side
    assert read_beside(tmp_path, {"Laterality": "R"}, name)["side"] == (side or "right")
