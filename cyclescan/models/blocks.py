"""The layers that generator and discriminator share."""

from __future__ import annotations

import keras
from keras import layers


class Initializers:
    """Normal initial weights with SD 0.02 (Zhu et al. 2017, and the seed), each layer with a seed of its own.

    Keras repeats the same numbers when one seeded initializer is used twice; counting makes every layer differ
    and the whole network a function of one seed.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._count = 0

    def next_seed(self) -> int:
        self._count += 1
        return self._seed * 1000 + self._count

    def __call__(self) -> keras.initializers.Initializer:
        return keras.initializers.RandomNormal(0.0, 0.02, seed=self.next_seed())


def instance_norm(x, name: str):
    """Return instance normalisation with scale and offset, equal to `tensorflow_addons.layers.InstanceNormalization`.

    Each channel of each volume is brought to mean 0 and variance 1 over its voxels (Ulyanov et al. 2016).
    tensorflow-addons cannot be imported with TensorFlow >= 2.16; its epsilon was 1e-5 where Keras' default is 1e-3.
    """
    return layers.GroupNormalization(groups=-1, epsilon=1e-5, name=name)(x)


# those of a Keras convolution and what stands around it
def convolution(
    x,
    filters: int,
    kernel: int,
    init: Initializers,
    name: str,
    strides: int = 1,
    bias: bool = False,
    padding: str = "same",
    spectral: bool = False,
):
    """Return a 3-D convolution of a cubic kernel; without bias where a normalisation follows, which would remove it.

    `spectral` keeps the largest singular value of its kernel at 1 (Miyato et al. 2018).
    """
    layer = layers.Conv3D(
        filters, kernel, strides=strides, padding=padding, use_bias=bias, kernel_initializer=init(), name=name
    )
    if not spectral:
        return layer(x)
    layer = layers.SpectralNormalization(layer, name=f"{name}_spectral")
    result = layer(x)
    # Keras begins the power iteration at random, without a seed
    layer.vector_u.assign(keras.random.normal(layer.vector_u.shape, seed=init.next_seed()))
    return result
