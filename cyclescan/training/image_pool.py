"""A history of generated volumes for the discriminator (Shrivastava et al. 2017; pool of 50 as in Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


class ImagePool(tf.Module):
    """Generated patches of one domain; part of the checkpoint.

    Args:
        size: number of patches kept; 0 passes everything through.
        patch_shape: (depth, height, width).
        seed: with the step it determines which patches are exchanged.
    """

    def __init__(self, size: int, patch_shape: Sequence[int], seed: int, name: str):
        super().__init__(name=name)
        self.size = size
        self.seed = seed
        # half the memory, and rounding that the discriminator cannot learn from; in host memory, not the GPU's
        with tf.device("/CPU:0"):
            self.patches = tf.Variable(tf.zeros((size, *patch_shape, 1), tf.float16), trainable=False)
            self.filled = tf.Variable(0, dtype=tf.int32, trainable=False)

    def exchange(self, batch, step):
        """Give a batch of generated patches, get one of the same shape.

        Until the pool is full every patch is kept and returned; afterwards each is, with probability 1/2, exchanged
        for one that was kept earlier.
        """
        if not self.size:
            return batch
        with tf.device("/CPU:0"):
            returned = []
            for position in range(batch.shape[0]):
                key = tf.stack([tf.cast(step, tf.int64), tf.constant(self.seed * 1000 + position, tf.int64)])
                returned.append(self._exchange_one(batch[position], key))
            return tf.stack(returned)

    def _exchange_one(self, patch, key):
        chance = tf.random.stateless_uniform([2], key)
        filling = self.filled < self.size
        slot = tf.where(filling, self.filled, tf.cast(chance[1] * self.size, tf.int32))
        old = tf.cast(self.patches[slot], patch.dtype)
        stored = filling | (chance[0] < 0.5)
        with tf.control_dependencies([old]):
            result = tf.where(filling | ~stored, patch, old)
        # written through a condition: a rejected patch must not cost a copy of the pool
        tf.cond(stored, lambda: self._store(slot, patch), lambda: tf.constant(0))
        return result

    def _store(self, slot, patch):
        self.patches.scatter_nd_update([[slot]], tf.cast(patch, tf.float16)[None])
        self.filled.assign(tf.minimum(self.filled + 1, self.size))
        return tf.constant(0)
