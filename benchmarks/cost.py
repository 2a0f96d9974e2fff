"""Operations of a network, counted from its graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from cyclescan.models import upsampled_conv
from cyclescan.models.upsampled_conv import UpsampledConv3D

CONVOLUTIONS = (keras.layers.Conv3D, keras.layers.Conv3DTranspose, UpsampledConv3D)


def convolution_macs(model: keras.Model, shape: Sequence[int]) -> int:
    """Multiply-accumulates of the convolutions of one forward pass.

    Args:
        model: a functional model of Conv3D, Conv3DTranspose and UpsampledConv3D layers.
        shape: of one input, (batch, depth, height, width, 1).

    A convolution computes every output voxel from one kernel, a transposed one multiplies every input voxel with its
    whole kernel, and an `UpsampledConv3D` has merged taps on the coarse volume and the whole kernel on the other.
    Norms, activations and padding are not counted. One training step costs about three times a forward pass: the
    gradients to inputs and to weights are as large each.
    """
    convolutions = {layer: getattr(layer, "layer", layer) for layer in model.layers}  # inside its normalisation
    convolutions = {outer: inner for outer, inner in convolutions.items() if isinstance(inner, CONVOLUTIONS)}
    outputs = keras.Model(model.inputs, [la.output for la in convolutions]).compute_output_shape(tuple(shape))
    each = zip(convolutions.values(), outputs, strict=True)
    return round(sum(_macs_a_voxel(la) * math.prod(output[:-1]) for la, output in each))


def _macs_a_voxel(layer) -> float:
    """Of the output."""
    *edges, first, second = layer.kernel.shape
    whole = math.prod(edges) * first * second
    if isinstance(layer, keras.layers.Conv3DTranspose):
        return whole / math.prod(layer.strides)
    if isinstance(layer, UpsampledConv3D):
        met = len(upsampled_conv.merging(edges[0])) // 2
        return (met**3 * layer.coarse_channels + math.prod(edges) * (first - layer.coarse_channels)) * second
    return whole
