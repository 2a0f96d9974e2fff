"""The layers of the networks as the training step computes them: the same numbers, from faster operations.

Measured on CPUs (`python -m benchmarks.step`). The networks themselves stay plain Keras layers; `forward` goes through
their graph and replaces two things.

A convolution with many channels on few voxels is bound by its weights: oneDNN brings them into a layout of its own and
back, each time. As a matrix product they are used where they lie. So the voxels that each tap of the kernel meets are
put beside each other (im2col), or what each tap gives is summed where it belongs (col2im), and as both are linear and
small, each axis is a product with a matrix of zeros and ones.

Instance normalisation of one volume is batch normalisation of a batch of one, for which there is a fused operation.
"""

from __future__ import annotations

import functools
import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from cyclescan.models.graph import calls

# Convolutions onto a grid of at most so many voxels, and transposed ones from there, are done as matrix products.
FEW_VOXELS = 64
FEW_VOXELS_TRANSPOSED = 256


def forward(model: keras.Model, volumes: tf.Tensor) -> tf.Tensor | list[tf.Tensor]:
    """Compute `model(volumes, training=True)`, equal up to rounding.

    Args:
        model: a functional model of one input; if it has several outputs, so has the result.
        volumes: (batch, depth, height, width, channels), all of them known when the graph is built.
    """
    values = {id(model.inputs[0]): volumes}
    for layer, given in calls(model):
        inputs = [values[id(tensor)] for tensor in given]
        kernel = KERNELS.get(type(layer))
        result = kernel(layer, *inputs) if kernel else None
        if result is None:
            result = layer(inputs if isinstance(layer.input, (list, tuple)) else inputs[0], training=True)
        values[id(layer.output)] = result
    results = [values[id(tensor)] for tensor in model.outputs]
    return results if len(results) > 1 else results[0]


def _convolution(layer: layers.Conv3D, volumes: tf.Tensor) -> tf.Tensor | None:
    if layer.groups != 1 or set(layer.dilation_rate) != {1}:
        return None
    if layer.filters == 1 and layer.padding == "same" and all(s == 1 for s in layer.strides) and _odd(layer):
        weights = tf.cast(layer.kernel.value, layer.compute_dtype)
        return _finished(layer, _onto_one_channel(tf.cast(volumes, layer.compute_dtype), weights))
    batch, *edges, _ = volumes.shape
    selections = [
        _selection(n, k, s, layer.padding) for n, k, s in zip(edges, layer.kernel_size, layer.strides, strict=True)
    ]
    grid = [len(selection) // k for selection, k in zip(selections, layer.kernel_size, strict=True)]
    if math.prod(grid) > FEW_VOXELS:
        return None
    columns = tf.cast(volumes, layer.compute_dtype)
    for axis in (3, 2, 1):
        columns = _along(selections[axis - 1], columns, axis)
    d, h, w = grid
    kd, kh, kw = layer.kernel_size
    columns = tf.reshape(columns, (batch, d, kd, h, kh, w, kw, -1))
    columns = tf.transpose(columns, (2, 4, 6, 7, 0, 1, 3, 5))
    weights = tf.reshape(tf.cast(layer.kernel.value, layer.compute_dtype), (-1, layer.filters))
    # the small matrix is the transposed one: so all three products of a step read the weights in the order they have
    result = tf.matmul(weights, tf.reshape(columns, (weights.shape[0], -1)), transpose_a=True)
    return _finished(layer, tf.reshape(tf.transpose(result), (batch, d, h, w, layer.filters)))


def _odd(layer: layers.Conv3D) -> bool:
    return all(k % 2 for k in layer.kernel_size)


@tf.custom_gradient
def _onto_one_channel(volumes: tf.Tensor, weights: tf.Tensor):
    """A convolution of odd kernel, stride 1 and one filter, whose gradient to the weights is computed the other way.

    It is the correlation of the volumes with the gradient that arrives. oneDNN is slow where the latter is the one with
    a single channel, and fast where the former is: exchanged, the correlation is the same one mirrored.
    """
    options = {"strides": [1] * 5, "padding": "SAME"}

    def gradients(upstream):
        to_volumes = tf.raw_ops.Conv3DBackpropInputV2(
            input_sizes=tf.shape(volumes), filter=weights, out_backprop=upstream, **options
        )
        exchanged = tf.transpose(weights, (0, 1, 2, 4, 3))
        mirrored = tf.raw_ops.Conv3DBackpropFilterV2(
            input=upstream, filter_sizes=tf.shape(exchanged), out_backprop=volumes, **options
        )
        return to_volumes, tf.transpose(tf.reverse(mirrored, [0, 1, 2]), (0, 1, 2, 4, 3))

    return tf.nn.conv3d(volumes, weights, **options), gradients


def _transposed_convolution(layer: layers.Conv3DTranspose, volumes: tf.Tensor) -> tf.Tensor | None:
    batch, *grid, channels = volumes.shape
    # nor has oneDNN a fast way to a single channel
    few = math.prod(grid) <= FEW_VOXELS_TRANSPOSED or layer.filters == 1
    if not few or layer.padding != "same" or set(layer.dilation_rate) != {1}:
        return None
    weights = tf.reshape(tf.cast(layer.kernel.value, layer.compute_dtype), (-1, channels))
    columns = tf.matmul(weights, tf.reshape(tf.cast(volumes, layer.compute_dtype), (-1, channels)), transpose_b=True)
    columns = tf.reshape(columns, (*layer.kernel_size, layer.filters, batch, *grid))
    columns = tf.transpose(columns, (4, 5, 0, 6, 1, 7, 2, 3))
    taps = [n * k for n, k in zip(grid, layer.kernel_size, strict=True)]
    columns = tf.reshape(columns, (batch, *taps, layer.filters))
    for axis in (1, 2, 3):
        n, k, s = (values[axis - 1] for values in (grid, layer.kernel_size, layer.strides))
        columns = _along(_selection(n * s, k, s, "same").T, columns, axis)
    return _finished(layer, columns)


@functools.cache
def _selection(size: int, kernel: int, stride: int, padding: str) -> np.ndarray:
    """Which of `size` voxels each tap meets: (outputs * kernel, size), of 0 and 1; no 1 where it meets padding."""
    outputs = -(-size // stride) if padding == "same" else (size - kernel) // stride + 1
    # as TensorFlow pads: what is missing at the ends, the larger half behind
    before = max(0, (outputs - 1) * stride + kernel - size) // 2 if padding == "same" else 0
    met = np.arange(outputs)[:, None] * stride + np.arange(kernel) - before
    return (met.reshape(-1, 1) == np.arange(size)).astype(np.float32)


def _along(matrix: np.ndarray, values: tf.Tensor, axis: int) -> tf.Tensor:
    """The product of a matrix with every line of `values` along an axis."""
    shape = values.shape
    lines = tf.reshape(values, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])))
    product = tf.matmul(tf.constant(matrix, values.dtype), lines)
    return tf.reshape(product, (*shape[:axis], len(matrix), *shape[axis + 1 :]))


def _finished(layer, values: tf.Tensor) -> tf.Tensor:
    if layer.use_bias:
        values += tf.cast(layer.bias.value, values.dtype)
    return layer.activation(values)


def _instance_norm(layer: layers.GroupNormalization, volumes: tf.Tensor) -> tf.Tensor | None:
    batch, depth, height, width, channels = volumes.shape
    if layer.groups != channels:
        return None
    normalized = []
    for volume in tf.split(tf.cast(volumes, layer.compute_dtype), batch):
        result = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(volume, (1, depth * height, width, channels)),
            scale=layer.gamma.value,
            offset=layer.beta.value,
            mean=[],
            variance=[],
            epsilon=layer.epsilon,
            is_training=True,
        )
        normalized.append(tf.reshape(result.y, volume.shape))
    return tf.concat(normalized, 0)


KERNELS = {
    layers.Conv3D: _convolution,
    layers.Conv3DTranspose: _transposed_convolution,
    layers.GroupNormalization: _instance_norm,
}
