"""The doors of the product through which the golden fixtures look: the one file to change when a module moves."""

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np


def data_prep(*words) -> None:
    from data_prep.__main__ import main

    _succeed(main, words)


def train(*words) -> None:
    from cyclescan.train import main

    _succeed(main, words)


def export(*words) -> None:
    from cyclescan.export import main

    _succeed(main, words)


def translate(*words) -> None:
    from cyclescan.translate import main

    _succeed(main, words)


def version() -> str:
    import cyclescan

    return cyclescan.__version__


def presets() -> dict[str, dict]:
    """The settings of each preset, as plain values."""
    from cyclescan.config.presets import PRESETS, preset

    return {name: preset(name).to_dict() for name in PRESETS}


def records_of(shard: Path) -> list:
    from cyclescan.records import read_shard

    return list(read_shard(shard))


def generator(run: Path, direction: str):
    """The Keras model with which a run translates."""
    from cyclescan.artifacts.checkpoints import load_generator
    from cyclescan.artifacts.runs import read_run

    return load_generator(read_run(run), direction)


def state(run: Path, step: int) -> dict[str, np.ndarray]:
    """Every variable of a checkpoint by its name, as TensorFlow's own reader finds it."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"step-{step:08d}" / "state"))
    names = sorted(reader.get_variable_to_shape_map())
    return {name: np.asarray(reader.get_tensor(name)) for name in names if not name.startswith("_CHECKPOINTABLE")}


def voxels(path: Path) -> np.ndarray:
    """The numbers of a NIfTI file as they are shown, (right, anterior, superior) in the order of the file."""
    return np.asarray(nibabel.load(path).dataobj)


def digest(*values) -> str:
    """SHA-256 of arrays (with type and shape), bytes and plain values, in order."""
    seen = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            seen.update(f"{value.dtype.str}{value.shape}".encode())
            seen.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, bytes):
            seen.update(value)
        else:
            seen.update(json.dumps(value, sort_keys=True).encode())
    return seen.hexdigest()


def _succeed(main, words) -> None:
    words = [str(word) for word in words]
    code = main(words)
    if code != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {code}")
