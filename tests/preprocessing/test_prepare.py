import dataclasses
import json

import numpy as np
import pytest
from scipy import ndimage

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import Options, body, geometry, prepare, restore
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject
from tests.preprocessing.test_geometry import field_at, oblique, sampled

LPI = np.array([[-0.7, 0, 0, 30], [0, -0.7, 0, 30], [0, 0, -3.3, 60], [0, 0, 0, 1]])
GRIDS = {
    "anisotropic, flipped": ((44, 48, 18), LPI),
    "oblique": ((18, 44, 48), oblique()),
    "oblique, reordered": ((44, 18, 48), oblique()[:, [1, 0, 2, 3]]),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("spacing_mm", [None, (2.0, 0.6, 0.6), (3.3, 1.0, 1.0)])
def test_restore_returns_the_scan(grid, spacing_mm):
    """The source's grid exactly; its intensities within 1 % of the range inside the percentiles."""
    scan = sampled(*GRIDS[grid])
    prepared, records = prepare(scan, "percentile:0.5,99.5", spacing_mm)
    assert prepared.axes == ("R", "S", "A")
    assert np.abs(prepared.array).max() <= 1
    np.testing.assert_allclose(geometry.working_affine(records), prepared.affine)
    back = restore(prepared.array, json.loads(json.dumps(records)))
    assert back.shape == scan.shape
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-9)
    low, high = np.percentile(scan.array, [1, 99])
    inner = tuple(slice(n // 6, n - n // 6) for n in scan.shape)
    error = np.abs(back.array - np.clip(scan.array, low, high))[inner]
    assert error.max() < 0.03 * (high - low)
    assert error.mean() < 0.01 * (high - low)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_structure_comes_back_within_half_a_voxel(grid):
    shape, affine = GRIDS[grid]
    array = np.zeros(shape, np.float32)
    array[shape[0] // 3, shape[1] // 2, shape[2] // 2] = 1e5
    scan = Volume(ndimage.gaussian_filter(array, 2), affine)
    prepared, records = prepare(scan, "percentile:0,100", (2.5, 0.9, 0.9))
    back = restore(prepared.array, records)
    centres = [np.array(ndimage.center_of_mass(v.array)) for v in (scan, back)]
    assert np.abs(centres[0] - centres[1]).max() < 0.25


def test_crop_comes_back_where_it_was_and_the_rest_is_background():
    scan = sampled(*GRIDS["anisotropic, flipped"])
    prepared, records = prepare(scan, "percentile:0,100", None, (10, 10, 60))
    assert prepared.shape == (10, 10, 60)
    back = restore(prepared.array, records)
    assert back.shape == scan.shape
    kept = np.zeros(scan.shape, bool)
    kept[17:27, :, 4:14] = True  # R is axis 0 of 44, S axis 2 of 18, both flipped; A is padded
    np.testing.assert_allclose(back.array[kept], scan.array[kept], atol=1e-3)
    np.testing.assert_allclose(back.array[~kept], scan.array.min(), atol=1e-3)


def test_restore_in_the_intensities_of_another_domain():
    scan = sampled(*GRIDS["oblique"])
    prepared, records = prepare(scan, "percentile:0,100")
    target = {"step": "intensity", "scaling": "window_hu:-1000,1500", "low": -1000.0, "high": 1500.0}
    back = restore(prepared.array, records, target)
    expected = (scan.array - scan.array.min()) / np.ptp(scan.array) * 2500 - 1000
    np.testing.assert_allclose(back.array, expected, atol=0.01)


def test_intensities_are_measured_on_the_whole_scan_and_not_on_the_crop():
    scan = sampled(*GRIDS["oblique"])
    records = [prepare(scan, "percentile:1,99", None, shape)[1] for shape in (None, (4, 4, 4))]
    limits = [next(r for r in each if r["step"] == "intensity") for each in records]
    assert limits[0] == limits[1]


def test_the_field_of_the_tests_is_not_flat():
    assert field_at(np.array([[0.0, 10], [0, 0], [0, 0]])).std() > 10


EVERYTHING = Options(n4=True, side="right", crop_body_mm=6.0)
TURNED = oblique((1, 1, 1), (9, -7, 12))


def turned(array, affine, seed_side="left") -> Volume:
    """A scan of the digital knee, lying obliquely and stored with its axes in another order and direction."""
    stored = np.ascontiguousarray(array.transpose(1, 2, 0)[:, ::-1])
    change = np.eye(4)[:, [1, 2, 0, 3]] @ np.diag([1.0, -1, 1, 1])
    change[:3, 3] = change[:3, 1] * -(stored.shape[1] - 1)
    return Volume(stored, TURNED @ affine @ change, {"side": seed_side})


@pytest.fixture(scope="module")
def knee():
    return make_subject(3, (20, 40, 40))


@pytest.mark.parametrize("spacing_mm", [None, (4.0, 3.0, 3.0)])
def test_every_step_is_recorded_and_inverted(knee, spacing_mm):
    """1 % of the range and half a voxel, on a smoothed knee: resampling cannot bring noise back."""
    scan = turned(ndimage.gaussian_filter(knee.ciss, 1.5), knee.affine)
    prepared, records = prepare(scan, "percentile:0,100", spacing_mm, None, EVERYTHING)
    steps = ["canonical", "mirror", "bias_field", "crop_or_pad", *(["resample"] if spacing_mm else []), "intensity"]
    assert [r["step"] for r in records] == steps
    assert prepared.axes == ("R", "S", "A")
    back = restore(prepared.array, json.loads(json.dumps(records)))
    assert back.shape == scan.shape
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-9)
    kept = np.moveaxis(body.mask(np.moveaxis(scan.array, -1, 0)), 0, -1)
    error = np.abs(back.array - scan.array)[kept] / np.ptp(scan.array)
    assert error.mean() < (0.01 if spacing_mm else 1e-5)
    centres = [np.array(ndimage.center_of_mass(np.where(kept, v.array, 0) ** 2)) for v in (scan, back)]
    assert np.abs(centres[0] - centres[1]).max() < 0.5


def test_both_sides_become_one(knee):
    """A knee and its mirror image, said to be of the other side, are the same after preparation."""
    scan = Volume(knee.dess, knee.affine, {"side": "right"})
    mirrored = Volume(knee.dess[::-1], knee.affine, {"side": "left"})
    one, records = prepare(scan, "percentile:0,100", options=Options(side="right"))
    other, others = prepare(mirrored, "percentile:0,100", options=Options(side="right"))
    np.testing.assert_array_equal(one.array, other.array)
    assert [r["step"] for r in records] == ["canonical", "intensity"]
    assert [r["step"] for r in others] == ["canonical", "mirror", "intensity"]
    back = restore(other.array, others)
    np.testing.assert_allclose(back.array, mirrored.array, atol=1e-4 * np.ptp(mirrored.array))
    for side in (None, "unknown"):
        with pytest.raises(InputError, match="not known which side the scan shows"):
            prepare(Volume(knee.dess, knee.affine, {"side": side}), "percentile:0,100", options=Options(side="left"))


def test_a_translation_has_no_bias_field_and_air_around_the_crop(knee):
    scan = Volume(knee.dess, knee.affine)
    prepared, records = prepare(scan, "percentile:0,100", options=Options(n4=True, crop_body_mm=0.0))
    target = {"step": "intensity", "scaling": "window_hu:-1000,1500", "low": -1000.0, "high": 1500.0}
    back = restore(np.full(prepared.shape, 0.2, np.float32), records, target).array
    assert set(np.unique(back.round(2))) == {-1000.0, 500.0}
    assert (back > 0).sum() == prepared.array.size < back.size


def test_options_say_only_what_was_asked_for():
    assert Options().to_dict() == {} and Options.of({}) == Options()
    assert Options.of({"preprocessing": json.loads(json.dumps(EVERYTHING.to_dict()))}) == EVERYTHING
    assert EVERYTHING.for_scaling("percentile:1,99") == EVERYTHING
    assert EVERYTHING.for_scaling("window_hu:-1000,1500") == dataclasses.replace(EVERYTHING, n4=False)
    assert len(EVERYTHING.sentences()) == 3 and Options().sentences() == []
    with pytest.raises(InputError, match="The side is 'L'; allowed is left or right"):
        Options(side="L")
    with pytest.raises(InputError, match="margin around the body is -1 mm"):
        Options(crop_body_mm=-1)
