"""The training step: two generators, two discriminators, one weighted sum."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from cyclescan import losses
from cyclescan.config import Config
from cyclescan.models import build_discriminator, build_generator, texture
from cyclescan.models.graph import precision
from cyclescan.training import kernels, sums
from cyclescan.training.adam import Adam
from cyclescan.training.distribution import Distribution
from cyclescan.training.image_pool import ImagePool

# Each call of a discriminator in one part of a step has a dropout mask of its own; there are fewer calls than this.
MASKS = 4
SHARPENED_DETAIL = 3  # voxels: detail is what differs from the mean over such a cube


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
            for i, name in enumerate(("a", "b"))
        }
        with self.distribution.scope():
            self._build(config, seed)

    def _build(self, config: Config, seed: int) -> None:
        with precision(config.precision):
            self.generators = {
                name: build_generator(config, name, seed=seed * 10 + i) for i, name in enumerate(("a2b", "b2a"))
            }
            self.translators = self.generators
            if config.average_decay:
                self.translators = {
                    name: build_generator(config, name, f"average_{name}", seed * 10 + i)
                    for i, name in enumerate(("a2b", "b2a"))
                }
            self.discriminators = {
                name: build_discriminator(config, name=f"discriminator_{name}", seed=seed * 10 + i + 2)
                for i, name in enumerate(("a", "b"))
            }
        self._heads = {id(v) for network in self.generators.values() for v in texture.heads(network)}
        self._before_texture = {name: texture.without(network) for name, network in self.generators.items()}
        self._teachers = {name: texture.without(network) for name, network in self.translators.items()}
        networks = {"generators": self.generators, "discriminators": self.discriminators}
        self.trained = {
            name: [v for network in group.values() for v in network.trainable_variables]
            for name, group in networks.items()
        }
        self.optimizers = {name: self._optimizer(variables) for name, variables in self.trained.items()}

    @property
    def adversarial(self) -> bool:
        """Whether the settings have an adversarial term at all."""
        return self.config.lambda_adversarial > 0

    def state(self) -> tf.train.Checkpoint:
        """Everything that changes while training; all that chance decides is a function of the step and the seed."""
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
        """Of both optimizers."""
        for optimizer in self.optimizers.values():
            optimizer.learning_rate = rate

    @tf.function
    def warmup_step(self, batch: dict, discriminators: bool = False, back: bool = False) -> tuple[dict, dict]:
        """One step on the pair term, and if `back` on what counts from `back_from` on; returns what `train_step` does.

        Args:
            batch: with pairs, see `dataset.batches`.
            back: as long as translations are poor, there is nothing to learn from them, nor of detail and texture.
            discriminators: train them too, on what the generators make of this batch, so that they know textures by
                the time the generators are to listen to them.
        """
        return self._step(batch, functools.partial(self._pair_terms, back=back), discriminators)

    @tf.function
    def train_step(self, batch: dict, back: bool = True) -> tuple[dict, dict]:
        """One step of generators and discriminators, the latter on the volumes that the former made in it.

        Args:
            batch, back: as for `warmup_step`.

        Returns:
            losses: by name, unweighted.
            measures: by name, what else tells how the training goes: norms of the gradients, how often each
                discriminator is right, the loss scale. Unlike a loss, a norm is infinite where float16 overflows; such
                a step changes the loss scale and nothing else.
        """
        return self._step(batch, functools.partial(self._generator_terms, back=back), self.adversarial)

    def _step(self, batch: dict, generator_terms, discriminators: bool) -> tuple[dict, dict]:
        def on_replica(share: dict) -> tuple[dict, dict, dict]:
            means, fakes = self._in_parts(
                share, lambda part, number: self._gradients(part, number, generator_terms, discriminators)
            )
            gradients, terms, measures = self.distribution.mean(means)
            for name, values in gradients.items():
                measures |= self._apply(name, values)
            self._average()
            return terms, measures, self.distribution.gather(fakes)

        terms, measures, fakes = self.distribution.run(on_replica, batch)
        for name, volumes in fakes.items():
            self.pools[name].keep(volumes, self.step)
        self.step.assign_add(1)
        return terms, measures

    def _in_parts(self, batch: dict, compute) -> tuple[tuple, dict]:
        """What `compute(part, number)` gives for the parts of a batch, one after the other in memory.

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

    def _gradients(self, batch: dict, part: int | tf.Tensor, generator_terms, discriminators: bool):
        """Of one part of a replica's batch.

        Returns:
            Scaled gradients of "generators" and "discriminators", losses and measures; and the volumes for the pools.
        """
        number = self.distribution.replica * self.config.accumulate + part  # among the parts of all replicas
        drawn = self._draw_masks(number)
        with tf.GradientTape() as tape:
            fakes, terms = generator_terms(batch, drawn)
            scaled = self._scaled("generators", terms)
        with sums.in_order():
            found, variables = tape.gradient(scaled, self.trained["generators"]), self.trained["generators"]
        # nothing is asked of the amplitudes of texture before `back_from`
        pairs = zip(found, variables, strict=True)
        found = [tf.zeros_like(v.value) if g is None and id(v) in self._heads else g for g, v in pairs]
        gradients, measures = {"generators": found}, {}
        for_pools = {}
        if discriminators:
            first = number * batch["real_a"].shape[0]
            pooled = {name: self.pools[name].exchange(fakes[name], self.step, first) for name in ("a", "b")}
            for_pools = {name: tf.cast(fakes[name], tf.float16) for name in ("a", "b") if self.config.pool_size}
            with tf.GradientTape() as tape:
                own, measures = self._discriminator_terms(batch, pooled)
                scaled = self._scaled("discriminators", own)
            with sums.in_order():
                gradients["discriminators"] = tape.gradient(scaled, self.trained["discriminators"])
            terms |= own
        return (gradients, terms, measures), for_pools

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

    def _scaled(self, name: str, terms: dict) -> tf.Tensor:
        adversarial = any(term.startswith("adversarial_") for term in terms)
        total = tf.add_n([self._weight(term, adversarial) * value for term, value in terms.items()])
        return self.optimizers[name].scale_loss(total)

    def _apply(self, name: str, gradients: list) -> dict:
        """Update the networks; measures the norm of all gradients together and the loss scale that they had."""
        optimizer = self.optimizers[name]
        scale = optimizer.scale_loss(tf.constant(1.0))
        measures = {f"gradient_norm_{name}": tf.linalg.global_norm(gradients) / scale}
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            measures[f"loss_scale_{name}"] = scale
        optimizer.apply(gradients, self.trained[name])
        return measures

    def _pair_terms(self, batch: dict, drawn: tf.Tensor, back: bool) -> tuple[dict, dict]:
        fakes, features, terms = {}, {}, {}
        for source, target in (("a", "b"), ("b", "a")):
            fakes[target], features[target] = self._translate(f"{source}2{target}", batch[f"real_{source}"])
            terms[f"pair_{source}2{target}"] = losses.difference(
                fakes[target], batch[f"partner_{source}"], "l1", batch[f"weight_{source}"]
            )
        if back:
            terms |= self._later_terms(batch, fakes, features, drawn)
        return fakes, terms

    def _later_terms(self, batch: dict, fakes: dict, features: dict, drawn: tf.Tensor) -> dict:
        """Those that count from `back_from` on."""
        config, terms = self.config, {}
        for source, target in (("a", "b"), ("b", "a")):
            direction = f"{source}2{target}"
            noise = losses.noise_sd(batch[f"real_{target}"], self.finest_plane) ** 2
            if config.lambda_detail:
                usual, weight = batch[f"detail_{source}"], batch[f"weight_{source}"]
                terms[f"detail_{direction}"] = losses.detail(fakes[target], usual, noise, weight)
            if config.carries_texture(direction):
                # so that no more than the amplitudes is learned from it
                amplitudes = texture.amplitudes(self.generators[direction], tf.stop_gradient(features[target]))
                given = [batch[f"{kind}_{source}"] for kind in ("real", "partner", "detail")]
                terms[f"texture_{direction}"] = losses.texture(amplitudes, *given, noise, batch[f"weight_{source}"])
        return terms | (self._back_terms(batch, drawn) if config.lambda_back else {})

    def _back_terms(self, batch: dict, drawn: tf.Tensor) -> dict:
        """What each generator makes of translations, against the real volumes that those are of.

        Here a generator has pairs that fit to the voxel, and whose target is real. Unlike a cycle loss, nothing of it
        reaches the generator that made the translation, which could else hide in it what the way back needs; the noise
        of a real volume covers what is hidden all the same. (Back-translation, as Sennrich et al. 2016 name it for
        texts.) The translations are the running averages', a slow teacher: two generators that learn from each other
        at once drift together from what the details of their translations meant. They are sharpened at random, so
        that the generator that reads them does not rely on their being smoother than real volumes.
        """
        terms, config = {}, self.config
        for i, (source, target) in enumerate((("a", "b"), ("b", "a"))):
            given, _ = _parted(kernels.forward(self._teachers[f"{source}2{target}"], batch[f"real_{source}"]))
            given = tf.stop_gradient(given)
            batch_size, *shape = given.shape
            # by the volume's number, so that it is the same however the batch is divided
            keys = [tf.stack([2 * self.seed + i, drawn * batch_size + n]) for n in range(batch_size)]
            if config.back_sharpening:
                others = [tf.random.experimental.stateless_fold_in(key, 1) for key in keys]
                factor = tf.stack([tf.random.stateless_uniform([1, 1, 1, 1], key) for key in others])
                detail = given - losses.smoothed(given, SHARPENED_DETAIL)
                given += tf.cast(config.back_sharpening * factor, given.dtype) * detail
                given = tf.clip_by_value(given, -1.0, 1.0)
            noise = tf.stack([tf.random.stateless_normal(shape, key) for key in keys])
            given += tf.cast(losses.noise_sd(batch[f"real_{target}"], self.finest_plane) * noise, given.dtype)
            result, _ = self._translate(f"{target}2{source}", given)
            terms[f"back_{source}{target}{source}"] = losses.difference(result, batch[f"real_{source}"], "l1")
        return terms

    def _generator_terms(self, batch: dict, drawn: tf.Tensor, back: bool = True) -> tuple[dict, dict]:
        config, terms, fakes, features = self.config, {}, {}, {}
        for source, target in (("a", "b"), ("b", "a")):
            direction = f"{source}2{target}"
            real = batch[f"real_{source}"]
            inputs = [real]
            if config.lambda_identity:
                inputs.append(batch[f"real_{target}"])
            # one call for all that goes through the same weights: exact, since nothing mixes the batch
            translated, used = self._translate(direction, tf.concat(inputs, 0))
            outputs = tf.split(translated, len(inputs))
            fakes[target], features[target] = outputs[0], used if used is None else tf.split(used, len(inputs))[0]
            if config.lambda_identity:
                terms[f"identity_{target}"] = losses.difference(
                    outputs[1], batch[f"real_{target}"], config.identity_loss
                )
            if config.lambda_pair:
                terms[f"pair_{direction}"] = losses.difference(
                    fakes[target], batch[f"partner_{source}"], "l1", batch[f"weight_{source}"]
                )
            if config.lambda_gradient_consistency:
                terms[f"gradient_consistency_{direction}"] = losses.gradient_consistency(real, fakes[target])
            if self.adversarial:
                logits = kernels.forward(self.discriminators[target], fakes[target])
                terms[f"adversarial_{direction}"] = losses.adversarial(logits, True, config.adversarial_loss)
        if config.lambda_cycle:
            for source, target in (("a", "b"), ("b", "a")):
                cycled, _ = self._translate(f"{target}2{source}", fakes[target])
                name = f"cycle_{source}{target}{source}"
                terms[name] = losses.difference(cycled, batch[f"real_{source}"], config.cycle_loss)
        if back:
            terms |= self._later_terms(batch, fakes, features, drawn)
        return fakes, terms

    def _translate(self, direction: str, volumes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Translations before texture, from which everything but its amplitudes is learned, and what those need."""
        translate = functools.partial(kernels.forward, self._before_texture[direction])
        # only input and results are kept for the way back; generators have no dropout that could differ the second time
        return _parted((tf.recompute_grad(translate) if self.config.rematerialize else translate)(volumes))

    def _discriminator_terms(self, batch: dict, fakes: dict) -> tuple[dict, dict]:
        terms, measures = {}, {}
        kind = self.config.adversarial_loss
        for name, discriminator in self.discriminators.items():
            real = batch[f"real_{name}"]
            if self.config.lambda_r1:
                # on a tape of its own: the term is a gradient, and the outer tape takes the gradient of that, which
                # the fused normalisation of `kernels` has to a few thousandths only
                with tf.GradientTape() as tape:
                    tape.watch(real)
                    real_logits = discriminator(real, training=True)
                terms[f"r1_{name}"] = losses.r1(tape.gradient(real_logits, real), tf.size(real_logits))
                fake_logits = kernels.forward(discriminator, fakes[name])
            else:
                real_logits, fake_logits = tf.split(
                    kernels.forward(discriminator, tf.concat([real, fakes[name]], 0)), 2
                )
            # halved, so that the discriminator learns more slowly than the generators (Zhu et al. 2017)
            terms[f"discriminator_{name}"] = 0.5 * (
                losses.adversarial(real_logits, True, kind) + losses.adversarial(fake_logits, False, kind)
            )
            measures[f"accuracy_{name}"] = losses.accuracy(real_logits, fake_logits, kind)
        return terms, measures

    def _weight(self, name: str, adversarial: bool) -> float:
        kind = name.rpartition("_")[0]
        if kind in ("discriminator", "texture"):  # what they train nothing else does
            return 1.0
        weight = getattr(self.config, f"lambda_{kind}")
        if kind == "gradient_consistency":
            return 0.5 * weight  # the report's L_GC is half the sum of the two directions
        return weight * self.config.pair_share if kind == "pair" and adversarial else weight

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


def _parted(results: tf.Tensor | list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor | None]:
    """A translation, and the features for amplitudes or None, of what comes out of `texture.without`."""
    return tuple(results) if isinstance(results, list) else (results, None)
