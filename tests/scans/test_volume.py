import gzip
import re
import subprocess
import sys
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own habit

from cyclescan.common import files
from cyclescan.common.errors import InputError
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume
from tests.data_prep.scan_files import AFFINE, BROKEN, save, save_forms, voxels


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "scan.nii.gz"
    volume.write(volume.Volume(voxels().astype(np.float32), AFFINE), path, descrip="x" * 200)
    back = volume.read(path)
    np.testing.assert_array_equal(back.array, voxels())
    np.testing.assert_allclose(back.affine, AFFINE)
    assert back.spacing_mm == pytest.approx((3, 2, 1.5))
    assert back.axes == ("R", "S", "A")
    assert len(bytes(nib.load(path).header["descrip"]).rstrip(b"\0")) == 79


def test_integers_are_rounded_and_clipped(tmp_path):
    array = np.array([[[-1e6, -1.6, 0.4, 1.6, 1e6]]], np.float32)
    volume.write(volume.Volume(array, AFFINE), tmp_path / "scan.nii", dtype=np.int16)
    np.testing.assert_array_equal(nib.load(tmp_path / "scan.nii").dataobj, [[[-32768, -2, 0, 2, 32767]]])


def test_scaled_integers_are_read_in_units_of_the_scanner(tmp_path):
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.set_slope_inter(0.5, -100)
    image.to_filename(tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(volume.read(tmp_path / "scan.nii.gz").array, nib.load(tmp_path / "scan.nii.gz").dataobj)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_with_a_sentence_that_names_it(tmp_path, kind):
    write, sentence = BROKEN[kind]
    path = tmp_path / "scan.nii.gz"
    write(path)
    with pytest.raises(InputError, match=sentence) as caught:
        volume.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("none.nii.gz", "does not exist"), ("folder.nii", "is a folder"), ("scan.mgz", "must end in .nii or .nii.gz")],
)
def test_a_path_that_is_no_nifti_file(tmp_path, name, sentence):
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "scan.mgz").write_bytes(b"")
    with pytest.raises(InputError, match=sentence):
        volume.read(tmp_path / name)


def test_one_volume_of_a_series_can_be_chosen(tmp_path):
    path = save(tmp_path / "scan.nii.gz", np.stack([voxels(0), voxels(1)], -1))
    assert volume.count(path) == 2
    np.testing.assert_array_equal(volume.read(path, 1).array, voxels(1))
    with pytest.raises(InputError, match="no volume 2; allowed are 0 to 1"):
        volume.read(path, 2)
    with pytest.raises(InputError, match="is 3-D and has no volume 1"):
        volume.read(save(tmp_path / "3d.nii.gz"), 1)


def test_a_gigantic_claim_is_refused_without_allocation(tmp_path):
    BROKEN["gigantic"][0](tmp_path / "scan.nii.gz")
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            volume.read(tmp_path / "scan.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_gives_no_other_error(tmp_path, seed):
    """Bytes of the header changed at random: the file is read, or refused with a sentence."""
    rng = np.random.default_rng(seed)
    sound = save(tmp_path / "scan.nii").read_bytes()
    refused = 0
    for _ in range(60):
        data = bytearray(sound)
        for place in rng.integers(0, 352, 4):
            data[place] = rng.integers(256)
        (tmp_path / "scan.nii").write_bytes(data)
        try:
            assert np.isfinite(volume.read(tmp_path / "scan.nii").array).all()
        except InputError:
            refused += 1
    assert 0 < refused < 60


def test_only_nifti_names_are_written(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.nii"):
        volume.write(volume.Volume(voxels(), AFFINE), tmp_path / "scan.png")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        volume.write(volume.Volume(voxels(), AFFINE), tmp_path / "file" / "scan.nii.gz")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "note.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["old"]
    with files.replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_volumes_and_records_do_not_import_tensorflow():
    code = (
        "import sys, numpy as np; from cyclescan import records, volume; "
        "r = records.Record(np.zeros((1, 2, 3)), np.eye(4), 'a', 'x', 's', []); "
        "records.decode(records.encode(r)); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_units_become_millimetres(tmp_path):
    volume.write(Volume(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.diag([2, 3, 4, 1.0])), tmp_path / "mm.nii")
    for unit, factor in (("micron", 0.001), ("meter", 1000), ("unknown", 1)):
        image = nib.load(tmp_path / "mm.nii")
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / f"{unit}.nii")
        assert volume.read(tmp_path / f"{unit}.nii").spacing_mm == pytest.approx((2 * factor, 3 * factor, 4 * factor))
        assert volume.read_header(tmp_path / f"{unit}.nii")[1][2, 2] == pytest.approx(4 * factor)


@pytest.mark.parametrize(("unit", "size"), [("micron", 0.7), ("meter", 1.4)])
def test_millimetres_that_are_called_something_else_are_said(tmp_path, unit, size):
    image = nib.Nifti1Image(voxels(), np.diag([size, size, size, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    word = {"micron": "micrometres, which makes voxels of 0.0007 x", "meter": "metres, which makes voxels of 1400 x"}
    assert f"says that its lengths are in {word[unit]}" in volume.placement(tmp_path / "scan.nii").doubt
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "scan.nii")
    assert volume.placement(tmp_path / "scan.nii").doubt is None


def test_a_spacing_is_said_in_the_units_of_the_header(tmp_path):
    image = nib.Nifti1Image(voxels(), np.diag([900.0, 900, 900, 1]))
    image.header.set_xyzt_units("micron")
    data = bytearray(image.to_bytes())
    data[80:84] = np.float32(-900).tobytes()  # pixdim[1]
    (tmp_path / "scan.nii").write_bytes(data)
    with pytest.raises(InputError, match="has the spacing -900 x 900 x 900 micrometres; every value must be positive"):
        volume.read(tmp_path / "scan.nii")


@pytest.mark.parametrize(("slope", "intercept"), [(3.0, np.nan), (0.5, -np.inf), (np.inf, 0.0)])
def test_an_intercept_that_is_no_number_is_said(tmp_path, slope, intercept):
    data = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    data[112:120] = np.float32([slope, intercept]).tobytes()
    (tmp_path / "scan.nii").write_bytes(data)
    sentence = f"scan.nii has the slope {slope:g} and the intercept {intercept:g}; both must be finite"
    with pytest.raises(InputError, match=sentence):
        volume.read(tmp_path / "scan.nii")


def test_an_intercept_without_a_slope_means_nothing(tmp_path):
    data = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    data[112:120] = np.float32([np.nan, np.nan]).tobytes()
    (tmp_path / "scan.nii").write_bytes(data)
    np.testing.assert_array_equal(volume.read(tmp_path / "scan.nii").array, voxels())


def test_damage_anywhere_in_a_compressed_series_is_found(tmp_path):
    """One byte changed before, in and behind the volume that is read: the checksum at the end tells."""
    path = save(tmp_path / "scan.nii.gz", np.stack([voxels(seed) for seed in range(5)], -1))
    data = path.read_bytes()
    for place in np.linspace(400, len(data) - 5, 23).astype(int):
        changed = bytearray(data)
        changed[place] ^= 0x24
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"scan.nii.gz is (truncated|not a NIfTI)"):
            volume.read(path, 2)


def test_axes_of_length_one_behind_a_series(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 6, 1)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "five.nii.gz")
    np.testing.assert_array_equal(volume.read(tmp_path / "five.nii.gz", 2).array, array[..., 2, 0])


def moved(share, axis=0):
    """`AFFINE`, moved along one axis by a share of its voxel."""
    affine = AFFINE.copy()
    affine[:3, 3] += share * AFFINE[:3, axis]
    return affine


ROTATED = np.array([[2.88, -0.56, 0, -15], [0.84, 1.92, 0, -10], [0, 0, 1.5, -12], [0, 0, 0, 1]])
FORMS = {
    "the same": (AFFINE, AFFINE, (1, 1), None),
    "the same in an atlas": (ROTATED, ROTATED, (4, 5), None),
    "sform alone": (ROTATED, AFFINE, (0, 2), None),
    "qform alone": (ROTATED, AFFINE, (3, 0), None),
    "neither": (ROTATED, AFFINE, (0, 0), "does not say where it lies .* left and right may be exchanged"),
    "moved by less than half a voxel": (moved(0.45, 2), AFFINE, (1, 1), None),
    "moved by more than half a voxel": (moved(-0.55, 1), AFFINE, (1, 2), r"sform .code 2.*qform .code 1.*0\.55 voxels"),
    "flipped": (AFFINE @ np.diag([1, -1, 1, 1]), AFFINE, (1, 2), "lies at two places: .* the sform counts here"),
    "other voxels": (AFFINE, AFFINE @ np.diag([1, 1.25, 1, 1]), (2, 4), r"\(2.2 voxels\) apart"),
}


@pytest.mark.parametrize("unit", ["mm", "micron", "meter"])
@pytest.mark.parametrize("kind", FORMS)
def test_a_result_lies_where_its_scan_does_for_every_program(tmp_path, kind, unit):
    qform, sform, codes, doubt = FORMS[kind]
    length = np.diag([{"mm": 1, "micron": 1000, "meter": 0.001}[unit]] * 3 + [1])
    path = save_forms(tmp_path / "scan.nii.gz", length @ qform, length @ sform, codes, unit=unit)
    scan, placement = volume.read(path), volume.placement(path)
    if doubt:
        assert re.search(doubt, placement.doubt)
    else:
        assert placement.doubt is None
    volume.write(scan, tmp_path / "result.nii.gz", placement=placement)
    before, after = nib.load(path), nib.load(tmp_path / "result.nii.gz")
    assert [int(after.header[f"{form}_code"]) for form in ("qform", "sform")] == list(codes)
    for form in ("get_qform", "get_sform", "get_best_affine"):
        expected = np.linalg.inv(length) @ getattr(before.header, form)()
        np.testing.assert_allclose(getattr(after.header, form)(), expected, atol=1e-4)
    # ITK has another rule than nibabel, and finds the result where it finds the scan
    for itk_before, itk_after in zip(*(itk_grid(p) for p in (path, tmp_path / "result.nii.gz")), strict=True):
        np.testing.assert_allclose(itk_after, itk_before, atol=1e-4)


def itk_grid(path):
    image = sitk.ReadImage(str(path))
    return image.GetOrigin(), image.GetSpacing(), image.GetDirection()


def test_one_rule_says_which_form_counts(tmp_path):
    for codes, counts in (((1, 2), AFFINE), ((0, 4), AFFINE), ((2, 0), ROTATED)):
        path = save_forms(tmp_path / "scan.nii", ROTATED, AFFINE, codes)
        for affine in (volume.read(path).affine, volume.read_header(path)[1], volume.placement(path).affine):
            np.testing.assert_allclose(affine, counts, atol=1e-5)


def test_a_qform_that_is_no_rotation_does_not_lose_the_scan(tmp_path):
    path = save_forms(tmp_path / "scan.nii", AFFINE, AFFINE, (1, 1))
    raw = bytearray(path.read_bytes())
    np.frombuffer(raw, nib.nifti1.header_dtype, 1)["quatern_b"][0] = 7.0
    path.write_bytes(raw)
    placement = volume.placement(path)
    assert "no rotation" in placement.doubt
    volume.write(volume.read(path), tmp_path / "result.nii", placement=placement)
    np.testing.assert_allclose(volume.read(tmp_path / "result.nii").affine, AFFINE)


def test_a_placement_of_another_grid_is_a_defect(tmp_path):
    placement = volume.placement(save(tmp_path / "scan.nii"))
    with pytest.raises(ValueError, match="the volume lies at"):
        volume.write(Volume(voxels().astype(np.float32), ROTATED), tmp_path / "result.nii", placement=placement)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_damaged_series_is_refused_whichever_volume_is_read(tmp_path, index):
    """Bytes that are wrong and still decode: only the checksum at the end of the stream tells."""
    series = np.stack([voxels(seed, (20, 22, 24)) for seed in range(4)], -1)
    path = save(tmp_path / "series.nii.gz", series)
    np.testing.assert_array_equal(volume.read(path, index).array, series[..., index])
    plain = bytearray(gzip.decompress(path.read_bytes()))
    checksum = gzip.compress(bytes(plain), mtime=0)[-8:]
    plain[400 + 3 * len(plain) // 4] ^= 64  # in the last volume
    path.write_bytes(gzip.compress(bytes(plain), mtime=0)[:-8] + checksum)
    with pytest.raises(InputError, match=r"series\.nii\.gz is truncated or damaged: .* its checksum \(CRC\)"):
        volume.read(path, index)


def test_names_that_say_the_wrong_compression(tmp_path):
    data = save(tmp_path / "x.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(data)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(data))
    for name, said in (("plain.nii.gz", r"rename it to \.nii\.$"), ("packed.nii", r"rename it to \.nii\.gz\.$")):
        with pytest.raises(InputError, match=f"{name} is .*compressed, .*{said}"):
            volume.read(tmp_path / name)
