"""Adam in one pass over the memory."""

from __future__ import annotations

import tensorflow as tf

from cyclescan.training.private_api import AdamOfMeans


class Adam(AdamOfMeans):
    """`keras.optimizers.Adam`, each variable updated by one operation of TensorFlow instead of a dozen of Keras.

    An update is bound by memory: gradient, weights and both moments are read and all but the gradient written, 28 bytes
    a weight. Keras' own makes six more arrays of that size on the way. The numbers are equal up to rounding, and so is
    what a checkpoint holds. Only what the training needs is supported: dense gradients, no AMSGrad. On several replicas
    the gradients must be their mean already.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Move a variable and its moments; called by Keras within a step."""
        mean, square = self.moments(variable)
        steps = tf.cast(self.iterations + 1, variable.dtype)
        beta_1, beta_2 = (tf.cast(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.value.handle,
            v=square.value.handle,
            beta1_power=beta_1**steps,
            beta2_power=beta_2**steps,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )
