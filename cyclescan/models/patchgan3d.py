"""The discriminator: a 3-D PatchGAN (Isola et al. 2017) with dropout, as the CycleScan report describes it."""

from __future__ import annotations

import keras
from keras import layers

from cyclescan.models.blocks import Initializers, convolution, instance_norm

LEAK = 0.2


def patchgan3d(
    levels: int = 3,
    filters: int = 64,
    kernel: int = 4,
    dropout: float = 0.5,
    normalization: str = "instance",
    seed: int = 0,
    name: str = "discriminator",
) -> keras.Model:
    """Return a network from (batch, depth, height, width, 1) to one logit per patch, float32 (batch, d, h, w, 1).

    Args:
        levels: number of halvings; two convolutions of stride 1 follow.
        filters: channels after the first halving, doubled at each further convolution.
        kernel: edge of the convolution kernels in voxels.
        dropout: rate after each normalised convolution.
        normalization: "instance", of all but the first and the last convolution; or "spectral", of the kernels of all.
        seed: determines the initial weights and the dropout masks.

    The seed's discriminator is levels=3, filters=64, kernel=4: 11,048,705 parameters.
    """
    init = Initializers(seed)

    spectral = normalization == "spectral"

    # --- layers ---
    def convolve(x, channels, label, **options):
        return convolution(x, channels, kernel, init, label, spectral=spectral, **options)

    def unit(x, channels, label, strides=2, norm=True):
        padding = "same" if strides == 2 else "valid"
        x = convolve(x, channels, f"{label}_conv", strides=strides, padding=padding, bias=spectral)
        if norm and not spectral:
            x = instance_norm(x, f"{label}_norm")
        if norm and dropout:
            x = layers.Dropout(dropout, seed=init.next_seed(), name=f"{label}_dropout")(x)
        return layers.LeakyReLU(LEAK, name=f"{label}_relu")(x)

    # --- functional graph ---
    image = keras.Input((None, None, None, 1), name="image")
    x = unit(image, filters, "down1", norm=False)
    for level in range(2, levels + 1):
        x = unit(x, filters * 2 ** (level - 1), f"down{level}")
    x = unit(layers.ZeroPadding3D(1, name="pad_patch")(x), filters * 2**levels, "patch", strides=1)
    x = convolve(layers.ZeroPadding3D(1, name="pad_logit")(x), 1, "logit", bias=True, padding="valid")
    x = layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(image, x, name=name)
