"""The whole way of a volume in TensorFlow operations: statistics, scaling, windows, target intensities.

This is the one repetition of `cyclescan.preprocessing.intensity`: a served model has no Python, so what that does in
NumPy is done here by the graph, and `tests/serving` holds the two equal. No Python function and no custom object goes
into the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from cyclescan.inference.whole_volume import WholeVolume
from cyclescan.preprocessing import body, intensity
from cyclescan.preprocessing.noise import FALL, FLOOR, RICIAN, Noise


class ServedTranslator(tf.Module):
    """One direction of a model, ready for `tf.saved_model.save` with its `endpoints` as signatures.

    Args:
        generator: Keras model (n, d, h, w, 1) -> the same, on [-1, 1].
        scaling: of the source domain, see `intensity.measure`.
        target: intensity step of the target domain.
        window: voxels of the windows (depth, height, width) that `serving_default` works in, multiples of the stride.
        max_voxels: a larger volume is refused: it would take the memory of the whole server.
        noise: of the target domain, for the endpoint `with_noise`; None for a model that does not know it, which then
            has no such endpoint.
        finest_plane: the two axes of a volume with the smallest voxels, along which noise is measured.
    """

    # seven parameters and long, because the endpoints share one graph
    def __init__(
        self,
        generator,
        scaling: str,
        target: dict,
        window: Sequence[int],
        max_voxels: int,
        noise: Noise | None = None,
        finest_plane: tuple[int, int] = (1, 2),
    ) -> None:
        super().__init__(name="served_translator")
        # the variables themselves, so that the saved object graph holds nothing of Keras
        self.weights = [variable.value for variable in generator.variables]
        whole = WholeVolume(generator)
        specs = [
            tf.TensorSpec((None, None, None), tf.float32, name="volume"),
            tf.TensorSpec((3,), tf.int32, name="window"),
            tf.TensorSpec((), tf.float32, name="overlap"),
        ]
        by_windows = tf.function(whole, input_signature=specs, autograph=False)  # one graph for both signatures

        def of_whole(volume):
            volume = _checked_volume(volume, max_voxels)
            with tf.control_dependencies([_require_contrast(volume)]):
                low, high = _measure(volume, scaling)
            translated = by_windows(_apply(volume, scaling, low, high), tf.constant(window), 0.0)
            return _invert(translated, target)

        @tf.function(input_signature=specs[:1], autograph=False)
        def translate_volume(volume):
            return {"translated": of_whole(volume)}

        @tf.function(input_signature=[specs[0], tf.TensorSpec((), tf.int64, name="seed")], autograph=False)
        def translate_with_noise(volume, seed):
            return {"translated": _with_noise(of_whole(volume), seed, noise, finest_plane)}

        @tf.function(input_signature=specs, autograph=False)
        def translate_scaled(volume, window, overlap):
            volume = _checked_volume(volume, max_voxels)
            fits = tf.reduce_all((window > 0) & (window % whole.stride == 0)) & (overlap >= 0) & (overlap < 1)
            sentence = f"The window must be positive multiples of {whole.stride} and the overlap in [0, 1); they are"
            with tf.control_dependencies([_require(fits, [sentence, window, overlap])]):
                return {"translated": by_windows(tf.identity(volume), window, overlap)}

        patch_specs = [tf.TensorSpec((None, None, None, None, 1), tf.float32, name="patches")]

        @tf.function(input_signature=patch_specs, autograph=False)
        def translate_patches(patches):
            patches = _checked_patches(patches, whole.stride, max_voxels)
            return {"translated": tf.cast(generator(patches, training=False), tf.float32)}

        self.endpoints = {"serving_default": translate_volume, "scaled": translate_scaled, "patches": translate_patches}
        if noise is not None:
            self.endpoints["with_noise"] = translate_with_noise


def _checked_volume(volume: tf.Tensor, max_voxels: int) -> tf.Tensor:
    volume = _checked_rank(volume, 3, "The volume", "(depth, height, width)")
    filled = _require(tf.size(volume) > 0, ["The volume is empty; its shape is", tf.shape(volume)])
    checks = [filled, _require_size(volume, max_voxels, "The volume"), _require_finite(volume, "The volume")]
    with tf.control_dependencies(checks):
        return tf.identity(volume)


def _require_contrast(volume: tf.Tensor):
    smallest, largest = tf.reduce_min(volume), tf.reduce_max(volume)
    return _require(largest > smallest, ["The volume is constant; a scan must vary. Every voxel is", smallest])


def _checked_patches(patches: tf.Tensor, stride: int, max_voxels: int) -> tf.Tensor:
    patches = _checked_rank(patches, 5, "The batch of patches", "(batch, depth, height, width, 1)")
    shape = tf.shape(patches)
    fits = tf.reduce_all(shape[1:4] % stride == 0) & (tf.reduce_min(shape) > 0) & tf.equal(shape[4], 1)
    sentence = f"Patches must be (batch, depth, height, width, 1), each edge a positive multiple of {stride}; got"
    checks = [_require(fits, [sentence, shape]), _require_size(patches, max_voxels, "The batch of patches")]
    with tf.control_dependencies([*checks, _require_finite(patches, "The batch of patches")]):
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


def _require_size(tensor: tf.Tensor, most: int, name: str):
    size = tf.size(tensor, tf.int64)
    return _require(size <= most, [f"{name} is too large: at most {most} voxels are allowed; it has", size])


def _require(condition: tf.Tensor, sentence: list):
    return tf.debugging.Assert(condition, sentence, summarize=8)


def _measure(volume: tf.Tensor, scaling: str) -> tuple[tf.Tensor, tf.Tensor]:
    """`intensity.measure`: the two limits of the record, float32 scalars."""
    kind, first, second = intensity.parse(scaling)
    if kind == "window_hu":
        return tf.constant(first, tf.float32), tf.constant(second, tf.float32)
    voxels = tf.reshape(volume, [-1])
    low, high = _percentile(voxels, first), _percentile(voxels, second)
    sentence = f"The percentiles {first:g} and {second:g} of the volume are equal, it has too little contrast; both are"
    with tf.control_dependencies([_require(high > low, [sentence, low])]):
        return tf.identity(low), tf.identity(high)


def _apply(volume: tf.Tensor, scaling: str, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """`intensity.apply`."""
    top, width = intensity.upper(scaling), high - low
    scaled = (volume - low) * ((1.0 + top) / width) - 1.0
    if intensity.is_soft(scaling):
        excess = tf.maximum(volume - high, 0.0) / width
        rise = (1.0 - top) / np.log1p(intensity.STEEPNESS * intensity.HEADROOM)
        scaled = tf.minimum(scaled, top) + rise * tf.math.log1p(intensity.STEEPNESS * excess)
    return tf.clip_by_value(scaled, -1.0, 1.0)


def _invert(scaled: tf.Tensor, record: dict) -> tf.Tensor:
    """`intensity.invert`."""
    low, high = (float(record[key]) for key in ("low", "high"))
    top, width = intensity.upper(record["scaling"]), high - low
    if not intensity.is_soft(record["scaling"]):
        return (scaled + 1.0) * (width / 2.0) + low
    share = tf.maximum(scaled - top, 0.0) / (1.0 - top)
    beyond = tf.math.expm1(share * np.log1p(intensity.STEEPNESS * intensity.HEADROOM)) / intensity.STEEPNESS
    return (tf.minimum(scaled, top) + 1.0) * (width / (1.0 + top)) + low + width * beyond


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


def _with_noise(volume: tf.Tensor, seed: tf.Tensor, noise: Noise, plane: tuple[int, int]) -> tf.Tensor:
    """`Noise.add`, with the random numbers of TensorFlow."""
    own = _noise_sd(volume, plane)
    added = tf.sqrt(tf.maximum(noise.sd**2 - own**2, 0.0))
    shape = tf.concat([[2], tf.shape(volume)], 0)
    channels = tf.random.stateless_normal(shape, tf.stack([seed, 0]), alg="philox")  # the same on every device
    if noise.kind == RICIAN:
        return _rician(volume, added, channels[0], channels[1])
    return volume + added * channels[0]


def _rician(mean: tf.Tensor, sd: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """`noise.rician`."""
    mean = tf.maximum(mean, 0.0)
    sd = tf.minimum(sd, mean / FLOOR)
    over = tf.where(sd > 0, mean / tf.where(sd > 0, sd, 1.0), FLOOR)
    lost = 1.0 + (FLOOR**2 - 1.0) * tf.exp(-FALL * (over - FLOOR))
    signal = tf.sqrt(tf.maximum(mean**2 - sd**2 * lost, 0.0))
    return tf.sqrt((signal + sd * first) ** 2 + (sd * second) ** 2)


def _noise_sd(volume: tf.Tensor, plane: tuple[int, int]) -> tf.Tensor:
    """`guard.noise_sd`."""
    shape = tf.shape(volume)
    margin = tf.where(shape >= 8, shape // 4, 0)
    rest = tf.slice(volume, margin, shape - 2 * margin)
    for axis in plane:
        count = tf.maximum(tf.shape(rest)[axis] - 2, 0)
        before, here, after = (tf.gather(rest, tf.range(n, n + count), axis=axis) for n in range(3))
        rest = before - 2.0 * here + after
    rest = tf.reshape(tf.abs(rest), [-1])
    return tf.cond(tf.size(rest) > 0, lambda: body.SD_OF_MAD / 6 * _percentile(rest, 50.0), lambda: 0.0)
