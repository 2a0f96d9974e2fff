"""Names of TensorFlow and Keras that are not public and without which the training cannot do. No other module has any.

Each has a test (tests/training/test_private_api.py) that says what is gone, should a later version take it away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop


@contextlib.contextmanager
def gradients_added_by(add: Callable[[list], tf.Tensor]) -> Iterator[None]:
    """Have tapes call `add` for the gradients of what was used several times; there is no public way to say how.

    Args:
        add: of a list of gradients, which are tensors or `tf.IndexedSlices`.
    """
    pywrap_tfe.TFE_Py_RegisterVSpace(backprop._default_vspace._replace(aggregate_fn=add))
    try:
        yield
    finally:
        pywrap_tfe.TFE_Py_RegisterVSpace(backprop._default_vspace)


def add_as_tensorflow_does(gradients: list) -> tf.Tensor:
    """Add gradients as a tape does by default."""
    return backprop._aggregate_grads(gradients)


class AdamOfMeans(keras.optimizers.Adam):
    """`keras.optimizers.Adam` for gradients that are the mean over all replicas already, and with its moments at hand.

    Keras would send gradients through the network a second time. By then its loss scaling has looked at those of the
    first replica alone, so that the mean has to be taken before.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars

    def moments(self, variable: keras.Variable) -> tuple[keras.Variable, keras.Variable]:
        """Return the running means of the gradient of a variable and of its square."""
        index = self._get_variable_index(variable)
        return self._momentums[index], self._velocities[index]
