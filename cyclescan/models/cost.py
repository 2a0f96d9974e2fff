"""Operations of a network, counted from its graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras


def convolution_macs(model: keras.Model, shape: Sequence[int]) -> int:
    """Multiply-accumulates of the convolutions of one forward pass.

    Args:
        model: a functional model made of Conv3D and Conv3DTranspose layers.
        shape: of one input, (batch, depth, height, width, 1).

    A transposed convolution multiplies every input voxel with its whole kernel, a convolution computes every output
    voxel from one; norms, activations and padding are not counted. One training step costs about three times a
    forward pass: the gradients to inputs and to weights are as large each.
    """
    cloned = keras.Model(model.inputs, [layer.output for layer in _convolutions(model)])
    outputs = cloned.compute_output_shape(tuple(shape))
    inputs = keras.Model(model.inputs, [layer.input for layer in _convolutions(model)]).compute_output_shape(
        tuple(shape)
    )
    total = 0
    for layer, before, after in zip(_convolutions(model), inputs, outputs, strict=True):
        transposed = isinstance(layer, keras.layers.Conv3DTranspose)
        voxels = math.prod((before if transposed else after)[:-1])
        total += voxels * math.prod(layer.kernel_size) * before[-1] * after[-1]
    return total


def _convolutions(model: keras.Model) -> list:
    return [la for la in model.layers if isinstance(la, (keras.layers.Conv3D, keras.layers.Conv3DTranspose))]
