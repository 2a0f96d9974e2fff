"""Lesions planted into pseudo-pairs, so that generators learn to translate what their knees do not have.

Pseudo-pairs show what knees usually have in a place, and a generator that learns from them alone paints that over a
lesion. Here both sides of a pair get the same blobs: some are transplants, tissue from elsewhere in the same pair, and
some hold the brightest that each of the two domains has, in shares, as fluid does in a torn ligament or in oedema.

What chance decides is drawn in `draw` and applied in `plant`.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

RADIUS_MM = (3.0, 11.0)  # of a blob, before its axes are stretched
STRETCH = 0.25  # SD of the logarithm of each axis' radius
EDGE = (0.15, 0.6)  # over how much of its radius a blob fades out
RUGGED = 0.2  # how much of its radius its edge moves in and out
WAVE_MM = (6.0, 20.0)  # of that movement
LEAST_SHARE = 0.25  # of what a blob holds; the rest is what was there
TAIL = 0.005  # of a volume's voxels are taken for its brightest
AIR = -0.9  # blobs lie, and transplants come from, where a volume is brighter
TRIES = 16  # places drawn for each, of which the first that is no air is taken


def draw(key: tf.Tensor, blobs: int) -> dict[str, tf.Tensor]:
    """Return what chance decides over the blobs of one pair.

    Args:
        key: two integers; the same one gives the same blobs.
        blobs: how many.
    """
    rows = {"place": 3 * TRIES, "origin": 3 * TRIES, "radius": 1, "edge": 1, "share": 1, "rank": 1}
    drawn = {
        name: tf.random.stateless_uniform([blobs, count], tf.random.experimental.stateless_fold_in(key, i))
        for i, (name, count) in enumerate(rows.items())
    }
    waves = tf.random.experimental.stateless_fold_in(key, len(rows))
    directions = tf.random.stateless_normal([4, 3], waves)
    return drawn | {
        "stretch": tf.random.stateless_normal([blobs, 3], tf.random.experimental.stateless_fold_in(key, len(rows) + 1)),
        "directions": directions / tf.linalg.norm(directions, axis=1, keepdims=True),
        "waves": tf.random.stateless_uniform([4, 2], tf.random.experimental.stateless_fold_in(key, len(rows) + 2)),
    }


def plant(pair: dict, other: tf.Tensor, drawn: dict, transplants: int, spacing_mm: Sequence[float]) -> dict:
    """Return one pair with blobs.

    Args:
        pair: "real", "partner" and "weight", each (depth, height, width, 1), see `dataset.batches`.
        other: a volume of the partner's domain, whose brightest voxels say how bright its fluid is; that of the
            partner, a mean, is blurred.
        drawn: of `draw`.
        transplants: how many of the blobs, the first ones, are those; the others hold fluid.
        spacing_mm: of the voxels (depth, height, width).

    Returns:
        The same three, and "blobs", (depth, height, width, 1): the weight of what is planted; "weight" is what is left
        of it for all else.
    """
    real, partner, weight = (tf.cast(pair[key], tf.float32) for key in ("real", "partner", "weight"))
    shape = real.shape[:3]
    axes = [
        tf.reshape(tf.range(n, dtype=tf.float32) * step, [-1 if i == axis else 1 for i in range(3)])
        for axis, (n, step) in enumerate(zip(shape, spacing_mm, strict=True))
    ]
    rugged = _rugged(drawn, axes)
    solid = real > AIR
    brightest = [_tail(volume) for volume in (real, other)]
    planted = tf.zeros_like(real)
    before = {"real": real, "partner": partner, "weight": weight}
    for i in range(drawn["place"].shape[0]):
        place = _place(drawn["place"][i], solid)
        radius_mm = RADIUS_MM[0] + (RADIUS_MM[1] - RADIUS_MM[0]) * drawn["radius"][i]
        radii_mm = radius_mm * tf.exp(STRETCH * drawn["stretch"][i])
        distance = tf.sqrt(
            sum(((a - tf.cast(p, tf.float32) * s) / r) ** 2 for a, p, s, r in _zip(axes, place, spacing_mm, radii_mm))
        )
        edge = EDGE[0] + (EDGE[1] - EDGE[0]) * drawn["edge"][i]
        inside = tf.clip_by_value((1.0 + rugged - distance) / edge + 0.5, 0.0, 1.0)[..., None]
        inside *= tf.cast(solid, tf.float32)  # the air around a knee stays air
        if i < transplants:
            shift = place - _place(drawn["origin"][i], solid)
            holds = [tf.roll(before[key], shift, (0, 1, 2)) for key in ("real", "partner")]
            weight *= tf.where(inside > 0, tf.roll(before["weight"], shift, (0, 1, 2)), 1.0)
        else:
            rank = tf.cast(drawn["rank"][i, 0] * tf.cast(tf.shape(brightest[0])[0], tf.float32), tf.int32)
            holds = [values[rank] for values in brightest]
        share = inside if i < transplants else inside * (LEAST_SHARE + (1.0 - LEAST_SHARE) * drawn["share"][i])
        real, partner = (v + share * (held - v) for v, held in zip((real, partner), holds, strict=True))
        planted = tf.maximum(planted, inside)
    return {"real": real, "partner": partner, "weight": weight * (1.0 - planted), "blobs": weight * planted}


def _zip(axes, place, spacing_mm, radii_mm):
    return zip(axes, tf.unstack(place), spacing_mm, tf.unstack(radii_mm), strict=True)


def _rugged(drawn: dict, axes: list[tf.Tensor]) -> tf.Tensor:
    """How far edges move outwards, as a part of their radius: a sum of four plane waves, (depth, height, width)."""
    total = 0.0
    waves = map(tf.unstack, tf.unstack(drawn["waves"]))
    for direction, (length, phase) in zip(tf.unstack(drawn["directions"]), waves, strict=True):
        wave_mm = WAVE_MM[0] + (WAVE_MM[1] - WAVE_MM[0]) * length
        along = sum(a * d for a, d in zip(axes, tf.unstack(direction), strict=True))
        total += tf.cos(6.2832 * (along / wave_mm + phase))
    return RUGGED * total / 2.0


def _place(drawn: tf.Tensor, solid: tf.Tensor) -> tf.Tensor:
    """The first of the drawn places that is no air, or the first one where all are: three integers."""
    shape = tf.constant([float(edge) for edge in solid.shape[:3]])
    places = tf.cast(tf.reshape(drawn, [TRIES, 3]) * shape, tf.int32)
    there = tf.gather_nd(solid[..., 0], places)
    return places[tf.argmax(there, output_type=tf.int32)]


def _tail(volume: tf.Tensor) -> tf.Tensor:
    """The brightest voxels of a volume, in falling order."""
    depth, height, width = volume.shape[:3]
    return tf.math.top_k(tf.reshape(volume, [-1]), max(1, round(TAIL * depth * height * width))).values
