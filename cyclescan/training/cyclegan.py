"""The training step: two generators, two discriminators, one weighted sum."""

from __future__ import annotations

import keras
import tensorflow as tf

from cyclescan import losses
from cyclescan.config import Config
from cyclescan.models import build_discriminator, build_generator
from cyclescan.training.image_pool import ImagePool


class CycleGAN(tf.Module):
    """Networks, optimizers and image pools of a run, and the two kinds of step.

    Attributes:
        generators: "a2b" and "b2a".
        translators: the generators to translate with: their running averages, or the generators themselves.
        discriminators: "a" and "b", each judging volumes of its domain.
        step: number of steps taken, int64.
    """

    def __init__(self, config: Config, seed: int):
        super().__init__(name="cyclegan")
        self.config = config
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(config.precision)
        try:
            self.generators = {
                name: build_generator(config, name=f"generator_{name}", seed=seed * 10 + i)
                for i, name in enumerate(("a2b", "b2a"))
            }
            self.translators = self.generators
            if config.average_decay:
                self.translators = {
                    name: build_generator(config, name=f"average_{name}", seed=seed * 10 + i)
                    for i, name in enumerate(("a2b", "b2a"))
                }
            self.discriminators = {
                name: build_discriminator(config, name=f"discriminator_{name}", seed=seed * 10 + i + 2)
                for i, name in enumerate(("a", "b"))
            }
        finally:
            keras.config.set_dtype_policy(policy)
        self.pools = {
            name: ImagePool(
                config.pool_size if self.adversarial else 0, config.patch_shape, seed * 2 + i, f"pool_{name}"
            )
            for i, name in enumerate(("a", "b"))
        }
        self.generator_variables = [v for g in self.generators.values() for v in g.trainable_variables]
        self.discriminator_variables = [v for d in self.discriminators.values() for v in d.trainable_variables]
        self.generator_optimizer = self._optimizer(self.generator_variables)
        self.discriminator_optimizer = self._optimizer(self.discriminator_variables)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")

    @property
    def adversarial(self) -> bool:
        """Whether the settings have an adversarial term at all."""
        return self.config.lambda_adversarial > 0

    def state(self) -> tf.train.Checkpoint:
        """Everything that changes while training."""
        return tf.train.Checkpoint(
            step=self.step,
            generator_optimizer=self.generator_optimizer,
            discriminator_optimizer=self.discriminator_optimizer,
            # of the dropout; TensorFlow does not find Keras' seed generators by itself
            random_state=[v for d in self.discriminators.values() for v in d.non_trainable_variables],
            **{f"generator_{k}": v for k, v in self.generators.items()},
            **{f"translator_{k}": v for k, v in self.translators.items()},
            **{f"discriminator_{k}": v for k, v in self.discriminators.items()},
            **{f"pool_{k}": v for k, v in self.pools.items()},
        )

    def set_learning_rate(self, rate: float) -> None:
        """Of both optimizers."""
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            optimizer.learning_rate = rate

    @tf.function
    def warmup_step(self, batch: dict, discriminators: bool = False) -> dict:
        """One step on the pair term alone. Returns the unweighted losses by name.

        Args:
            batch: with pairs, see `dataset.batches`.
            discriminators: train them too, on what the generators make of this batch, so that they know textures by
                the time the generators are to listen to them.
        """
        with tf.GradientTape() as tape:
            fakes, terms = {}, {}
            for source, target in (("a", "b"), ("b", "a")):
                fakes[target] = self.generators[f"{source}2{target}"](batch[f"real_{source}"], training=True)
                terms[f"pair_{source}2{target}"] = losses.difference(
                    fakes[target], batch[f"partner_{source}"], "l1", batch[f"weight_{source}"]
                )
            total = self.config.lambda_pair * tf.add_n(list(terms.values()))
            scaled = self.generator_optimizer.scale_loss(total)
        self._update_generators(tape, scaled)
        if discriminators:
            terms |= self._train_discriminators(batch, fakes)
        self.step.assign_add(1)
        return terms

    @tf.function
    def train_step(self, batch: dict) -> dict:
        """One step of generators, then discriminators. Returns the unweighted losses by name."""
        with tf.GradientTape() as tape:
            fakes, terms = self._generator_terms(batch)
            total = tf.add_n([self._weights(name) * value for name, value in terms.items()])
            scaled = self.generator_optimizer.scale_loss(total)
        self._update_generators(tape, scaled)
        if self.adversarial:
            terms |= self._train_discriminators(batch, fakes)
        self.step.assign_add(1)
        return terms

    def _generator_terms(self, batch: dict) -> tuple[dict, dict]:
        config, terms, fakes = self.config, {}, {}
        for source, target in (("a", "b"), ("b", "a")):
            direction = f"{source}2{target}"
            real = batch[f"real_{source}"]
            inputs = [real]
            if config.lambda_identity:
                inputs.append(batch[f"real_{target}"])
            # one call for all that goes through the same weights: exact, since nothing mixes the batch
            outputs = tf.split(self.generators[direction](tf.concat(inputs, 0), training=True), len(inputs))
            fakes[target] = outputs[0]
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
                logits = self.discriminators[target](fakes[target], training=True)
                terms[f"adversarial_{direction}"] = losses.adversarial(logits, True, config.adversarial_loss)
        if config.lambda_cycle:
            for source, target in (("a", "b"), ("b", "a")):
                cycled = self.generators[f"{target}2{source}"](fakes[target], training=True)
                name = f"cycle_{source}{target}{source}"
                terms[name] = losses.difference(cycled, batch[f"real_{source}"], config.cycle_loss)
        return fakes, terms

    def _weights(self, name: str) -> float:
        kind = name.rpartition("_")[0]
        # the report's L_GC is half the sum of the two directions
        factor = 0.5 if kind == "gradient_consistency" else 1.0
        return factor * getattr(self.config, f"lambda_{kind}")

    def _train_discriminators(self, batch: dict, fakes: dict) -> dict:
        terms = {}
        pooled = {name: self.pools[name].exchange(tf.stop_gradient(fakes[name]), self.step) for name in ("a", "b")}
        with tf.GradientTape() as tape:
            for name, discriminator in self.discriminators.items():
                logits = discriminator(tf.concat([batch[f"real_{name}"], pooled[name]], 0), training=True)
                real, fake = tf.split(logits, 2)
                kind = self.config.adversarial_loss
                # halved, so that the discriminator learns more slowly than the generators (Zhu et al. 2017)
                terms[f"discriminator_{name}"] = 0.5 * (
                    losses.adversarial(real, True, kind) + losses.adversarial(fake, False, kind)
                )
            scaled = self.discriminator_optimizer.scale_loss(tf.add_n(list(terms.values())))
        gradients = tape.gradient(scaled, self.discriminator_variables)
        self.discriminator_optimizer.apply(gradients, self.discriminator_variables)
        return terms

    def _update_generators(self, tape, loss) -> None:
        gradients = tape.gradient(loss, self.generator_variables)
        self.generator_optimizer.apply(gradients, self.generator_variables)
        if self.config.average_decay:
            # a short memory at first, or the random initial weights would stay in the average for long
            steps = tf.cast(self.step, tf.float32)
            keep = tf.minimum(self.config.average_decay, (1.0 + steps) / (10.0 + steps))
            for name, generator in self.generators.items():
                pairs = zip(self.translators[name].trainable_variables, generator.trainable_variables, strict=True)
                for average, variable in pairs:
                    average.assign(keep * average + (1.0 - keep) * variable)

    def _optimizer(self, variables):
        optimizer = keras.optimizers.Adam(self.config.learning_rate, beta_1=self.config.beta_1)
        if self.config.precision == "mixed_float16":
            # a custom loop is not wrapped by Keras; without it small gradients vanish
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        # built before the first step and before a restore, so that every slot exists
        optimizer.build(variables)
        return optimizer
