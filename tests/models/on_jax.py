"""What networks and losses make of given weights and volumes, on whatever backend Keras has.

`python -m tests.models.on_jax IN OUT` does it on JAX, in a process in which TensorFlow cannot be imported; IN and OUT
are .npz. The test calls `outputs` itself, on TensorFlow.
"""

import os
import sys

import numpy as np

COMMON = ["patch_shape=8,16,16", "generator_levels=2", "generator_filters=4", "discriminator_levels=1"]
COMMON += ["discriminator_filters=4", "discriminator_dropout=0"]
TRANSPOSED = ["generator_upsampling=transposed", "generator_kernel=4", "generator_decoder_width=2"]
NETWORKS = {
    "resize": [*COMMON, "generator_full_resolution_filters=4"],
    "transposed": [*COMMON, "generator_full_resolution_filters=0", *TRANSPOSED],
}


def networks() -> dict:
    """By name; generators of both kinds at a small size, and a discriminator."""
    from cyclescan.config.presets import preset
    from cyclescan.models import build_discriminator, build_generator

    configs = {name: preset("demo").with_settings(settings) for name, settings in NETWORKS.items()}
    built = {name: build_generator(config, "b2a", name) for name, config in configs.items()}
    return built | {"discriminator": build_discriminator(configs["resize"], "discriminator")}


def losses(a, b) -> dict:
    """Every loss of two volumes."""
    from cyclescan import losses

    found = {f"difference {kind}": losses.difference(a, b, kind) for kind in ("l1", "l2")}
    for kind in ("bce", "least_squares"):
        found |= {f"adversarial {kind} {real}": losses.adversarial(a, real, kind) for real in (True, False)}
    found["detail"] = losses.detail(a, (b[..., :1] ** 2).repeat(2, -1), losses.noise_sd(b) ** 2, 1.0)
    energies, amplitudes = (b[..., :1] ** 2).repeat(2, -1), a.repeat(2, -1)
    found["texture"] = losses.texture(amplitudes, a, b, energies, losses.noise_sd(b) ** 2, 1.0)
    return found | {"gradient consistency": losses.gradient_consistency(a, b)}


def main(given: str, made: str) -> None:
    os.environ["KERAS_BACKEND"] = "jax"
    sys.modules["tensorflow"] = None  # whatever imports it fails
    # for small networks compiling well takes longer than computing badly
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    import jax

    data, results = dict(np.load(given)), {}
    a, b = data["a"], data["b"]
    for name, network in networks().items():
        network.set_weights([data[f"{name} {i}"] for i in range(len(network.get_weights()))])

        def total(weights, network=network):
            output, _ = network.stateless_call(weights, [v.value for v in network.non_trainable_variables], a)
            return (output * data["factors"][: output.shape[1]]).sum(), output

        weights = [v.value for v in network.trainable_variables]
        (_, output), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(weights)
        results[name] = output
        results |= {f"{name} gradient {i}": g for i, g in enumerate(gradients)}
    results |= jax.jit(losses)(a, b)
    np.savez(made, **{key: np.asarray(value) for key, value in results.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
