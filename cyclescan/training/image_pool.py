"""A history of generated volumes for the discriminator (Shrivastava et al. 2017; pool of 50 as in Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


class ImagePool(tf.Module):
    """Generated patches of one domain; part of the checkpoint.

    All patches of a step meet the pool as it was before the step, and enter it together at its end. So it does not
    matter in how many parts, one after the other or on several devices, the step is computed.

    Args:
        size: number of patches kept; 0 passes everything through.
        patch_shape: (depth, height, width).
        batch_size: patches of a step, over all devices.
        seed: with the step it determines which patches are exchanged.
    """

    def __init__(self, size: int, patch_shape: Sequence[int], batch_size: int, seed: int, name: str):
        super().__init__(name=name)
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        # half the memory, and rounding that the discriminator cannot learn from; in host memory, not the GPU's
        with tf.device("/CPU:0"):
            self.patches = tf.Variable(tf.zeros((size, *patch_shape, 1), tf.float16), trainable=False)
            self.filled = tf.Variable(0, dtype=tf.int32, trainable=False)

    def exchange(self, patches: tf.Tensor, step: tf.Tensor, first: int | tf.Tensor = 0) -> tf.Tensor:
        """Give generated patches and get as many of the same shape.

        Until the pool is full every patch is returned; afterwards each is, with probability 1/2, exchanged for one
        that was kept earlier. `keep` must follow with the patches of the whole step.

        Args:
            patches: of the step, or a part of them.
            step: its number.
            first: the place of the first of them among all patches of the step.
        """
        if not self.size:
            return patches
        with tf.device("/CPU:0"):
            slots, _, exchanged = (tf.slice(values, [first], [patches.shape[0]]) for values in self._plan(step))
            old = tf.cast(self.patches.sparse_read(slots), patches.dtype)
            return tf.where(exchanged[:, None, None, None, None], old, patches)

    def keep(self, patches: tf.Tensor, step: tf.Tensor) -> None:
        """Take the patches of a whole step into the pool; the exchanged ones go where the older ones came from."""
        if not self.size:
            return
        with tf.device("/CPU:0"):
            slots, kept, _ = self._plan(step)
            patches = tf.cast(tf.boolean_mask(patches, kept), tf.float16)
            self.patches.scatter_update(tf.IndexedSlices(patches, tf.boolean_mask(slots, kept)))
            self.filled.assign(tf.minimum(self.filled + self.batch_size, self.size))

    def _plan(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Choose for each patch of a step its slot in the pool, whether it is kept, and whether it is exchanged."""
        key = tf.stack([tf.cast(step, tf.int64), tf.constant(self.seed, tf.int64)])
        chance = tf.random.stateless_uniform([self.batch_size], key)
        # two patches of a step never have the same slot, or one kept patch would be returned twice and another never
        order = tf.argsort(tf.random.stateless_uniform([self.size], tf.random.experimental.stateless_fold_in(key, 1)))
        places = tf.range(self.batch_size)
        full = self.filled == self.size
        exchanged = full & (chance < 0.5) & (places < self.size)
        slots = tf.where(full, tf.gather(order, places % self.size), tf.minimum(self.filled + places, self.size - 1))
        return slots, exchanged | (self.filled + places < self.size), exchanged
