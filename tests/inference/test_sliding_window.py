"""Windows cover everything, weigh what they should, and leave no trace of themselves."""

import itertools

import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.inference import sliding_window
from cyclescan.inference.sliding_window import apply, plan_axis

SIZES = [(1, 1, 1), (2, 3, 5), (7, 16, 9), (8, 16, 16), (9, 17, 33), (23, 5, 41)]
WINDOWS = [((8, 16, 16), 4), ((4, 4, 4), 4), ((5, 3, 7), 1), ((64, 64, 64), 16)]


def identity(batch):
    return batch


def noise(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_an_identity_network_returns_the_input(size):
    array = noise(size)
    for (window, multiple), overlap in itertools.product(WINDOWS, (0.0, 0.25, 0.5, 0.7, 0.9)):
        result = apply(array, identity, window, overlap, multiple, batch=3)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, array, rtol=0, atol=1e-6, err_msg=f"{window} {overlap}")


@pytest.mark.parametrize("size", SIZES)
def test_a_constant_network_gives_a_constant(size):
    for window, multiple in WINDOWS:
        result = apply(noise(size), lambda b: np.full_like(b, 0.7), window, 0.6, multiple)
        np.testing.assert_allclose(result, 0.7, rtol=0, atol=1e-6)


def test_blending_weights_by_value():
    np.testing.assert_allclose(sliding_window.blending_weights(4), [0.146447, 0.853553, 0.853553, 0.146447], atol=1e-6)
    assert sliding_window.blending_weights(1) == pytest.approx([1.0])
    assert sliding_window.blending_weights(512).min() > 0


def test_two_windows_fade_into_each_other():
    """The first window says 0 and the second says 1: between them lies the raised cosine itself."""
    calls = []

    def count(batch):
        calls.append(batch.shape)
        return np.full_like(batch, len(calls) - 1)

    result = apply(np.zeros((1, 1, 6), np.float32), count, (1, 1, 4), 0.5)
    np.testing.assert_allclose(result[0, 0], [0, 0, 0.146447, 0.853553, 1, 1], atol=1e-6)
    assert calls == [(1, 1, 1, 4, 1)] * 2


def test_weights_of_three_windows_where_the_last_two_share_more():
    plan = plan_axis(8, 4, 0.25)
    assert plan.starts == (0, 2, 4)
    np.testing.assert_allclose(plan.weights[0], [1, 1, 0.853553, 0.146447], atol=1e-6)
    np.testing.assert_allclose(plan.weights[1], [0.146447, 0.853553, 0.853553, 0.146447], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "window", "overlap", "multiple", "starts", "padded", "before"),
    [
        (32, 32, 0.5, 16, (0,), 32, 0),
        (33, 32, 0.5, 16, (0, 16), 48, 7),
        (64, 32, 0.5, 16, (0, 16, 32), 64, 0),
        (64, 32, 0.0, 16, (0, 32), 64, 0),
        (160, 64, 0.25, 16, (0, 48, 96), 160, 0),
        (80, 64, 0.0, 16, (0, 16), 80, 0),
        (5, 32, 0.5, 16, (0,), 16, 5),
        (320, 160, 0.9, 16, tuple(range(0, 161, 16)), 320, 0),
    ],
)
def test_positions(size, window, overlap, multiple, starts, padded, before):
    plan = plan_axis(size, window, overlap, multiple)
    assert (plan.starts, plan.padded, plan.before) == (starts, padded, before)


def test_every_plan_covers_the_axis_with_the_overlap_asked_for():
    for size, window, overlap, multiple in itertools.product(range(1, 70, 3), (4, 8, 20), (0, 0.3, 0.5, 0.8), (1, 4)):
        plan = plan_axis(size, window, overlap, multiple)
        assert plan.padded % multiple == 0
        assert 0 <= plan.padded - size < multiple
        assert all(start % multiple == 0 for start in plan.starts)
        assert plan.starts[0] == 0
        assert plan.starts[-1] + plan.window == plan.padded
        shared = plan.window - np.diff(plan.starts)
        assert (shared >= overlap * plan.window - 1e-9).all() or (np.diff(plan.starts) == multiple).all()
        total = np.zeros(plan.padded)
        for start, weights in zip(plan.starts, plan.weights, strict=True):
            assert weights.min() > 0
            total[start : start + plan.window] += weights
        np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize(("size", "multiple"), [(1, 16), (2, 16), (3, 16), (5, 4), (17, 16), (30, 16)])
def test_padding_is_numpys_reflection(size, multiple):
    plan = plan_axis(size, 32, 0.5, multiple)
    array = np.arange(size)
    expected = np.pad(array, (plan.before, plan.padded - size - plan.before), mode="reflect")
    np.testing.assert_array_equal(array[sliding_window.reflected(plan)], expected)


def test_a_volume_that_fits_goes_through_in_one_piece():
    seen = []

    def see(batch):
        seen.append(batch)
        return batch

    apply(noise((7, 16, 13)), see, (8, 16, 32), 0.5, 8)
    assert [b.shape for b in seen] == [(1, 8, 16, 16, 1)]


def test_batches_and_progress():
    seen, steps = [], []

    def see(batch):
        seen.append(len(batch))
        return batch

    apply(noise((8, 8, 8)), see, (4, 4, 4), 0, batch=3, progress=lambda *a: steps.append(a))
    assert seen == [3, 3, 2]
    assert steps == [(3, 8), (6, 8), (8, 8)]


def test_a_network_sees_the_voxels_of_its_window():
    """Each window gets its own part of the volume, and what the network adds arrives once at each voxel."""
    array = np.tile(np.arange(40, dtype=np.float32), (4, 4, 1))
    result = apply(array, lambda b: b + 1, (4, 4, 8), 0.5, 4)
    np.testing.assert_allclose(result, array + 1, rtol=1e-6)


@pytest.mark.parametrize("window", [(30, 32, 32), (0, 32, 32), (-16, 32, 32), (32, 32)])
def test_a_window_that_is_no_multiple_is_refused(window):
    with pytest.raises(InputError, match="positive multiple of 16"):
        apply(noise((4, 4, 4)), identity, window, 0.5, 16)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 2.0, float("nan")])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(InputError, match="at least 0 and less than 1"):
        apply(noise((4, 4, 4)), identity, (16, 16, 16), overlap, 16)


def test_what_is_no_volume_is_refused():
    for shape in [(4, 4), (0, 4, 4), (1, 4, 4, 4)]:
        with pytest.raises(InputError, match="no volume"):
            apply(np.zeros(shape), identity, (4, 4, 4))


def test_a_network_that_changes_the_shape_is_a_defect():
    with pytest.raises(ValueError, match="shapes must be equal"):
        apply(noise((4, 4, 4)), lambda b: b[:, ::2], (4, 4, 4))
