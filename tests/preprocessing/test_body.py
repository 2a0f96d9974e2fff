import numpy as np
import pytest
from scipy import ndimage

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import body, geometry
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module", params=[0, 1, 2])
def knee(request):
    return make_subject(request.param, (24, 48, 48))


@pytest.mark.parametrize("contrast", ["ciss", "dess", "ct"])
def test_the_mask_is_the_knee_in_every_contrast(knee, contrast):
    array = getattr(knee, contrast)
    found = body.mask(array)
    assert found.dtype == bool and found.shape == array.shape
    assert dice(found, knee.labels > 0) > 0.95
    assert ndimage.label(found)[1] == 1


def test_brightness_and_unit_do_not_matter(knee):
    np.testing.assert_array_equal(body.mask(knee.dess), body.mask(37 * knee.dess + 500))


def test_a_table_and_bright_specks_are_not_the_body():
    array = np.random.default_rng(0).normal(0, 5, (24, 40, 40))
    array[6:18, 8:30, 8:30] += 300
    array[10:14, 16:22, 16:22] = 0  # cortical bone inside
    array[:, 38, :] += 250  # the table
    array[2, 3, 3] = 1e5
    found = body.mask(array)
    expected = np.zeros(array.shape, bool)
    expected[6:18, 8:30, 8:30] = True
    assert dice(found, expected) > 0.93
    assert found[10:14, 16:22, 16:22].all()
    assert not found[:, 36:].any() and not found[2, 3, 3]


def test_tissue_that_only_its_mean_tells_from_air():
    """Muscle in noise, at a bright bone; and the bone alone does not grow into the air."""
    rng = np.random.default_rng(0)
    noise = np.hypot(*rng.normal(0, 20, (2, 24, 40, 40)))  # as a magnitude has it: 25 on average
    bone, muscle = np.zeros((2, *noise.shape), bool)
    bone[4:20, 6:36, 6:16], muscle[4:20, 6:36, 16:34] = True, True
    bright = noise + 400 * bone
    both = np.where(muscle, np.hypot(noise, 40), bright)
    assert dice(body.mask(both), bone | muscle) > 0.93
    assert dice(body.mask(both, dark_tissue=False), bone | muscle) < 0.7
    np.testing.assert_array_equal(body.mask(bright), body.mask(bright, dark_tissue=False))


def test_large_axes_are_searched_on_a_coarser_grid():
    array = np.zeros((5, 401, 197), np.float32)
    array[1:4, 100:300, 50:150] = 7
    found = body.mask(array)
    assert found.shape == array.shape
    for axis, (first, last) in enumerate(((1, 4), (100, 300), (50, 150))):
        where = np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis})))
        assert abs(where[0] - first) <= 4 and abs(where[-1] + 1 - last) <= 4


def test_a_scan_of_two_values_and_one_without_air():
    two = np.zeros((8, 8, 8))
    two[2:6, 2:6, 2:6] = 1
    assert body.mask(two)[3:5, 3:5, 3:5].all()
    almost = np.zeros((20, 20, 20))
    almost[0, 0, 0] = 1
    assert body.mask(almost).shape == almost.shape
    assert body.mask(np.full((8, 8, 8), 3.0)).all()


@pytest.mark.parametrize("margin_mm", [0.0, 6.0])
def test_the_crop_holds_the_body_and_its_margin(margin_mm):
    array = np.zeros((30, 40, 50), np.float32)
    array[10:20, 12:30, 5:48] = 100
    volume = Volume(ndimage.gaussian_filter(array, 0.7), np.diag([3.0, 2.0, 1.0, 1.0]))
    cropped, record = body.crop(volume, margin_mm)
    start = record["start"]
    wanted = [10 - margin_mm / 3, 12 - margin_mm / 2, max(0, 5 - margin_mm)]
    assert np.abs(np.subtract(start, wanted)).max() <= 2  # the smoothed edge
    assert cropped.array.shape == tuple(record["shape_after"])
    np.testing.assert_array_equal(
        cropped.array, volume.array[tuple(slice(s, s + n) for s, n in zip(start, cropped.shape, strict=True))]
    )
    np.testing.assert_allclose(cropped.affine[:3, 3], np.multiply(start, (3, 2, 1)))
    back = geometry.undo(cropped, record, fill=-5)
    kept = back.array != -5
    assert back.shape == volume.shape and kept.sum() == cropped.array.size
    np.testing.assert_array_equal(back.array[kept], volume.array[kept])


@pytest.mark.parametrize("margin_mm", [-1, float("nan"), float("inf")])
def test_a_margin_that_is_not_allowed(margin_mm):
    with pytest.raises(InputError, match=f"The margin around the body is {margin_mm} mm; it must be a number"):
        body.crop(Volume(np.zeros((4, 4, 4)), np.eye(4)), margin_mm)
