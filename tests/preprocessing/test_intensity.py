import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import intensity


def test_percentiles_by_hand():
    """0, 10, ..., 1000 are 101 values: percentile p is 10 p."""
    array = np.arange(0, 1001, 10, dtype=np.float32).reshape(1, 1, -1)
    record = intensity.measure(array, "percentile:2,98")
    assert (record["low"], record["high"]) == pytest.approx((20, 980))
    scaled = intensity.apply(array, record)[0, 0]
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[[2, 26, 50, 74, 98]], [-1, -0.5, 0, 0.5, 1], atol=1e-6)
    np.testing.assert_array_equal(scaled[[0, 1, 99, 100]], [-1, -1, 1, 1])


def test_percentiles_are_interpolated_linearly():
    """Of 0, 1, 2, 3 the 50th percentile lies halfway between 1 and 2, the 10th at 0.3."""
    record = intensity.measure(np.arange(4.0).reshape(1, 2, 2), "percentile:10,50")
    assert (record["low"], record["high"]) == pytest.approx((0.3, 1.5))


@pytest.mark.parametrize("kind", ["normal", "mostly air", "a wave that the sample does not see", "few values", "tiny"])
@pytest.mark.parametrize(("low", "high"), [(0, 100), (0.5, 99.5), (1, 40), (50, 50.1), (99.9, 99.95)])
def test_percentiles_are_those_of_numpy(kind, low, high):
    rng = np.random.default_rng(0)
    array = {
        "normal": rng.normal(1000, 200, (60, 70, 80)),
        "mostly air": rng.normal(0, 1, (60, 70, 80)) ** 9,
        # every tenth voxel is in the sample, and is an outlier
        "a wave that the sample does not see": np.tile([1e4, *[0] * 9], 33600) + rng.normal(size=336000),
        "few values": rng.integers(0, 3, (60, 70, 80)),
        "tiny": rng.normal(size=(1, 2, 3)),
    }[kind].astype(np.float32)
    if kind == "few values":  # else both limits are one value
        array += np.linspace(0, 1e-2, array.size, dtype=np.float32).reshape(array.shape)
    record = intensity.measure(array, f"percentile:{low},{high}")
    np.testing.assert_allclose([record["low"], record["high"]], np.percentile(array, [low, high]), rtol=1e-6, atol=1e-6)


def test_hounsfield_window_by_hand():
    record = intensity.measure(np.zeros((2, 2, 2)), "window_hu:-1000,1500")
    scaled = intensity.apply(np.array([-3000, -1000, -375, 250, 875, 1500, 3000], np.float32), record)
    np.testing.assert_allclose(scaled, [-1, -1, -0.5, 0, 0.5, 1, 1], atol=1e-6)


def test_the_inverse_returns_what_was_inside_the_window():
    array = np.random.default_rng(0).uniform(-1000, 1500, (5, 6, 7)).astype(np.float32)
    record = intensity.measure(array, "window_hu:-1000,1500")
    assert np.abs(intensity.invert(intensity.apply(array, record), record) - array).max() < 1e-3


SOFT = {"step": "intensity", "scaling": "soft_percentile:0.5,99.95", "low": 100.0, "high": 1100.0}


def test_a_soft_scale_by_hand():
    """Linear up to its knee at 0.9; a tenth of the range further, 0.9 + 0.1 ln(1 + 13.73) / ln(1 + 1372.8) = 0.937."""
    scaled = intensity.apply(np.array([0, 100, 600, 1100, 1200, 11100, 20000], np.float32), SOFT)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [-1, -1, -0.05, 0.9, 0.93723, 1, 1], atol=1e-5)


def test_a_soft_scale_has_no_kink_at_its_knee():
    below, above = np.diff(intensity.apply(np.array([1099, 1100, 1101], np.float32), SOFT).astype(float))
    assert below == pytest.approx(1.9e-3, rel=1e-3)
    assert above == pytest.approx(below, rel=0.1)  # a tenth less over its first thousandth of the range


def test_the_inverse_of_a_soft_scale_is_exact_beyond_its_knee():
    array = np.linspace(100, 11100, 3001, dtype=np.float32).reshape(1, 1, -1)
    back = intensity.invert(intensity.apply(array, SOFT), SOFT)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, array, rtol=2e-4)
    stored = np.rint(intensity.apply(array, SOFT) * 32767) / 32767  # as records hold it
    np.testing.assert_allclose(intensity.invert(stored, SOFT), array, rtol=1e-2)


def test_a_hot_voxel_takes_no_range_and_keeps_its_signal():
    array = np.random.default_rng(0).uniform(0, 1000, (32, 64, 64)).astype(np.float32)
    hot = array.copy()
    hot[3, 4, 5] = 8000.0
    without, record = (intensity.measure(a, intensity.UNCUT_MR_SCALING) for a in (array, hot))
    assert record["high"] == pytest.approx(without["high"], rel=1e-3)
    back = intensity.invert(intensity.apply(hot, record), record)
    assert back[3, 4, 5] == pytest.approx(8000, rel=1e-4)
    assert np.abs(back - hot)[hot > record["low"]].max() < 1


def test_differences_have_the_unit_of_the_linear_part():
    """Of a range of 1000 from -1 to 0.9, a difference of 0.19 is 100; from -1 to 1 it is 95."""
    for scaling, expected in (("soft_percentile:0.5,99.95", 100), ("percentile:0.5,99.5", 95)):
        record = intensity.of_differences({**SOFT, "scaling": scaling})
        assert intensity.invert(np.array([0.19 - 1]), record)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        ("percentile", "is not understood"),
        ("percentile:1", "is not understood"),
        ("percentile:a,b", "is not understood"),
        ("percentile:99,1", "is not allowed"),
        ("percentile:-1,99", "is not allowed"),
        ("percentile:1,101", "is not allowed"),
        ("soft_percentile:1,101", "is not allowed"),
        ("soft_percentile:1", "is not understood"),
        ("minmax:0,1", "is not allowed"),
        ("window_hu:5,5", "is not allowed"),
        ("window_hu:0,inf", "is not allowed"),
    ],
)
def test_a_scaling_that_is_wrong(scaling, said):
    with pytest.raises(InputError, match=f"{scaling}.*{said}; allowed is percentile:LOW,HIGH"):
        intensity.parse(scaling)


def test_a_scan_with_one_bright_voxel_has_too_little_contrast():
    array = np.zeros((20, 20, 20))
    array[0, 0, 0] = 1
    with pytest.raises(InputError, match="are both 0; it has too little contrast"):
        intensity.measure(array, "percentile:0.5,99.5")
