"""A generator on a volume of any size, window by window, as if it were one piece.

Instance normalisation makes a voxel depend on everything that is normalised with it, so a window translated on its own
differs from the same window of the whole volume. Here the statistics are those of the whole volume, whatever the
windows are. The network is cut into stages, one for each convolution whose result has to be known everywhere before the
next can begin: because it is normalised, or because it lies on a coarser grid than the volume's. A stage goes through
all windows, computes the convolution in each, and merges means and variances; a last stage writes the translation.

What a stage computes on a coarser grid is kept, an eighth of the voxels or less. What lies on the volume's own grid is
never kept but computed again from there where a later stage needs it. So memory is the volume, its translation, the
kept feature maps (for the preset `knee` 11 numbers a voxel) and one window, at half again the operations of one piece.
Windows read what they need beyond their border; beyond the volume's own there are zeros for convolutions and nothing
for the means of texture, as in the network.

It is all TensorFlow operations, so the same code runs here and inside exported models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers

from cyclescan.models import upsampled_conv
from cyclescan.models.upsampled_conv import UpsampledConv3D

OnWindow = Callable[[tf.Tensor, tf.Tensor], tf.Operation]
WEIGHTED = (layers.Conv3D, layers.Conv3DTranspose, UpsampledConv3D)
POINTWISE = (
    layers.ReLU,
    layers.LeakyReLU,
    layers.Activation,
    layers.Concatenate,
    layers.Add,
    layers.Subtract,
    layers.Multiply,
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Node:
    """A layer of the network.

    Attributes:
        layer: of Keras.
        parents: the nodes it reads, in order.
        level: how often the grid of its result is halved.
        norm: the normalisation of its result, if there is one.
    """

    layer: keras.Layer
    parents: tuple[_Node, ...]
    level: int
    norm: layers.GroupNormalization | None

    @property
    def is_stage(self) -> bool:
        return isinstance(self.layer, WEIGHTED) and (self.norm is not None or self.level > 0)


class WholeVolume:
    """A generator, ready to be applied to volumes larger than memory holds feature maps of.

    Args:
        generator: a functional model from (1, depth, height, width, 1) to the same shape, made of the layers of
            `models.unet3d`.

    Raises:
        TypeError: the model has a layer of another kind.
    """

    def __init__(self, generator: keras.Model):
        made_by = {id(layer.output): layer for layer in generator.layers}
        norms = {}
        for layer in generator.layers:
            if isinstance(layer, layers.GroupNormalization):
                norms[made_by[id(layer.input)].name] = layer
        nodes: dict[str, _Node] = {}
        for layer in generator.layers:
            inputs = [] if isinstance(layer, layers.InputLayer) else keras.tree.flatten(layer.input)
            parents = tuple(nodes[made_by[id(tensor)].name] for tensor in inputs)
            nodes[layer.name] = _Node(layer, parents, _level(layer, parents), norms.get(layer.name))
        self._stages = [node for node in nodes.values() if node.is_stage]
        self._result = nodes[made_by[id(generator.outputs[0])].name]
        self.stride = 2 ** max(node.level for node in nodes.values())

    def __call__(
        self, volume: tf.Tensor, window: tf.Tensor, overlap: tf.Tensor | float = 0.0, on_window: OnWindow | None = None
    ) -> tf.Tensor:
        """Translate a volume; call it inside a `tf.function`, where the loops over windows run without Python.

        Args:
            volume: float32 (depth, height, width) on [-1, 1], of any size; it is mirrored at both ends to a multiple
                of the network's stride.
            window: int32 (3,), voxels of the windows, multiples of the stride. It decides over memory and speed and,
                but for rounding, not over the result.
            overlap: the fraction that windows of the last stage share, in [0, 1). It costs time and changes nothing.
            on_window: makes an operation to run for each window, from the number of windows done and of all.

        Returns:
            float32, the shape of `volume`, on [-1, 1].
        """
        shape = tf.shape(volume)
        before = (-shape % self.stride) // 2
        padded = _reflected(volume, before, -shape % self.stride)
        evaluation = _Evaluation(padded[None, ..., None])
        plan = _Windows(tf.shape(padded), window, window)
        distance = self.stride * tf.cast(
            # the small number undoes the rounding of, for instance, 320 * (1 - 0.9)
            tf.floor(tf.cast(window, tf.float32) * (1.0 - overlap) / self.stride + 1e-4),
            tf.int32,
        )
        last = _Windows(tf.shape(padded), window, tf.maximum(self.stride, distance))
        total = len(self._stages) * plan.count + last.count

        def report(stage: int, index: tf.Tensor):
            return on_window(stage * plan.count + index + 1, total) if on_window else tf.no_op()

        for number, node in enumerate(self._stages):
            evaluation.run(node, plan, lambda index, number=number: report(number, index))
        translated = evaluation.collect(self._result, last, lambda index: report(len(self._stages), index))
        return tf.slice(translated[0, ..., 0], before, shape)


def _level(layer: keras.Layer, parents: tuple[_Node, ...]) -> int:
    if not parents:
        return 0
    if isinstance(layer, (layers.Conv3DTranspose, UpsampledConv3D, layers.UpSampling3D)):
        return parents[0].level - 1
    if isinstance(layer, layers.Conv3D):
        return parents[0].level + layer.strides[0] // 2
    averages = isinstance(layer, layers.AveragePooling3D) and set(layer.strides) == {1} and layer.padding == "same"
    if averages or isinstance(layer, (*POINTWISE, layers.GroupNormalization)):
        return parents[0].level
    raise TypeError(f"the layer {layer.name} is a {type(layer).__name__}, which is not known here")


def _reflected(volume: tf.Tensor, before: tf.Tensor, extra: tf.Tensor) -> tf.Tensor:
    """Mirror about the centres of the outermost voxels, again and again; a single voxel is repeated.

    Equal to `numpy.pad(mode="reflect")`.
    """
    for axis in range(3):
        size = tf.shape(volume)[axis]
        period = tf.maximum(1, 2 * (size - 1))
        index = (tf.range(size + extra[axis]) - before[axis]) % period
        volume = tf.gather(volume, tf.minimum(index, period - index), axis=axis)
    return volume


class _Windows:
    """Windows at multiples of `distance` that cover a volume, the last of each axis cut to it. All are int32 (3,)."""

    def __init__(self, size: tf.Tensor, window: tf.Tensor, distance: tf.Tensor):
        self._size, self._window, self._distance = size, window, distance
        self._counts = tf.maximum(0, -((window - size) // distance)) + 1
        self.count = tf.reduce_prod(self._counts)

    def bounds(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the first voxel, and the one after the last, of window number `index`."""
        first = tf.unravel_index(index, self._counts) * self._distance
        return first, tf.minimum(first + self._window, self._size)


class _Evaluation:
    """What is known while one volume is translated: feature maps of coarser grids, scales and offsets of the norms."""

    def __init__(self, volume: tf.Tensor):
        self._volume = volume
        self._size = tf.shape(volume)[1:4]
        self._done = tf.constant(0)  # what the stage before has to come to before memory is taken for the next
        self._kept: dict[_Node, tf.Tensor] = {}
        self._affine: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}

    def run(self, node: _Node, windows: _Windows, report) -> None:
        """Go through all windows: keep the result of `node` if its grid is coarse, measure it if it is normalised."""
        channels = node.layer.output.shape[-1]
        kept = self._empty(node, channels) if node.level else tf.zeros((0,) * 5)
        nothing = tf.zeros(channels, tf.float64)

        def body(index, kept, count, mean, squares):
            first, end = (bound // 2**node.level for bound in windows.bounds(index))
            values = self._inside(node, first, end)
            if node.level:
                kept = _written(kept, values, first, end)
            if node.norm is not None:
                count, mean, squares = _merged(count, mean, squares, values)
            return _next(index, values, report), kept, count, mean, squares

        self._done, kept, count, mean, squares = tf.while_loop(
            lambda index, *_: index < windows.count,
            body,
            (tf.constant(0), kept, tf.constant(0.0, tf.float64), nothing, nothing),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None] * 5), *[tf.TensorShape(None)] * 3),
            parallel_iterations=1,  # one window in memory
        )
        if node.level:
            kept.set_shape((1, None, None, None, channels))
            self._kept[node] = kept
        if node.norm is not None:
            norm = node.norm
            scale = tf.cast(norm.gamma, tf.float64) * tf.math.rsqrt(squares / count + norm.epsilon)
            offset = tf.cast(norm.beta, tf.float64) - mean * scale
            both = (tf.ensure_shape(tf.cast(value, tf.float32), [channels]) for value in (scale, offset))
            self._affine[norm.name] = tuple(both)

    def collect(self, node: _Node, windows: _Windows, report) -> tf.Tensor:
        """Return the result of `node` on the whole volume."""

        def body(index, total):
            first, end = windows.bounds(index)
            values = self._inside(node, first, end)
            return _next(index, values, report), _written(total, values, first, end)

        _, total = tf.while_loop(
            lambda index, _: index < windows.count,
            body,
            (tf.constant(0), self._empty(node, 1)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None] * 5)),
            parallel_iterations=1,
        )
        return total

    def _empty(self, node: _Node, channels: int) -> tf.Tensor:
        with tf.control_dependencies([self._done]):
            return tf.zeros(tf.concat([[1], self._size // 2**node.level, [channels]], 0))

    def _around(self, node: _Node, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        """The result of a node from voxel `first` up to `end`, zeros where that is beyond the volume."""
        size = self._size // 2**node.level
        low, high = tf.maximum(first, 0), tf.minimum(end, size)
        padding = tf.concat([[[0, 0]], tf.stack([low - first, end - high], 1), [[0, 0]]], 0)
        values = self._inside(node, low, high)
        # the padding, known only when the graph runs, would hide the channels from whoever builds on them
        return tf.ensure_shape(tf.pad(values, padding), (1, None, None, None, values.shape[-1]))

    def _inside(self, node: _Node, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        """The same within the volume."""
        layer = node.layer
        if isinstance(layer, layers.InputLayer):
            return _cut(self._volume, first, end)
        if node in self._kept:
            return _cut(self._kept[node], first, end)
        if isinstance(layer, WEIGHTED):
            return self._convolved(node, first, end)
        parent = node.parents[0]
        if isinstance(layer, layers.GroupNormalization):
            scale, offset = self._affine[layer.name]
            if parent in self._kept:
                return self._inside(parent, first, end) * scale + offset
            return self._convolved(parent, first, end, scale) + offset
        if isinstance(layer, layers.UpSampling3D):
            low = first // 2
            values = self._inside(parent, low, (end + 1) // 2)
            return _cut(layer(values), first - 2 * low, end - 2 * low)
        if isinstance(layer, layers.AveragePooling3D):
            # of what lies in the volume; so nothing may be put in front of it, as for a convolution
            reach = tf.constant(layer.pool_size) // 2
            low, high = tf.maximum(first - reach, 0), tf.minimum(end + reach, self._size // 2**node.level)
            return _cut(layer(self._inside(parent, low, high)), first - low, end - low)
        inputs = [self._inside(each, first, end) for each in node.parents]
        return layer(inputs if len(inputs) > 1 else inputs[0])

    def _convolved(self, node: _Node, first: tf.Tensor, end: tf.Tensor, scale: tf.Tensor | float = 1.0) -> tf.Tensor:
        """A convolution computed from its inputs, its channels multiplied by `scale`."""
        layer, parent = node.layer, node.parents[0]
        kernel = layer.kernel_size[0]
        if isinstance(layer, UpsampledConv3D):
            before, behind = upsampled_conv.margins(kernel)
            low, high = first // 2, (end + 1) // 2
            inputs = [self._around(parent, low - before, high + behind)]
            if len(node.parents) == 2:
                start = 2 * low - (kernel - 1) // 2
                inputs.append(self._around(node.parents[1], start, start + 2 * (high - low) + kernel - 1))
            return _cut(layer.valid(inputs, scale), first - 2 * low, end - 2 * low)
        stride = layer.strides[0]
        before = (kernel - stride) // 2  # as padding="same" puts in front of a grid that is a multiple of the stride
        if isinstance(layer, layers.Conv3DTranspose):
            low, high = -((kernel - 1 - first - before) // stride), (end - 1 + before) // stride + 1
            edges = (high - low - 1) * stride + kernel
            shape = tf.concat([[1], edges, [layer.filters]], 0)
            weights = layer.kernel * tf.reshape(scale, [-1, 1])
            values = tf.nn.conv3d_transpose(self._around(parent, low, high), weights, shape, stride, "VALID")
            values = _cut(values, first + before - low * stride, end + before - low * stride)
        else:
            start = first * stride - before
            values = self._around(parent, start, start + (end - first - 1) * stride + kernel)
            values = tf.nn.conv3d(values, layer.kernel * scale, [1, *layer.strides, 1], "VALID")
        return values + layer.bias * scale if layer.use_bias else values


def _next(index: tf.Tensor, values: tf.Tensor, report) -> tf.Tensor:
    """The next window's number, once this one's values are there and reported."""
    with tf.control_dependencies([values]):
        reported = report(index)
    with tf.control_dependencies([reported]):
        return index + 1


def _cut(values: tf.Tensor, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    return values[:, first[0] : end[0], first[1] : end[1], first[2] : end[2]]


def _written(total: tf.Tensor, values: tf.Tensor, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """`total` with `values` in its place; TensorFlow writes them into the same memory, since nothing else reads it."""
    channels = tf.shape(values)[4:]
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=total,
        begin=tf.concat([[0], first, [0]], 0),
        end=tf.concat([[1], end, channels], 0),
        strides=tf.ones(5, tf.int32),
        value=values,
    )


def _merged(count: tf.Tensor, mean: tf.Tensor, squares: tf.Tensor, values: tf.Tensor):
    """Number, mean and sum of squared deviations with one more window (Chan et al. 1979), float64, of each channel."""
    more = tf.cast(tf.reduce_prod(tf.shape(values)[:-1]), tf.float64)
    own_mean, own_variance = tf.nn.moments(values, [0, 1, 2, 3])
    both = count + more
    difference = tf.cast(own_mean, tf.float64) - mean
    squares += tf.cast(own_variance, tf.float64) * more + difference**2 * count * more / both
    return both, mean + difference * more / both, squares
