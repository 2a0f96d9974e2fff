"""Ways to build a functional model and to go through one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
from keras import layers


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers made in this block compute in `policy` ("float32", "mixed_float16", ...), whatever Keras' own is."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def calls(model: keras.Model) -> Iterator[tuple[keras.Layer, list]]:
    """Yield the layers but for the inputs, each after all that it reads, with the Keras tensors it reads."""
    for layer in model.layers:
        if not isinstance(layer, layers.InputLayer):
            yield layer, keras.tree.flatten(layer.input)
