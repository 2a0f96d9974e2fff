"""The voxels of a series: every voxel where the headers put it, with the value they give it."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom import convert, series
from tests.scans.dicom.dicom_files import knee, multi_frame, same_voxels, save, slices, uid

REAL = Path(pydicom.__file__).parent / "data" / "test_files"


def read(folder):
    (found,) = series.find(folder)
    return convert.read(found)


@pytest.mark.parametrize(
    ("dtype", "gain", "offset"),
    [(np.int16, 1, -2000), (np.uint16, 14, 0), (np.int32, 1000, -5), (np.uint8, 1 / 20, 0)],
    ids=["signed", "unsigned", "32 bits", "8 bits"],
)
@pytest.mark.parametrize("slope", [None, 0.25])
def test_stored_types_and_rescale(tmp_path, dtype, gain, offset, slope):
    array, affine = knee()
    stored = (array.astype(np.float64) * gain + offset).astype(dtype)
    save(slices(stored, affine, dtype=dtype, slope=slope, intercept=-7 if slope else None), tmp_path)
    expected = stored.astype(np.float64) * (slope or 1) + (-7 if slope else 0)
    same_voxels(read(tmp_path), expected, affine)


def test_each_slice_has_its_own_rescale(tmp_path):
    """As PET and some MR have it: the slope of the first slice must not be taken for all."""
    array, affine = knee()
    datasets = slices(array, affine)
    gain = 1 + 0.125 * np.arange(len(datasets))
    for ds, slope in zip(datasets, gain, strict=True):
        ds.RescaleSlope, ds.RescaleIntercept = f"{slope:g}", f"{10 * slope:g}"
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array * gain + 10 * gain, affine)


@pytest.mark.parametrize("manufacturer", ["SIEMENS", "Philips Medical Systems", "GE MEDICAL SYSTEMS", "Canon", ""])
@pytest.mark.parametrize("ct", [False, True])
def test_every_vendor_is_read_alike(tmp_path, manufacturer, ct):
    """Values and places are those of the standard's tags, whoever made the scanner."""
    array, affine = knee()
    save(slices(array, affine, ct=ct, slope=2, intercept=-5, Manufacturer=manufacturer), tmp_path)
    same_voxels(read(tmp_path), array * 2.0 - 5, affine)


def test_hounsfield_units(tmp_path):
    array, affine = knee(contrast="ct")
    save(slices(array + 1024, affine, ct=True, slope=1, intercept=-1024, dtype=np.uint16), tmp_path)
    same_voxels(read(tmp_path), array, affine)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_byte_orders(tmp_path, syntax):
    array, affine = knee()
    datasets = slices(array, affine)
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array, affine)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_slices(tmp_path, syntax):
    array, affine = knee()
    datasets = slices(array, affine, dtype=np.uint16)
    for ds in datasets:
        ds.compress(syntax)
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array, affine)


@pytest.mark.parametrize(
    "name",
    "MR_small MR_small_implicit MR_small_bigendian MR_small_RLE MR_small_jp2klossless MR_small_jpeg_ls_lossless "
    "MR_small_padded CT_small".split(),
)
def test_a_real_slice_in_every_coding(tmp_path, name):
    """A slice of a scanner, three times one above the other, as the libraries carry it in eight codings."""
    for number in range(3):
        ds = pydicom.dcmread(REAL / f"{name}.dcm")
        ds.SOPInstanceUID, ds.InstanceNumber = uid(name, number), number + 1
        ds.ImagePositionPatient = list(np.add(ds.ImagePositionPatient, [0, 0, 2 * number]))
        ds.save_as(tmp_path / f"{number}.dcm")
    (found,) = series.find(tmp_path)
    plain = pydicom.dcmread(REAL / ("CT_small.dcm" if name == "CT_small" else "MR_small.dcm"))
    pixels = plain.pixel_array * float(plain.get("RescaleSlope", 1)) + float(plain.get("RescaleIntercept", 0))
    same_voxels(convert.read(found), np.repeat(pixels.T[:, :, None], 3, axis=2), found.affine)


@pytest.mark.parametrize("slope", [1, 0.5])
def test_a_multi_frame_image(tmp_path, slope):
    array, affine = knee()
    save([multi_frame(slices(array, affine, slope=slope, intercept=3))], tmp_path)
    same_voxels(read(tmp_path), array * slope + 3, affine)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flip", [False, True])
def test_every_orientation(tmp_path, axes, flip):
    array, affine = knee()
    turned = affine.copy()
    turned[:3, :3] = affine[:3, axes]
    array = array.transpose(axes)
    if flip:
        turned[:3, 3] += turned[:3, 0] * (array.shape[0] - 1)
        turned[:3, 0] *= -1
        array = array[::-1]
    save(slices(array, turned), tmp_path)
    same_voxels(read(tmp_path), array, turned)


def test_the_headers_grid_is_the_grid_of_the_voxels(tmp_path):
    """What is settled from headers before a scan is read must hold once it is."""
    from cyclescan.preprocessing import geometry

    array, affine = knee()
    save(slices(array, affine), tmp_path)
    (found,) = series.find(tmp_path)
    canonical, _ = geometry.to_canonical(convert.read(found))
    shape, expected = geometry.canonical_grid(found.shape, found.affine)
    assert canonical.shape == shape
    np.testing.assert_allclose(canonical.affine, expected, atol=1e-3)


def test_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    array, affine = knee()
    save(slices(array, affine), tmp_path / "in")
    before = {p: p.read_bytes() for p in (tmp_path / "in").iterdir()}
    read(tmp_path / "in")
    assert not list((tmp_path / "temporary").iterdir())
    assert {p: p.read_bytes() for p in (tmp_path / "in").iterdir()} == before


def test_names_that_are_not_ascii(tmp_path):
    array, affine = knee()
    datasets = slices(array, affine)
    save(datasets, tmp_path / "Größe 膝", [f"Schnitt ü {n} 'x\" $HOME" for n in range(len(datasets))])
    same_voxels(read(tmp_path / "Größe 膝"), array, affine)


def test_slices_of_one_instance_number_are_no_copies(tmp_path):
    """Their places differ, and that decides."""
    for number in range(3):
        ds = pydicom.dcmread(REAL / "MR_small.dcm")
        ds.SOPInstanceUID = uid("same", number)
        ds.ImagePositionPatient = list(np.add(ds.ImagePositionPatient, [0, 0, 2 * number]))
        ds.PixelData = (ds.pixel_array + number).tobytes()
        ds.save_as(tmp_path / f"{2 - number}.dcm")
    (found,) = series.find(tmp_path)
    pixels = pydicom.dcmread(REAL / "MR_small.dcm").pixel_array.T
    same_voxels(convert.read(found), np.stack([pixels + number for number in range(3)], axis=2), found.affine)


def test_a_shifted_grid_is_refused(tmp_path):
    array, affine = knee()
    save(slices(array, affine), tmp_path)
    (found,) = series.find(tmp_path)
    scan = convert.read(found)
    moved = scan.affine.copy()
    moved[:3, 3] += 0.1
    with pytest.raises(InputError, match="or another place or orientation"):
        convert.order_of(moved, scan.shape, found.affine, found)


def test_a_constant_series_is_refused_by_its_own_name(tmp_path):
    array, affine = knee()
    save(slices(np.full_like(array, 7), affine), tmp_path)
    with pytest.raises(InputError, match=rf"^{tmp_path}/IM\d+.dcm is constant"):
        read(tmp_path)
