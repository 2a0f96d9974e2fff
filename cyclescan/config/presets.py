"""Recipes by name. Each says what it is for, how to run it and what to expect."""

from __future__ import annotations

import dataclasses

from cyclescan.common.errors import InputError
from cyclescan.config import Config

# The pair term stays on in the adversarial phase, and a cycle term as heavy as in CycleGAN makes the generators hide in
# one contrast what the other needs (docs/lab/decisions.md has the figures), which back-translation does not
# (docs/lab/recipe.md). Partners that are means have so little noise that a learning rate of five times
# CycleGAN's is better.
KNEE = Config(
    patch_shape=(32, 128, 128),
    learning_rate=1e-3,
    lambda_pair=10.0,
    pair_share=0.5,
    lambda_detail=0.3,
    lambda_back=10.0,
    back_sharpening=2.0,
    texture="a",
    lambda_cycle=0.0,
    lambda_adversarial=1.0,
    warmup=0.9,
    back_from=0.35,
    discriminator_warmup=0.1,
    decay_from=0.85,
    average_decay=0.98,
    steps=3000,
)

PRESETS: dict[str, tuple[str, Config]] = {
    "knee": (
        "The default: a U-Net without checkerboards, warmed up on registered pseudo-pairs, then trained adversarially "
        "with the pairs at hand. Needs `data_prep pair`. Generated volumes of domain a, CISS, carry texture over; "
        "where b has less noise, --set texture=b. Not measured at this size.",
        KNEE,
    ),
    "demo": (
        "`knee` at the size of the digital knee's demo: `python -m cyclescan.demo`, 10 minutes of training on two "
        "cores of 224 GFLOP/s; 17.6 dB and SSIM 0.46 (CISS to DESS), 18.5 dB and 0.54 (back).",
        dataclasses.replace(KNEE, steps=1000, patch_shape=(32, 64, 64)),
    ),
    "lesions": (
        "`knee` for scans in which lesions must survive: a network of two halvings, which cannot know where in the "
        "knee it is, learns from pairs with planted tissue and fluid. For contrasts in which fluid is bright; else "
        "--set fluid_blobs=0. Build with --scaling-a and --scaling-b soft_percentile:0.5,99.95. Measured for minutes, "
        "not to the end of a run (benchmarks/results/lesions.md).",
        dataclasses.replace(KNEE, generator_levels=2, transplants=3, fluid_blobs=3, lambda_blob=80.0),
    ),
    "cyclescan": (
        "The CycleScan report: its networks (93,869,569 parameters a generator), binary cross entropy, cycle and "
        "identity L1 with weight 10, plain unpaired training. About 100 epochs on a T4.",
        Config(
            patch_shape=(32, 256, 256),
            augment=False,
            generator_levels=5,
            generator_filters=64,
            generator_max_filters=512,
            generator_kernel=4,
            generator_upsampling="transposed",
            generator_full_resolution_filters=0,
            generator_decoder_width=2,
            discriminator_levels=3,
            discriminator_filters=64,
            adversarial_loss="bce",
            lambda_cycle=10.0,
            lambda_identity=10.0,
            steps=10000,
            decay_from=1.0,
            pool_size=0,
        ),
    ),
    "gradient_consistency": (
        "The second report (Hiasa et al. 2018), MR to CT: least squares, cycle weight 3, gradient consistency 0.3, no "
        "identity term.",
        Config(lambda_cycle=3.0, lambda_gradient_consistency=0.3, steps=10000, patch_shape=(32, 128, 128)),
    ),
}


def preset(name: str) -> Config:
    """Return the settings of a preset.

    Raises:
        InputError: there is none of that name; the message lists those there are.
    """
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; allowed are {', '.join(PRESETS)}.")
    return PRESETS[name][1]
