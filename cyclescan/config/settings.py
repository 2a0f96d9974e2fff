"""Settings of a model and its training: one frozen dataclass, whose unknown keys are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from cyclescan.common.errors import InputError
from cyclescan.config import fields
from cyclescan.config.fields import BELOW_ONE, POSITIVE, SHARE, WEIGHT, Group, at_least, setting


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a training run besides its data.

    Each field says its group, what it is for and which values it may have (`config.fields`); docs/reference/settings.md
    and `train --help` are made of that. Shapes are (depth, height, width) in voxels.

    Raises:
        InputError: a value is not allowed; the sentence names the setting, the value and what is.
    """

    patch_shape: tuple[int, int, int] = setting(
        (32, 64, 64), Group.DATA, "voxels of a patch: sagittal slices, height, width; multiples of 2^generator_levels"
    )
    batch_size: int = setting(1, Group.DATA, "patches of each domain in a step, on all devices", bounds=at_least(1))
    augment: bool = setting(
        True, Group.DATA, "mirror left-right at random, and let patches reach a little beyond the border"
    )

    generator_levels: int = setting(4, Group.GENERATOR, "halvings of the grid", bounds=at_least(1))
    generator_filters: int = setting(
        32, Group.GENERATOR, "channels after the first halving, doubled at each one", bounds=at_least(1)
    )
    generator_max_filters: int = setting(256, Group.GENERATOR, "at most so many channels", bounds=at_least(1))
    generator_convolutions: int = setting(1, Group.GENERATOR, "a level, on each side", bounds=at_least(1))
    generator_decoder_width: int = setting(
        1, Group.GENERATOR, "channels of the decoder relative to the encoder's at the same level", bounds=at_least(1)
    )
    generator_kernel: int = setting(3, Group.GENERATOR, "voxels along an edge of a convolution", bounds=at_least(1))
    generator_upsampling: str = setting(
        "resize",
        Group.GENERATOR,
        "how the grid is doubled; transposed convolutions, as in the CycleScan report, make checkerboards",
        choices=("resize", "transposed"),
    )
    generator_normalization: str = setting(
        "instance", Group.GENERATOR, "of the features of a level", choices=("instance", "none")
    )
    generator_residual: bool = setting(
        False, Group.GENERATOR, "output = tanh(input + network) instead of tanh(network)"
    )
    generator_full_resolution_filters: int = setting(
        16,
        Group.GENERATOR,
        "channels before the first halving; 0 for none, as in the CycleScan report",
        bounds=at_least(0),
    )
    texture: str = setting(
        "none",
        Group.GENERATOR,
        "the domains whose generated volumes carry texture of their source over; needs lambda_pair",
        choices=("none", "a", "b", "both"),
    )

    discriminator_levels: int = setting(
        2, Group.DISCRIMINATOR, "halvings of the grid, before two convolutions of stride 1", bounds=at_least(1)
    )
    discriminator_filters: int = setting(
        32, Group.DISCRIMINATOR, "channels after the first halving, doubled at each one", bounds=at_least(1)
    )
    discriminator_kernel: int = setting(
        4, Group.DISCRIMINATOR, "voxels along an edge of a convolution", bounds=at_least(1)
    )
    discriminator_dropout: float = setting(
        0.5, Group.DISCRIMINATOR, "share of the features that are dropped at random", bounds=BELOW_ONE
    )
    discriminator_normalization: str = setting(
        "instance",
        Group.DISCRIMINATOR,
        "of the features, or of the kernels (spectral), for discriminators that learn too fast",
        choices=("instance", "spectral"),
    )

    adversarial_loss: str = setting(
        "least_squares",
        Group.LOSSES,
        "what discriminators and generators play for: squared distances, or binary cross entropy",
        choices=("bce", "least_squares"),
    )
    lambda_adversarial: float = setting(
        1.0, Group.LOSSES, "weight of what the discriminators say of translations", bounds=WEIGHT, teaches=True
    )
    cycle_loss: str = setting("l1", Group.LOSSES, "absolute or squared differences", choices=("l1", "l2"))
    lambda_cycle: float = setting(
        10.0, Group.LOSSES, "weight of a volume's difference from itself, there and back", bounds=WEIGHT, teaches=True
    )
    identity_loss: str = setting("l1", Group.LOSSES, "absolute or squared differences", choices=("l1", "l2"))
    lambda_identity: float = setting(
        0.0,
        Group.LOSSES,
        "weight of what a generator changes in volumes that are in its target domain already",
        bounds=WEIGHT,
        teaches=True,
    )
    lambda_gradient_consistency: float = setting(
        0.0,
        Group.LOSSES,
        "weight of 1 - correlation of the edges of a volume and its translation",
        bounds=WEIGHT,
        teaches=True,
    )
    lambda_r1: float = setting(
        0.0,
        Group.LOSSES,
        "weight of the discriminators' gradient on real volumes, where they learn too fast",
        bounds=WEIGHT,
    )
    lambda_pair: float = setting(
        0.0,
        Group.LOSSES,
        "weight of the absolute difference to registered pseudo-pairs (`data_prep pair`)",
        bounds=WEIGHT,
        teaches=True,
    )
    pair_share: float = setting(
        1.0, Group.LOSSES, "of lambda_pair, which is left in the adversarial phase", bounds=SHARE
    )
    transplants: int = setting(
        0,
        Group.LOSSES,
        "blobs of tissue from elsewhere in a pair, planted into both its sides so that lesions are learned, too",
        bounds=at_least(0),
    )
    fluid_blobs: int = setting(
        0,
        Group.LOSSES,
        "blobs of the brightest of each domain, planted likewise; for contrasts in which fluid is bright",
        bounds=at_least(0),
    )
    lambda_blob: float = setting(
        0.0,
        Group.LOSSES,
        "weight of the squared difference to the pair in blobs, which no other term of pairs counts",
        bounds=WEIGHT,
    )
    lambda_detail: float = setting(
        0.0,
        Group.LOSSES,
        "weight of the amount of fine detail, compared with that of the partners of pairs; needs lambda_pair",
        bounds=WEIGHT,
    )
    lambda_back: float = setting(
        0.0,
        Group.LOSSES,
        "weight of back-translation: the difference of a volume from what becomes of it there, with noise, and back, "
        "from which only the way back learns",
        bounds=WEIGHT,
        teaches=True,
    )
    back_sharpening: float = setting(
        0.0,
        Group.LOSSES,
        "what goes back is sharpened at random, by at most so many times its fine detail",
        bounds=at_least(0),
    )

    steps: int = setting(1000, Group.SCHEDULE, "steps of the run", bounds=at_least(1))
    warmup: float = setting(
        0.0,
        Group.SCHEDULE,
        "until then generators learn from pairs, detail, texture and back-translation alone",
        bounds=SHARE,
    )
    back_from: float = setting(
        0.0,
        Group.SCHEDULE,
        "from then on back-translation, detail and texture count: translations must be fair first",
        bounds=SHARE,
    )
    discriminator_warmup: float = setting(
        0.0, Group.SCHEDULE, "the last part of the warm-up, in which discriminators learn already", bounds=SHARE
    )
    decay_from: float = setting(0.5, Group.SCHEDULE, "from then on the learning rate falls linearly to 0", bounds=SHARE)

    learning_rate: float = setting(2e-4, Group.OPTIMIZER, "of Adam, until decay_from", bounds=POSITIVE)
    beta_1: float = setting(0.5, Group.OPTIMIZER, "of Adam: how long it remembers gradients", bounds=BELOW_ONE)
    pool_size: int = setting(
        50,
        Group.DISCRIMINATOR,
        "generated patches of each domain that are kept to be shown again; 0 for none",
        bounds=at_least(0),
    )
    average_decay: float = setting(
        0.0,
        Group.OPTIMIZER,
        "translate with a running average of the generators' weights; 0 for the last weights",
        bounds=BELOW_ONE,
    )
    precision: str = setting(
        "float32",
        Group.MEMORY,
        "of the networks' numbers; those of 16 bits are faster on a GPU",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
    )
    accumulate: int = setting(1, Group.MEMORY, "compute a batch in so many parts, which must divide batch_size")
    rematerialize: bool = setting(
        False, Group.MEMORY, "compute generators again on the way back instead of keeping what they made"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            fields.of(field).check(field.name, getattr(self, field.name))
        self._check_sizes()
        self._check_losses()

    def _check_sizes(self) -> None:
        multiple = self.stride
        if len(self.patch_shape) != 3 or any(n < multiple or n % multiple for n in self.patch_shape):
            raise InputError(
                f"patch_shape is {','.join(map(str, self.patch_shape))}; each of its three numbers must be a positive "
                f"multiple of {multiple} (2 to the power of generator_levels)."
            )
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate is {self.accumulate}; it must divide the batch_size, which is {self.batch_size}."
            )

    def _check_losses(self) -> None:
        if self.lambda_detail and not self.lambda_pair:
            raise InputError(
                f"lambda_detail is {self.lambda_detail} and lambda_pair 0; what detail is compared with comes from "
                "pairs, so lambda_pair must be positive, too."
            )
        if self.texture != "none" and not self.lambda_pair:
            raise InputError(
                f"texture is {self.texture!r} and lambda_pair 0; how much texture there is comes from pairs, so "
                "lambda_pair must be positive, too."
            )
        blobs = self.transplants + self.fluid_blobs
        if bool(self.lambda_blob) != bool(blobs) or (blobs and not self.lambda_pair):
            raise InputError(
                f"transplants is {self.transplants}, fluid_blobs {self.fluid_blobs}, lambda_blob {self.lambda_blob:g}, "
                f"lambda_pair {self.lambda_pair:g}; blobs are planted into pairs, so either both lambda_blob and "
                "lambda_pair are positive, or there are no blobs and lambda_blob is 0."
            )
        names = [field.name for field in dataclasses.fields(self) if fields.of(field).teaches]
        teaching = {name for name in names if getattr(self, name)} - ({"lambda_back"} if self.back_from else set())
        if not teaching:
            raise InputError(
                f"{', '.join(names)} are all 0 (lambda_back counts if back_from is 0): generators would learn nothing."
            )

    @property
    def stride(self) -> int:
        """Every axis of a patch must be a multiple of this many voxels."""
        return 2**self.generator_levels

    def carries_texture(self, direction: str) -> bool:
        """Say whether the generator of "a2b" or "b2a" adds texture of its source, see `models.texture`."""
        source, target = direction.split("2")
        if {source, target} != {"a", "b"}:
            raise ValueError(f"the direction is {direction!r}; a2b or b2a is allowed")
        return self.texture in (target, "both")

    def to_dict(self) -> dict:
        """Return the settings as plain JSON values, in the order of the fields."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> Config:
        """Make settings of what `to_dict` gave; the others have their defaults.

        Raises:
            InputError: a key is unknown, or a value is not allowed.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise InputError(f"There is no setting {key!r}; allowed are {', '.join(sorted(known))}.")
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**own)

    def with_settings(self, settings: Iterable[str]) -> Config:
        """Make a copy with `KEY=VALUE` texts applied; lists are written 32,64,64 and booleans true or false.

        Raises:
            InputError: a text is not of this form, a key is unknown, or a value is not allowed.
        """
        values = self.to_dict()
        types = {f.name: type(getattr(self, f.name)) for f in dataclasses.fields(self)}
        for pair in settings:
            key, equals, text = pair.partition("=")
            if not equals:
                raise InputError(f"The setting {pair!r} is not understood; write KEY=VALUE.")
            if key not in types:
                raise InputError(f"There is no setting {key!r}; allowed are {', '.join(sorted(types))}.")
            values[key] = _value(key, text, types[key])
        return self.from_dict(values)


def _value(key: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is tuple:
            return [int(n) for n in text.replace("x", ",").split(",")]
        return kind(text)
    except (ValueError, KeyError):
        words = {bool: "true or false", tuple: "three whole numbers such as 32,64,64", int: "a whole number"}
        raise InputError(f"{key} is {text!r}; it must be {words.get(kind, 'a number')}.") from None
