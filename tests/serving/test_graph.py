"""The graph repeats the NumPy scaling: each piece by value, the whole by parity, bad input by its sentence."""

import numpy as np
import pytest
import tensorflow as tf

from cyclescan.models import unet3d
from cyclescan.preprocessing import guard, intensity
from cyclescan.preprocessing import noise as noises
from cyclescan.preprocessing.noise import GAUSSIAN, RICIAN, Noise
from cyclescan.scans.volume import Volume
from cyclescan.serving import graph
from cyclescan.serving.graph import ServedTranslator
from tests.inference.tiny import lively

TARGET = {"step": "intensity", "scaling": "percentile:0.5,99.5", "low": -3.0, "high": 5.0}


@pytest.fixture(scope="module")
def generator():
    return lively(unet3d(levels=2, filters=4, full_resolution_filters=4), 0)


@pytest.mark.parametrize("percent", [0, 0.5, 12.3, 50, 77.7, 99.5, 100])
@pytest.mark.parametrize("size", [1, 2, 7, 1000, 4097])
def test_percentiles_are_numpys(size, percent):
    voxels = np.random.default_rng(size).normal(100, 50, size).astype(np.float32)
    result = tf.function(graph._percentile)(tf.constant(voxels), percent)
    np.testing.assert_allclose(result, np.percentile(voxels, percent), rtol=1e-6)


@pytest.mark.parametrize("scaling", ["percentile:0.5,99.5", "window_hu:-200,300", "soft_percentile:0.5,97"])
def test_whole_volumes(generator, scaling):
    module = ServedTranslator(generator, scaling, TARGET, (8, 12, 16), 10**6)
    for shape in [(8, 12, 16), (16, 4, 32), (4, 24, 20)]:
        volume = np.random.default_rng(1).normal(50, 200, shape).astype(np.float32)
        result = module.endpoints["serving_default"](tf.constant(volume))["translated"]
        scaled = intensity.apply(volume, intensity.measure(volume, scaling))
        one_piece = np.asarray(generator(scaled[None, ..., None]))[0, ..., 0]
        assert result.dtype == tf.float32
        np.testing.assert_allclose(result, intensity.invert(one_piece, TARGET), atol=1e-4 * 8)


def test_a_soft_scale_and_its_inverse_are_those_of_numpy():
    """Also far beyond the knee, where intensities grow exponentially with the scale."""
    record = {"step": "intensity", "scaling": "soft_percentile:0.5,99.95", "low": 20.0, "high": 220.0}
    values = np.array([0, 20, 120, 219, 220, 221, 260, 420, 2220, 9999], np.float32)
    scaled = intensity.apply(values, record)
    limits = (tf.constant(record[key]) for key in ("low", "high"))
    np.testing.assert_allclose(graph._apply(tf.constant(values), record["scaling"], *limits), scaled, atol=2e-6)
    np.testing.assert_allclose(graph._invert(tf.constant(scaled), record), intensity.invert(scaled, record), rtol=1e-4)


def test_patches_are_the_network_alone(generator):
    module = ServedTranslator(generator, "window_hu:0,1", TARGET, (8, 8, 8), 10**6)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4, 8, 12, 1)).astype(np.float32)
    np.testing.assert_allclose(module.endpoints["patches"](tf.constant(x))["translated"], generator(x), atol=1e-6)


@pytest.fixture(scope="module")
def served(generator, tmp_path_factory):
    """From disk: only there do wrong ranks get as far as the graph."""
    folder = tmp_path_factory.mktemp("served")
    module = ServedTranslator(generator, "percentile:0.5,99.5", TARGET, (8, 8, 8), 30000, Noise(GAUSSIAN, 4.0))
    tf.saved_model.save(module, str(folder), signatures=module.endpoints)
    return tf.saved_model.load(str(folder))


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (np.ones((4, 4)), r"must have 3 axes \(depth, height, width\); the number of axes is\] \[2"),
        (np.ones((1, 4, 4, 4)), r"the number of axes is\] \[4"),
        (np.float32(1), r"the number of axes is\] \[0"),
        (np.full((4, 4, 4), 7.0), r"The volume is constant; a scan must vary. Every voxel is\] \[7"),
        (np.where(np.arange(64) == 5, np.nan, 1.0).reshape(4, 4, 4), r"NaN or infinite voxels is\] \[1\]"),
        (np.where(np.arange(64) < 3, np.inf, 1.0).reshape(4, 4, 4), r"NaN or infinite voxels is\] \[3\]"),
        (np.zeros((0, 4, 4)), r"The volume is empty; its shape is\] \[0 4 4\]"),
        (np.eye(1000)[:27].reshape(27, 25, 40), "too little contrast"),
        (np.eye(1000)[:31].reshape(31, 25, 40), r"too large: at most 30000 voxels are allowed; it has\] \[31000\]"),
    ],
)
def test_a_bad_volume_is_an_invalid_argument_with_a_sentence(served, volume, sentence):
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        served.signatures["serving_default"](volume=tf.constant(volume, tf.float32))


@pytest.mark.parametrize(
    ("patches", "sentence"),
    [
        (np.ones((4, 4, 4)), r"must have 5 axes \(batch, depth, height, width, 1\); the number of axes is\] \[3"),
        (np.ones((1, 4, 6, 4, 1)), r"positive multiple of 4; got\] \[1 4 6 4 1\]"),
        (np.ones((1, 4, 4, 4, 2)), r"positive multiple of 4; got\] \[1 4 4 4 2\]"),
        (np.ones((0, 4, 4, 4, 1)), r"positive multiple of 4; got\] \[0 4 4 4 1\]"),
        (np.full((1, 4, 4, 4, 1), np.nan), r"NaN or infinite voxels is\] \[64\]"),
        (np.ones((2, 16, 32, 32, 1)), r"at most 30000 voxels are allowed; it has\] \[32768\]"),
    ],
)
def test_bad_patches_are_an_invalid_argument_with_a_sentence(served, patches, sentence):
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        served.signatures["patches"](patches=tf.constant(patches, tf.float32))


@pytest.mark.parametrize(
    ("window", "overlap"), [((8, 8, 6), 0.0), ((0, 8, 8), 0.0), ((8, 8, 8), 1.0), ((8, 8, 8), -0.1)]
)
def test_bad_windows_are_an_invalid_argument_with_a_sentence(served, window, overlap):
    with pytest.raises(tf.errors.InvalidArgumentError, match="positive multiples of 4 and the overlap in"):
        served.signatures["scaled"](
            volume=tf.zeros((8, 8, 8)), window=tf.constant(window), overlap=tf.constant(overlap, tf.float32)
        )


def test_a_good_volume_still_passes_after_bad_ones(served):
    volume = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    assert served.signatures["serving_default"](volume=tf.constant(volume))["translated"].shape == (5, 6, 7)


def test_noise_of_a_served_volume(served):
    """The seed decides, the mean stays, and as much is added as was lacking."""
    volume = tf.constant(np.random.default_rng(0).normal(size=(16, 24, 24)).astype(np.float32))
    mean = served.signatures["serving_default"](volume=volume)["translated"].numpy()
    one, same, other = (
        served.signatures["with_noise"](volume=volume, seed=tf.constant(n, tf.int64))["translated"].numpy()
        for n in (1, 1, 2**40)
    )
    np.testing.assert_array_equal(one, same)
    added = np.ravel(one - mean).astype(float)
    assert added.mean() == pytest.approx(0, abs=4 * added.std() / len(added) ** 0.5)
    assert abs(np.corrcoef(added, np.ravel(other - mean))[0, 1]) < 0.05
    own = guard.noise_sd(Volume(mean, np.diag([3.0, 1.0, 1.0, 1.0])))
    assert 0.1 < own < 4.0
    assert added.std() == pytest.approx(np.sqrt(16 - own**2), rel=0.05)


@pytest.mark.parametrize("shape", [(16, 12, 20), (7, 9, 8), (2, 8, 8)])
@pytest.mark.parametrize("plane", [(1, 2), (0, 1)])
def test_noise_is_measured_as_by_the_guard(shape, plane):
    volume = np.random.default_rng(2).normal(50, 9, shape).astype(np.float32)
    spacing = [1.0 if axis in plane else 3.0 for axis in range(3)]
    expected = guard.noise_sd(Volume(volume, np.diag([*spacing, 1.0])))
    measured = tf.function(graph._noise_sd)(tf.constant(volume), plane)
    assert float(measured) == pytest.approx(expected, rel=1e-5)


def test_rician_noise_is_that_of_numpy():
    rng = np.random.default_rng(3)
    mean = np.concatenate([[-1.0, 0.0], rng.uniform(0, 90, 500)]).astype(np.float32)
    first, second = rng.standard_normal((2, mean.size), np.float32)
    for sd in (0.0, 10.0):
        expected = noises.rician(mean, sd, first, second)
        result = graph._rician(*map(tf.constant, (mean, np.float32(sd), first, second)))
        np.testing.assert_allclose(result, expected, atol=0.01)  # of an SD of 10: small differences of squares
    module = graph._with_noise(
        tf.constant(mean[2:].reshape(5, 10, 10)), tf.constant(1, tf.int64), Noise(RICIAN, 10.0), (1, 2)
    )
    assert float(tf.reduce_min(module)) >= 0
