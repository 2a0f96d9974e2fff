import itertools

import numpy as np
import pytest
from scipy import ndimage

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import geometry
from cyclescan.scans.volume import Volume
from tests.data_prep.scan_files import AFFINE

RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def oblique(spacing_mm=(3.0, 0.8, 0.8), degrees=(12, -8, 20)) -> np.ndarray:
    affine = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        affine[:3, :3] = affine[:3, :3] @ turn
    affine[:3, :3] *= spacing_mm
    affine[:3, 3] = 5, -60, 33
    return affine


def field_at(points_mm: np.ndarray) -> np.ndarray:
    """A smooth function of the place in space (mm), with waves of 40 mm and longer."""
    x, y, z = points_mm
    return 500 + 100 * np.sin(2 * np.pi * x / 40) * np.cos(2 * np.pi * y / 55) + 80 * np.sin(2 * np.pi * z / 47)


def places(shape, affine) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def sampled(shape, affine) -> Volume:
    return Volume(field_at(places(shape, affine)).astype(np.float32), affine)


def all_orientations():
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, axes] * signs * (1.0, 2.0, 3.0)
            affine[:3, 3] = 4, 5, 6
            yield affine


def test_every_orientation_becomes_canonical_without_moving_a_voxel():
    shape = (4, 5, 6)
    for affine in all_orientations():
        volume = sampled(shape, affine)
        canonical, record = geometry.to_canonical(volume)
        assert canonical.axes == ("R", "S", "A")
        np.testing.assert_allclose(canonical.array, field_at(places(canonical.shape, canonical.affine)), rtol=1e-6)
        after = geometry.canonical_grid(shape, affine)
        assert after[0] == canonical.shape
        np.testing.assert_array_equal(after[1], canonical.affine)
        back = geometry.undo(canonical, record)
        np.testing.assert_array_equal(back.array, volume.array)
        np.testing.assert_array_equal(back.affine, affine)


def test_an_oblique_scan_takes_its_nearest_axes():
    volume = sampled((6, 20, 22), oblique())
    canonical, _ = geometry.to_canonical(volume)
    assert canonical.axes == ("R", "S", "A")
    np.testing.assert_allclose(canonical.array, field_at(places(canonical.shape, canonical.affine)), rtol=1e-6)


@pytest.mark.parametrize("affine", [AFFINE, oblique()])
@pytest.mark.parametrize("spacing_mm", [(2.0, 1.0, 1.0), (3.0, 2.0, 1.5), (4.0, 1.7, 2.3)])
def test_resampling_leaves_every_place_where_it_was(affine, spacing_mm):
    volume, _ = geometry.to_canonical(sampled((16, 40, 44), affine))
    result, record = geometry.resample(volume, spacing_mm)
    assert result.spacing_mm == pytest.approx(spacing_mm)
    inner = tuple(slice(n // 5, n - n // 5) for n in result.shape)
    expected = field_at(places(result.shape, result.affine))
    assert np.abs(result.array - expected)[inner].max() < 0.02 * np.ptp(expected)
    centre = [v.affine[:3, :3] @ ((np.array(v.shape) - 1) / 2) + v.affine[:3, 3] for v in (volume, result)]
    np.testing.assert_allclose(*centre, atol=1e-6)
    back = geometry.undo(result, record)
    assert back.shape == volume.shape
    np.testing.assert_array_equal(back.affine, volume.affine)


def test_the_same_spacing_changes_nothing():
    volume = sampled((6, 7, 8), RAS)
    result, _ = geometry.resample(volume, (1.0, 1.0, 1.0005))
    assert result.array is volume.array


def test_a_blob_comes_back_within_half_a_voxel():
    array = np.zeros((24, 30, 30), np.float32)
    array[13, 11, 17] = 1000
    volume = Volume(ndimage.gaussian_filter(array, 2.5), np.diag([3.0, 1.0, 1.0, 1.0]))
    result, record = geometry.resample(volume, (2.0, 1.5, 1.5))
    back = geometry.undo(result, record)
    centres = [np.array(ndimage.center_of_mass(np.maximum(v.array, 0))) for v in (volume, back)]
    assert np.abs(centres[0] - centres[1]).max() < 0.1
    place = [v.affine[:3, :3] @ np.array(ndimage.center_of_mass(np.maximum(v.array, 0))) for v in (volume, result)]
    np.testing.assert_allclose(place[0] + volume.affine[:3, 3], place[1] + result.affine[:3, 3], atol=0.1)


def test_a_fine_pattern_does_not_alias_when_going_coarser():
    """A wave of 2.25 voxels cannot be shown on a grid three times as coarse; it must vanish, not become a slow one."""
    index = np.arange(90)
    wave = np.cos(2 * np.pi * index / 2.25).astype(np.float32)
    volume = Volume(np.broadcast_to(wave, (4, 4, 90)).copy(), RAS)
    coarse, _ = geometry.resample(volume, (1.0, 1.0, 3.0))
    assert coarse.shape == (4, 4, 30)
    naive = wave[1::3]
    assert naive.std() > 0.5  # what picking every third voxel would give
    assert coarse.array[:, :, 3:-3].std() < 0.05


def test_a_slow_pattern_survives_going_coarser():
    wave = np.cos(2 * np.pi * (np.arange(90) + 0.5) / 30).astype(np.float32)
    volume = Volume(np.broadcast_to(wave, (4, 4, 90)).copy(), RAS)
    coarse, _ = geometry.resample(volume, (1.0, 1.0, 3.0))
    expected = np.cos(2 * np.pi * (np.arange(30) * 3 + 1.5) / 30)
    assert np.abs(coarse.array[0, 0] - expected)[3:-3].max() < 0.05


@pytest.mark.parametrize("spacing_mm", [(3, 2, 1.5), (1.1, 4.3, 0.7), (2.5, 0.9, 5.0)])
def test_resampling_is_what_scipy_does_in_three_dimensions(spacing_mm):
    """The matrices of the three axes against one transform of the whole volume."""
    volume = Volume(np.random.default_rng(0).normal(size=(20, 24, 28)).astype(np.float32), np.diag([2.5, 2.0, 1.5, 1]))
    result, _ = geometry.resample(volume, spacing_mm)
    step = np.asarray(spacing_mm) / volume.spacing_mm
    offset = (np.subtract(volume.shape, 1) - step * np.subtract(result.shape, 1)) / 2
    array = ndimage.gaussian_filter(volume.array.astype(float), geometry.anti_aliasing(step), mode="nearest")
    expected = ndimage.affine_transform(array, step, offset, result.shape, order=3, mode="nearest")
    expected = np.clip(expected, volume.array.min(), volume.array.max())
    np.testing.assert_allclose(result.array, expected, atol=2e-6 * np.ptp(volume.array))


def test_a_step_does_not_ring_beyond_the_range():
    array = np.zeros((4, 4, 20), np.float32)
    array[..., 10:] = 100
    result, _ = geometry.resample(Volume(array, RAS), (1.0, 1.0, 0.4))
    assert (result.array.min(), result.array.max()) == (0, 100)


@pytest.mark.parametrize("shape", [(4, 6, 20), (7, 3, 5), (10, 12, 14)])
def test_crop_and_pad_about_the_centre_and_back(shape):
    volume = sampled((10, 12, 14), AFFINE)
    result, record = geometry.crop_or_pad(volume, shape, fill=-1)
    assert result.shape == shape
    inside = result.array != -1
    np.testing.assert_allclose(result.array[inside], field_at(places(shape, result.affine))[inside], rtol=1e-6)
    assert inside.sum() == np.prod([min(n, m) for n, m in zip(shape, volume.shape, strict=True)])
    back = geometry.undo(result, record, fill=-7)
    kept = back.array != -7
    assert back.shape == volume.shape
    np.testing.assert_array_equal(back.array[kept], volume.array[kept])
    assert kept.sum() == inside.sum()
    np.testing.assert_array_equal(back.affine, AFFINE)


@pytest.mark.parametrize("spacing_mm", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan")), (1, 1)])
def test_a_spacing_that_is_not_positive(spacing_mm):
    with pytest.raises(InputError, match="must be three positive numbers"):
        geometry.resample(sampled((4, 4, 4), RAS), spacing_mm)


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, -4, 4), (4, 4)])
def test_a_shape_that_is_not_positive(shape):
    with pytest.raises(InputError, match="must be three positive whole numbers"):
        geometry.crop_or_pad(sampled((4, 4, 4), RAS), shape, fill=0)


def test_a_left_knee_takes_the_place_of_the_right_one():
    """The mirror image of the field, sampled at the mirrored places, also where the scan is oblique."""
    volume, _ = geometry.to_canonical(sampled((7, 20, 22), oblique()))
    mirrored, record = geometry.mirror(volume)
    assert mirrored.axes == ("R", "S", "A") and np.linalg.det(mirrored.affine) * np.linalg.det(volume.affine) > 0
    where = places(mirrored.shape, mirrored.affine) * np.array([-1, 1, 1]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(mirrored.array, field_at(where), rtol=1e-5)
    twice, _ = geometry.mirror(mirrored)
    np.testing.assert_allclose(twice.affine, volume.affine, atol=1e-9)
    back = geometry.undo(mirrored, record)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.affine, volume.affine)


@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.0])
def test_little_is_left_of_what_a_coarser_grid_cannot_show(ratio):
    """Of waves beyond the new Nyquist frequency; those below half of it pass."""
    n, low, high = 4096, 0.25 / ratio, 0.6 / ratio
    kept, leaked = [], []
    for frequency in np.linspace(0.02, 0.48, 24):
        wave = np.cos(2 * np.pi * frequency * np.arange(n) + 0.3).astype(np.float32)
        coarse, _ = geometry.resample(Volume(wave[None, None], RAS), (1.0, 1.0, ratio))
        share = coarse.array.std() / wave.std()
        (kept if frequency < low else leaked if frequency > high else []).append(share)
    assert min(kept) > 0.8
    assert np.mean(leaked) < (0.5 if ratio < 2 else 0.3)


def test_nothing_is_smoothed_where_the_grid_stays_or_becomes_finer():
    assert geometry.anti_aliasing(np.array([1.0, 0.4, 1.0005])).tolist() == [0, 0, 0]
    assert geometry.anti_aliasing(np.array([2.0]))[0] == pytest.approx(0.7355, abs=1e-4)  # sqrt(3) / 2.3548
