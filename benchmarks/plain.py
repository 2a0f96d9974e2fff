"""The training step as a plain transcription of the seed's: what ours is compared with, in time and in numbers.

    python -m benchmarks.plain [--preset cyclescan] [--set KEY=VALUE ...] [--steps N]

One call for each volume, one persistent tape, four optimizers of Keras, and the two cycles differentiated for each
generator anew, as the CycleGAN tutorial of TensorFlow has it, from which the published CycleScan script comes. Prints
the seconds of the fastest step. Set TF_ENABLE_ONEDNN_OPTS yourself: this module leaves TensorFlow's flags alone.
"""

from __future__ import annotations

import argparse
import os
import time


class PlainCycleGAN:
    """The networks of a config whose terms are adversarial, cycle and identity, and the step that trains them."""

    def __init__(self, config, seed: int):
        import keras

        from cyclescan.models import build_discriminator, build_generator

        self.config = config
        self.generator_g = build_generator(config, "a2b", seed=seed * 10)
        self.generator_f = build_generator(config, "b2a", seed=seed * 10 + 1)
        self.discriminator_x = build_discriminator(config, "discriminator_a", seed * 10 + 2)
        self.discriminator_y = build_discriminator(config, "discriminator_b", seed * 10 + 3)
        self.networks = (self.generator_g, self.generator_f, self.discriminator_x, self.discriminator_y)
        self.optimizers = [keras.optimizers.Adam(config.learning_rate, beta_1=config.beta_1) for _ in self.networks]
        for optimizer, network in zip(self.optimizers, self.networks, strict=True):
            optimizer.build(network.trainable_variables)
        self._cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def losses(self, real_x, real_y):
        """Total losses of the four networks, in their order."""
        import tensorflow as tf

        config, g, f = self.config, self.generator_g, self.generator_f
        judge_x, judge_y = self.discriminator_x, self.discriminator_y
        fake_y, fake_x = g(real_x, training=True), f(real_y, training=True)
        cycled_x, cycled_y = f(fake_y, training=True), g(fake_x, training=True)
        same_x, same_y = f(real_x, training=True), g(real_y, training=True)
        judged = [judge_x(real_x, training=True), judge_y(real_y, training=True)]
        judged_fakes = [judge_x(fake_x, training=True), judge_y(fake_y, training=True)]
        ones, zeros = tf.ones_like(judged[0]), tf.zeros_like(judged[0])

        def distance(one, other):
            return tf.reduce_mean(tf.abs(one - other))

        cycle = config.lambda_cycle * (distance(real_x, cycled_x) + distance(real_y, cycled_y))
        total_g = self._cross_entropy(ones, judged_fakes[1]) + cycle + config.lambda_identity * distance(real_y, same_y)
        total_f = self._cross_entropy(ones, judged_fakes[0]) + cycle + config.lambda_identity * distance(real_x, same_x)
        judges = [
            0.5 * (self._cross_entropy(ones, real) + self._cross_entropy(zeros, fake))
            for real, fake in zip(judged, judged_fakes, strict=True)
        ]
        return [total_g, total_f, *judges]

    def gradients(self, real_x, real_y):
        """Losses, and for each network the gradients of its own."""
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            losses = self.losses(real_x, real_y)
        pairs = zip(losses, self.networks, strict=True)
        return losses, [tape.gradient(loss, network.trainable_variables) for loss, network in pairs]

    def step(self, real_x, real_y):
        """Train once; returns the losses."""
        losses, gradients = self.gradients(real_x, real_y)
        for optimizer, network, values in zip(self.optimizers, self.networks, gradients, strict=True):
            optimizer.apply(values, network.trainable_variables)
        return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cyclescan")
    parser.add_argument("--set", nargs="+", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    import tensorflow as tf

    from benchmarks.step import volumes
    from cyclescan.config.presets import preset

    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") != asked:
        raise RuntimeError("cyclescan has switched oneDNN on after TensorFlow was imported")
    config = preset(arguments.preset).with_settings(arguments.settings)
    model, batch = PlainCycleGAN(config, 0), volumes(config)
    step = tf.function(model.step)
    step(batch["real_a"], batch["real_b"])
    seconds = []
    for _ in range(arguments.steps):
        began = time.perf_counter()
        _ = [float(value) for value in step(batch["real_a"], batch["real_b"])]
        seconds.append(time.perf_counter() - began)
    print(f"{min(seconds):.3f}")


if __name__ == "__main__":
    main()
