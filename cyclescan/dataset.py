"""Records to unpaired batches of patches (tf.data).

Element number n of the stream is a function of (seed, n) alone: which record, which patch, which augmentation. So a
run that is resumed at step n continues with exactly the batches it would have seen.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from cyclescan import planting, records

SHIFT = 2  # voxels by which augmentation moves a patch beyond the volume's border, either way


@dataclasses.dataclass(frozen=True)
class Stream:
    """Where the records of one domain are: (shard, offset, length) of each, and its checksum.

    Attributes:
        entries, checksums: of each record.
        domain: "a" or "b".
        visits: for each subject the numbers of its records.
    """

    entries: tuple[tuple[str, int, int], ...]
    checksums: tuple[bytes, ...]
    domain: str
    visits: tuple[tuple[int, ...], ...]

    def read(self, number: int, seed: int) -> bytes:
        """Return the serialised record at position `number` of an endless stream.

        In an epoch, shuffled anew each time, every subject comes once, with one of its scans, which take turns: who
        came for five visits counts as much as who came for one, and in five epochs each visit is seen.

        Raises:
            InputError: the record is not the one that was there when the stream was opened.
        """
        epoch, position = divmod(int(number), len(self.visits))
        order = np.random.default_rng([seed, ord(self.domain), epoch]).permutation(len(self.visits))
        scans = self.visits[order[position]]
        chosen = scans[epoch % len(scans)]
        shard, offset, length = self.entries[chosen]
        return records.read_unchanged(shard, offset, length, self.checksums[chosen])


def open_stream(folder: str | Path, split: str, domain: str) -> Stream:
    """Return the records of a domain in `folder`/`split`, which may also be "pairs"; see `records.entries`."""
    entries = records.entries(folder, split, domain)
    visits: dict[str, list[int]] = {}
    for number, subject in enumerate(records.subjects(entries)):
        visits.setdefault(subject, []).append(number)
    return Stream(tuple(entries), tuple(records.checksums(entries)), domain, tuple(map(tuple, visits.values())))


# what batches have and whose they are: each is decided by another room
def batches(
    streams: dict[str, Stream],
    patch_shape: Sequence[int],
    batch_size: int,
    seed: int,
    augment: bool,
    paired: bool = False,
    detail: bool = False,
    transplants: int = 0,
    fluid_blobs: int = 0,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    start: int = 0,
    worker: int = 0,
    workers: int = 1,
) -> tf.data.Dataset:
    """Return an endless data set of batches, beginning with step `start`.

    Args:
        streams: of domain "a" and "b"; their orders are independent of each other.
        patch_shape: (depth, height, width); a smaller volume is padded with -1 (air).
        batch_size: patches of each domain in a batch.
        seed: determines order, patches and augmentation.
        augment: mirror left-right at random and let patches reach a little beyond the border.
        paired: the streams hold pairs, and a batch has their partners and weights as well.
        detail: and how much fine detail the partners have.
        transplants, fluid_blobs: how many of each are planted into every pair, see `planting`.
        spacing_mm: of the records, for the size of blobs.
        worker: number of the machine, which gets its share of each batch, in order, and reads no other records.
        workers: number of machines; `batch_size` is a multiple of it.

    Returns:
        Dictionaries of `real_a`, `real_b`, float32 (batch_size / workers, *patch_shape, 1); if paired also `partner_a`
        (what real_a should become in domain b), `partner_b`, `weight_a` and `weight_b`, of the same shape; a weight is
        the pair's confidence at each voxel, 0 where the partner is unknown; if `detail` also `detail_a` and `detail_b`,
        (..., bands) instead of (..., 1), the partners' `detail.energies`, -1 where these are unknown. With blobs, also
        `blobs_a` and `blobs_b`, the weights in them, where `weight_a` and `weight_b` are 0, and `healthy_a` and
        `healthy_b`, the real volumes without any.
    """
    # it has as many arguments as there are things that a stream depends on; each has a name of its own in `Config`
    share, parts = batch_size // workers, []
    numbers = tf.data.Dataset.range(start * share, np.iinfo(np.int64).max)
    if workers > 1:
        # by number, not by shard: so any number of workers sees the batches that one would see
        numbers = numbers.map(lambda n: n // share * batch_size + worker * share + n % share)
    depth, height, width = (int(n) for n in patch_shape)
    for _, stream in sorted(streams.items()):
        dataset = numbers.map(
            _reader(stream, (depth, height, width), seed, augment, paired, detail),
            num_parallel_calls=2,
            deterministic=True,
        )
        parts.append(dataset.batch(share, drop_remainder=True))
    both = tf.data.Dataset.zip(*parts).map(lambda a, b: {**a, **b})
    if transplants or fluid_blobs:
        plant = functools.partial(_planted, seed=seed, counts=(transplants, fluid_blobs), spacing_mm=spacing_mm)
        plant = tf.autograph.experimental.do_not_convert(plant)
        both = tf.data.Dataset.zip(both, numbers.batch(share, drop_remainder=True)).map(plant)
    return both.prefetch(2)


def _planted(batch: dict, numbers: tf.Tensor, seed: int, counts: tuple[int, int], spacing_mm) -> dict:
    """A batch of pairs with blobs."""
    found: dict = {}
    for domain, other in (("a", "b"), ("b", "a")):
        pairs = []
        for i, real_of_other in enumerate(tf.unstack(batch[f"real_{other}"])):
            key = tf.stack([tf.constant(seed * 2 + ord(domain), tf.int64), numbers[i]])
            drawn = planting.draw(tf.random.experimental.stateless_fold_in(key, 2), sum(counts))
            pair = {name: batch[f"{name}_{domain}"][i] for name in ("real", "partner", "weight")}
            pairs.append(planting.plant(pair, real_of_other, drawn, counts[0], spacing_mm))
        found |= {f"{name}_{domain}": tf.stack([pair[name] for pair in pairs]) for name in pairs[0]}
        found[f"healthy_{domain}"] = batch[f"real_{domain}"]
    return batch | found


def _reader(stream: Stream, shape: tuple[int, int, int], seed: int, augment: bool, paired: bool, detail: bool):
    domain = stream.domain

    @tf.autograph.experimental.do_not_convert  # as `tf.function(autograph=False)`, which `map` has no option for
    def element(number):
        serialized = tf.numpy_function(lambda n: stream.read(n, seed), [number], tf.string, stateful=False)
        if paired:
            voxels, partner, weight, *energies = records.parse_pair(serialized, detail)
            volumes = tf.concat([voxels, partner, *energies], -1)
        else:
            volumes = records.parse_voxels(serialized)
        key = tf.stack([tf.constant(seed * 2 + ord(domain), tf.int64), number])
        volumes = _patch(volumes, shape, key, SHIFT if augment else 0)
        if augment:
            mirrored = tf.random.stateless_uniform([], tf.random.experimental.stateless_fold_in(key, 1)) < 0.5
            volumes = tf.where(mirrored, tf.reverse(volumes, [0]), volumes)
        result = {f"real_{domain}": volumes[..., :1]}
        if paired:
            partner = volumes[..., 1:2]
            known = tf.math.is_finite(partner)
            result[f"partner_{domain}"] = tf.where(known, partner, -1.0)
            result[f"weight_{domain}"] = weight * tf.cast(known, tf.float32)
        if detail:
            result[f"detail_{domain}"] = volumes[..., 2:]
        return result

    return element


def _patch(volumes, shape, key, margin: int):
    """A random patch of `shape`; a volume that is smaller is padded with air, its borders are mirrored by `margin`."""
    missing = tf.maximum(0, tf.constant(shape) - tf.shape(volumes)[:3])
    padding = tf.stack([missing // 2, missing - missing // 2], 1)
    volumes = tf.pad(volumes, tf.concat([padding, [[0, 0]]], 0), constant_values=-1.0)
    if margin:
        volumes = tf.pad(volumes, [[margin, margin]] * 3 + [[0, 0]], mode="SYMMETRIC")
    room = tf.shape(volumes)[:3] - tf.constant(shape) + 1
    chance = tf.random.stateless_uniform([3], key)
    start = tf.minimum(tf.cast(chance * tf.cast(room, tf.float32), tf.int32), room - 1)
    patch = tf.slice(volumes, tf.concat([start, [0]], 0), tf.concat([shape, [-1]], 0))
    return tf.ensure_shape(patch, (*shape, None))
