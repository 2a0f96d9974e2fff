"""The training step's layers, against those of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cyclescan.training import kernels


def model(*stack, channels=3):
    return keras.Sequential([keras.Input((None, None, None, channels)), *stack])


def both(network, shape, dtype="float32"):
    """Results and gradients of the network as Keras computes it and as the training step does."""
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(size=w.shape) for w in network.get_weights()])
    x = tf.constant(rng.normal(size=shape), dtype)
    values = []
    for call in (lambda v: network(v, training=True), lambda v: kernels.forward(network, v)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x)
            wave = tf.cos(tf.cast(tf.reshape(tf.range(tf.size(y)), y.shape), y.dtype))
            total = tf.reduce_sum(y * wave)
        values.append([y, *tape.gradient(total, [x, *network.trainable_variables])])
    return values


def same(network, shape, tolerance=1e-5):
    for one, other in zip(*both(network, shape), strict=True):
        np.testing.assert_allclose(other, one, atol=tolerance * float(tf.reduce_max(tf.abs(one))))


@pytest.mark.parametrize(
    ("kernel", "padding"), [*((k, "same") for k in (1, 2, 3, 4, 5)), *((k, "valid") for k in (1, 2))]
)
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("grid", [(2, 4, 4), (3, 3, 6)])
def test_convolution_of_few_voxels(kernel, padding, strides, grid):
    layer = layers.Conv3D(4, kernel, strides=strides, padding=padding, activation="tanh")
    x = tf.zeros((2, *grid, 3))
    layer.build(x.shape)
    assert kernels._convolution(layer, x) is not None
    same(model(layer), x.shape)


@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("grid", [(1, 2, 2), (3, 4, 5)])
def test_transposed_convolution_of_few_voxels(kernel, grid):
    layer = layers.Conv3DTranspose(4, kernel, strides=2, padding="same")
    layer.build((2, *grid, 3))
    assert kernels._transposed_convolution(layer, tf.zeros((2, *grid, 3))) is not None
    same(model(layer), (2, *grid, 3))


def test_convolution_of_many_voxels_is_kerass_own():
    layer = layers.Conv3D(4, 3, padding="same")
    layer.build((1, 8, 8, 8, 3))
    assert kernels._convolution(layer, tf.zeros((1, 8, 8, 8, 3))) is None
    same(model(layer), (1, 8, 8, 8, 3))


def test_convolution_onto_one_channel():
    same(model(layers.Conv3D(1, 3, padding="same")), (2, 8, 9, 10, 3))


@pytest.mark.parametrize("batch", [1, 3])
def test_instance_norm(batch):
    network = model(layers.GroupNormalization(groups=-1, epsilon=1e-5))
    same(network, (batch, 4, 6, 8, 3), 1e-4)


def test_group_norm_that_is_not_instance_norm_is_left_to_keras():
    same(model(layers.GroupNormalization(groups=2), channels=4), (2, 4, 4, 4, 4))


def test_graph_with_two_inputs_to_a_layer():
    image = keras.Input((None, None, None, 2))
    x = layers.Conv3D(3, 3, padding="same")(image)
    joined = layers.Concatenate()([layers.ReLU()(x), image])
    same(keras.Model(image, layers.Conv3D(1, 3, padding="same")(joined)), (1, 4, 4, 4, 2))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_lower_precision_stays_in_it(precision):
    keras.config.set_dtype_policy(precision)
    try:
        network = model(
            layers.Conv3D(4, 4, strides=2, padding="same", use_bias=False),
            layers.GroupNormalization(groups=-1, epsilon=1e-5),
            layers.Conv3DTranspose(2, 4, strides=2, padding="same"),
        )
    finally:
        keras.config.set_dtype_policy("float32")
    for one, other in zip(*both(network, (2, 4, 4, 4, 3)), strict=True):
        assert other.dtype == one.dtype
        mine, theirs = (np.asarray(v, "f4").ravel() for v in (other, one))
        assert np.linalg.norm(mine - theirs) < 0.05 * np.linalg.norm(theirs)
