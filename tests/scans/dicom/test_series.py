"""Series from headers: what belongs together, where it lies, and what the table says about it."""

import os
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from cyclescan.scans.dicom import series
from tests.scans.dicom.dicom_files import knee, multi_frame, save, slices, uid, write_knee

REAL = Path(pydicom.__file__).parent / "data"
KNEE = {"repetition_time_ms": 6.1, "echo_time_ms": 2.7, "flip_deg": 40.0, "field_tesla": 3.0}
REAL_NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


def test_a_series_is_described_from_its_headers(tmp_path):
    array, affine = write_knee(tmp_path)
    (found,) = series.find(tmp_path)
    assert found.problem is None
    assert found.shape == array.shape
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    assert (found.subject, found.uid) == ("knee-1", uid("series", "knee-1", "1"))
    assert found.meta["acquisition"] == pytest.approx(KNEE)
    assert found.facts == {
        "Modality": "MR",
        "SeriesNumber": "5",
        "SeriesDescription": "CISS sag",
        "ProtocolName": "knee ciss",
        "SequenceName": "*tfi3d1",
        "ScanningSequence": "GR",
        "Manufacturer": "Digital",
        "MagneticFieldStrength": "3",
        "RepetitionTime": "6.1",
        "EchoTime": "2.7",
        "FlipAngle": "40",
        "ImageType": "ORIGINAL\\PRIMARY\\M\\ND",
        "AcquisitionNumber": "1",
    }


@pytest.mark.parametrize(("keyword", "value"), [("Laterality", "L"), ("ImageLaterality", "R")])
def test_the_side_is_carried_on(tmp_path, keyword, value):
    write_knee(tmp_path, **{keyword: value})
    (found,) = series.find(tmp_path)
    assert found.meta["side"] == {"L": "left", "R": "right"}[value]


def test_slices_are_ordered_by_place_not_by_name_or_number(tmp_path):
    array, affine = knee()
    datasets = slices(array, affine)
    for number, ds in enumerate(datasets):
        ds.InstanceNumber = [3, 1, 4, 10, 5, 9, 2, 6, 8, 7][number]
    save(datasets, tmp_path)
    (found,) = series.find(tmp_path)
    assert [pydicom.dcmread(f).SOPInstanceUID for f in found.files] == [ds.SOPInstanceUID for ds in datasets]


def test_a_hospital_folder_of_everything(tmp_path):
    """Two series of two people, a localizer of three planes, a report, a DICOMDIR, notes; names that are not ASCII."""
    array, affine = knee()
    mixed = slices(array, affine) + slices(array, affine, name="2", SeriesDescription="DESS sag", SeriesNumber=6)
    save(mixed, tmp_path / "Müller, Jürgen" / "膝")
    write_knee(tmp_path / "flat", index=1)
    for number, axes in enumerate([(0, 1, 2), (1, 2, 0), (2, 0, 1)]):
        turned = affine.copy()
        turned[:3, :3] = affine[:3, axes]
        planes = slices(
            array.transpose(axes)[:, :, :3], turned, name="loc", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
        )
        for i, ds in enumerate(planes):
            ds.SOPInstanceUID = uid("loc", number, i)
        save(planes, tmp_path / "loc", [f"{number}{i}.dcm" for i in range(3)])
    for name in ("test-SR.dcm", "rtstruct.dcm", "rtplan.dcm", "reportsi.dcm", "waveform_ecg.dcm"):
        shutil.copy(REAL / "test_files" / name, tmp_path)
    shutil.copy(REAL / "test_files" / "dicomdirtests" / "DICOMDIR", tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = series.find(tmp_path)
    assert [(s.subject, s.facts["SeriesDescription"], len(s.slices), s.is_localizer, s.problem) for s in found] == [
        ("knee-1", "DESS sag", 10, False, None),
        ("knee-1", "CISS sag", 10, False, None),
        ("knee-2", "CISS sag", 10, False, None),
        *[("knee-1", "CISS sag", 3, True, None)] * 3,
    ]
    assert found == sorted(found, key=lambda s: min(s.files))


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", ["5", "10"]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M", "ND"], ["ORIGINAL", "PRIMARY", "P", "ND"]]),
        ("TemporalPositionIdentifier", [1, 2]),
        ("AcquisitionNumber", [1, 2]),
        ("DiffusionBValue", [0.0, 800.0]),
    ],
)
def test_volumes_of_one_series_are_told_apart(tmp_path, keyword, values):
    array, affine = knee()
    for number, value in enumerate(values):
        datasets = slices(array + number, affine, **{keyword: value})
        for ds in datasets:
            ds.SOPInstanceUID = uid(ds.SOPInstanceUID, number)
            ds.InstanceNumber += number * 10
        save(datasets, tmp_path / str(number))
    found = series.find(tmp_path)
    assert [(len(s.slices), s.problem) for s in found] == [(10, None)] * 2
    assert [{Path(f).parent.name for f in s.files} for s in found] == [{"0"}, {"1"}]


def test_copies_are_taken_once(tmp_path, caplog):
    """The same export twice, and one slice once more under another UID."""
    array, affine = knee()
    datasets = slices(array, affine)
    save(datasets, tmp_path / "one")
    save(datasets, tmp_path / "two")
    datasets[4].SOPInstanceUID = uid("again")
    datasets[4].InstanceNumber = 11
    save([datasets[4]], tmp_path / "three")
    (found,) = series.find(tmp_path)
    assert (found.shape, found.problem) == (array.shape, None)
    assert {Path(f).parent.name for f in found.files} <= {"one", "three"}
    assert "11 slices of the series" in caplog.text


def test_a_multi_frame_file_is_a_series(tmp_path):
    array, affine = knee()
    save([multi_frame(slices(array, affine))], tmp_path, ["whole.dcm"])
    (found,) = series.find(tmp_path / "whole.dcm")
    assert found.problem is None
    assert found.shape == array.shape
    assert found.files == [str(tmp_path / "whole.dcm")]
    assert [s.frame for s in found.slices] == list(range(1, 11))
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    assert found.meta["acquisition"] == pytest.approx(KNEE)


def test_files_without_a_preamble(tmp_path):
    array, affine = knee()
    for number, ds in enumerate(slices(array, affine)):
        del ds.file_meta
        ds.save_as(tmp_path / f"{number}", implicit_vr=True, little_endian=True)
    (found,) = series.find(tmp_path)
    assert (found.shape, found.problem) == (array.shape, None)


def test_nothing_that_identifies_is_among_the_facts(tmp_path):
    write_knee(tmp_path)
    (found,) = series.find(tmp_path)
    for word in ("Doe", "1970", "ACC4711", "General Hospital", "House", "MR7"):
        assert word not in str(found.facts)


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    write_knee(tmp_path / "scans")
    monkeypatch.chdir(tmp_path)
    (found,) = series.find("scans")
    assert found.path.is_absolute()


def test_every_real_file_that_the_libraries_carry(tmp_path):
    """Charts, ultrasound, broken encodings, mosaics: each is a series, a problem in one sentence, or no image."""
    found = series.find(REAL) + series.find(REAL_NICOM)
    by_name = {s.path.name: s for s in found}
    for each in found:
        assert each.problem is None or (each.problem.endswith((".", ")")) and str(each.path) in each.problem), (
            each.problem
        )
    sound = [s for s in found if not s.problem]
    assert [(s.shape, s.facts["SeriesDescription"]) for s in sound] == [((16, 16, 5), "SmartScore - Gated 0.5 sec")]
    for name, sentence in {
        "17106": "are 202.5 mm apart and the other slices",
        "MR_truncated.dcm": "is truncated: 64x64x1 pixels need 8192 bytes, 8130 are there",
        "0.dcm": "is a Siemens mosaic",
        "csa_slice_norm.dcm": "has no pixel data",
        "ExplVR_BigEnd.dcm": "holds RGB",
        "examples_palette.dcm": "holds PALETTE COLOR",
        "liver_1frame.dcm": "has 1 bits a pixel",
        "image_dfl.dcm": "has no ImageOrientationPatient",
        "JPEG-lossy.dcm": "is coded as JPEG Extended of 12 bits, which is not read; .* with dcmdjpeg",
        "empty_charset_LEI.dcm": "is a damaged DICOM file",
        "CT_small.dcm": "is a series of 1 slice",
    }.items():
        assert re.search(sentence, by_name[name].problem)
    assert not any(name.startswith(("rtplan", "rtstruct", "DICOMDIR", "test-SR")) for name in by_name)


def test_damaged_bytes_never_stop_the_search(tmp_path):
    """Files of one slice and of many, cut anywhere and with bytes changed: a problem, no image, or as it was."""
    array, affine = knee()
    datasets = slices(array, affine)
    save(datasets[:1], tmp_path / "sound", ["one"])
    save([multi_frame(datasets)], tmp_path / "sound", ["many"])
    rng = np.random.default_rng(0)
    broken = tmp_path / "broken"
    broken.mkdir()
    for sound in sorted((tmp_path / "sound").iterdir()):
        data = sound.read_bytes()
        header = data.rfind(b"\xe0\x7f\x10\x00") + 12
        for number in range(60):
            (broken / f"{sound.name}-cut{number}.dcm").write_bytes(data[: header * number // 60])
            changed = bytearray(data)
            for place in rng.integers(128, header, rng.integers(1, 6)):
                changed[place] = rng.integers(256)
            (broken / f"{sound.name}-changed{number}.dcm").write_bytes(bytes(changed))
    found = series.find(broken)
    names = {Path(f).name for s in found for f in s.files}
    assert {f"{kind}-cut{n}.dcm" for kind in ("one", "many") for n in range(60)} <= names
    for each in found:
        if any("-cut" in f for f in each.files):
            assert each.problem
        if each.problem:
            assert not {"Doe", "Jane", "ACC4711", "General"} & set(re.split(r"\W", each.problem))
