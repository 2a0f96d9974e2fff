"""Texture that a generator carries over from the volume that it translates.

A network trained on registered volumes cannot know texture that lies elsewhere in each of them, such as that of spongy
bone, and leaves it out. The volume to be translated has its own there. So two bands of the fine detail of the input,
those of `preprocessing.detail`, are added to the translation, each times an amplitude that a convolution on the
network's own features gives. Only how much there is of it is learned (`losses.texture`), and only by these
convolutions: the translation before it, from which every other term learns, is the one that it would be without.
Nothing is drawn at random, so the result is the same however a volume is divided into windows.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from cyclescan.preprocessing.detail import WINDOWS

TRANSLATED = "translated"  # the layer whose result is the translation before texture is added
NAMES = tuple(f"texture{band}" for band in range(len(WINDOWS)))
# Amplitudes begin here, a little below 0: no texture is added until some is asked for.
BEGINNING = -0.1


def carried(image, translated, features, kernel: int):
    """Return `translated` with the detail of `image`, times what convolutions make of `features`, on half as fine a
    grid.

    All in float32 but for the convolutions; layers that every export knows.
    """
    bias = keras.initializers.Constant(BEGINNING)
    parts, finer = [translated], image
    for name, window in zip(NAMES, WINDOWS, strict=True):
        coarser = _mean_around(image, window, name)
        detail = layers.Subtract(dtype="float32", name=f"{name}_detail")([finer, coarser])
        amplitude = layers.Conv3D(
            1, kernel, padding="same", kernel_initializer="zeros", bias_initializer=bias, name=f"{name}_conv"
        )(features)
        amplitude = layers.ReLU(name=f"{name}_amplitude")(layers.UpSampling3D(2, name=f"{name}_up")(amplitude))
        parts.append(layers.Multiply(dtype="float32", name=name)([amplitude, detail]))
        finer = coarser
    x = layers.Add(dtype="float32", name="textures")(parts)
    return layers.Activation("hard_tanh", dtype="float32", name="textured")(x)


def _mean_around(x, window: int, name: str):
    for axis in range(3):  # one after the other: 3 sums of `window` instead of its cube
        pool = tuple(window if i == axis else 1 for i in range(3))
        pooling = layers.AveragePooling3D(pool, strides=1, padding="same", dtype="float32", name=f"{name}_mean{axis}")
        x = pooling(x)
    return x


def without(generator: keras.Model) -> keras.Model:
    """Return the same network up to the translation before texture, and the features that amplitudes are made of.

    Returns:
        The generator itself where it carries no texture; else a model with these two outputs and the same weights.
    """
    if not heads(generator):
        return generator
    features = generator.get_layer(f"{NAMES[0]}_conv").input
    return keras.Model(generator.inputs[0], [generator.get_layer(TRANSLATED).output, features], name=generator.name)


def heads(generator: keras.Model) -> list:
    """Return the variables that amplitudes come from; none where it carries no texture."""
    convolutions = [layer for layer in generator.layers if layer.name in {f"{name}_conv" for name in NAMES}]
    return [variable for layer in convolutions for variable in layer.trainable_variables]


def amplitudes(generator: keras.Model, features):
    """Return what the convolutions make of features, (batch, depth, height, width, bands), before what is below 0 is
    cut.
    """
    made = [generator.get_layer(f"{n}_up")(generator.get_layer(f"{n}_conv")(features)) for n in NAMES]
    return ops.concatenate(made, axis=-1)
