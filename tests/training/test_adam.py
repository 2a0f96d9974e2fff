"""Adam, against Keras' own."""

import keras
import numpy as np
import tensorflow as tf

from cyclescan.training.adam import Adam


def test_updates_are_those_of_keras():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(3, 4)).astype("f4"), rng.normal(size=5).astype("f4")]
    results = []
    for kind in (Adam, keras.optimizers.Adam):
        variables = [keras.Variable(v) for v in values]
        optimizer = kind(0.01, beta_1=0.5)
        optimizer.build(variables)
        draw = np.random.default_rng(1)
        for step in range(5):
            optimizer.learning_rate = 0.01 / (step + 1)
            optimizer.apply([tf.constant(draw.normal(size=v.shape), tf.float32) for v in variables], variables)
        results.append([v.numpy() for v in variables] + [v.numpy() for v in optimizer.variables])
        assert int(optimizer.iterations) == 5
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-7)


def test_update_under_a_loss_scale():
    variables = [keras.Variable(np.ones(4, "f4")) for _ in range(2)]
    plain, scaled = Adam(0.1), keras.optimizers.LossScaleOptimizer(Adam(0.1))
    for optimizer, variable in zip((plain, scaled), variables, strict=True):
        optimizer.build([variable])
        optimizer.apply([optimizer.scale_loss(tf.constant([1.0, -2.0, 3.0, 0.5]))], [variable])
    np.testing.assert_allclose(variables[0].numpy(), variables[1].numpy(), rtol=1e-5)
