"""The generator: a 3-D U-Net (Ronneberger et al. 2015, Cicek et al. 2016; down and up blocks after pix2pix)."""

from __future__ import annotations

import keras
from keras import layers

from cyclescan.models import texture
from cyclescan.models.blocks import Initializers, convolution, instance_norm
from cyclescan.models.upsampled_conv import UpsampledConv3D

LEAK = 0.2
# With more filters than this a level has so few voxels that merging the kernel's taps costs what it saves (measured).
MOST_MERGED_FILTERS = 64


# each parameter is a setting of the generator by its own name; the body is the graph from top to bottom
def unet3d(
    levels: int = 4,
    filters: int = 32,
    max_filters: int = 256,
    full_resolution_filters: int = 16,
    convolutions: int = 1,
    decoder_width: int = 1,
    kernel: int = 3,
    upsampling: str = "resize",
    normalization: str = "instance",
    residual: bool = False,
    carry_texture: bool = False,
    seed: int = 0,
    name: str = "generator",
) -> keras.Model:
    """Return a network from (batch, depth, height, width, 1) on [-1, 1] to the same shape and range.

    Args:
        levels: number of halvings; each axis of the input must be a multiple of 2**levels.
        filters: channels after the first halving; doubled at each further one.
        max_filters: the most channels a level has.
        full_resolution_filters: channels of the convolutions before the first halving; 0 for none, as in the seed.
        convolutions: convolutions a level has on each side.
        decoder_width: channels of the decoder as a multiple of the encoder's at the same level (the seed has 2).
        kernel: edge of the convolution kernels in voxels.
        upsampling: "resize" repeats voxels and then convolves, which leaves no checkerboard (Odena et al. 2016);
            "transposed" is the seed's transposed convolution.
        normalization: "instance" or "none".
        residual: output tanh(input + network) instead of tanh(network).
        carry_texture: add fine detail of the input to the output, see `models.texture`.
        seed: determines the initial weights.

    The seed's generator is levels=5, filters=64, max_filters=512, full_resolution_filters=0, decoder_width=2,
    kernel=4, upsampling="transposed": 93,869,569 parameters.
    """
    init = Initializers(seed)
    normalized = normalization == "instance"
    width = [full_resolution_filters] + [min(filters * 2**i, max_filters) for i in range(levels)]

    # --- layers ---
    def unit(x, channels, label, strides=1, activation="leaky_relu", norm=normalized):
        x = convolution(x, channels, kernel, init, f"{label}_conv", strides=strides, bias=not normalized)
        return activate(instance_norm(x, f"{label}_norm") if norm else x, activation, label)

    def activate(x, activation, label):
        if activation == "relu":
            return layers.ReLU(name=f"{label}_relu")(x)
        return layers.LeakyReLU(LEAK, name=f"{label}_relu")(x)

    def refine(x, channels, label, activation):
        for i in range(1, convolutions):
            x = unit(x, channels, f"{label}_{i}", activation=activation)
        return x

    def ascend(x, skip, channels, label):
        if upsampling == "transposed":
            x = layers.Conv3DTranspose(
                channels,
                kernel,
                strides=2,
                padding="same",
                use_bias=not normalized,
                kernel_initializer=init(),
                name=f"{label}_conv",
            )(x)
            x = activate(instance_norm(x, f"{label}_norm") if normalized else x, "relu", label)
            x = layers.Concatenate(name=f"{label}_skip")([x, skip])
        elif channels > MOST_MERGED_FILTERS:
            x = layers.UpSampling3D(2, name=f"{label}_up")(x)
            x = layers.Concatenate(name=f"{label}_skip")([x, skip])
            x = unit(x, channels, label, activation="relu")
        else:
            x = UpsampledConv3D(channels, kernel, not normalized, init(), name=f"{label}_conv")([x, skip])
            x = activate(instance_norm(x, f"{label}_norm") if normalized else x, "relu", label)
        return refine(x, channels, label, "relu")

    # --- functional graph ---
    image = keras.Input((None, None, None, 1), name="image")
    skips, x = [], image
    if full_resolution_filters:
        x = refine(unit(x, width[0], "down0"), width[0], "down0", "leaky_relu")
        skips.append(x)
    for level in range(1, levels + 1):
        # the first halving of the seed is not normalised: it would remove the brightness of the input
        norm = normalized and (level > 1 or bool(full_resolution_filters))
        x = unit(x, width[level], f"down{level}", strides=2, norm=norm)
        x = refine(x, width[level], f"down{level}", "leaky_relu")
        skips.append(x)
    skips.pop()
    features = x  # of the level above the finest
    for level in range(levels - 1, -1, -1):
        if level or full_resolution_filters:
            x = ascend(x, skips.pop(), min(decoder_width * width[level], max_filters), f"up{level}")
        features = x if level == 1 else features
    x = head(x, kernel, init, upsampling, bool(full_resolution_filters))
    if residual:
        x = layers.Add(name="residual")([image, x])
    # float32 at the border under mixed precision
    x = layers.Activation("tanh", dtype="float32", name=texture.TRANSLATED)(x)
    if carry_texture:
        x = texture.carried(image, x, features, kernel)
    return keras.Model(image, x, name=name)


def head(x, kernel, init, upsampling, at_full_resolution):
    """Return the last convolution, to one channel; it doubles the grid where the decoder has stopped at half of it."""
    if at_full_resolution:
        return convolution(x, 1, kernel, init, "head", bias=True)
    if upsampling == "transposed":
        return layers.Conv3DTranspose(1, kernel, strides=2, padding="same", kernel_initializer=init(), name="head")(x)
    return UpsampledConv3D(1, kernel, True, init(), name="head")([x])
