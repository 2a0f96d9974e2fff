"""Registration of volumes whose true alignment is known."""

import dataclasses
import logging

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from data_prep import registration

SHAPE, SPACING_MM = (24, 32, 32), (3.0, 2.5, 2.5)


def serial(function, arguments):
    return [function(*a) for a in arguments]


def body(seed: int) -> np.ndarray:
    """Blobs in a soft-edged box on [-1, 1], different left and right."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3)
    edge = ndimage.gaussian_filter(np.pad(np.ones([n - 10 for n in SHAPE]), 5), 1)
    return (2 * edge * (0.6 + 0.4 * np.tanh(blobs / blobs.std())) / 1.0 - 1).astype(np.float32)


def image(array):
    return registration.image_of(array, SPACING_MM)


def at(transforms, point):
    return np.array(sitk.CompositeTransform(list(transforms)).TransformPoint(point))


POINTS = [(20.0, 25.0, 22.0), (60.0, 40.0, 50.0), (40.0, 55.0, 33.0)]  # mm along width, height, depth


def test_affine_finds_a_shift_between_two_contrasts():
    fixed = body(0)
    shift_mm = np.array([7.5, -5.0, 3.0])  # width, height, depth
    moved = ndimage.shift(fixed, shift_mm[::-1] / SPACING_MM, order=1, cval=-1)
    other_contrast = 1 - 2 * np.abs(moved)  # not monotone
    found = registration.register_affine(image(fixed), image(other_contrast))
    for point in POINTS:
        assert np.linalg.norm(at(found.forward(), point) - (np.array(point) + shift_mm)) < 1.5
    assert found.information > 0.2


def test_a_mirrored_volume_is_recognised():
    fixed = body(1)
    found = registration.register_affine(image(fixed), image(fixed[::-1]))
    matrix = np.array(found.affine[:9]).reshape(3, 3)
    assert np.linalg.det(matrix) == pytest.approx(-1, abs=0.05)
    back = registration.resample(image(fixed[::-1]), image(fixed), found.forward())
    assert np.nanmean(np.abs(back - fixed)) < 0.03


def limbs() -> tuple[np.ndarray, np.ndarray]:
    """A limb in two contrasts: bright fat in dark skin, as in CISS, and dark fat in bright skin, as in DESS."""
    _, y, x = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")
    depth = 12 - np.hypot(y, x)  # voxels below the surface
    blobs = ndimage.gaussian_filter(np.random.default_rng(9).normal(size=SHAPE), 2)
    blobs /= blobs.std()

    def layers(skin, fat, muscle):
        sharp = np.select([depth < 0, depth < 2.5, depth < 5], [-1, skin, fat], muscle)
        return ndimage.gaussian_filter(sharp, 0.6).astype(np.float32)

    return layers(-0.6, 0.6, -0.2 + 0.5 * np.tanh(blobs)), layers(0.1, -0.5, 0.3 - 0.5 * np.tanh(blobs))


def test_contrasts_meet_under_the_skin():
    first, second = map(image, limbs())

    def error(found):
        return max(np.linalg.norm(at(found.forward(), point) - np.array(point)) for point in POINTS)

    plain, under_the_skin = (f(first, second) for f in (registration.register_affine, registration.register_contrasts))
    assert error(plain) > 0.4  # mm
    assert error(under_the_skin) < 0.2


def test_what_is_under_the_skin_corrects_only_what_it_knows_better(monkeypatch):
    fixed, moving = image(body(2)), image(-body(2))
    plain = registration.register_affine(fixed, moving)
    search = registration._most_informative

    def astray(*arguments):
        found, under_skin = search(*arguments), len(arguments) > 5
        wrong = (*found.affine[:9], 3.0, 3.0, 3.0, *found.affine[12:])
        return dataclasses.replace(found, affine=wrong) if under_skin else found

    monkeypatch.setattr(registration, "_most_informative", astray)
    assert registration.register_contrasts(fixed, moving) == plain


def test_contrasts_without_air_or_without_contrast_are_registered_as_they_can_be():
    body_only = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 2).astype(np.float32)
    filled, inverted = (image(a - a.min() + 3 * np.ptp(a)) for a in (body_only, -body_only))
    found = registration.register_contrasts(filled, inverted)
    assert max(np.linalg.norm(at(found.forward(), point) - np.array(point)) for point in POINTS) < 0.3
    flat = image(np.full(SHAPE, -1.0))
    assert registration.register_contrasts(image(body(2)), flat) == registration.register_affine(image(body(2)), flat)


def test_a_volume_without_contrast_is_used_as_it_lies(caplog):
    fixed, flat = image(body(2)), image(np.full(SHAPE, -1.0))
    with caplog.at_level(logging.WARNING):
        found = registration.register_affine(fixed, flat)
    assert found.information == 0
    assert "could not be registered" in caplog.text
    np.testing.assert_allclose(at(found.forward(), POINTS[0]), POINTS[0])


def test_same_seed_same_map():
    fixed, moving = image(body(3)), image(body(4))
    first, second, other = (registration.register_affine(fixed, moving, seed) for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_resample_marks_what_is_beyond_the_field_of_view():
    array = body(5)
    shifted = sitk.TranslationTransform(3, (0.0, 0.0, 4 * SPACING_MM[0]))
    warped = registration.resample(image(array), image(array), [shifted])
    assert np.isnan(warped[-4:]).all()
    np.testing.assert_allclose(warped[:-4], array[4:], atol=1e-5)


def test_coarse_keeps_coarse_images_and_the_place_of_fine_ones():
    array = body(6)
    assert registration.coarse(image(array)).GetSpacing() == (2.5, 2.5, 3.0)
    fine = registration.image_of(array, (1.0, 0.7, 0.7))
    smaller = registration.coarse(fine)
    assert smaller.GetSize() == (8, 8, 8)
    centres = [i.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in i.GetSize()]) for i in (fine, smaller)]
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-9)


def test_local_contrast_ignores_an_uneven_coil():
    array = body(7) + 1
    bias = np.linspace(0.7, 1.3, SHAPE[2], dtype=np.float32)
    even, uneven = (registration._local_contrast(a, SPACING_MM[::-1]) for a in (array, array * bias))
    assert np.corrcoef(even.ravel(), uneven.ravel())[0, 1] > 0.97


@pytest.fixture(scope="module")
def deformed():
    """A volume under six smooth deformations, and their atlas."""
    original, images = body(8), []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        field = [ndimage.gaussian_filter(rng.normal(size=SHAPE), 5) for _ in range(3)]
        field = [2.0 * f / np.abs(f).max() for f in field]
        grid = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
        where = [g + f for g, f in zip(grid, field, strict=True)]
        images.append(image(ndimage.map_coordinates(original, where, order=1, mode="nearest")))
    return images, registration.build_atlas(images, serial)


def test_deformations_to_the_atlas_bring_volumes_together(deformed):
    images, atlas = deformed

    def spread(maps):
        warped = [registration.resample(i, atlas.image, m) for i, m in zip(images, maps, strict=True)]
        return np.nanmean(np.nanstd(warped, 0))

    affine = spread([map_.forward()[:1] for map_ in atlas.maps])
    assert spread([map_.forward() for map_ in atlas.maps]) < 0.6 * affine


def test_the_mean_deformation_is_taken_out(deformed):
    _, atlas = deformed
    fields = [sitk.GetArrayViewFromImage(map_.field) for map_ in atlas.maps]
    largest = np.max([np.abs(f).mean() for f in fields])
    assert np.abs(np.mean(fields, 0)).mean() < 0.1 * largest


def test_backward_inverts_forward(deformed):
    _, atlas = deformed
    for map_ in atlas.maps:
        for point in POINTS:
            there_and_back = at([*map_.backward(), *map_.forward()], point)
            assert np.linalg.norm(there_and_back - point) < 0.5
