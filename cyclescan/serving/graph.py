"""The whole way of a volume in TensorFlow operations: statistics, scaling, windows, blending, target intensities.

This is the one repetition of `cyclescan.preprocessing.intensity` and `cyclescan.inference.sliding_window`: a served
model has no Python, so what those do in NumPy is done here by the graph. `tests/serving` holds the two equal.
No Python function and no custom object goes into the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from cyclescan.inference import sliding_window
from cyclescan.preprocessing import intensity


class ServedTranslator(tf.Module):
    """One direction of a model, ready for `tf.saved_model.save` with its `endpoints` as signatures.

    Args:
        generator: Keras model (n, d, h, w, 1) -> the same, on [-1, 1].
        scaling: of the source domain, see `intensity.measure`.
        target: intensity record of the target domain: "low" and "high" are what -1 and 1 become.
        stride: each axis of the generator's input must be a multiple of it.
        window: voxels of a window (depth, height, width), multiples of `stride`.
        overlap: the least fraction that neighbouring windows share, in [0, 1).
    """

    def __init__(
        self, generator, scaling: str, target: dict, stride: int, window: Sequence[int], overlap: float
    ) -> None:
        super().__init__(name="served_translator")
        # the variables themselves, so that the saved object graph holds nothing of Keras
        self.weights = [variable.value for variable in generator.variables]

        def network(patches):
            return tf.cast(generator(patches, training=False), tf.float32)

        @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.float32, name="volume")])
        def translate_volume(volume):
            volume = _checked_volume(volume)
            low, high = _measure(volume, scaling)
            scaled = tf.clip_by_value((volume - low) * (2.0 / (high - low)) - 1.0, -1.0, 1.0)
            translated = _slide(scaled, network, window, overlap, stride)
            low, high = (tf.constant(float(target[key]), tf.float32) for key in ("low", "high"))
            return {"translated": (translated + 1.0) * ((high - low) / 2.0) + low}

        @tf.function(input_signature=[tf.TensorSpec((None, None, None, None, 1), tf.float32, name="patches")])
        def translate_patches(patches):
            return {"translated": network(_checked_patches(patches, stride))}

        self.endpoints = {"serving_default": translate_volume, "patches": translate_patches}


def _checked_volume(volume: tf.Tensor) -> tf.Tensor:
    volume = _checked_rank(volume, 3, "The volume", "(depth, height, width)")
    filled = _require(tf.size(volume) > 0, ["The volume is empty; its shape is", tf.shape(volume)])
    with tf.control_dependencies([filled, _require_finite(volume, "The volume")]):
        smallest, largest = tf.reduce_min(volume), tf.reduce_max(volume)
    varies = _require(largest > smallest, ["The volume is constant; a scan must vary. Every voxel is", smallest])
    with tf.control_dependencies([varies]):
        return tf.identity(volume)


def _checked_patches(patches: tf.Tensor, stride: int) -> tf.Tensor:
    patches = _checked_rank(patches, 5, "The batch of patches", "(batch, depth, height, width, 1)")
    shape = tf.shape(patches)
    fits = tf.reduce_all(shape[1:4] % stride == 0) & (tf.reduce_min(shape) > 0) & tf.equal(shape[4], 1)
    sentence = f"Patches must be (batch, depth, height, width, 1), each edge a positive multiple of {stride}; got"
    checks = [_require(fits, [sentence, shape]), _require_finite(patches, "The batch of patches")]
    with tf.control_dependencies(checks):
        patches = tf.identity(patches)
    patches.set_shape((None, None, None, None, 1))
    return patches


def _checked_rank(tensor: tf.Tensor, rank: int, name: str, axes: str) -> tf.Tensor:
    # The signature states the rank, and TensorFlow folds away whatever would look at it; yet a caller through the C API
    # or TensorFlow Serving can send another one. How many edges `where` finds is known only when it has run. A tensor
    # of another rank goes on as an empty one of the right rank, so that nothing stumbles before the sentence is said.
    edges = tf.shape(tensor)
    edges = tf.gather(edges, tf.where(edges >= 0)[:, 0])
    got = tf.size(edges)
    fits = tf.equal(got, rank)
    check = _require(fits, [f"{name} must have {rank} axes {axes}; the number of axes is", got])
    none = tf.zeros(rank, tf.int32)
    edges = tf.where(fits, tf.concat([edges, none], 0)[:rank], none)
    with tf.control_dependencies([check]):
        values = tf.identity(tf.reshape(tensor, [-1]))
    return tf.reshape(values[: tf.reduce_prod(edges)], edges)


def _require_finite(tensor: tf.Tensor, name: str):
    wrong = tf.math.count_nonzero(~tf.math.is_finite(tensor))
    return _require(tf.equal(wrong, 0), [f"{name} must be finite; the number of NaN or infinite voxels is", wrong])


def _require(condition: tf.Tensor, sentence: list):
    return tf.debugging.Assert(condition, sentence, summarize=8)


def _measure(volume: tf.Tensor, scaling: str) -> tuple[tf.Tensor, tf.Tensor]:
    """`intensity.measure`: the intensities that become -1 and 1, float32 scalars."""
    kind, first, second = intensity.parse(scaling)
    if kind == "window_hu":
        return tf.constant(first, tf.float32), tf.constant(second, tf.float32)
    voxels = tf.reshape(volume, [-1])
    low, high = _percentile(voxels, first), _percentile(voxels, second)
    sentence = f"The percentiles {first:g} and {second:g} of the volume are equal, it has too little contrast; both are"
    with tf.control_dependencies([_require(high > low, [sentence, low])]):
        return tf.identity(low), tf.identity(high)


def _percentile(voxels: tf.Tensor, percent: float) -> tf.Tensor:
    """`numpy.percentile` with linear interpolation, of a float32 vector.

    Sorting the smaller tail alone is exact and, at the usual half per cent, twenty times faster than sorting all.
    """
    last = tf.size(voxels) - 1
    rank = tf.cast(last, tf.float64) * (percent / 100)
    below = tf.cast(tf.floor(rank), tf.int32)
    above = tf.minimum(below + 1, last)
    if percent <= 50:
        tail = -tf.math.top_k(-voxels, above + 1).values
        values = tf.gather(tail, [below, above])
    else:
        tail = tf.math.top_k(voxels, last - below + 1).values
        values = tf.gather(tail, [last - below, last - above])
    values = tf.cast(values, tf.float64)
    return tf.cast(values[0] + (values[1] - values[0]) * (rank - tf.floor(rank)), tf.float32)


def _slide(
    volume: tf.Tensor,
    network: Callable[[tf.Tensor], tf.Tensor],
    window: Sequence[int],
    overlap: float,
    multiple: int,
) -> tf.Tensor:
    """`sliding_window.apply`, one window at a time.

    Windows are added along the width into a row, rows along the height into a slab, slabs along the depth into the
    volume, so the large arrays are copied seldom.
    """
    shape = tf.shape(volume)
    plans = [_Axis(shape[i], window[i], overlap, multiple) for i in range(3)]
    for axis, plan in enumerate(plans):
        volume = tf.gather(volume, plan.reflected(), axis=axis)
    edges = [plan.window for plan in plans]

    def part(starts: list[tf.Tensor]) -> tf.Tensor:
        axis = len(starts)
        if axis == 3:
            given = tf.slice(volume, tf.stack(starts), tf.stack(edges))
            return network(given[None, ..., None])[0, ..., 0]
        plan = plans[axis]
        column = [-1 if i == axis else 1 for i in range(3)]

        def add(i, total):
            start = plan.starts[i]
            front, middle, back = tf.split(total, [start, plan.window, plan.padded - start - plan.window], axis)
            values = part([*starts, start]) * tf.reshape(plan.weights(i), column)
            return i + 1, tf.concat([front, middle + values, back], axis)

        outer = tf.stack([*edges[:axis], *(p.padded for p in plans[axis:])])
        _, total = tf.while_loop(
            lambda i, total: i < plan.count,
            add,
            (tf.constant(0), tf.zeros(outer)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None] * 3)),
            parallel_iterations=1,  # one window in memory
        )
        return total

    total = part([])
    return tf.slice(total, tf.stack([plan.before for plan in plans]), shape)


class _Axis:
    """`sliding_window.plan_axis` for a size that is known only when the graph runs."""

    def __init__(self, size: tf.Tensor, window: int, overlap: float, multiple: int):
        self.size = size
        self.padded = -(-size // multiple) * multiple
        self.before = (self.padded - size) // 2
        self.window = tf.minimum(window, self.padded)
        room = (self.padded - self.window) // multiple
        # where the window is cut to the volume there is no room, and its own stride does not matter
        distance = sliding_window.stride_of_windows(window, overlap, multiple)
        self.count = -(-room * multiple // distance) + 1
        self.starts = multiple * (tf.range(self.count) * room // tf.maximum(1, self.count - 1))
        centres = (tf.cast(tf.range(self.window), tf.float64) + 0.5) / tf.cast(self.window, tf.float64)
        self._raw = tf.sin(math.pi * centres) ** 2
        voxels = self.starts[:, None] + tf.range(self.window)
        raw = tf.tile(self._raw, [self.count])
        self._total = tf.scatter_nd(tf.reshape(voxels, [-1, 1]), raw, [self.padded])

    def weights(self, i: tf.Tensor) -> tf.Tensor:
        """Of window i, float32 (window,)."""
        start = self.starts[i]
        return tf.cast(self._raw / self._total[start : start + self.window], tf.float32)

    def reflected(self) -> tf.Tensor:
        """`sliding_window.reflected`."""
        period = tf.maximum(1, 2 * (self.size - 1))
        index = (tf.range(self.padded) - self.before) % period
        return tf.minimum(index, period - index)
