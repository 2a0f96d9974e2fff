"""Run by test_terms.py in a process of its own, in which TensorFlow cannot be imported: the weighted sums on JAX.

`python -m tests.training.terms_on_jax IN.npz OUT.npz`; IN has a batch, and the weights of networks by name and number.
"""

import os
import sys

import numpy as np

SETTINGS = [
    *("patch_shape=8,16,16", "generator_levels=2", "generator_filters=4", "discriminator_levels=1"),
    *("discriminator_filters=4", "discriminator_dropout=0", "texture=none", "lambda_back=0"),
    *("lambda_pair=3", "pair_share=0.5", "lambda_identity=2", "lambda_cycle=5", "lambda_gradient_consistency=0.3"),
    *("lambda_detail=0.7", "lambda_adversarial=0.9", "lambda_r1=0.2"),
]
NAMES = ("a2b", "b2a", "a", "b")


def config():
    """Settings with every term but those that chance decides over, and texture."""
    from cyclescan.config import Config

    return Config().with_settings(SETTINGS)


def main(given: str, made: str) -> None:
    sys.modules["tensorflow"] = None  # whatever imports it fails
    # for small networks compiling well takes longer than computing badly
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    import jax

    from benchmarks import jax_networks  # before Keras, for which it chooses JAX
    from cyclescan.models import build_discriminator, build_generator
    from cyclescan.training.terms import Phase

    data, settings = dict(np.load(given)), config()
    batch = {key: value for key, value in data.items() if " " not in key}
    models = {n: (build_generator if len(n) == 3 else build_discriminator)(settings, n) for n in NAMES}
    weights = {n: [data[f"{n} {i}"] for i in range(len(m.trainable_variables))] for n, m in models.items()}
    networks = jax_networks.Networks(models, weights, {}, jax.random.key(0))

    @jax.jit
    def sums(batch):
        phase = Phase.whole(settings)
        total, fakes = jax_networks.generator_loss(settings, phase, batch, networks)
        return total, jax_networks.discriminator_loss(settings, phase, batch, fakes, networks)

    np.savez(made, sums=np.asarray(sums(batch)))


if __name__ == "__main__":
    main(*sys.argv[1:])
