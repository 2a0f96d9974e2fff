"""A tiny run that was never trained, but whose networks do something that a mistake would change."""

import numpy as np
import tensorflow as tf

from cyclescan.artifacts import runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.config import Config
from cyclescan.models import build_generator
from cyclescan.training import checkpoints

CONFIG = Config(
    patch_shape=(8, 16, 16),
    generator_levels=2,
    generator_filters=4,
    generator_full_resolution_filters=4,
    discriminator_levels=1,
    discriminator_filters=4,
    lambda_pair=10.0,
    texture="a",
    steps=10,
)
SPACING_MM = (8.0, 8.0, 8.0)
MR = "percentile:0.5,99.5"
HU = "window_hu:-1000,1500"


def domain(name, scaling, low, high):
    intensity = {"step": "intensity", "scaling": scaling, "low": low, "high": high}
    return {"name": name, "scaling": scaling, "intensity": intensity}


def lively(generator, seed):
    """Weights large enough for results that reach both ends of [-1, 1] and differ from voxel to voxel."""
    rng = np.random.default_rng(seed)
    for variable in generator.variables:
        fan_in = np.prod(variable.shape[:-1]) or 1
        spread = 1.0 / np.sqrt(fan_in) if len(variable.shape) == 5 else 0.3
        variable.assign(variable.numpy() * (len(variable.shape) == 1) + rng.normal(0, spread, variable.shape))
    return generator


def write_run(folder, config=CONFIG, spacing_mm=SPACING_MM, steps=(10,), a=None, b=None, scores=None):
    """A run of MR (a, "ciss") and CT (b, "ct") with one checkpoint for each of `steps`."""
    data = {
        "domains": {"a": a or domain("ciss", MR, 5.0, 905.0), "b": b or domain("ct", HU, -1000.0, 1500.0)},
        "spacing_mm": list(spacing_mm),
        "axes": ["R", "S", "A"],
        "shape": None,
    }
    folder.mkdir(parents=True)
    run = runs.Run(folder, config, "demo", data, str(folder / "records"), 0)
    run.write()
    for step in steps:
        networks = {f"translator_{d}": lively(build_generator(config, d), step + i) for i, d in enumerate(DIRECTIONS)}
        facts = {"score": scores[step]} if scores else {}
        checkpoints.save(run, step, tf.train.Checkpoint(**networks), facts)
    return run


def head(shape, seed=0):
    """Raw intensities of an MR-like scan: smooth structure, a few bright outliers, and air."""
    rng = np.random.default_rng(seed)
    from scipy import ndimage

    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    array = 400 + 300 * field / field.std() + rng.normal(0, 10, shape)
    array[rng.random(shape) < 0.002] = 5000
    return np.clip(array, 0, None).astype(np.float32)
