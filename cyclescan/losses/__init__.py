"""Losses: pure, unweighted, float32. The weighted sum is written once, in `training.cyclegan`.

Nothing here imports TensorFlow; volumes are (batch, depth, height, width, 1) on [-1, 1], logits (batch, d, h, w, 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from cyclescan.preprocessing.detail import AROUND, WINDOWS

Tensor = Any  # of whatever backend Keras runs on

# Added to the variance of a gradient field: a gradient of 1e-3 of half the range is resolved, and constant air
# has the correlation 0 with finite derivatives.
GRADIENT_VARIANCE_FLOOR = 1e-6
# Added to both energies of detail: below it, 0.3 % of half the range, there is none.
DETAIL_FLOOR = 1e-5
# Where a mean of registered volumes has kept at most the first share of their fine energy, what they have there is
# texture, which lies elsewhere in each of them, and where it has kept the second, edges. Nor is it texture that has
# less energy in the fine band than in the next, or less than so many times that of the noise.
TEXTURE_KEPT = (0.1, 0.2)
TEXTURE_WHITE = (0.85, 1.15)
TEXTURE_ABOVE_NOISE = 1.5
# Of what partners have in each band, what is asked for: a band of means over cubes passes too little of its lowest
# frequencies, where spongy bone has more power than the volumes whose detail is carried over.
TEXTURE_ENERGY = (0.9, 1.7)
MOST_AMPLITUDE = 3.0
# Of the amplitudes that are right at such a place in one knee and another: so a place gets texture if more than a
# fifth of the knees show it there without doubt.
TEXTURE_QUANTILE = 0.8


def difference(predicted: Tensor, reference: Tensor, kind: str, weight: Tensor | None = None) -> Tensor:
    """Return the mean absolute ("l1") or squared ("l2") difference; the cycle, identity and pair losses.

    Args:
        predicted, reference: arrays of one shape.
        kind: "l1" or "l2".
        weight: None, or non-negative factors of each voxel, of the same shape; the sum is still divided by the number
            of voxels, so a volume that is half unknown counts half.
    """
    error = _float32(predicted) - _float32(reference)
    error = ops.abs(error) if kind == "l1" else ops.square(error)
    return ops.mean(error if weight is None else error * _float32(weight))


def smoothed(volumes: Tensor, window: int) -> Tensor:
    """Return the mean over a cube of `window` voxels (odd) around each voxel, of what lies in the volume."""
    counts = np.ones((1, 1, 1, 1, 1), np.float32)
    for axis in (1, 2, 3):
        place = np.arange(volumes.shape[axis])
        count = 1 + sum(np.minimum(side, window // 2) for side in (place, place[::-1]))
        counts = counts * np.expand_dims(count, [i for i in range(5) if i != axis])
    counts = ops.cast(counts, volumes.dtype)

    # the gradient is such a mean, too, but for the border; TensorFlow's own takes six times as long on a CPU
    @ops.custom_gradient
    def mean(volumes: Tensor) -> Tensor:
        def gradient(*arguments: Tensor, upstream: Tensor | None = None) -> Tensor:
            upstream = arguments[0] if upstream is None else upstream
            return counts * _box_mean(upstream / counts, window)

        return _box_mean(volumes, window), gradient

    return mean(volumes)


def _box_mean(volumes: Tensor, window: int) -> Tensor:
    for axis in range(3):  # one after the other: 3 sums of `window` instead of its cube
        pool = tuple(window if i == axis else 1 for i in range(3))  # JAX takes no list
        volumes = ops.average_pool(volumes, pool, strides=1, padding="same")
    return volumes


def noise_sd(volumes: Tensor, plane: tuple[int, int] = (2, 3)) -> Tensor:
    """Return the standard deviation of the noise of each volume, (batch, 1, 1, 1, 1), from the middle half of each
    axis.

    The second difference along the two axes of `plane`, which should be those of the smallest voxels, removes what is
    smooth; of the rest the median absolute value is hardly moved by edges (Immerkaer 1996, with the median; as
    `guard.noise_sd`).
    """
    middle = [slice(n // 4, n - n // 4) for n in volumes.shape[1:4]]
    rest = _float32(volumes)[(slice(None), *middle)]
    for axis in plane:
        rest = ops.diff(rest, 2, axis)
    # 1.4826: from the median of a normal distribution's absolute value to its SD; 36: the squared weights summed
    return 1.4826 / 6 * ops.median(ops.abs(rest), axis=(1, 2, 3, 4), keepdims=True)


def detail(predicted: Tensor, energies: Tensor, noise_variance: Tensor, weight: Tensor) -> Tensor:
    """Return how far the energy of fine detail around each voxel is from what is usual there, as a ratio.

    The mean absolute logarithm of (energy + noise) / usual energy, summed over the bands of `detail.WINDOWS`. It asks
    for as much detail as real volumes have and leaves to other terms which detail it is (statistics of sub-bands as a
    description of texture: Portilla & Simoncelli 2000).

    Args:
        predicted: translations.
        energies: (batch, depth, height, width, bands), as `detail.energies` of real volumes, noise included; below 0
            where they are not known.
        noise_variance: (batch, 1, 1, 1, 1), of the noise of real volumes, which translations need not have.
        weight: factors of each voxel.
    """
    total = 0.0
    for band, energy in enumerate(_energies(predicted)):
        usual = energies[..., band : band + 1]
        known = _float32(usual >= 0)
        ratio = (energy + noise_variance * _passed(band) + DETAIL_FLOOR) / (ops.maximum(usual, 0.0) + DETAIL_FLOOR)
        total += ops.mean(weight * known * ops.abs(ops.log(ratio)))
    return total


def _energies(volumes: Tensor) -> list[Tensor]:
    """As `detail.energies`, of each band (batch, depth, height, width, 1)."""
    found, finer = [], _float32(volumes)
    for window in WINDOWS:
        coarser = smoothed(_float32(volumes), window)
        found.append(smoothed(ops.square(finer - coarser), AROUND))
        finer = coarser
    return found


def _passed(band: int) -> float:
    """The share of the variance of white noise that lies in a band."""
    inner, outer = ([1, *WINDOWS][i] ** -3 for i in (band, band + 1))
    return inner - outer  # of two means over cubes of which one holds the other


def texture(
    amplitudes: Tensor, source: Tensor, partner: Tensor, energies: Tensor, noise_variance: Tensor, weight: Tensor
) -> Tensor:
    """Return how far amplitudes of the source's detail are from those that give it the energy of the partners' texture.

    Texture is what real volumes have around a voxel and the mean of them, which registration has brought there, has
    not. The distance to the amplitude that is right there, 0 where there is no texture, is that of a quantile (Koenker
    & Bassett 1978), since whether a place shows it without doubt differs from knee to knee.

    Args:
        amplitudes: (batch, depth, height, width, bands), see `models.texture`.
        source: the volumes that they are for.
        partner: the mean of their partners.
        energies: of the partners, as for `detail`.
        noise_variance: of real volumes of the partners' domain, as for `detail`.
        weight: factors of each voxel.
    """
    usual = [ops.maximum(energies[..., band : band + 1], 0.0) for band in range(len(WINDOWS))]
    known = _float32(energies[..., :1] >= 0) * weight
    fine, coarse = usual[:2]
    kept = _energies(partner)[0] / (fine + DETAIL_FLOOR)
    here = _ramp(-kept, [-share for share in TEXTURE_KEPT[::-1]]) * _ramp(fine / (coarse + DETAIL_FLOOR), TEXTURE_WHITE)
    here *= _float32(fine > TEXTURE_ABOVE_NOISE * noise_variance * _passed(0))
    total = 0.0
    for band, own in enumerate(_energies(source)):
        right = ops.sqrt(here * TEXTURE_ENERGY[band] * usual[band] / (own + DETAIL_FLOOR))
        lacking = ops.minimum(right, MOST_AMPLITUDE) - _float32(amplitudes[..., band : band + 1])
        distance = ops.maximum(TEXTURE_QUANTILE * lacking, (TEXTURE_QUANTILE - 1) * lacking)
        total += ops.mean(known * distance)
    return total


def _ramp(values: Tensor, ends: Tensor) -> Tensor:
    """0 up to the first end, 1 from the second on, a line between."""
    return ops.clip((values - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0)


def adversarial(logits: Tensor, real: bool, kind: str) -> Tensor:
    """Return how far the discriminator's logits are from saying "real" or "generated".

    Args:
        logits: before any sigmoid.
        real: what they should say.
        kind: "bce", binary cross entropy of sigmoid(logits) (Goodfellow et al. 2014; the seed), or "least_squares",
            the squared distance to 1 or 0 (Mao et al. 2017).
    """
    logits = _float32(logits)
    if kind == "least_squares":
        return ops.mean(ops.square(logits - (1.0 if real else 0.0)))
    return ops.mean(ops.softplus(-logits if real else logits))


def accuracy(real_logits: Tensor, fake_logits: Tensor, kind: str) -> Tensor:
    """Return the share of patches, half of them real, that a discriminator knows; `kind` as in `adversarial`."""
    threshold = 0.5 if kind == "least_squares" else 0.0
    right = [_float32(_float32(real_logits) > threshold), _float32(_float32(fake_logits) <= threshold)]
    return 0.5 * (ops.mean(right[0]) + ops.mean(right[1]))


def r1(gradient: Tensor, logits: int) -> Tensor:
    """Return half the squared norm of a discriminator's gradient on real volumes (Mescheder et al. 2018).

    Args:
        gradient: of the sum of all logits to the real volumes, of their shape.
        logits: how many those are. The square is divided by it, as each logit sees a patch of its own: so the term is
            that of a patch, whatever the size of the volumes.
    """
    return 0.5 * ops.sum(ops.square(_float32(gradient))) / _float32(logits)


def gradient_consistency(source: Tensor, translated: Tensor) -> Tensor:
    """Return 1 - GC, GC being the mean over the three axes of the correlation of the two gradient fields.

    In three dimensions the formula of the second report (Hiasa et al. 2018), GC(A, B) = 1/2 {NCC(dA/dx, dB/dx) +
    NCC(dA/dy, dB/dy)}, has a third term and the factor 1/3. Each correlation is over one volume; the result is the
    mean over the batch: 0 for equal edges, 1 for unrelated ones (and for constant air), 2 for reversed ones.
    """
    source, translated = _float32(source), _float32(translated)
    correlations = []
    for axis in (1, 2, 3):
        a, b = _centred_gradient(source, axis), _centred_gradient(translated, axis)
        covariance = ops.mean(a * b, axis=(1, 2, 3, 4))
        variances = [ops.mean(ops.square(g), axis=(1, 2, 3, 4)) + GRADIENT_VARIANCE_FLOOR for g in (a, b)]
        correlations.append(covariance * ops.rsqrt(variances[0]) * ops.rsqrt(variances[1]))
    return 1.0 - ops.mean(ops.stack(correlations))


def _centred_gradient(volume: Tensor, axis: int) -> Tensor:
    later = tuple(slice(1, None) if i == axis else slice(None) for i in range(5))
    earlier = tuple(slice(None, -1) if i == axis else slice(None) for i in range(5))
    gradient = volume[later] - volume[earlier]
    return gradient - ops.mean(gradient, axis=(1, 2, 3, 4), keepdims=True)


def _float32(values: Tensor) -> Tensor:
    return ops.cast(values, "float32")
