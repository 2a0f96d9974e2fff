"""Fill beyond the field of view enters nothing that is measured; scans without it are prepared as ever."""

import functools

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cyclescan.preprocessing import Options, body, fill, geometry, guard, prepare, restore
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject

SHAPE = (32, 64, 64)
SCALING = {"ciss": "percentile:0.5,99.5", "dess": "percentile:0.5,99.5", "ct": "window_hu:-1000,1500"}


@functools.cache
def knee(index=5):
    return make_subject(17, SHAPE, index=index)


def scan(contrast, index=5):
    """Whole numbers, as files have them, and where the body is."""
    return np.rint(getattr(knee(index), contrast)).astype(np.float32), knee(index).labels > 0


def turned(array, value, order=1, deg=(20, 8, -6)):
    """As a resampling onto turned axes leaves it, with `value` where nothing was."""
    matrix = Rotation.from_euler("xyz", deg, degrees=True).as_matrix()
    centre = (np.array(array.shape) - 1) / 2
    return ndimage.affine_transform(array, matrix, centre - matrix @ centre, order=order, cval=value)


def cylinder(radius):
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[1:]), indexing="ij")
    return np.broadcast_to(np.hypot(y, x) > radius, SHAPE)


def filled(contrast, kind, value, index=5):
    array, inside = scan(contrast, index)
    if kind == "turned":
        truth = turned(inside.astype(np.float32), 0) > 0.5
        return turned(array, value), truth, turned(np.ones(SHAPE, np.float32), 0, 0) < 0.5
    outside = cylinder(0.98)
    return np.where(outside, np.float32(value), array), inside & ~outside, outside


def dice(mask, truth):
    return 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))


KINDS = [
    ("ciss", "turned", 0),
    ("dess", "turned", 0),
    ("dess", "cylinder", 0),
    ("ciss", "cylinder", -1),
    ("ct", "turned", 0),
    ("ct", "turned", -2048),
    ("ct", "cylinder", -1024),
    ("ct", "cylinder", -3000),
]


@pytest.mark.parametrize(("contrast", "kind", "value"), KINDS)
def test_fill_is_found_and_enters_no_measure(contrast, kind, value):
    affine = knee().affine
    plain, inside = scan(contrast)
    array, truth, outside = filled(contrast, kind, value)
    found = fill.find(array)
    assert dice(found.outside, outside) > 0.98
    assert not (found.outside & truth).any()
    assert found.air == pytest.approx(np.median(plain[~inside]), abs=0.03 * float(np.percentile(plain, 99.5)))

    assert dice(body.mask(array, found.outside), truth) >= 0.97
    for options in (Options(), Options(crop_body_mm=6.0)):
        prepared, records = prepare(Volume(array, affine), SCALING[contrast], (3, 2.5, 2.5), None, options)
        assert [r["step"] for r in records][:2] == ["canonical", "fill"]
        assert records[1]["share"] == pytest.approx(outside.mean(), abs=0.01)
        where = geometry.follow(truth, records)
        assert dice(body.mask(prepared.array), where) >= 0.97
        assert np.percentile(prepared.array[geometry.follow(found.outside, records)], 90) < -0.8
    unfilled, without = prepare(Volume(plain, affine), SCALING[contrast], (3, 2.5, 2.5))
    limits, expected = ([r[key] for r in each for key in ("low", "high") if key in r] for each in (records, without))
    assert limits == pytest.approx(expected, abs=0.06 * (expected[1] - expected[0]))
    assert dice(body.mask(unfilled.array), geometry.follow(inside, without)) >= 0.97


@pytest.mark.parametrize(("contrast", "value"), [("dess", 0), ("ciss", 0), ("ct", -2500)])
def test_the_guard_measures_what_was_measured(contrast, value):
    """The same as of a scan in whose corners there is air that was measured."""
    array, inside = scan(contrast)
    outside = cylinder(1.0)
    air = np.random.default_rng(1).choice(array[~inside], SHAPE)
    values = []
    for each in (np.where(outside, air, array), np.where(outside, np.float32(value), array)):
        volume = Volume(each.astype(np.float32), knee().affine)
        values.append(guard.measure(volume, prepare(volume, SCALING[contrast])[1]))
    plain, measured = values
    assert measured["snr"] == pytest.approx(plain["snr"], rel=0.15)
    assert measured["edges"] == pytest.approx(plain["edges"], rel=0.1)
    for quantile in guard.QUANTILES:
        assert measured[f"body_{quantile}"] == pytest.approx(plain[f"body_{quantile}"], abs=0.08)
    # of what was measured, not of the volume
    assert measured["air"] == pytest.approx(1 - (inside & ~outside).sum() / (~outside).sum(), abs=0.03)


def test_noise_is_that_of_the_field_of_view():
    rng = np.random.default_rng(3)
    array = rng.normal(100, 7, (24, 32, 32)).astype(np.float32)
    outside = np.zeros(array.shape, bool)
    outside[:, :20] = True
    array[outside] = -500
    assert guard.noise_sd(Volume(array, np.eye(4)), outside) == pytest.approx(7, rel=0.1)
    assert guard.noise_sd(Volume(array, np.eye(4))) < 1


@pytest.mark.parametrize("contrast", SCALING)
def test_scans_without_fill_and_with_air_of_one_value_are_prepared_as_ever(contrast):
    array, inside = scan(contrast, 1)
    masked = np.where(inside, array, array.min())  # as skull-stripping leaves it: all the air that there is
    for each in (array, masked):
        assert fill.find(each.astype(np.float32)) is None
        _, records = prepare(Volume(each, knee().affine), SCALING[contrast], (3, 2.5, 2.5))
        assert [r["step"] for r in records] == ["canonical", "resample", "intensity"]


def test_whole_numbers_of_noise_are_no_fill():
    rng = np.random.default_rng(0)
    array = np.rint(np.abs(rng.normal(0, 1, (20, 40, 40)))).astype(np.float32)  # 38 % of it is 0
    array[5:15, 10:30, 10:30] += 50
    assert (array == 0).mean() > 0.3
    assert fill.find(array) is None
    assert fill.find(np.zeros((5, 6, 7), np.float32)) is None


def test_what_lay_beyond_the_field_of_view_comes_back_as_air():
    array, _, outside = filled("ct", "cylinder", -2000)
    volume = Volume(array, knee().affine)
    prepared, records = prepare(volume, SCALING["ct"])
    back = restore(prepared.array, records)
    np.testing.assert_allclose(back.array[outside], -1000, atol=20)
    within = ~ndimage.binary_dilation(outside, iterations=2) & (array > -1000) & (array < 1500)
    np.testing.assert_allclose(back.array[within], array[within], atol=0.01)
    np.testing.assert_array_equal(back.affine, volume.affine)


def test_marked_voxels_follow_every_step():
    marked = np.zeros((10, 12, 14), bool)
    marked[2:5, 3:9, 4:12] = True
    volume = Volume(marked.astype(np.float32), np.diag([2.0, 1.0, 1.5, 1.0]))
    canonical, first = geometry.to_canonical(volume)
    marked = canonical.array > 0
    steps = [first]
    for step in (geometry.mirror, lambda v: geometry.window(v, (-2, 1, 0), (12, 9, 16), 0.0)):
        canonical, record = step(canonical)
        steps.append(record)
    np.testing.assert_array_equal(geometry.follow(marked, steps), canonical.array > 0)
    finer, record = geometry.resample(canonical, [s / 2 for s in canonical.spacing_mm])
    followed = geometry.follow(marked, [*steps, record])
    assert followed.shape == finer.shape
    assert followed.mean() == pytest.approx((canonical.array > 0).mean(), rel=0.02)
    assert dice(followed, finer.array > 0.5) > 0.95
