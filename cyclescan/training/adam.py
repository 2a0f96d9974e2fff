"""Adam in one pass over the memory."""

from __future__ import annotations

import keras
import tensorflow as tf


class Adam(keras.optimizers.Adam):
    """`keras.optimizers.Adam`, each variable updated by one operation of TensorFlow instead of a dozen of Keras.

    An update is bound by memory: gradient, weights and both moments are read and all but the gradient written, 28 bytes
    a weight. Keras' own makes six more arrays of that size on the way. The numbers are equal up to rounding, and so is
    what a checkpoint holds. Only what the training needs is supported: dense gradients, no AMSGrad. On several replicas
    the gradients must be their mean already.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # Keras would send them through the network a second time. By then its loss scaling has looked at those of the
        # first replica alone, so that the mean has to be taken before.
        return grads_and_vars

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        steps = tf.cast(self.iterations + 1, variable.dtype)
        beta_1, beta_2 = (tf.cast(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=beta_1**steps,
            beta2_power=beta_2**steps,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )
