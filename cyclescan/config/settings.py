"""Settings of a model and its training: one frozen dataclass, presets by name, unknown keys refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from cyclescan.common.errors import InputError

CHOICES = {
    "generator_upsampling": ("resize", "transposed"),
    "generator_normalization": ("instance", "none"),
    "texture": ("none", "a", "b", "both"),
    "discriminator_normalization": ("instance", "spectral"),
    "adversarial_loss": ("bce", "least_squares"),
    "cycle_loss": ("l1", "l2"),
    "identity_loss": ("l1", "l2"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
}
LEAST = {
    "batch_size": 1,
    "steps": 1,
    "generator_levels": 1,
    "generator_filters": 1,
    "generator_max_filters": 1,
    "generator_convolutions": 1,
    "generator_decoder_width": 1,
    "generator_kernel": 1,
    "generator_full_resolution_filters": 0,
    "discriminator_levels": 1,
    "discriminator_filters": 1,
    "discriminator_kernel": 1,
    "pool_size": 0,
    "back_sharpening": 0,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a training run besides its data.

    A loss whose `lambda_` is 0 is not computed. Shapes are (depth, height, width) in voxels.
    """

    # data
    patch_shape: tuple[int, int, int] = (32, 64, 64)
    batch_size: int = 1
    augment: bool = True  # random left-right mirror, and patches that reach a little beyond the border
    # generator: `levels` halvings; `filters` after the first, doubled at each one up to `max_filters`
    generator_levels: int = 4
    generator_filters: int = 32
    generator_max_filters: int = 256
    generator_convolutions: int = 1  # per level, on each side
    generator_decoder_width: int = 1  # channels of the decoder relative to the encoder's at the same level
    generator_kernel: int = 3
    generator_upsampling: str = "resize"
    generator_normalization: str = "instance"
    generator_residual: bool = False  # output = tanh(input + network) instead of tanh(network)
    generator_full_resolution_filters: int = 16  # convolutions before the first halving; 0 for none, as in the seed
    texture: str = "none"  # the domains whose generated volumes carry texture of their source, see `models.texture`
    # discriminator: `levels` halvings, then two convolutions of stride 1
    discriminator_levels: int = 2
    discriminator_filters: int = 32
    discriminator_kernel: int = 4
    discriminator_dropout: float = 0.5
    discriminator_normalization: str = "instance"  # or "spectral", for discriminators that learn too fast
    # losses
    adversarial_loss: str = "least_squares"
    lambda_adversarial: float = 1.0
    cycle_loss: str = "l1"
    lambda_cycle: float = 10.0
    identity_loss: str = "l1"
    lambda_identity: float = 0.0
    lambda_gradient_consistency: float = 0.0
    lambda_r1: float = 0.0  # of the discriminators' gradient on real volumes, where they learn too fast
    lambda_pair: float = 0.0  # L1 to registered pseudo-pairs (`data_prep pair`)
    pair_share: float = 1.0  # of lambda_pair, which is left in the adversarial phase
    lambda_detail: float = 0.0  # the amount of fine detail, to that of the partners of the pairs; from `back_from` on
    lambda_back: float = 0.0  # L1 of a volume to what becomes of it there, with noise, and back; only back learns
    back_sharpening: float = 0.0  # what goes back is sharpened at random, by at most so many times its fine detail
    # schedule, as fractions of the run
    steps: int = 1000
    warmup: float = 0.0  # only pair, detail, texture and back-translation, before the adversarial phase begins
    back_from: float = 0.0  # back-translation, detail, texture count from here on: translations must be fair first
    discriminator_warmup: float = 0.0  # the last part of the warm-up, in which the discriminators learn already
    decay_from: float = 0.5  # the learning rate falls linearly to 0 from here on
    learning_rate: float = 2e-4
    beta_1: float = 0.5
    pool_size: int = 50
    average_decay: float = 0.0  # translate with a running average of the generators' weights; 0 for the last weights
    precision: str = "float32"
    # less memory for the same step: a batch in so many parts, generators computed again on the way back
    accumulate: int = 1
    rematerialize: bool = False

    def __post_init__(self):
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"{key} is {getattr(self, key)!r}; allowed is {' or '.join(allowed)}.")
        multiple = self.stride
        if len(self.patch_shape) != 3 or any(n < multiple or n % multiple for n in self.patch_shape):
            raise InputError(
                f"patch_shape is {','.join(map(str, self.patch_shape))}; each of its three numbers must be a positive "
                f"multiple of {multiple} (2 to the power of generator_levels)."
            )
        for key, least in LEAST.items():
            if getattr(self, key) < least:
                raise InputError(f"{key} is {getattr(self, key)}; it must be at least {least}.")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate is {self.accumulate}; it must divide the batch_size, which is {self.batch_size}."
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("lambda_") and not 0 <= value < float("inf"):
                raise InputError(f"{field.name} is {value}; it must be a finite number of at least 0.")
        for key in ("pair_share", "warmup", "discriminator_warmup", "back_from", "decay_from"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"{key} is {getattr(self, key)}; it must lie between 0 and 1.")
        for key in ("discriminator_dropout", "average_decay", "beta_1"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"{key} is {getattr(self, key)}; it must lie in [0, 1).")
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
        helping = ("lambda_r1", "lambda_detail")  # they cannot teach alone
        names = [f.name for f in dataclasses.fields(self) if f.name.startswith("lambda_") and f.name not in helping]
        teaching = {name for name in names if getattr(self, name)} - ({"lambda_back"} if self.back_from else set())
        if not teaching:
            raise InputError(
                f"{', '.join(names)} are all 0 (lambda_back counts if back_from is 0): generators would learn nothing."
            )
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be positive.")

    @property
    def stride(self) -> int:
        """Every axis of a patch must be a multiple of this."""
        return 2**self.generator_levels

    def carries_texture(self, direction: str) -> bool:
        """Whether the generator of "a2b" or "b2a" adds texture of its source, see `models.texture`."""
        source, target = direction.split("2")
        if {source, target} != {"a", "b"}:
            raise ValueError(f"the direction is {direction!r}; a2b or b2a is allowed")
        return self.texture in (target, "both")

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> Config:
        """The inverse of `to_dict`; `InputError` for an unknown key."""
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise InputError(f"There is no setting {key!r}; allowed are {', '.join(sorted(known))}.")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def with_settings(self, settings: Iterable[str]) -> Config:
        """A copy with `KEY=VALUE` texts applied; lists are written 32,64,64 and booleans true or false."""
        values = self.to_dict()
        types = {f.name: type(getattr(self, f.name)) for f in dataclasses.fields(self)}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals:
                raise InputError(f"The setting {setting!r} is not understood; write KEY=VALUE.")
            if key not in types:
                raise InputError(f"There is no setting {key!r}; allowed are {', '.join(sorted(types))}.")
            values[key] = _value(key, text, types[key])
        return self.from_dict(values)


def _value(key: str, text: str, kind: type):
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is tuple:
            return [int(n) for n in text.replace("x", ",").split(",")]
        return kind(text)
    except (ValueError, KeyError):
        words = {bool: "true or false", tuple: "three whole numbers such as 32,64,64", int: "a whole number"}
        raise InputError(f"{key} is {text!r}; it must be {words.get(kind, 'a number')}.") from None
