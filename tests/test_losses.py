import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from cyclescan import losses
from cyclescan.preprocessing import detail


def volume(seed=0, shape=(1, 6, 7, 8, 1)):
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


def test_difference_by_hand():
    a, b = np.zeros((2, 1, 1, 2, 1), "f4"), np.array([1, 3, 2, 2], "f4").reshape(2, 1, 1, 2, 1)
    assert float(losses.difference(a, b, "l1")) == 2.0
    assert float(losses.difference(a, b, "l2")) == pytest.approx(4.5)
    # (1 x 0.5 + 3 x 0 + 2 x 1 + 2 x 1) / 4: the unknown voxel counts as one without a difference
    weight = np.array([0.5, 0, 1, 1], "f4").reshape(a.shape)
    assert float(losses.difference(a, b, "l1", weight)) == pytest.approx(1.125)


def test_smoothed_is_the_mean_of_what_lies_in_the_volume():
    x = volume()
    inside = ndimage.uniform_filter(np.ones_like(x[0, ..., 0]), 5, mode="constant")
    expected = ndimage.uniform_filter(x[0, ..., 0], 5, mode="constant") / inside
    np.testing.assert_allclose(losses.smoothed(x, 5)[0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("window", [3, 7])
def test_the_gradient_of_smoothed_is_that_of_its_operations(window):
    x, factors = tf.constant(volume(shape=(2, 6, 9, 8, 1))), volume(1, (2, 6, 9, 8, 1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        totals = [tf.reduce_sum(factors * f(x, window)) for f in (losses.smoothed, losses._box_mean)]
    ours, theirs = (tape.gradient(total, x) for total in totals)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def textured(scale, shape=(12, 16, 16), seed=0):
    return scale * np.random.default_rng(seed).normal(size=shape).astype("f4")


def of_detail(predicted, real, noise=0.0, weight=1.0):
    energies = detail.energies(real)[None]
    noise = np.full((1, 1, 1, 1, 1), noise, "f4")
    return float(losses.detail(predicted[None, ..., None], energies, noise, weight))


def test_detail_is_measured_by_its_energy_and_not_by_what_it_is():
    real = textured(0.3)
    assert of_detail(real, real) == pytest.approx(0, abs=1e-5)
    assert of_detail(-real, real) == pytest.approx(0, abs=1e-5)
    # both bands have 4 times the energy, but for what the floor adds
    assert of_detail(2 * real, real) == pytest.approx(2 * np.log(4), rel=0.01)
    assert of_detail(real, 2 * real) == pytest.approx(2 * np.log(4), rel=0.01)
    assert of_detail(textured(0.3, seed=1), real) < 0.5 < of_detail(0 * real, real)


def test_detail_that_is_noise_is_not_asked_for():
    noise = textured(0.2)
    assert of_detail(0 * noise, noise, noise=0.04) < 0.5
    assert of_detail(0 * noise, noise) > 2


def test_detail_counts_where_there_is_a_weight():
    real, predicted = textured(0.3), textured(0.3)
    predicted[:, :, :8] *= 2
    weight = np.ones((1, 12, 16, 16, 1), "f4")
    weight[:, :, :, :13] = 0  # the means of 7 and of 7 voxels again reach 6 beyond the border
    assert of_detail(predicted, real, weight=weight) < 0.02 < of_detail(predicted, real)


def test_detail_that_is_not_known_does_not_count():
    predicted, energies = textured(0.3)[None, ..., None], np.full((1, 12, 16, 16, 2), -1, "f4")
    assert float(losses.detail(predicted, energies, 0.0, 1.0)) == 0


def of_texture(amplitudes, source, partner, energies, noise=0.0, weight=1.0):
    arrays = [array[None, ..., None].astype("f4") for array in (source, partner)]
    given = np.broadcast_to(np.float32(amplitudes), (1, *source.shape, 2))
    return float(losses.texture(given, *arrays, energies[None], np.full((1, 1, 1, 1, 1), noise, "f4"), weight))


def test_texture_asks_for_the_amplitude_that_gives_it_the_partners_energy():
    source, flat = textured(0.1), np.zeros((12, 16, 16), "f4")
    energies = 9 * detail.energies(source) + 8e-5  # the floor is a hundredth of it or more
    right = 3 * np.sqrt(losses.TEXTURE_ENERGY)
    right = np.minimum(right, losses.MOST_AMPLITUDE)
    assert of_texture(right, source, flat, energies) < 0.01
    # too little costs TEXTURE_QUANTILE of the distance, and too much the rest of it
    q = losses.TEXTURE_QUANTILE
    assert of_texture(right - 0.5, source, flat, energies) == pytest.approx(2 * 0.5 * q, abs=0.01)
    assert of_texture(right + 0.5, source, flat, energies) == pytest.approx(2 * 0.5 * (1 - q), abs=0.01)
    assert of_texture(right + 0.5, source, flat, energies, weight=0.5) == pytest.approx(0.5 * (1 - q), abs=0.01)


@pytest.mark.parametrize("why", ["the mean has it", "coarse", "noise", "not known"])
def test_there_is_no_texture_where(why):
    source, partner = textured(0.1), np.zeros((12, 16, 16), "f4")
    energies, noise = detail.energies(textured(0.3, seed=1)), 0.0
    assert of_texture(0, source, partner, energies) > 1
    if why == "the mean has it":
        partner = 0.6 * textured(0.3, seed=1)
    elif why == "coarse":
        energies = energies[..., ::-1]
    elif why == "noise":
        noise = 0.08
    else:
        energies = np.full_like(energies, -1)
    assert of_texture(0, source, partner, energies, noise) == pytest.approx(0, abs=0.02)


def test_adversarial_values():
    zero = np.zeros((1, 2, 2, 2, 1), "f4")
    assert float(losses.adversarial(zero, True, "bce")) == pytest.approx(np.log(2))
    assert float(losses.adversarial(zero, True, "least_squares")) == 1.0
    assert float(losses.adversarial(zero, False, "least_squares")) == 0.0
    assert np.isfinite(float(losses.adversarial(zero + 1000, False, "bce")))
    for kind in ("bce", "least_squares"):
        # a fooled discriminator costs the generator less
        fooled, caught = zero + 0.9, zero - 0.9
        assert float(losses.adversarial(fooled, True, kind)) < float(losses.adversarial(caught, True, kind))


def test_gradient_consistency_follows_the_formula():
    a, b = volume(0), volume(1)
    ncc = [
        np.corrcoef(np.diff(a[0, ..., 0], axis=i).ravel(), np.diff(b[0, ..., 0], axis=i).ravel())[0, 1]
        for i in range(3)
    ]
    assert float(losses.gradient_consistency(a, b)) == pytest.approx(1 - np.mean(ncc), abs=1e-5)


def test_gradient_consistency_extremes():
    a = volume()
    assert float(losses.gradient_consistency(a, a)) == pytest.approx(0, abs=1e-5)
    assert float(losses.gradient_consistency(a, 3 * a + 1)) == pytest.approx(0, abs=1e-5)
    assert float(losses.gradient_consistency(a, -a)) == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradient_consistency_on_air_has_finite_derivatives(dtype):
    air = tf.fill((2, 32, 32, 32, 1), tf.constant(-1, dtype))
    x = tf.Variable(air)
    with tf.GradientTape() as tape:
        loss = losses.gradient_consistency(air, x)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(1)
    assert np.isfinite(tape.gradient(loss, x).numpy()).all()


def test_gradient_consistency_gradient_agrees_with_finite_differences():
    a, b = volume(0, (1, 4, 4, 4, 1)), volume(1, (1, 4, 4, 4, 1))
    x = tf.Variable(b)
    with tf.GradientTape() as tape:
        loss = losses.gradient_consistency(a, x)
    analytic = tape.gradient(loss, x).numpy()
    direction = volume(2, b.shape)
    numeric = (
        float(losses.gradient_consistency(a, b + 1e-2 * direction))
        - float(losses.gradient_consistency(a, b - 1e-2 * direction))
    ) / 2e-2
    assert (analytic * direction).sum() == pytest.approx(numeric, rel=2e-2, abs=1e-4)


def test_noise_is_measured_through_edges():
    rng = np.random.default_rng(0)
    volume = np.full((2, 16, 32, 32, 1), -0.5, np.float32)
    volume[:, 4:12, 8:20, 10:30] = 0.7
    noisy = volume + np.array([0.02, 0.1]).reshape(2, 1, 1, 1, 1) * rng.normal(size=volume.shape)
    found = np.asarray(losses.noise_sd(noisy.astype(np.float32)))
    assert found.shape == (2, 1, 1, 1, 1)
    np.testing.assert_allclose(found.ravel(), [0.02, 0.1], rtol=0.1)


def test_noise_is_measured_in_the_finest_plane():
    """Between thick slices, here along height, the anatomy differs as if it were noise."""
    rng = np.random.default_rng(0)
    anatomy = ndimage.gaussian_filter(rng.normal(size=(24, 32, 24)), (1.5, 0.3, 1.5))
    noisy = anatomy / anatomy.std() * 0.3 + rng.normal(size=anatomy.shape) * 0.02
    noisy = noisy[None, ..., None].astype(np.float32)
    assert float(losses.noise_sd(noisy, (1, 3)).numpy().item()) == pytest.approx(0.02, rel=0.4)
    assert float(losses.noise_sd(noisy).numpy().item()) > 0.04
