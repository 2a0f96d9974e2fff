"""Sums of gradients that have the same bits each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from cyclescan.training import private_api


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """Have a tape, in this context, add the gradients of what was used several times in the order of their making.

    TensorFlow's own sum (AddN) begins with whichever of three terms or more lies in memory that it may overwrite, which
    depends on which operations have finished by then; so do the last bits, and no run could be repeated.
    """
    with private_api.gradients_added_by(_sum):
        yield


def _sum(gradients: list) -> tf.Tensor:
    # a chain of additions would be made one AddN again by the graph optimizer
    if len(gradients) > 2 and all(isinstance(gradient, tf.Tensor) for gradient in gradients):
        return tf.reduce_sum(tf.stack(gradients), axis=0)
    return private_api.add_as_tensorflow_does(gradients)
