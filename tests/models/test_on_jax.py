"""Models and losses are free of TensorFlow: on JAX, where TensorFlow cannot be imported, they give the same numbers."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.models import on_jax

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_networks_gradients_and_losses_on_jax_equal_those_on_tensorflow(tmp_path):
    rng = np.random.default_rng(0)
    given = {key: np.tanh(rng.normal(size=(2, 8, 16, 16, 1))).astype("f4") for key in ("a", "b")}
    # the gradient of a sum of the outputs times these
    given["factors"] = rng.normal(size=(8, 1, 1, 1)).astype("f4")
    expected = {}
    for name, network in on_jax.networks().items():
        # away from their initial zeros and ones, and large enough that every layer matters
        for i, weights in enumerate(network.get_weights()):
            given[f"{name} {i}"] = weights + rng.normal(size=weights.shape, scale=0.1).astype(weights.dtype)
        network.set_weights([given[f"{name} {i}"] for i in range(len(network.get_weights()))])
        with tf.GradientTape() as tape:
            output = network(given["a"])
            total = tf.reduce_sum(output * given["factors"][: output.shape[1]])
        expected[name] = output
        gradients = tape.gradient(total, network.trainable_variables)
        expected |= {f"{name} gradient {i}": g for i, g in enumerate(gradients)}
    expected |= on_jax.losses(given["a"], given["b"])
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-m", "tests.models.on_jax", str(tmp_path / "given.npz"), str(tmp_path / "made.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = np.load(tmp_path / "made.npz")
    assert sorted(made) == sorted(expected)
    for key, value in {key: np.asarray(value) for key, value in expected.items()}.items():
        np.testing.assert_allclose(made[key], value, atol=1e-4 * max(1.0, np.abs(value).max()), err_msg=key)
