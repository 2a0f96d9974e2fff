"""The graph repeats the NumPy code: each piece by value, the whole by parity, bad input by its sentence."""

import numpy as np
import pytest
import tensorflow as tf

from cyclescan.inference import sliding_window
from cyclescan.preprocessing import intensity
from cyclescan.serving import graph
from cyclescan.serving.graph import ServedTranslator

TARGET = {"step": "intensity", "scaling": "x", "low": -3.0, "high": 5.0}


class Net:
    """Stands for a Keras generator: a local, a global and a nonlinear part, so that windows differ."""

    variables = ()

    def __call__(self, x, training):
        assert not training
        return tf.tanh(x * 2 - tf.reduce_mean(x, [1, 2, 3], keepdims=True) + tf.roll(x, 1, 2))


def net(batch):
    return Net()(tf.constant(batch), False).numpy()


@pytest.mark.parametrize("percent", [0, 0.5, 12.3, 50, 77.7, 99.5, 100])
@pytest.mark.parametrize("size", [1, 2, 7, 1000, 4097])
def test_percentiles_are_numpys(size, percent):
    voxels = np.random.default_rng(size).normal(100, 50, size).astype(np.float32)
    result = tf.function(graph._percentile)(tf.constant(voxels), percent)
    np.testing.assert_allclose(result, np.percentile(voxels, percent), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 8, 17, 33, 50])
def test_plans_are_those_of_the_sliding_window(size):
    for window, overlap, multiple in [(8, 0.5, 4), (16, 0.3, 4), (32, 0.9, 16), (5, 0, 1)]:
        expected = sliding_window.plan_axis(size, window, overlap, multiple)
        axis = graph._Axis(tf.constant(size), window, overlap, multiple)
        assert (int(axis.padded), int(axis.before), int(axis.window)) == (
            expected.padded,
            expected.before,
            expected.window,
        )
        assert tuple(axis.starts.numpy()) == expected.starts
        for i, weights in enumerate(expected.weights):
            np.testing.assert_allclose(axis.weights(i), weights, atol=1e-7)
        np.testing.assert_array_equal(axis.reflected(), sliding_window.reflected(expected))


@pytest.mark.parametrize("scaling", ["percentile:0.5,99.5", "window_hu:-200,300"])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_whole_volumes(scaling, overlap):
    module = ServedTranslator(Net(), scaling, TARGET, 4, (8, 12, 16), overlap)
    for shape in [(1, 1, 2), (8, 12, 16), (7, 13, 15), (19, 25, 33), (8, 30, 3)]:
        volume = np.random.default_rng(1).normal(50, 200, shape).astype(np.float32)
        result = module.endpoints["serving_default"](tf.constant(volume))["translated"]
        scaled = intensity.apply(volume, intensity.measure(volume, scaling))
        expected = intensity.invert(sliding_window.apply(scaled, net, (8, 12, 16), overlap, 4), TARGET)
        assert result.dtype == tf.float32
        np.testing.assert_allclose(result, expected, atol=8e-5)


def test_patches_are_the_network_alone():
    module = ServedTranslator(Net(), "window_hu:0,1", TARGET, 4, (8, 8, 8), 0.5)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4, 8, 12, 1)).astype(np.float32)
    np.testing.assert_allclose(module.endpoints["patches"](tf.constant(x))["translated"], net(x), atol=1e-6)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """From disk: only there do wrong ranks get as far as the graph."""
    folder = tmp_path_factory.mktemp("served")
    module = ServedTranslator(Net(), "percentile:0.5,99.5", TARGET, 4, (8, 8, 8), 0.5)
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
    ],
)
def test_bad_patches_are_an_invalid_argument_with_a_sentence(served, patches, sentence):
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        served.signatures["patches"](patches=tf.constant(patches, tf.float32))


def test_a_good_volume_still_passes_after_bad_ones(served):
    volume = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    assert served.signatures["serving_default"](volume=tf.constant(volume))["translated"].shape == (5, 6, 7)
