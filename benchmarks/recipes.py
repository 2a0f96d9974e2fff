"""Changes of the default recipe tried fast: the same networks, terms and phases in JAX, for a GPU without TensorFlow.

    python -m benchmarks.recipes RECORDS [--try "KEY=VALUE ..." ...] [--seeds 0]

RECORDS is the data set of `python -m benchmarks.quality WORK`, WORK/records, with its pairs. Each `--try` is a change
of the preset `demo`; without one, the preset itself. A run takes the steps that 20 minutes of that benchmark have on
two cores, in the same phases: 45 s on an H100 at 32x64x64, and once two minutes to compile, since weights of terms are
arguments of the compiled step. `pip install "jax[cuda12]" keras numpy scipy scikit-image
google-crc32c protobuf` is enough.

Prints for each run and direction PSNR, SSIM, r (correlation of what a Gaussian of one voxel takes away from translation
and truth) and hf (its SD as a share of the truth's), on the test subjects. What is chosen here is to be confirmed by
`benchmarks.quality`; the preset agreed with it to 0.02 dB and 0.002 (2026-11-26). Order of volumes, patches and noise
are of the same kind and not the same numbers.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
import types
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks import jax_networks
from cyclescan import records
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.config import Config
from cyclescan.config.presets import preset
from cyclescan.evaluation import metrics
from cyclescan.models import build_discriminator, build_generator
from cyclescan.preprocessing.detail import on_all_voxels
from cyclescan.training.terms import Phase

# steps of a run in each phase, and where each ends as a part of the run, which is by time
STEPS = (
    (Phase(warmup=True, late=False, discriminators=False), 1400),
    (Phase(warmup=True, late=True, discriminators=False), 800),
    (Phase(warmup=True, late=True, discriminators=True), 125),
    (Phase(warmup=False, late=True, discriminators=True), 100),
)
CHUNK = 25  # steps of one call; divides all of STEPS
SHIFT = 2  # as in `cyclescan.dataset`
# what a change may be of
CHANGEABLE = (
    "lambda_pair",
    "pair_share",
    "lambda_detail",
    "lambda_back",
    "back_sharpening",
    "lambda_adversarial",
    "learning_rate",
)
Tree = dict


class Data:
    """Pairs as arrays on the device, with a border for patches that reach beyond it, and the test volumes."""

    def __init__(self, folder: Path) -> None:
        pairs = {d: list(_read(folder, "pairs", d)) for d in "ab"}
        self.count, self.shape = len(pairs["a"]), pairs["a"][0].voxels.shape
        self.arrays = {}
        for domain, items in pairs.items():
            border = [(0, 0), *[(SHIFT, SHIFT)] * 3, (0, 0)]
            channels = np.stack([_channels(item) for item in items])
            self.arrays[domain] = jnp.asarray(np.pad(channels, border, mode="symmetric"))
        subjects = {d: {r.subject: r.voxels for r in _read(folder, "test", d)} for d in "ab"}
        both = sorted(subjects["a"].keys() & subjects["b"].keys())
        self.test = {d: np.stack([subjects[d][subject] for subject in both]) for d in "ab"}

    def batch(self, arrays: Tree, step, seed) -> Tree:
        """The volumes of one step, as `dataset.batches` makes them."""
        found = {}
        for domain, volumes in arrays.items():
            key = jax.random.fold_in(jax.random.key(ord(domain)), seed)
            order = jax.random.permutation(jax.random.fold_in(key, step // self.count), self.count)
            key = jax.random.fold_in(jax.random.fold_in(key, 2**20), step)
            start = jax.random.randint(key, (3,), 0, 2 * SHIFT + 1)
            patch = jax.lax.dynamic_slice(volumes[order[step % self.count]], (*start, 0), (*self.shape, 4))
            mirrored = jax.random.uniform(jax.random.fold_in(key, 1)) < 0.5
            real, partner, *energies = jnp.split(jnp.where(mirrored, patch[::-1], patch)[None], 4, axis=-1)
            known = jnp.isfinite(partner)
            found |= {f"real_{domain}": real, f"partner_{domain}": jnp.where(known, partner, -1.0)}
            found |= {f"weight_{domain}": known.astype("float32"), f"detail_{domain}": jnp.concatenate(energies, -1)}
        return found


def _read(folder: Path, split: str, domain: str):
    for shard in records.shards(folder / split, domain):
        yield from records.read_shard(shard)


def _channels(pair: records.Record) -> np.ndarray:
    energies = on_all_voxels(np.nan_to_num(pair.partner_detail**2, nan=-1.0), pair.voxels.shape)
    return np.concatenate([np.stack([pair.voxels, pair.partner], -1), energies], -1).astype("float32")


class Recipe:
    """The step of `training.cyclegan` for the terms of the preset `demo`, batches of one, float32."""

    def __init__(self, config: Config, data: Data) -> None:
        self.config, self.data = config, data
        self.models = {name: build_generator(config, name) for name in DIRECTIONS}
        self.models |= {name: build_discriminator(config, name) for name in ("a", "b")}

    def begin(self, seed: int) -> Tree:
        """The state of a run before its first step."""
        generators = {n: build_generator(self.config, n, seed=seed * 10 + i) for i, n in enumerate(DIRECTIONS)}
        discriminators = {n: build_discriminator(self.config, n, seed * 10 + i + 2) for i, n in enumerate("ab")}
        state = {}
        for kind, networks in (("generators", generators), ("discriminators", discriminators)):
            weights = {n: [jnp.array(v.value) for v in m.trainable_variables] for n, m in networks.items()}
            moments = [jax.tree.map(jnp.zeros_like, weights) for _ in range(2)]
            state[kind] = {"weights": weights, "moments": moments, "steps": jnp.zeros(())}
        state["averages"] = jax.tree.map(jnp.copy, state["generators"]["weights"])
        state["pools"] = {n: jnp.zeros((self.config.pool_size, *self.data.shape, 1), "float16") for n in "ab"}
        return state

    def _networks(self, weights: Tree, averages: Tree, key, weight: Tree) -> jax_networks.Networks:
        return jax_networks.Networks(self.models, weights, averages, key, weight["back_sharpening"])

    def _generator_loss(self, generators, averages, discriminators, batch, key, weight, phase: Phase):
        networks = self._networks(generators | discriminators, averages, key, weight)
        settings = types.SimpleNamespace(**(self.config.to_dict() | weight))
        return jax_networks.generator_loss(self.config, phase, batch, networks, settings)

    def _discriminator_loss(self, discriminators, batch, fakes, key, weight, phase: Phase):
        networks = self._networks(discriminators, {}, key, weight)
        return jax_networks.discriminator_loss(self.config, phase, batch, fakes, networks)

    def _adam(self, part: Tree, gradients: Tree, rate) -> Tree:
        beta_1, beta_2, steps = self.config.beta_1, 0.999, part["steps"] + 1
        first = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, part["moments"][0], gradients)
        second = jax.tree.map(lambda v, g: beta_2 * v + (1 - beta_2) * g * g, part["moments"][1], gradients)
        rate = rate * jnp.sqrt(1 - beta_2**steps) / (1 - beta_1**steps)
        weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), part["weights"], first, second)
        return {"weights": weights, "moments": [first, second], "steps": steps}

    def _pooled(self, pool, fake, number, key):
        """A generated volume or an older one in its place, and the pool afterwards, as `training.image_pool`."""
        size = self.config.pool_size
        chance, slot = jax.random.uniform(key), jax.random.randint(jax.random.fold_in(key, 1), (), 0, size)
        full = number >= size
        slot = jnp.where(full, slot, number).astype(int)
        exchanged = full & (chance < 0.5)
        old = pool[slot].astype("float32")[None]
        kept = jnp.where(exchanged | ~full, fake, old)[0].astype("float16")
        return jnp.where(exchanged, old, fake), pool.at[slot].set(kept)

    def _step(self, state: Tree, given, arrays: Tree, seed, weight: Tree, phase: Phase):
        step, rate = given
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), step)
        batch = self.data.batch(arrays, step, seed)
        learning, judging = state["generators"], state["discriminators"]
        loss = functools.partial(self._generator_loss, phase=phase)
        gradients, fakes = jax.grad(loss, has_aux=True)(
            learning["weights"], state["averages"], judging["weights"], batch, key, weight
        )
        new = {"generators": self._adam(learning, gradients, rate)}
        move = 1 - jnp.minimum(self.config.average_decay, (1.0 + step) / (10.0 + step))
        new["averages"] = jax.tree.map(lambda a, w: a + move * (w - a), state["averages"], new["generators"]["weights"])
        if phase.discriminators:
            new["pools"], pooled = {}, {}
            for name in "ab":
                drawn = jax.random.fold_in(key, 2 + ord(name))
                pooled[name], new["pools"][name] = self._pooled(
                    state["pools"][name], fakes[name], judging["steps"], drawn
                )
            gradients = jax.grad(self._discriminator_loss)(judging["weights"], batch, pooled, key, weight, phase)
            new["discriminators"] = self._adam(judging, gradients, rate)
        return state | new, None

    @functools.partial(jax.jit, static_argnums=(0, 7), donate_argnums=1)
    def _chunk(self, state: Tree, arrays: Tree, first, rates, seed, weight: Tree, phase: Phase) -> Tree:
        steps = first + jnp.arange(CHUNK)
        return jax.lax.scan(lambda s, g: self._step(s, g, arrays, seed, weight, phase), state, (steps, rates))[0]

    def train(self, change: Config, seed: int) -> Tree:
        """The averages of the generators' weights at the end of a run."""
        weight = {key: jnp.float32(getattr(change, key)) for key in CHANGEABLE if key != "learning_rate"}
        state, step, begins = self.begin(seed), 0, 0.0
        ends = (change.back_from, change.warmup - change.discriminator_warmup, change.warmup, 1.0)
        for (phase, steps), end in zip(STEPS, ends, strict=True):
            progress = begins + (end - begins) * np.arange(steps) / steps
            falling = np.minimum(1.0, (1 - progress) / (1 - change.decay_from))
            rates = (change.learning_rate * falling).astype("float32").reshape(-1, CHUNK)
            for some in rates:
                state = self._chunk(state, self.data.arrays, step, some, seed, weight, phase)
                step += CHUNK
            begins = end
        return jax.block_until_ready(state["averages"])

    def scores(self, averages: Tree) -> str:
        """The line of a run."""
        cells = []
        for direction in DIRECTIONS:
            translate = jax.jit(functools.partial(jax_networks.call, self.models[direction]))
            truths = self.data.test[direction.target]
            fakes = [
                np.asarray(translate(averages[direction], v[None, ..., None]))[0, ..., 0]
                for v in self.data.test[direction.source]
            ]
            detail = [np.stack([v - ndimage.gaussian_filter(v, 1.0) for v in group]) for group in (fakes, truths)]
            pairs = list(zip(fakes, truths, strict=True))
            psnr, ssim = (np.mean([f(*pair, 2.0) for pair in pairs]) for f in (metrics.psnr, metrics.ssim))
            r, hf = np.corrcoef(*(d.ravel() for d in detail))[0, 1], detail[0].std() / detail[1].std()
            cells.append(f"{psnr:.2f} dB, {ssim:.4f}, r {r:.2f}, hf {hf:.2f}")
        return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--try", nargs="+", default=[""], dest="changes", metavar='"KEY=VALUE ..."')
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    data = Data(arguments.records)
    # the texture that generators add is learned by itself and changes nothing of what is measured here
    base = preset("demo").with_settings(["patch_shape=" + ",".join(map(str, data.shape)), "texture=none"])
    recipe = Recipe(base, data)
    print(f"{jax.local_devices()[0].device_kind}; CISS to DESS | DESS to CISS", flush=True)
    for text in arguments.changes:
        change = base.with_settings(text.split())
        other = [k for k, v in change.to_dict().items() if v != base.to_dict()[k] and k not in CHANGEABLE]
        if other:
            sys.exit(f"{other[0]} cannot be changed here; {', '.join(CHANGEABLE)} can.")
        for seed in arguments.seeds:
            began = time.monotonic()
            averages = recipe.train(change, seed)
            seconds = time.monotonic() - began
            print(f"{text or 'demo'}, seed {seed}, {seconds:.0f} s: {recipe.scores(averages)}", flush=True)


if __name__ == "__main__":
    main()
