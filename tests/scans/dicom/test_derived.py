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
from cyclescan.scans.volume import Volume
from tests.scans.dicom.dicom_files import knee, multi_frame, same_voxels, save, slices, uid

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
