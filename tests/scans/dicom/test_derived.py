"""The derived series: valid by the standard's tables, on the source's geometry, silent about the patient."""

import dataclasses
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom import _standard_utils as standard

from cyclescan import NOTICE, __version__
from cyclescan.common.errors import InputError
from cyclescan.scans.dicom import convert, derived, series
from cyclescan.scans.dicom.tags import lenient
from cyclescan.scans.volume import Volume
from tests.scans.dicom.dicom_files import knee, multi_frame, raw, same_voxels, save, slices, uid

MR = derived.Derivation("dess", False, "0123456789abcdef a2b", (0.0, 900.0))
CT = derived.Derivation("ct", True, "0123456789abcdef a2b", (-1000.0, 1500.0))
SECRETS = [b"Doe", b"Jane", b"knee-1", b"1970", b"20240102", b"101500", b"ACC4711", b"House", b"General Hosp", b"MR7"]


def translated(folder, gain=0.37, offset=0.0, **options):
    """A source and something in its place: its series and a volume on its grid."""
    array, affine = knee()
    save(slices(array, affine, **options), folder)
    (source,) = series.find(folder)
    scan = convert.read(source)
    return source, Volume(scan.array * gain + offset, scan.affine)


def files(folder):
    return [pydicom.dcmread(p) for p in sorted(Path(folder).iterdir())]


@pytest.mark.parametrize("derivation", [MR, CT], ids=["mr", "ct"])
def test_it_is_read_as_the_same_voxels_on_the_same_grid(tmp_path, derivation):
    source, volume = translated(tmp_path / "in", offset=-300.0 if derivation is CT else 0.0)
    derived.write(source, volume, tmp_path / "out", derivation)
    (result,) = series.find(tmp_path / "out")
    assert result.problem is None
    again = convert.read(result)
    np.testing.assert_array_equal(again.affine, convert.read(source).affine)
    if derivation is CT:
        np.testing.assert_array_equal(again.array, np.rint(volume.array))
    else:
        np.testing.assert_allclose(again.array, volume.array, atol=np.abs(volume.array).max() / 65534 * 1.001)
    # to the last bit: what the files state is what is read
    stated = np.stack(
        [d.pixel_array.T * np.float32(d.RescaleSlope) + float(d.RescaleIntercept) for d in files(tmp_path / "out")], -1
    )
    same_voxels(again, stated.astype(np.float32), result.affine)


@pytest.mark.filterwarnings("error")  # pydicom warns of values that break a rule
@pytest.mark.parametrize("derivation", [MR, CT], ids=["mr", "ct"])
@pytest.mark.parametrize("keep", [False, True])
def test_every_required_attribute_is_there(tmp_path, derivation, keep):
    """Against the tables of the standard (PS3.3) that highdicom carries: types 1 and 2 of all mandatory modules."""
    source, volume = translated(tmp_path / "in")
    derived.write(source, volume, tmp_path / "out", dataclasses.replace(derivation, keep_identity=keep))
    for ds in files(tmp_path / "out"):
        iod = standard.get_sop_class_iod_map()[ds.SOPClassUID]
        assert iod == ("ct-image" if derivation is CT else "mr-image")
        modules = [m["key"] for m in standard.get_iod_module_map()[iod] if m["usage"] == "M"]
        assert {"image-pixel", "image-plane", "frame-of-reference", "sop-common", iod} <= set(modules)
        for module in modules:
            standard.check_required_attributes(ds, module)
        assert len(ds.PixelData) == 2 * ds.Rows * ds.Columns
        for element in ds.iterall():
            if element.VR == "UI":
                assert all(u.is_valid for u in ([element.value] if element.VM == 1 else element.value))
            if element.VR == "DS" and element.value:
                assert all(len(str(v)) <= 16 for v in np.atleast_1d(element.value))


def test_a_file_without_a_required_attribute_would_be_found(tmp_path):
    source, volume = translated(tmp_path / "in")
    derived.write(source, volume, tmp_path / "out", MR)
    ds = files(tmp_path / "out")[0]
    del ds.PixelSpacing
    with pytest.raises(AttributeError, match="PixelSpacing"):
        standard.check_required_attributes(ds, "image-plane")


def test_it_says_what_it_is_and_where_it_comes_from(tmp_path):
    source, volume = translated(tmp_path / "in")
    derived.write(source, volume, tmp_path / "out", MR)
    originals = [pydicom.dcmread(f) for f in source.files]
    results = files(tmp_path / "out")
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [f"{n:04d}.dcm" for n in range(1, 11)]
    for number, (ds, original) in enumerate(zip(results, originals, strict=True), 1):
        assert ds.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert ds[0x0008, 0x001C].value == "YES"
        assert NOTICE in ds.DerivationDescription
        assert NOTICE in ds.ImageComments
        (image,) = ds.SourceImageSequence
        assert image.ReferencedSOPInstanceUID == original.SOPInstanceUID
        assert image.ReferencedSOPClassUID == original.SOPClassUID
        scanner, program = ds.ContributingEquipmentSequence
        assert (scanner.Manufacturer, program.Manufacturer) == ("Digital", "cyclescan")
        assert program.SoftwareVersions == __version__
        assert MR.model in program.ContributionDescription
        assert ds.InstanceNumber == number
        assert (ds.SeriesNumber, ds.SeriesDescription) == (1005, "synthetic dess (cyclescan)")
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
            assert ds[keyword].value == original[keyword].value
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(ds[keyword].value, original[keyword].value, atol=1e-6)
        assert not {"EchoTime", "RepetitionTime", "FlipAngle"} & {e.keyword for e in ds if e.value}
    uids = {d.SOPInstanceUID for d in results} | {results[0].SeriesInstanceUID}
    assert len(uids) == 11
    assert not uids & {d[k].value for d in originals for k in ("SOPInstanceUID", "SeriesInstanceUID")}
    assert {d.SeriesInstanceUID for d in results} == {results[0].SeriesInstanceUID}


def test_nothing_identifies_unless_it_is_asked_for(tmp_path):
    source, volume = translated(tmp_path / "in", PatientName="Doe^Jane", OtherPatientIDs="Doe-2")
    derived.write(source, volume, tmp_path / "out", MR)
    content = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir())
    for secret in SECRETS:
        assert secret not in content
    for ds in files(tmp_path / "out"):
        assert ds.PatientIdentityRemoved == "YES"
        assert (ds.PatientID, str(ds.PatientName), ds.PatientBirthDate, ds.AccessionNumber) == ("", "", "", "")


def test_the_identity_is_kept_on_request(tmp_path):
    source, volume = translated(tmp_path / "in", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    derived.write(source, volume, tmp_path / "out", dataclasses.replace(MR, keep_identity=True))
    for ds in files(tmp_path / "out"):
        assert (str(ds.PatientName), ds.PatientID, ds.PatientBirthDate) == ("Müller^Jürgen", "knee-1", "19700101")
        assert (ds.AccessionNumber, ds.StudyDate, ds.InstitutionName) == ("ACC4711", "20240102", "General Hospital")
        assert ds.Manufacturer == "cyclescan"
        assert "StationName" not in ds
        assert "PatientIdentityRemoved" not in ds


def test_the_same_translation_has_the_same_uids_and_another_has_others(tmp_path):
    source, volume = translated(tmp_path / "in")
    others = [MR, MR, dataclasses.replace(MR, model="other"), dataclasses.replace(MR, keep_identity=True)]
    uids = []
    for number, derivation in enumerate(others):
        derived.write(source, volume, tmp_path / str(number), derivation)
        uids.append([d.SOPInstanceUID for d in files(tmp_path / str(number))])
    assert uids[0] == uids[1]
    assert not set(uids[0]) & set(uids[2])
    assert not set(uids[0]) & set(uids[3])


def test_of_a_multi_frame_source_each_frame_is_named(tmp_path):
    array, affine = knee()
    save([multi_frame(slices(array, affine))], tmp_path / "in")
    (source,) = series.find(tmp_path / "in")
    scan = convert.read(source)
    derived.write(source, scan, tmp_path / "out", MR)
    (result,) = series.find(tmp_path / "out")
    same_voxels(convert.read(result), array, affine, tolerance=0.1)
    assert [d.SourceImageSequence[0].ReferencedFrameNumber for d in files(tmp_path / "out")] == list(range(1, 11))


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 0, 1)])
def test_coronal_and_transverse_sources(tmp_path, axes):
    array, affine = knee()
    turned = affine.copy()
    turned[:3, :3] = affine[:3, axes]
    save(slices(array.transpose(axes), turned), tmp_path / "in")
    (source,) = series.find(tmp_path / "in")
    derived.write(source, convert.read(source), tmp_path / "out", CT)
    (result,) = series.find(tmp_path / "out")
    same_voxels(convert.read(result), array.transpose(axes), turned)


def test_a_source_with_few_tags(tmp_path):
    """No study, frame of reference, series number or manufacturer: new UIDs, and the rest stays silent."""
    array, affine = knee()
    bare = slices(array, affine)
    for ds in bare:
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "Manufacturer", "SliceThickness"):
            del ds[keyword]
    save(bare, tmp_path / "in")
    (source,) = series.find(tmp_path / "in")
    derived.write(source, convert.read(source), tmp_path / "out", MR)
    for ds in files(tmp_path / "out"):
        assert ds.StudyInstanceUID.is_valid and ds.FrameOfReferenceUID.is_valid
        assert (ds.SeriesNumber, float(ds.SliceThickness)) == (1000, pytest.approx(3.0))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("MagneticFieldStrength", "2,9 T"),
        ("LossyImageCompressionRatio", "ten"),
        ("PatientWeight", "heavy"),
        ("PatientBirthDate", "in spring"),
        ("PatientSex", "f?"),
        ("PatientAge", "forty"),
        ("BodyPartExamined", "left knee, lower part"),
        ("LossyImageCompression", "yes"),
        ("FrameOfReferenceUID", "here and there"),
        ("StudyInstanceUID", "../../../study"),
        ("SOPInstanceUID", "image one"),
        ("StudyTime", "noon"),
    ],
)
def test_a_value_that_is_none_is_left_out(tmp_path, keep, keyword, text):
    """A translation must not end, after the network has run, with a header that nobody needs."""
    array, affine = knee()
    datasets = slices(array, affine)
    for number, ds in enumerate(datasets):
        raw(ds, keyword, f"{text} {number}" if keyword == "SOPInstanceUID" else text)
        ds.preamble = bytes(128)
    with lenient():
        save(datasets, tmp_path / "in", enforce_file_format=False)
    (source,) = series.find(tmp_path / "in")
    assert source.problem is None
    derived.write(source, convert.read(source), tmp_path / "out", dataclasses.replace(MR, keep_identity=keep))
    results = files(tmp_path / "out")
    assert len(results) == 10
    for path in (tmp_path / "out").iterdir():
        assert text.encode() not in path.read_bytes()
    for ds in results:
        assert ds.StudyInstanceUID.is_valid and ds.FrameOfReferenceUID.is_valid
        for module in ("patient", "general-study", "general-equipment", "sop-common", "mr-image"):
            standard.check_required_attributes(ds, module)


def test_what_is_lost_of_an_identity_that_was_asked_for_is_said(tmp_path, caplog):
    array, affine = knee()
    datasets = slices(array, affine)
    for ds in datasets:
        raw(ds, "PatientName", "Žižka^Jan", "iso8859-2")  # and no SpecificCharacterSet
        raw(ds, "PatientWeight", "heavy")
    save(datasets, tmp_path / "in")
    (source,) = series.find(tmp_path / "in")
    derived.write(source, convert.read(source), tmp_path / "out", dataclasses.replace(MR, keep_identity=True))
    said = [m for m in caplog.messages if "cannot be kept" in m]
    assert len(said) == 1
    assert "PatientName, PatientWeight cannot be kept" in said[0]
    for ds in files(tmp_path / "out"):
        assert (str(ds.PatientName), ds.PatientID) == ("", "knee-1")
        assert "PatientWeight" not in ds


@pytest.mark.parametrize(
    ("charset", "encoding", "kept"),
    [
        ("ISO_IR 101", "iso8859-2", True),
        ("ISO_IR 192", "utf-8", True),
        ("ISO_IR 6", "iso8859-2", False),
        (None, "utf-8", False),
        ("ISO_IR 192", "iso8859-2", False),  # bytes that are none of what is stated
        ("ISO_IR 4711", "iso8859-2", False),
    ],
)
def test_letters_of_a_character_set_that_is_not_stated_are_not_passed_on(tmp_path, charset, encoding, kept):
    array, affine = knee()
    datasets = slices(array, affine)
    for ds in datasets:
        if charset:
            ds.SpecificCharacterSet = charset
        for keyword in ("PatientName", "Manufacturer", "PositionReferenceIndicator"):
            raw(ds, keyword, "Žižka", encoding)
    save(datasets, tmp_path / "in")
    (source,) = series.find(tmp_path / "in")
    derived.write(source, convert.read(source), tmp_path / "out", dataclasses.replace(MR, keep_identity=True))
    for ds in files(tmp_path / "out"):
        expected = ("Žižka",) * 3 if kept else ("", "unknown", "")
        scanner = ds.ContributingEquipmentSequence[0]
        assert (str(ds.PatientName), scanner.Manufacturer, ds.PositionReferenceIndicator) == expected


def region(**tags):
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "72696002", "SCT", "Knee"
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return item


def test_of_a_sequence_only_what_may_stand_in_it_is_copied(tmp_path):
    array, affine = knee()
    modifier = region(CodeValue="7771000", CodeMeaning="Left", PatientComments="Doe in the modifier")
    item = region(AnatomicRegionModifierSequence=[modifier], PatientName="Doe^J", ContextGroupLocalVersion="Doe 2")
    item.private_block(0x0011, "GENERAL HOSP", create=True).add_new(0x10, "LO", "Doe, Jane")
    item.InstitutionCodeSequence = [region(CodeMeaning="General Hospital of Doe")]
    local = region(CodingSchemeDesignator="99DOE", CodeMeaning="knee of Jane Doe")
    empty = pydicom.Dataset()
    empty.PatientComments = "Doe once more"
    save(slices(array, affine, AnatomicRegionSequence=[item, local, empty]), tmp_path / "in")
    (source,) = series.find(tmp_path / "in")
    derived.write(source, convert.read(source), tmp_path / "out", MR)
    for path in (tmp_path / "out").iterdir():
        assert b"Doe" not in path.read_bytes() and b"DOE" not in path.read_bytes()
        assert b"Hosp" not in path.read_bytes() and b"HOSP" not in path.read_bytes()
        (kept,) = pydicom.dcmread(path).AnatomicRegionSequence
        names = {"CodeValue", "CodingSchemeDesignator", "CodeMeaning"}
        assert {e.keyword for e in kept} == names | {"AnatomicRegionModifierSequence"}
        (side,) = kept.AnatomicRegionModifierSequence
        assert {e.keyword: e.value for e in side} == {
            "CodeValue": "7771000",
            "CodingSchemeDesignator": "SCT",
            "CodeMeaning": "Left",
        }


@pytest.mark.parametrize("number", ["99999999999", "²", "-3", "1.5"])
def test_a_series_number_that_cannot_be_counted_on(tmp_path, number):
    array, affine = knee()
    datasets = slices(array, affine)
    for ds in datasets:
        ds.SpecificCharacterSet = "ISO_IR 192"
        raw(ds, "SeriesNumber", number, "utf-8")
    save(datasets, tmp_path / "in")
    (source,) = series.find(tmp_path / "in")
    derived.write(source, convert.read(source), tmp_path / "out", MR)
    assert {ds.SeriesNumber for ds in files(tmp_path / "out")} == {1000}


@pytest.mark.parametrize("largest", [1e-7, 0.5, 32767.0, 32768.0, 99999.9, 1e12])
def test_the_slope_holds_the_largest_voxel(tmp_path, largest):
    source, volume = translated(tmp_path / "in")
    scaled = Volume((volume.array * (largest / volume.array.max())).astype(np.float32), volume.affine)
    derived.write(source, scaled, tmp_path / "out", MR)
    (result,) = series.find(tmp_path / "out")
    np.testing.assert_allclose(convert.read(result).array, scaled.array, atol=largest / 65000)


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    source, volume = translated(tmp_path / "in")
    with pytest.raises(InputError, match=r"holds IM\d+.dcm, which is no translated slice"):
        derived.check_folder(tmp_path / "in")
    save(slices(*knee()), tmp_path / "numbered", [f"{n:04d}.dcm" for n in range(10)])
    with pytest.raises(InputError, match="which is no translated slice"):
        derived.check_folder(tmp_path / "numbered")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="is a file; DICOM slices are written into a folder"):
        derived.check_folder(tmp_path / "file")
    derived.write(source, volume, tmp_path / "out", MR)
    derived.check_folder(tmp_path / "out")
    derived.check_folder(tmp_path / "new")
    assert uid("a") != uid("b")
