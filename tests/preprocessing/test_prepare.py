import json

import numpy as np
import pytest
from scipy import ndimage

from cyclescan.preprocessing import geometry, intensity, prepare, restore
from cyclescan.volume import Volume
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


def test_without_scaling_intensities_stay_as_they_are():
    """For a served model, which scales them itself."""
    scan = sampled(*GRIDS["oblique, reordered"])
    array, records = prepare(scan, None, (2.5, 0.9, 0.9))
    scaled, record = prepare(scan, "percentile:0,100", (2.5, 0.9, 0.9))
    assert [step["step"] for step in records] == ["canonical", "resample"]
    np.testing.assert_allclose(array.array, intensity.invert(scaled.array, record[-1]), rtol=1e-4, atol=1e-3)
    back = restore(array.array + 1000, records, {"low": 0.0, "high": 1.0})
    assert back.shape == scan.shape
    assert back.array.min() > scan.array.min() + 999  # the target's scale does not apply twice
