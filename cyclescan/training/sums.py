"""Sums of gradients that have the same bits each time."""

from __future__ import annotations

import contextlib

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop


@contextlib.contextmanager
def in_order():
    """Within this context a tape adds the gradients of what was used several times in the order of their making.

    TensorFlow's own sum (AddN) begins with whichever of three terms or more lies in memory that it may overwrite, which
    depends on which operations have finished by then; so do the last bits, and no run could be repeated. There is no
    public way to say how a tape adds.
    """
    pywrap_tfe.TFE_Py_RegisterVSpace(backprop._default_vspace._replace(aggregate_fn=_sum))
    try:
        yield
    finally:
        pywrap_tfe.TFE_Py_RegisterVSpace(backprop._default_vspace)


def _sum(gradients: list) -> tf.Tensor:
    # a chain of additions would be made one AddN again by the graph optimizer
    if len(gradients) > 2 and all(isinstance(gradient, tf.Tensor) for gradient in gradients):
        return tf.reduce_sum(tf.stack(gradients), axis=0)
    return backprop._aggregate_grads(gradients)
