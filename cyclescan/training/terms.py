"""The terms of the losses: what is computed, when it counts, how much it weighs, and what it is called.

The step, the report, the progress bar, the warnings, the planner of memory and the benchmarks on JAX read the two lists
below. So a further loss is a function in `cyclescan.losses`, a `Term` here and a setting; see
docs/how-to/change-the-loss.md. Nothing here imports TensorFlow: a term is computed from a `Context` by Keras operations
alone, and what the networks make of volumes is asked of `Networks`, which each backend has its own way of doing.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from keras import ops

from cyclescan import losses
from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.config import Config

DOMAINS = ("a", "b")
SHARPENED_DETAIL = 3  # voxels: detail is what differs from the mean over such a cube
Tensor = Any  # of Keras' backend


# --- when a term counts ---


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the run, in which the same terms count in every step.

    Attributes:
        warmup: only what needs no discriminator teaches the generators.
        late: translations are fair by now, so that there is something to learn from them (`back_from` has passed).
        discriminators: the discriminators learn.
    """

    warmup: bool
    late: bool
    discriminators: bool

    @property
    def adversarial(self) -> bool:
        """Return whether the generators listen to the discriminators."""
        return self.discriminators and not self.warmup

    @classmethod
    def whole(cls, config: Config, late: bool = True) -> Phase:
        """Return the phase after the warm-up; with `late`, the last one of the run, in which every term may count."""
        return cls(warmup=False, late=late, discriminators=config.lambda_adversarial > 0)


class Counts(enum.Enum):
    """The phases in which a term counts."""

    ALWAYS = enum.auto()
    LATE = enum.auto()
    AFTER_WARMUP = enum.auto()

    def within(self, phase: Phase) -> bool:
        """Say whether it counts in this phase."""
        return {Counts.ALWAYS: True, Counts.LATE: phase.late, Counts.AFTER_WARMUP: not phase.warmup}[self]


# --- what a term is ---


class Path(enum.Enum):
    """The domains that a volume passes on its way to a term; the term's name says it."""

    INTO = ("target",)
    THERE = ("source", "target")
    AND_BACK = ("source", "target", "source")

    def domains(self, direction: Direction) -> tuple[str, ...]:
        """Return these domains, where the first translation has a direction."""
        return tuple(getattr(direction, end) for end in self.value)

    def text(self, direction: Direction) -> str:
        """Write them as names have it: "b", "a2b" and "aba" for the direction a2b."""
        return ("2" if self is Path.THERE else "").join(self.domains(direction))


class Group(enum.Enum):
    """Terms of one scale, which share a diagram of the report; the value is its title."""

    SIMILARITY = "Similarity losses"
    DETAIL = "Fine detail: |log(energy / usual energy)|, both bands"
    TEXTURE = "Texture carried over: distance of its amplitude, both bands"
    ADVERSARIAL = "Adversarial losses"


class Pass(enum.Enum):
    """What a term takes beyond the translation of each real volume, for the planner of memory and the benchmarks."""

    BESIDE = "a generator's pass in the same call as the translation"
    AGAIN = "a generator's pass on the result of another one"
    TEACHER = "a pass without gradients through a generator's running average"
    JUDGED = "a discriminator's pass on a translation"
    TWICE = "the gradient of a discriminator's pass, on the way back once more"


@dataclasses.dataclass(frozen=True)
class Term:
    """One loss of both directions.

    Attributes:
        name: the first part of its name in history.csv and TensorBoard, such as "pair" of "pair_a2b".
        path: gives the second part.
        counts: the phases in which it counts.
        weight: its factor in the weighted sum, of the settings and a phase in which it counts. Plain arithmetic, since
            settings may be numbers of the backend. Where it is 0 the term is not computed.
        compute: the unweighted loss in one direction, a float32 number of the backend, from a context.
        label: what the report calls it.
        group: where the report draws it.
        directions: for which it is computed.
        reads: what it needs of a batch beside real volumes: "partner", "weight", "detail", see `dataset.batches`.
        passes: what it needs of the networks beside the translations.
        in_bar: whether the progress bar shows it.
    """

    name: str
    path: Path
    counts: Counts
    weight: Callable[[Config, Phase], float]
    compute: Callable[[Any, Direction], Tensor]
    label: str
    group: Group
    directions: Callable[[Config], Iterable[Direction]] = lambda settings: DIRECTIONS
    reads: tuple[str, ...] = ()
    passes: tuple[Pass, ...] = ()
    in_bar: bool = False

    def column(self, direction: Direction) -> str:
        """Return its name for a direction in history.csv, such as "cycle_aba"."""
        return f"{self.name}_{self.path.text(direction)}"

    def weight_in(self, settings: Config, phase: Phase) -> float:
        """Return its factor in the weighted sum of a phase, 0 where it does not count."""
        return self.weight(settings, phase) if self.counts.within(phase) else 0.0


# --- what terms are computed from ---


class Networks(Protocol):
    """What terms ask of the networks, each backend in its own way. Volumes are (batch, depth, height, width, 1)."""

    def translate(self, direction: Direction, volumes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Translate, before texture, from which all but its amplitudes learn; returns the features for those, too."""

    def teach(self, direction: Direction, volumes: Tensor) -> Tensor:
        """Translate with the running average, from which nothing is learned."""

    def amplitudes(self, direction: Direction, features: Tensor) -> Tensor:
        """Make the amplitudes of texture, see `models.texture`."""

    def judge(self, domain: str, volumes: Tensor) -> Tensor:
        """Return the logits of a discriminator."""

    def judge_with_gradient(self, domain: str, volumes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, and the gradient of their sum to the volumes, of which a gradient can be taken in turn."""

    def noise(self, direction: Direction, volumes: Tensor) -> Tensor:
        """Draw normal random numbers of the shape of volumes, for each volume of its own."""

    def sharpening(self, direction: Direction, volumes: Tensor) -> Tensor | None:
        """Draw random factors up to `back_sharpening`, one for each volume, of its rank; None where that is 0."""


def _once(method):
    """Keep what a method of a context gave for an argument, so that all terms share it."""

    @functools.wraps(method)
    def kept(self, argument):
        key = method.__name__, argument
        if key not in self._made:
            self._made[key] = method(self, argument)
        return self._made[key]

    return kept


class Context:
    """The volumes of a batch and what the networks make of them, each made when it is first asked for.

    Args:
        batch: see `dataset.batches`.
        networks: of a backend.
        terms: that will be computed from it.
        finest_plane: the two axes of a batch with the smallest voxel size, see `losses.noise_sd`.
        settings: with the names of losses' kinds.
    """

    def __init__(
        self,
        batch: Mapping[str, Tensor],
        networks: Networks,
        terms: Iterable[Term],
        settings: Config,
        finest_plane: tuple[int, int] = (2, 3),
    ):
        self._batch, self._networks, self.settings, self._finest_plane = batch, networks, settings, finest_plane
        self._terms = tuple(terms)
        self._made: dict = {}

    # of the batch

    def real(self, domain: str) -> Tensor:
        """Return real volumes of a domain."""
        return self._batch[f"real_{domain}"]

    def partner(self, domain: str) -> Tensor:
        """Return what the real volumes of a domain should become in the other one, from pseudo-pairs."""
        return self._batch[f"partner_{domain}"]

    def confidence(self, domain: str) -> Tensor:
        """Return how much each voxel of a partner is to be trusted; 0 where it is unknown."""
        return self._batch[f"weight_{domain}"]

    def energies(self, domain: str) -> Tensor:
        """Return how much fine detail partners have, (..., bands), see `detail.energies`."""
        return self._batch[f"detail_{domain}"]

    def blobs(self, domain: str) -> Tensor:
        """Return how much each voxel counts of the lesions planted into real volumes of a domain, see `planting`."""
        return self._batch[f"blobs_{domain}"]

    def healthy(self, domain: str) -> Tensor:
        """Return real volumes of a domain before lesions were planted, if any were."""
        return self._batch.get(f"healthy_{domain}", self.real(domain))

    @_once
    def noise_sd(self, domain: str) -> Tensor:
        """Measure the SD of the noise of real volumes, (batch, 1, 1, 1, 1)."""
        return losses.noise_sd(self.real(domain), self._finest_plane)

    # of the generators

    def fake(self, direction: Direction) -> Tensor:
        """Translate the real volumes, before texture."""
        return self._translations(direction)[0][0]

    def same(self, direction: Direction) -> Tensor:
        """Give the generator real volumes of the domain that it translates to, which it should leave as they are."""
        return self._translations(direction)[0][1]

    def features(self, direction: Direction) -> Tensor:
        """Return what the amplitudes of texture of `fake` are made of."""
        return self._translations(direction)[1]

    @_once
    def _translations(self, direction: Direction) -> tuple[list[Tensor], Tensor | None]:
        inputs = [self.real(direction.source)]
        if any(Pass.BESIDE in term.passes for term in self._terms):
            inputs.append(self.real(direction.target))
        # one call for all that goes through the same weights: exact, since nothing mixes the batch
        translated, features = self._networks.translate(direction, ops.concatenate(inputs, 0))
        first = features if features is None else ops.split(features, len(inputs))[0]
        return ops.split(translated, len(inputs)), first

    @_once
    def cycled(self, direction: Direction) -> Tensor:
        """Translate the real volumes of the source there and back."""
        return self._networks.translate(direction.reverse, self.fake(direction))[0]

    @_once
    def amplitudes(self, direction: Direction) -> Tensor:
        """Make the amplitudes of texture, from which no more than these themselves are learned."""
        return self._networks.amplitudes(direction, ops.stop_gradient(self.features(direction)))

    @_once
    def returned(self, direction: Direction) -> Tensor:
        """Translate the teacher's translations back, sharpened and with noise."""
        # a teacher that loses planted lesions would teach its pupil to invent them: both see volumes without
        given = ops.stop_gradient(self._networks.teach(direction, self.healthy(direction.source)))
        factor = self._networks.sharpening(direction, given)
        if factor is not None:
            detail = given - losses.smoothed(given, SHARPENED_DETAIL)
            given = ops.clip(given + ops.cast(factor, given.dtype) * detail, -1.0, 1.0)
        noise = self.noise_sd(direction.target) * self._networks.noise(direction, given)
        return self._networks.translate(direction.reverse, given + ops.cast(noise, given.dtype))[0]

    @_once
    def verdict(self, direction: Direction) -> Tensor:
        """Return the logits of the discriminator of the target on `fake`."""
        return self._networks.judge(direction.target, self.fake(direction))


class Judgement:
    """Real and generated volumes before the discriminators; made as `Context`, with the generated volumes by domain."""

    def __init__(
        self,
        batch: Mapping[str, Tensor],
        fakes: Mapping[str, Tensor],
        networks: Networks,
        terms: Iterable[Term],
        settings: Config,
    ):
        self._batch, self._fakes, self._networks, self.settings = batch, fakes, networks, settings
        self._penalised = any(Pass.TWICE in term.passes for term in terms)
        self._made: dict = {}

    def logits(self, domain: str) -> tuple[Tensor, Tensor]:
        """Return the logits of a discriminator on real and on generated volumes."""
        return self._judged(domain)[:2]

    def gradient(self, domain: str) -> Tensor:
        """Return the gradient of the sum of the logits on real volumes to these volumes."""
        return self._judged(domain)[2]

    @_once
    def _judged(self, domain: str) -> tuple[Tensor, Tensor, Tensor | None]:
        real, fake = self._batch[f"real_{domain}"], self._fakes[domain]
        if self._penalised:
            logits, gradient = self._networks.judge_with_gradient(domain, real)
            return logits, self._networks.judge(domain, fake), gradient
        return *ops.split(self._networks.judge(domain, ops.concatenate([real, fake], 0)), 2), None

    def accuracy(self, domain: str) -> Tensor:
        """Measure how often the discriminator is right."""
        return losses.accuracy(*self.logits(domain), self.settings.adversarial_loss)


# --- the terms ---


def _identity(context: Context, direction: Direction) -> Tensor:
    kind = context.settings.identity_loss
    return losses.difference(context.same(direction), context.real(direction.target), kind)


def _pair(context: Context, direction: Direction) -> Tensor:
    source = direction.source
    return losses.difference(context.fake(direction), context.partner(source), "l1", context.confidence(source))


def _gradient_consistency(context: Context, direction: Direction) -> Tensor:
    return losses.gradient_consistency(context.real(direction.source), context.fake(direction))


def _adversarial(context: Context, direction: Direction) -> Tensor:
    return losses.adversarial(context.verdict(direction), True, context.settings.adversarial_loss)


def _cycle(context: Context, direction: Direction) -> Tensor:
    return losses.difference(context.cycled(direction), context.real(direction.source), context.settings.cycle_loss)


def _detail(context: Context, direction: Direction) -> Tensor:
    source, noise = direction.source, context.noise_sd(direction.target) ** 2
    return losses.detail(context.fake(direction), context.energies(source), noise, context.confidence(source))


def _texture(context: Context, direction: Direction) -> Tensor:
    source = direction.source
    return losses.texture(
        context.amplitudes(direction),
        context.real(source),
        context.partner(source),
        context.energies(source),
        context.noise_sd(direction.target) ** 2,
        context.confidence(source),
    )


def _back(context: Context, direction: Direction) -> Tensor:
    """What each generator makes of translations, against the real volumes that those are of.

    Here a generator has pairs that fit to the voxel, and whose target is real. Unlike a cycle loss, nothing of it
    reaches the generator that made the translation, which could else hide in it what the way back needs; the noise of a
    real volume covers what is hidden all the same. (Back-translation, as Sennrich et al. 2016 name it for texts.) The
    translations are the running averages', a slow teacher: two generators that learn from each other at once drift
    together from what the details of their translations meant. They are sharpened at random, so that the generator that
    reads them does not rely on their being smoother than real volumes.
    """
    return losses.difference(context.returned(direction), context.healthy(direction.source), "l1")


def _blob(context: Context, direction: Direction) -> Tensor:
    # squared: what a blob should become is often uncertain, and where half of the cases say so, L1 stays at no lesion
    source = direction.source
    return losses.difference(context.fake(direction), context.partner(source), "l2", context.blobs(source))


def _discriminator(judgement: Judgement, direction: Direction) -> Tensor:
    (real, fake), kind = judgement.logits(direction.target), judgement.settings.adversarial_loss
    # halved, so that the discriminator learns more slowly than the generators (Zhu et al. 2017)
    return 0.5 * (losses.adversarial(real, True, kind) + losses.adversarial(fake, False, kind))


def _r1(judgement: Judgement, direction: Direction) -> Tensor:
    real, _ = judgement.logits(direction.target)
    return losses.r1(judgement.gradient(direction.target), ops.size(real))


IDENTITY = Term(
    name="identity",
    path=Path.INTO,
    counts=Counts.AFTER_WARMUP,
    weight=lambda settings, phase: settings.lambda_identity,
    compute=_identity,
    label="identity",
    group=Group.SIMILARITY,
    passes=(Pass.BESIDE,),
)
PAIR = Term(
    name="pair",
    path=Path.THERE,
    counts=Counts.ALWAYS,
    weight=lambda settings, phase: settings.lambda_pair * (settings.pair_share if phase.adversarial else 1.0),
    compute=_pair,
    label="pseudo-pair",
    group=Group.SIMILARITY,
    reads=("partner", "weight"),
    in_bar=True,
)
GRADIENT_CONSISTENCY = Term(
    name="gradient_consistency",
    path=Path.THERE,
    counts=Counts.AFTER_WARMUP,
    weight=lambda settings, phase: 0.5 * settings.lambda_gradient_consistency,  # the report has the mean of both
    compute=_gradient_consistency,
    label="gradient consistency",
    group=Group.SIMILARITY,
)
ADVERSARIAL = Term(
    name="adversarial",
    path=Path.THERE,
    counts=Counts.AFTER_WARMUP,
    weight=lambda settings, phase: settings.lambda_adversarial,
    compute=_adversarial,
    label="generator",
    group=Group.ADVERSARIAL,
    passes=(Pass.JUDGED,),
)
CYCLE = Term(
    name="cycle",
    path=Path.AND_BACK,
    counts=Counts.AFTER_WARMUP,
    weight=lambda settings, phase: settings.lambda_cycle,
    compute=_cycle,
    label="cycle",
    group=Group.SIMILARITY,
    passes=(Pass.AGAIN,),
    in_bar=True,
)
DETAIL = Term(
    name="detail",
    path=Path.THERE,
    counts=Counts.LATE,
    weight=lambda settings, phase: settings.lambda_detail,
    compute=_detail,
    label="amount",
    group=Group.DETAIL,
    reads=("weight", "detail"),
)
TEXTURE = Term(
    name="texture",
    path=Path.THERE,
    counts=Counts.LATE,
    weight=lambda settings, phase: 1.0,  # what it trains, nothing else does
    compute=_texture,
    label="amplitude",
    group=Group.TEXTURE,
    directions=lambda settings: [direction for direction in DIRECTIONS if settings.carries_texture(direction)],
    reads=("partner", "weight", "detail"),
)
BACK = Term(
    name="back",
    path=Path.AND_BACK,
    counts=Counts.LATE,
    weight=lambda settings, phase: settings.lambda_back,
    compute=_back,
    label="back-translation",
    group=Group.SIMILARITY,
    passes=(Pass.TEACHER, Pass.AGAIN),
    in_bar=True,
)
BLOB = Term(
    name="blob",
    path=Path.THERE,
    counts=Counts.ALWAYS,
    weight=lambda settings, phase: settings.lambda_blob,
    compute=_blob,
    label="planted lesions",
    group=Group.SIMILARITY,
    reads=("partner", "blobs", "healthy"),
)
DISCRIMINATOR = Term(
    name="discriminator",
    path=Path.INTO,
    counts=Counts.ALWAYS,
    weight=lambda settings, phase: 1.0,  # what it trains, nothing else does
    compute=_discriminator,
    label="discriminator",
    group=Group.ADVERSARIAL,
)
R1 = Term(
    name="r1",
    path=Path.INTO,
    counts=Counts.ALWAYS,
    weight=lambda settings, phase: settings.lambda_r1,
    compute=_r1,
    label="gradient penalty",
    group=Group.ADVERSARIAL,
    passes=(Pass.TWICE,),
)

# Terms of one row are computed for one direction after the other. The order is that of the sums, which decides over the
# last bits of a run: a further term goes to the end.
GENERATORS: list[tuple[Term, ...]] = [
    (IDENTITY, PAIR, GRADIENT_CONSISTENCY, ADVERSARIAL),
    (CYCLE,),
    (DETAIL, TEXTURE),
    (BACK,),
    (BLOB,),
]
DISCRIMINATORS: list[tuple[Term, ...]] = [(R1, DISCRIMINATOR)]


# --- what is done with the lists ---


@dataclasses.dataclass(frozen=True)
class Part:
    """A term in one direction."""

    term: Term
    direction: Direction

    @property
    def name(self) -> str:
        """Return its name in history.csv."""
        return self.term.column(self.direction)


def all_terms() -> list[Term]:
    """Return every term that there is, in the order of the lists."""
    return [term for row in (*GENERATORS, *DISCRIMINATORS) for term in row]


def of_generators(config: Config, phase: Phase) -> list[Part]:
    """Return what the generators learn from in a phase, in the order of the sum."""
    return _computed(GENERATORS, DIRECTIONS, config, phase)


def of_discriminators(config: Config, phase: Phase) -> list[Part]:
    """Return what the discriminators learn from, in the order of the sum: domain a, which b2a makes, then b."""
    return _computed(DISCRIMINATORS, DIRECTIONS[::-1], config, phase) if phase.discriminators else []


def _computed(rows, directions: Iterable[Direction], config: Config, phase: Phase) -> list[Part]:
    return [
        Part(term, direction)
        for row in rows
        for direction in directions
        for term in row
        if term.weight_in(config, phase) and direction in term.directions(config)
    ]


def used(config: Config) -> list[Term]:
    """Return the terms that count in some phase of a run, in the order of the lists."""
    whole = Phase.whole(config)
    phases = (dataclasses.replace(whole, warmup=True), whole)
    parts = [part for phase in phases for part in (*of_generators(config, phase), *of_discriminators(config, phase))]
    return [term for term in all_terms() if any(part.term is term for part in parts)]


def has_warmup(config: Config) -> bool:
    """Say whether there is something to learn from in a warm-up."""
    return bool(of_generators(config, Phase(warmup=True, late=False, discriminators=False)))


def batch_contents(config: Config) -> dict[str, Any]:
    """Return what batches must have for the terms of a run, as arguments of `dataset.batches`."""
    read = {name for term in used(config) for name in term.reads}
    blobs = {"transplants": config.transplants, "fluid_blobs": config.fluid_blobs} if "blobs" in read else {}
    return {"paired": "partner" in read, "detail": "detail" in read, **blobs}


def values(parts: Iterable[Part], context: Context | Judgement) -> dict[str, Tensor]:
    """Compute the unweighted losses by name, in order."""
    return {part.name: part.term.compute(context, part.direction) for part in parts}


def weights(parts: Iterable[Part], settings: Config, phase: Phase) -> dict[str, float]:
    """Return the factors of the weighted sum by name, in order."""
    return {part.name: part.term.weight_in(settings, phase) for part in parts}


def accuracy_column(domain: str) -> str:
    """Return the name in history.csv of how often the discriminator of a domain is right."""
    return f"accuracy_{domain}"
