"""Networks as Keras functional models. Nothing here imports TensorFlow: they run on any Keras backend."""

from cyclescan.models.patchgan3d import patchgan3d
from cyclescan.models.unet3d import unet3d

__all__ = ["build_discriminator", "build_generator", "patchgan3d", "unet3d"]


def build_generator(config, direction: str, name: str | None = None, seed: int = 0):
    """Return the generator of a direction, "a2b" or "b2a", that a `Config` describes; see `unet3d`."""
    return unet3d(
        levels=config.generator_levels,
        filters=config.generator_filters,
        max_filters=config.generator_max_filters,
        full_resolution_filters=config.generator_full_resolution_filters,
        convolutions=config.generator_convolutions,
        decoder_width=config.generator_decoder_width,
        kernel=config.generator_kernel,
        upsampling=config.generator_upsampling,
        normalization=config.generator_normalization,
        residual=config.generator_residual,
        carry_texture=config.carries_texture(direction),
        seed=seed,
        name=name or f"generator_{direction}",
    )


def build_discriminator(config, name: str, seed: int = 0):
    """Return the discriminator that a `Config` describes; see `patchgan3d`."""
    return patchgan3d(
        levels=config.discriminator_levels,
        filters=config.discriminator_filters,
        kernel=config.discriminator_kernel,
        dropout=config.discriminator_dropout,
        normalization=config.discriminator_normalization,
        seed=seed,
        name=name,
    )
