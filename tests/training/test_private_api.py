"""Names of TensorFlow and Keras that are not public do what the training needs of them."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclescan.training import private_api

PACKAGE = Path(__file__).parents[2] / "cyclescan"


def test_a_tape_adds_gradients_as_it_is_told():
    """Of what was used three times, once for all three; and as TensorFlow does it afterwards."""
    x, given = tf.Variable(2.0), []

    def add(gradients):
        given.append([float(g) for g in gradients])
        return private_api.add_as_tensorflow_does(gradients) + 100.0

    with tf.GradientTape() as tape:
        total = 1.0 * x + 20.0 * x + 300.0 * x
    with private_api.gradients_added_by(add):
        assert float(tape.gradient(total, x)) == 421.0
    assert [sorted(values) for values in given] == [[1.0, 20.0, 300.0]]
    with tf.GradientTape() as tape:
        total = 1.0 * x + 20.0 * x + 300.0 * x
    assert float(tape.gradient(total, x)) == 321.0


def test_tapes_add_as_before_after_an_error():
    x = tf.Variable(2.0)
    with pytest.raises(ZeroDivisionError), private_api.gradients_added_by(lambda gradients: gradients[0] * 0.0):
        raise ZeroDivisionError
    with tf.GradientTape() as tape:
        total = x + 2.0 * x
    assert float(tape.gradient(total, x)) == 3.0


def test_the_moments_are_those_of_the_variable():
    variables = [keras.Variable(np.zeros(n, np.float32), name=f"v{n}") for n in (2, 3)]
    optimizer = private_api.AdamOfMeans(0.1, beta_1=0.5, beta_2=0.75)
    optimizer.build(variables)
    optimizer.apply([tf.ones(2), tf.fill((3,), 2.0)], variables)
    for variable, gradient in zip(variables, (1.0, 2.0), strict=True):
        mean, square = optimizer.moments(variable)
        np.testing.assert_allclose(mean, np.full(variable.shape, 0.5 * gradient))
        np.testing.assert_allclose(square, np.full(variable.shape, 0.25 * gradient**2))
        assert any(mean is kept for kept in optimizer.variables)


def test_keras_would_reduce_gradients_where_it_is_kept_from_doing_so(monkeypatch):
    """Its optimizers ask the method that is overridden for the gradients to apply."""
    asked = []
    base = keras.optimizers.Adam
    monkeypatch.setattr(
        base, "_all_reduce_sum_gradients", lambda self, pairs: asked.append("base") or pairs, raising=True
    )
    variable = keras.Variable(np.zeros(1, np.float32))
    for kind, expected in ((base, ["base"]), (private_api.AdamOfMeans, [])):
        optimizer = kind(0.1)
        optimizer.build([variable])
        optimizer.apply([tf.ones(1)], [variable])
        assert asked == expected, kind
        asked.clear()


def test_no_other_module_has_private_names():
    """None imports what lies in `tensorflow.python` or `keras.src`."""
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "training" / "private_api.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            assert not [n for n in names if n.startswith(("tensorflow.python", "keras.src"))], path
