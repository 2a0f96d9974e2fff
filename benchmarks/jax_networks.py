"""`training.terms.Networks` on JAX, for the benchmarks that run without TensorFlow."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import jax
import jax.numpy as jnp

from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.config import Config
from cyclescan.training import terms
from cyclescan.training.terms import Phase

Tree = dict


def call(model, weights: list, volumes, number=0):
    """The output of a network in training; `number` decides over the masks of dropout."""
    seeds = [jnp.stack([v.value[0], jnp.uint32(number)]) for v in model.non_trainable_variables]
    return model.stateless_call(weights, seeds, volumes, training=True)[0]


class Networks:
    """Networks without texture as functions of their weights.

    Args:
        models: Keras models by name: "a2b" and "b2a", discriminators "a" and "b".
        weights: trainable weights by the same names.
        averages: weights of the generators' running averages.
        key: of everything that chance decides.
        back_sharpening: the setting, which may be a number of JAX.
    """

    def __init__(self, models: Tree, weights: Tree, averages: Tree, key, back_sharpening=0.0):
        self._models, self._weights, self._averages = models, weights, averages
        self._key, self._back_sharpening = key, back_sharpening

    def translate(self, direction, volumes):
        return call(self._models[direction], self._weights[direction], volumes), None

    def teach(self, direction, volumes):
        return call(self._models[direction], self._averages[direction], volumes)

    def judge(self, domain, volumes):
        number = jax.random.bits(jax.random.fold_in(self._key, ord(domain)))
        return call(self._models[domain], self._weights[domain], volumes, number)

    def judge_with_gradient(self, domain, volumes):
        def total(volumes):
            logits = self.judge(domain, volumes)
            return logits.sum(), logits

        (_, logits), gradient = jax.value_and_grad(total, has_aux=True)(volumes)
        return logits, gradient

    def noise(self, direction, volumes):
        return jax.random.normal(self._drawn(direction, 0), volumes.shape)

    def sharpening(self, direction, volumes):
        shape = (volumes.shape[0], *[1] * (volumes.ndim - 1))
        return self._back_sharpening * jax.random.uniform(self._drawn(direction, 1), shape)

    def _drawn(self, direction, number: int):
        return jax.random.fold_in(self._key, 256 + 2 * DIRECTIONS.index(direction) + number)


def generator_loss(config: Config, phase: Phase, batch: Tree, networks: Networks, settings=None):
    """The weighted sum that the generators minimise in a phase, and their translations by domain.

    Args:
        config: says which terms are computed.
        phase: of the run.
        batch: see `dataset.batches`.
        networks: as functions of weights.
        settings: with the weights of terms, where these are numbers of JAX; by default `config`.
    """
    parts = terms.of_generators(config, phase)
    context = terms.Context(batch, networks, [part.term for part in parts], config)
    fakes = {direction.target: context.fake(direction) for direction in DIRECTIONS}
    return _weighted(terms.values(parts, context), terms.weights(parts, settings or config, phase)), fakes


def discriminator_loss(config: Config, phase: Phase, batch: Tree, fakes: Tree, networks: Networks):
    """The weighted sum that the discriminators minimise, on generated volumes by domain."""
    parts = terms.of_discriminators(config, phase)
    judgement = terms.Judgement(batch, fakes, networks, [part.term for part in parts], config)
    return _weighted(terms.values(parts, judgement), terms.weights(parts, config, phase))


def _weighted(values: Tree, weights: Tree):
    return sum(weights[name] * value for name, value in values.items())
