"""A convolution of a volume that was doubled by repeating its voxels, without ever making the doubled volume.

Where every voxel stands twice along each axis, several taps of the kernel meet the same voxel, and which ones depends
only on whether the output's index is even or odd. So the convolution on the fine grid is eight smaller ones on the
coarse grid, one for each parity of (depth, height, width), with the sums of those taps as weights: for a kernel of 3,
2 x 2 x 2 taps in the place of 3 x 3 x 3, less than a third of the operations, and equal up to rounding. (In 2-D, Shi et
al. 2016, "Is the deconvolution layer the same as a convolutional layer?", has the same decomposition.)
"""

from __future__ import annotations

import functools

import keras
import numpy as np
from keras import ops


@functools.cache
def taps(kernel: int) -> tuple[np.ndarray, tuple[int, int], int]:
    """How the taps of a kernel meet the coarse grid along one axis.

    Returns:
        merge: (2, m, kernel), of 0 and 1: `merge[p] @ k` are the m taps on the coarse grid for outputs of parity p.
        starts: for each parity, the first coarse voxel they meet, relative to the output's own.
        m: number of those taps.
    """
    before = (kernel - 1) // 2  # as in padding="same" with stride 1
    meets = [[(parity + tap - before) // 2 for tap in range(kernel)] for parity in (0, 1)]
    starts = (meets[0][0], meets[1][0])
    count = max(row[-1] - row[0] + 1 for row in meets)
    merge = np.zeros((2, count, kernel), np.float32)
    for parity, row in enumerate(meets):
        for tap, coarse in enumerate(row):
            merge[parity, coarse - starts[parity], tap] = 1.0
    return merge, starts, count


def margins(kernel: int) -> tuple[int, int]:
    """How many coarse voxels before and behind its own an output depends on, along each axis."""
    _, starts, count = taps(kernel)
    return -min(starts), max(starts) + count - 1


def convolve_doubled(coarse, weights):
    """Convolve the doubled volume.

    Args:
        coarse: (batch, d, h, w, channels), with the `margins` of its kernel already around it.
        weights: (kernel, kernel, kernel, channels, filters), as for the fine grid.

    Returns:
        (batch, 2 (d - margin), 2 (h - margin), 2 (w - margin), filters), margin being the sum of both margins.
    """
    kernel, channels, filters = weights.shape[0], weights.shape[3], weights.shape[4]
    merge, starts, count = taps(kernel)
    before, behind = margins(kernel)
    # (parities, taps) of all three axes at once, as one matrix on the flattened kernel
    matrix = np.einsum("pax,qby,rcz->abcpqrxyz", merge, merge, merge).reshape(8 * count**3, kernel**3)
    merged = ops.matmul(ops.cast(matrix, weights.dtype), ops.reshape(weights, (kernel**3, channels * filters)))
    merged = ops.reshape(merged, (count, count, count, 8, channels, filters))
    merged = ops.reshape(ops.transpose(merged, (0, 1, 2, 4, 3, 5)), (count, count, count, channels, 8 * filters))
    # split before they are cut: the gradient of a cut is a padding of what was cut
    parts = ops.split(ops.conv(coarse, merged, padding="valid", data_format="channels_last"), 8, axis=-1)
    batch, *edges = ops.shape(coarse)[:4]
    d, h, w = (edge - before - behind for edge in edges)

    def part(p, q, r):
        z, y, x = (start + before for start in (starts[p], starts[q], starts[r]))
        return ops.slice(parts[4 * p + 2 * q + r], (0, z, y, x, 0), (batch, d, h, w, filters))

    # the two parities of an axis become neighbours, one axis after the other
    planes = []
    for p in (0, 1):
        rows = [
            ops.reshape(ops.stack([part(p, q, 0), part(p, q, 1)], 4), (batch, d, h, 2 * w, filters)) for q in (0, 1)
        ]
        planes.append(ops.reshape(ops.stack(rows, 3), (batch, d, 2 * h, 2 * w, filters)))
    return ops.reshape(ops.stack(planes, 2), (batch, 2 * d, 2 * h, 2 * w, filters))


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
        margin = [margins(self.kernel_size[0])] * 3
        edge = self.kernel_size[0] - 1
        around = [(edge // 2, edge - edge // 2)] * 3
        pads = [margin, around]
        padded = [ops.pad(x, [(0, 0), *pad, (0, 0)]) for x, pad in zip(inputs, pads, strict=False)]
        return self.valid(*padded)

    def valid(self, coarse, skip=None):
        """The same without padding: `coarse` has its `margins` around it and `skip` what the kernel reaches beyond."""
        result = convolve_doubled(coarse, self.kernel[..., : self.coarse_channels, :])
        if skip is not None:
            weights = self.kernel[..., self.coarse_channels :, :]
            result = result + ops.conv(skip, weights, padding="valid", data_format="channels_last")
        return result if self.bias is None else result + self.bias

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
