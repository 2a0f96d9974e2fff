"""The training step: two generators, two discriminators, one weighted sum."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.config import Config
from cyclescan.models import build_discriminator, build_generator, texture
from cyclescan.models.graph import precision
from cyclescan.training import kernels, sums, terms
from cyclescan.training.adam import Adam
from cyclescan.training.distribution import Distribution
from cyclescan.training.image_pool import ImagePool
from cyclescan.training.terms import Phase

# Each call of a discriminator in one part of a step has a dropout mask of its own; there are fewer calls than this.
MASKS = 4


class CycleGAN(tf.Module):
    """Networks, optimizers and image pools of a run, and the two kinds of step.

    Args:
        config: of the run.
        seed: of everything that chance decides.
        distribution: the devices; by default one. A batch given to a step is this worker's share of `batch_size`.
        finest_plane: the two axes of a batch with the smallest voxel size, see `losses.noise_sd`.

    Attributes:
        generators: "a2b" and "b2a".
        translators: the generators to translate with: their running averages, or the generators themselves.
        before_texture: the generators up to the translation before texture, see `texture.without`.
        teachers: the same of the translators.
        discriminators: "a" and "b", each judging volumes of its domain.
        trained: variables of the "generators" and of the "discriminators".
        optimizers: of the same two.
        step: number of steps taken, int64.
    """

    def __init__(
        self,
        config: Config,
        seed: int,
        distribution: Distribution | None = None,
        finest_plane: tuple[int, int] = (2, 3),
    ):
        super().__init__(name="cyclegan")
        self.config = config
        self.seed = seed
        self.finest_plane = finest_plane
        self.distribution = distribution or Distribution()
        # these are on every worker, not on every replica; a replica only reads them
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.pools = {
            name: ImagePool(
                config.pool_size if self.adversarial else 0,
                config.patch_shape,
                config.batch_size,
                seed * 2 + i,
                f"pool_{name}",
            )
            for i, name in enumerate(terms.DOMAINS)
        }
        with self.distribution.scope():
            self._build(config, seed)

    def _build(self, config: Config, seed: int) -> None:
        with precision(config.precision):
            self.generators = {
                name: build_generator(config, name, seed=seed * 10 + i) for i, name in enumerate(DIRECTIONS)
            }
            self.translators = self.generators
            if config.average_decay:
                self.translators = {
                    name: build_generator(config, name, f"average_{name}", seed * 10 + i)
                    for i, name in enumerate(DIRECTIONS)
                }
            self.discriminators = {
                name: build_discriminator(config, name=f"discriminator_{name}", seed=seed * 10 + i + 2)
                for i, name in enumerate(terms.DOMAINS)
            }
        self._heads = {id(v) for network in self.generators.values() for v in texture.heads(network)}
        self.before_texture = {name: texture.without(network) for name, network in self.generators.items()}
        self.teachers = {name: texture.without(network) for name, network in self.translators.items()}
        networks: dict[str, dict] = {"generators": self.generators, "discriminators": self.discriminators}
        self.trained = {
            name: [v for network in group.values() for v in network.trainable_variables]
            for name, group in networks.items()
        }
        self.optimizers = {name: self._optimizer(variables) for name, variables in self.trained.items()}

    @property
    def adversarial(self) -> bool:
        """Return whether the settings have an adversarial term at all."""
        return self.config.lambda_adversarial > 0

    def state(self) -> tf.train.Checkpoint:
        """Collect all that changes while training; what chance decides is a function of the step and the seed."""
        return tf.train.Checkpoint(
            step=self.step,
            generator_optimizer=self.optimizers["generators"],
            discriminator_optimizer=self.optimizers["discriminators"],
            **{f"generator_{k}": v for k, v in self.generators.items()},
            **{f"translator_{k}": v for k, v in self.translators.items()},
            **{f"discriminator_{k}": v for k, v in self.discriminators.items()},
            **{f"pool_{k}": v for k, v in self.pools.items()},
        )

    def set_learning_rate(self, rate: float) -> None:
        """Let both optimizers take their next steps with this rate."""
        for optimizer in self.optimizers.values():
            optimizer.learning_rate = rate

    def take_step(self, batch: dict, phase: Phase) -> tuple[dict, dict]:
        """Take the step that a phase of the run asks for; returns what `train_step` does."""
        if phase.warmup:
            return self.warmup_step(batch, discriminators=phase.discriminators, back=phase.late)
        return self.train_step(batch, back=phase.late)

    @tf.function(autograph=False)
    def warmup_step(self, batch: dict, discriminators: bool = False, back: bool = False) -> tuple[dict, dict]:
        """Take a step on the terms that count in the warm-up; returns what `train_step` does.

        Args:
            batch: with pairs, see `dataset.batches`.
            back: as long as translations are poor, there is nothing to learn from them, nor of detail and texture.
            discriminators: train them too, on what the generators make of this batch, so that they know textures by
                the time the generators are to listen to them.
        """
        return self._step(batch, Phase(warmup=True, late=back, discriminators=discriminators))

    @tf.function(autograph=False)
    def train_step(self, batch: dict, back: bool = True) -> tuple[dict, dict]:
        """Take a step of generators and discriminators, the latter on the volumes that the former made in it.

        Args:
            batch, back: as for `warmup_step`.

        Returns:
            losses: by name, unweighted.
            measures: by name, what else tells how the training goes: norms of the gradients, how often each
                discriminator is right, the loss scale. Unlike a loss, a norm is infinite where float16 overflows; such
                a step changes the loss scale and nothing else.
        """
        return self._step(batch, Phase.whole(self.config, late=back))

    def _step(self, batch: dict, phase: Phase) -> tuple[dict, dict]:
        def on_replica(share: dict) -> tuple[dict, dict, dict]:
            means, fakes = self._in_parts(share, lambda part, number: self._gradients(part, number, phase))
            gradients, losses, measures = self.distribution.mean(means)
            for name, values in gradients.items():
                measures |= self._apply(name, values)
            self._average()
            return losses, measures, self.distribution.gather(fakes)

        losses, measures, fakes = self.distribution.run(on_replica, batch)
        for name, volumes in fakes.items():
            self.pools[name].keep(volumes, self.step)
        self.step.assign_add(1)
        return losses, measures

    def _in_parts(self, batch: dict, compute) -> tuple[tuple, dict]:
        """Call `compute(part, number)` for the parts of a batch, one after the other in memory.

        Returns:
            The mean of its first result over the parts, and its second result, a dictionary, for the whole batch.
        """
        parts = self.config.accumulate
        if parts == 1:
            return compute(batch, 0)
        batch = {key: tf.stack(tf.split(value, parts)) for key, value in batch.items()}

        def part(number):
            means, volumes = compute({key: value[number] for key, value in batch.items()}, number)
            return tf.nest.map_structure(lambda value: value / parts, means), volumes

        def add(number, total, kept):
            means, volumes = part(number)
            kept = {key: kept[key].write(number, value) for key, value in volumes.items()}
            return number + 1, tf.nest.map_structure(tf.add, total, means), kept

        total, volumes = part(0)
        kept = {key: tf.TensorArray(value.dtype, parts).write(0, value) for key, value in volumes.items()}
        _, total, kept = tf.while_loop(lambda number, *_: number < parts, add, (1, total, kept), parallel_iterations=1)
        return total, {key: tf.reshape(array.stack(), (-1, *volumes[key].shape[1:])) for key, array in kept.items()}

    def _gradients(self, batch: dict, part: int | tf.Tensor, phase: Phase) -> tuple[tuple[dict, dict, dict], dict]:
        """Take the gradients of one part of a replica's batch.

        Returns:
            Scaled gradients of "generators" and "discriminators", losses and measures; and the volumes for the pools.
        """
        number = self.distribution.replica * self.config.accumulate + part  # among the parts of all replicas
        networks = _Networks(self, self._draw_masks(number))
        computed = terms.of_generators(self.config, phase)
        with tf.GradientTape() as tape:
            context = networks.context(batch, computed)
            # the discriminators look at translations, also where no generator is to learn from them
            fakes = {direction.target: context.fake(direction) for direction in DIRECTIONS}
            losses = terms.values(computed, context)
            scaled = self._scaled("generators", losses, terms.weights(computed, self.config, phase))
        with sums.in_order():
            found, variables = tape.gradient(scaled, self.trained["generators"]), self.trained["generators"]
        # nothing is asked of the amplitudes of texture before `back_from`
        pairs = zip(found, variables, strict=True)
        found = [tf.zeros_like(v.value) if g is None and id(v) in self._heads else g for g, v in pairs]
        gradients, measures, for_pools = {"generators": found}, {}, {}
        if phase.discriminators:
            first = number * batch["real_a"].shape[0]
            pooled = {name: self.pools[name].exchange(fakes[name], self.step, first) for name in terms.DOMAINS}
            for_pools = {name: tf.cast(fakes[name], tf.float16) for name in terms.DOMAINS if self.config.pool_size}
            computed = terms.of_discriminators(self.config, phase)
            with tf.GradientTape() as tape:
                judgement = terms.Judgement(batch, pooled, networks, [part.term for part in computed], self.config)
                own = terms.values(computed, judgement)
                measures = {terms.accuracy_column(name): judgement.accuracy(name) for name in terms.DOMAINS}
                scaled = self._scaled("discriminators", own, terms.weights(computed, self.config, phase))
            with sums.in_order():
                gradients["discriminators"] = tape.gradient(scaled, self.trained["discriminators"])
            losses |= own
        return (gradients, losses, measures), for_pools

    def _draw_masks(self, part: int | tf.Tensor) -> tf.Tensor:
        """Make the dropout masks that follow those of this part of this step, whichever replica computes it.

        Returns:
            The number of this part among those of all steps.
        """
        drawn = self.step * (self.distribution.replicas * self.config.accumulate) + tf.cast(part, tf.int64)
        for discriminator in self.discriminators.values():
            for layer in discriminator.layers:
                if isinstance(layer, keras.layers.Dropout):
                    seeds = layer.seed_generator.state
                    seeds.assign(tf.stack([seeds.value[0], tf.cast(drawn * MASKS, seeds.dtype)]))
        return drawn

    def _scaled(self, name: str, losses: dict, weights: dict) -> tf.Tensor:
        """Sum losses up by their weights, times the loss scale of an optimizer."""
        return self.optimizers[name].scale_loss(tf.add_n([weights[term] * value for term, value in losses.items()]))

    def _apply(self, name: str, gradients: list) -> dict:
        """Update the networks; measures the norm of all gradients together and the loss scale that they had."""
        optimizer = self.optimizers[name]
        scale = optimizer.scale_loss(tf.constant(1.0))
        measures = {f"gradient_norm_{name}": tf.linalg.global_norm(gradients) / scale}
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            measures[f"loss_scale_{name}"] = scale
        optimizer.apply(gradients, self.trained[name])
        return measures

    def _average(self) -> None:
        """Move the running averages of the generators' weights."""
        if not self.config.average_decay:
            return
        # a short memory at first, or the random initial weights would stay in the average for long
        steps = tf.cast(self.step, tf.float32)
        move = 1.0 - tf.minimum(self.config.average_decay, (1.0 + steps) / (10.0 + steps))
        for name, generator in self.generators.items():
            pairs = zip(self.translators[name].trainable_variables, generator.trainable_variables, strict=True)
            for average, variable in pairs:
                average.assign_add(move * (variable - average))

    def _optimizer(self, variables):
        optimizer = Adam(self.config.learning_rate, beta_1=self.config.beta_1)
        if self.config.precision == "mixed_float16":
            # a custom loop is not wrapped by Keras; without it small gradients vanish
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        # built before the first step and before a restore, so that every slot exists
        optimizer.build(variables)
        return optimizer


class _Networks:
    """`terms.Networks` of a model in one part of a step.

    Args:
        model: whose networks they are.
        drawn: the number of the part among those of all steps.
    """

    def __init__(self, model: CycleGAN, drawn: tf.Tensor):
        self._model, self._drawn = model, drawn

    def context(self, batch: dict, parts: list[terms.Part]) -> terms.Context:
        """Make what the terms of the generators are computed from."""
        model = self._model
        return terms.Context(batch, self, [part.term for part in parts], model.config, model.finest_plane)

    def translate(self, direction: Direction, volumes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        translate = functools.partial(kernels.forward, self._model.before_texture[direction])
        # only input and results are kept for the way back; generators have no dropout that could differ the second time
        return _parted((tf.recompute_grad(translate) if self._model.config.rematerialize else translate)(volumes))

    def teach(self, direction: Direction, volumes: tf.Tensor) -> tf.Tensor:
        return _parted(kernels.forward(self._model.teachers[direction], volumes))[0]

    def amplitudes(self, direction: Direction, features: tf.Tensor) -> tf.Tensor:
        return texture.amplitudes(self._model.generators[direction], features)

    def judge(self, domain: str, volumes: tf.Tensor) -> tf.Tensor:
        return kernels.forward(self._model.discriminators[domain], volumes)

    def judge_with_gradient(self, domain: str, volumes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # on a tape of its own: the outer tape takes the gradient of this gradient, which the fused normalisation of
        # `kernels` has to a few thousandths only
        with tf.GradientTape() as tape:
            tape.watch(volumes)
            logits = self._model.discriminators[domain](volumes, training=True)
        return logits, tape.gradient(logits, volumes)

    def noise(self, direction: Direction, volumes: tf.Tensor) -> tf.Tensor:
        shape = volumes.shape[1:]
        return tf.stack([tf.random.stateless_normal(shape, key) for key in self._keys(direction, volumes)])

    def sharpening(self, direction: Direction, volumes: tf.Tensor) -> tf.Tensor | None:
        if not self._model.config.back_sharpening:
            return None
        keys = [tf.random.experimental.stateless_fold_in(key, 1) for key in self._keys(direction, volumes)]
        factors = tf.stack([tf.random.stateless_uniform([1, 1, 1, 1], key) for key in keys])
        return self._model.config.back_sharpening * factors

    def _keys(self, direction: Direction, volumes: tf.Tensor) -> list[tf.Tensor]:
        """Make seeds by the number of each volume, so that chance is the same however a batch is divided."""
        own, size = 2 * self._model.seed + DIRECTIONS.index(direction), volumes.shape[0]
        return [tf.stack([own, self._drawn * size + n]) for n in range(size)]


def _parted(results: tf.Tensor | list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Split what comes out of `texture.without` into a translation, and the features for amplitudes or None."""
    return tuple(results) if isinstance(results, list) else (results, None)
