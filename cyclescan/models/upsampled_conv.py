"""A convolution of a volume that was doubled by repeating its voxels, without ever making the doubled volume.

Where every voxel stands twice along each axis, several taps of the kernel meet the same voxel, and which ones depends
only on whether the output's index is even or odd. So the convolution on the fine grid is a transposed one of stride 2
whose kernel holds the sums of those taps: for a kernel of 3 each output meets 2 x 2 x 2 voxels in the place of 3 x 3 x
3, less than a third of the operations, and equal up to rounding. (In 2-D, Shi et al. 2016, "Is the deconvolution layer
the same as a convolutional layer?", has the same equivalence.)
"""

from __future__ import annotations

import functools

import keras
import numpy as np
from keras import ops


@functools.cache
def merging(kernel: int) -> np.ndarray:
    """Return how taps on the doubled grid sum to those of the transposed convolution, along one axis.

    Returns:
        (2 m, kernel), of 0 and 1, m being how many coarse voxels an output meets at most. The first of its products
        with a kernel goes to the output m - 1 voxels before the first of the two that its coarse voxel was doubled to.
    """
    before = (kernel - 1) // 2  # as in padding="same" with stride 1
    # a coarse voxel is the doubled ones 0 and 1; an output at `place` meets them with the taps `before - place` and
    # `before + 1 - place`
    count = kernel // 2 + 1
    places = np.arange(1 - count, 1 + count)
    met = np.stack([before - places, before + 1 - places])
    return (met[..., None] == np.arange(kernel)).any(0).astype(np.float32)


def margins(kernel: int) -> tuple[int, int]:
    """Return how many coarse voxels before and behind its own an output depends on, along each axis."""
    before = (kernel - 1) // 2
    return (before + 1) // 2, (kernel - before) // 2


def convolve_doubled(coarse, weights):
    """Convolve the doubled volume, with zeros beyond its border.

    Args:
        coarse: (batch, d, h, w, channels).
        weights: (kernel, kernel, kernel, channels, filters), as for the fine grid.

    Returns:
        (batch, 2d, 2h, 2w, filters).
    """
    kernel, channels, filters = weights.shape[0], weights.shape[3], weights.shape[4]
    merge = merging(kernel)
    taps = len(merge)
    # all three axes at once, as one matrix on the flattened kernel
    matrix = np.einsum("ax,by,cz->abcxyz", merge, merge, merge).reshape(taps**3, kernel**3)
    merged = ops.matmul(ops.cast(matrix, weights.dtype), ops.reshape(weights, (kernel**3, channels * filters)))
    merged = ops.transpose(ops.reshape(merged, (taps, taps, taps, channels, filters)), (0, 1, 2, 4, 3))
    return ops.conv_transpose(coarse, merged, strides=2, padding="same", data_format="channels_last")


@keras.saving.register_keras_serializable("cyclescan")
class UpsampledConv3D(keras.layers.Layer):
    """`Conv3D(padding="same")` of `Concatenate([UpSampling3D(2)(coarse), skip])`, equal up to rounding and faster.

    Call it on a list: `[coarse]`, (batch, d, h, w, c), or `[coarse, skip]` with skip (batch, 2d, 2h, 2w, s).

    Args:
        filters: channels of the result.
        kernel: edge of the kernel on the fine grid, in voxels.
        use_bias: whether to add one.
        kernel_initializer: of the kernel (kernel, kernel, kernel, c + s, filters); the coarse volume's channels come
            first.
    """

    def __init__(self, filters: int, kernel: int, use_bias: bool, kernel_initializer, name: str, **options):
        super().__init__(name=name, **options)
        self.filters = filters
        self.kernel_size = (kernel,) * 3
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        self.coarse_channels = input_shape[0][-1]
        channels = sum(shape[-1] for shape in input_shape)
        shape = (*self.kernel_size, channels, self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias") if self.use_bias else None

    def call(self, inputs):
        return self._sum(inputs, "same", 1.0)

    def valid(self, inputs, scale=1.0):
        """Return the same without padding.

        Args:
            inputs: as for the layer, with the `margins` of the kernel around the coarse volume and what the kernel
                reaches beyond the result around the skip.
            scale: factors of the result's channels, which cost nothing here.
        """
        return self._sum(inputs, "valid", scale)

    def _sum(self, inputs, padding, scale):
        kernel = self.kernel * scale
        coarse, *skips = inputs
        result = convolve_doubled(coarse, kernel[..., : self.coarse_channels, :])
        if padding == "valid":
            before, behind = margins(self.kernel_size[0])
            batch, *edges = ops.shape(result)[:4]
            kept = [edge - 2 * (before + behind) for edge in edges]
            result = ops.slice(result, (0, *[2 * before] * 3, 0), (batch, *kept, self.filters))
        for skip in skips:
            weights = kernel[..., self.coarse_channels :, :]
            result = result + ops.conv(skip, weights, padding=padding, data_format="channels_last")
        return result if self.bias is None else result + self.bias * scale

    def compute_output_shape(self, input_shape):
        batch, *edges, _ = input_shape[0]
        return (batch, *(None if edge is None else 2 * edge for edge in edges), self.filters)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel": self.kernel_size[0],
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
