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
from tests.scans.dicom.dicom_files import knee, multi_frame, raw, save, slices, uid, write_knee

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


def half_shifted(tell, first, second):
    """Two series under one id, of which one lies half a slice further, and what says that they are two."""
    array, affine = knee()
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 2] / 2
    one = slices(array, affine, **{tell: first})
    two = slices(array[::-1], moved, **{tell: second})
    for number, ds in enumerate(two):
        ds.SOPInstanceUID = uid("half", number)
    return one + two


@pytest.mark.parametrize(
    ("tell", "first", "second"),
    [
        ("SeriesNumber", 5, 8),
        ("EchoNumbers", 1, 2),
        ("EchoTime", "2.7", "9.1"),
        ("SequenceName", "*tfi3d1", "*de3d1"),
        ("AcquisitionNumber", 1, 4),
        ("FrameOfReferenceUID", uid("here"), uid("there")),
    ],
)
def test_series_that_lie_between_each_other_are_two(tmp_path, tell, first, second):
    """Together they would pass for one with twice the slices, every second of another image."""
    datasets = half_shifted(tell, first, second)
    save(datasets, tmp_path)
    found = series.find(tmp_path)
    assert [(s.shape, s.problem) for s in found] == [(knee()[0].shape, None)] * 2
    files = [{pydicom.dcmread(f).SOPInstanceUID for f in s.files} for s in found]
    assert sorted(files, key=sorted) == sorted(
        [{ds.SOPInstanceUID for ds in datasets[:10]}, {ds.SOPInstanceUID for ds in datasets[10:]}], key=sorted
    )


def test_series_between_each_other_of_which_only_numbers_tell(tmp_path):
    save(half_shifted("AcquisitionNumber", 1, 1), tmp_path)
    (found,) = series.find(tmp_path)
    assert "every second slice is numbered for itself, and slices overlap: two series seem to be mixed" in found.problem


def test_two_multi_frame_files_between_each_other_are_two(tmp_path):
    datasets = half_shifted("AcquisitionNumber", 1, 1)
    both = [multi_frame(datasets[:10]), multi_frame(datasets[10:], SOPInstanceUID=uid("second"))]
    save(both, tmp_path)
    found = series.find(tmp_path)
    assert [(len(s.slices), len(s.files), s.problem) for s in found] == [(10, 1, None)] * 2


def test_slices_acquired_in_turn_are_one_volume(tmp_path):
    """Odd slices in one acquisition and even ones in another, as thick as they are apart: no two series."""
    datasets = slices(*knee())
    for number, ds in enumerate(datasets):
        ds.AcquisitionNumber = number % 2 + 1
    save(datasets, tmp_path)
    (found,) = series.find(tmp_path)
    assert (len(found.slices), found.problem) == (10, None)


def test_one_slice_of_another_echo_among_the_others(tmp_path):
    datasets = slices(*knee())
    datasets[4].EchoTime = "9.5"
    save(datasets, tmp_path, [f"{n}.dcm" for n in range(10)])
    (found,) = series.find(tmp_path)
    assert re.search(r"has the EchoTime 2.7 and \S+/4.dcm has the EchoTime 9.5, in one series", found.problem)


@pytest.mark.parametrize("text", ["", "2,7", "2.70"])
def test_an_echo_time_that_is_missing_or_written_otherwise_divides_nothing(tmp_path, text):
    datasets = slices(*knee())
    raw(datasets[4], "EchoTime", text)
    save(datasets, tmp_path)
    (found,) = series.find(tmp_path)
    assert (len(found.slices), found.problem) == (10, None)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID", "ImageType"])
def test_a_tag_that_every_second_slice_lacks_divides_nothing(tmp_path, keyword):
    """Two volumes of half the slices would each look sound."""
    datasets = slices(*knee())
    for ds in datasets[::2]:
        del ds[keyword]
    save(datasets, tmp_path)
    (found,) = series.find(tmp_path)
    assert (len(found.slices), found.problem, found.subject) == (10, None, "knee-1")


def test_an_echo_of_which_slices_are_lost_is_refused_and_the_other_is_not(tmp_path):
    array, affine = knee()
    datasets = slices(array, affine) + slices(array, affine, EchoTime="9.1")[:-1]
    for number, ds in enumerate(datasets):
        ds.SOPInstanceUID = uid("echo", number)
    save(datasets, tmp_path)
    sound, lacking = sorted(series.find(tmp_path), key=lambda s: len(s.slices), reverse=True)
    assert (len(sound.slices), sound.problem) == (10, None)
    assert "is of 9 slices, where others of its series are 10" in lacking.problem


def without_uid(datasets):
    for ds in datasets:
        del ds.SeriesInstanceUID
    return datasets


def test_without_series_uids_the_numbers_tell_series_apart(tmp_path):
    array, affine = knee()
    datasets = without_uid(slices(array, affine) + slices(array, affine, name="2", SeriesNumber=6))
    save(datasets, tmp_path)
    assert [(len(s.slices), s.problem) for s in series.find(tmp_path)] == [(10, None)] * 2


def test_without_series_uids_echoes_are_told_apart_by_their_number(tmp_path):
    array, affine = knee()
    datasets = slices(array, affine, EchoNumbers=1) + slices(array + 5, affine, name="2", EchoNumbers=2)
    for ds in datasets:
        del ds.SeriesNumber, ds.EchoTime
    save(without_uid(datasets), tmp_path)
    found = series.find(tmp_path)
    assert sorted((len(s.slices), s.problem, s.facts["EchoNumbers"]) for s in found) == [
        (10, None, "1"),
        (10, None, "2"),
    ]


def test_a_slice_that_may_be_of_two_series_spoils_both(tmp_path):
    """The last of one of them: without it that one would look whole."""
    array, affine = knee()
    datasets = without_uid(slices(array, affine) + slices(array, affine, name="2", SeriesNumber=6))
    del datasets[9].SeriesNumber
    save(datasets, tmp_path)
    found = series.find(tmp_path)
    assert len(found) == 2
    for each in found:
        assert "has no SeriesInstanceUID, and several series of its folder may be its own" in each.problem


def test_a_slice_that_lost_its_uid_goes_with_its_series(tmp_path):
    datasets = slices(*knee())
    without_uid([datasets[9], datasets[0]])
    save(datasets, tmp_path)
    (found,) = series.find(tmp_path)
    assert (len(found.slices), found.problem) == (10, None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d[2:], "the InstanceNumbers go to 10, and 1, 2 are missing"),
        (lambda d: d[5:], None),  # more than half would be missing: it is numbered in another way
        (lambda d: d, None),
        (lambda d: [setattr(ds, "ImagesInAcquisition", 12) or ds for ds in d], "has 12 images, and 10 are here"),
        (lambda d: [setattr(ds, "ImagesInAcquisition", 10) or ds for ds in d], None),
        (lambda d: [setattr(ds, "InstanceNumber", 2 * ds.InstanceNumber - 1) or ds for ds in d], None),
        (lambda d: [setattr(ds, "InstanceNumber", 7) or ds for ds in d], None),
    ],
)
def test_slices_that_may_be_lost_at_an_end_are_noted(tmp_path, change, sentence):
    save(change(slices(*knee())), tmp_path)
    (found,) = series.find(tmp_path)
    assert found.problem is None
    assert (found.note is None) if sentence is None else (sentence in found.note)


@pytest.mark.parametrize("lost", [False, True])
def test_a_concatenation_is_one_volume_and_says_what_it_lacks(tmp_path, lost):
    array, affine = knee()
    datasets = slices(array, affine)
    parts = [datasets[7::-1], datasets[8:]]
    files = [
        multi_frame(part, SOPInstanceUID=uid("part", n), InConcatenationNumber=n + 1, InConcatenationTotalNumber=2)
        for n, part in enumerate(parts)
    ]
    save(files[:1] if lost else files, tmp_path)
    (found,) = series.find(tmp_path)
    assert (len(found.slices), found.problem) == (8 if lost else 10, None)
    assert ("2 files belong together, and 1 are here" in found.note) if lost else (found.note is None)


def test_letters_that_nobody_knows_are_not_made_up(tmp_path):
    array, affine = knee()
    for name, charset in (("unstated", None), ("stated", "ISO_IR 144")):
        datasets = slices(array, affine, name=name)
        for ds in datasets:
            raw(ds, "SeriesDescription", "колено", "iso8859-5")
            if charset:
                ds.SpecificCharacterSet = charset
        save(datasets, tmp_path / name)
    assert series.find(tmp_path / "unstated")[0].facts["SeriesDescription"] == "??????"
    assert series.find(tmp_path / "stated")[0].facts["SeriesDescription"] == "колено"


def test_a_file_that_fails_unforeseen_is_a_problem_of_its_own(tmp_path, monkeypatch):
    save(slices(*knee()), tmp_path / "a")
    save(slices(*knee(), name="2"), tmp_path / "b")
    real = series.read_slices

    def failing(path):
        if "/b/" in path:
            raise ZeroDivisionError("Doe^Jane")
        return real(path)

    monkeypatch.setattr(series, "read_slices", failing)
    found = series.find(tmp_path)
    assert [s.problem is None for s in found] == [True, *[False] * 10]
    assert "failed in a way that was not foreseen (ZeroDivisionError" in found[1].problem
    assert "Doe" not in found[1].problem


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
        "JPEG-lossy.dcm": "has no ImageOrientationPatient",
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
