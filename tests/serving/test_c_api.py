"""The exported model through `TF_LoadSessionFromSavedModel`, against `translate`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cyclescan.artifacts import checkpoints
from cyclescan.inference.translator import Translator
from cyclescan.scans.volume import Volume
from tests.inference import tiny

CANONICAL = np.array([[8.0, 0, 0, -9], [0, 0, 8, 4], [0, 8, 0, 7], [0, 0, 0, 1]])
SIZES = [
    (3, 5, 7),
    (9, 17, 17),
    (17, 33, 29),
    (1, 20, 31),
    (30, 16, 5),
    (2, 2, 70),
    (13, 19, 11),
    (8, 16, 16),
    (33, 40, 22),
    (5, 64, 3),
]


def through_c(folder, signature, given, arrays, tmp_path):
    library = Path(tf.__file__).parent / "libtensorflow_cc.so.2"
    np.savez(tmp_path / "arrays.npz", **arrays)
    command = [
        sys.executable,
        "-I",
        Path(__file__).parent / "c_api.py",
        library,
        folder,
        signature,
        given,
        "translated",
    ]
    result = subprocess.run(
        [*map(str, command), "arrays.npz", "results.npz"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return result, tmp_path / "results.npz"


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_whole_volumes(run, exported, tmp_path, direction):
    below = 500 if direction == "b2a" else 0
    # measured air: a constant beyond the field of view is no part of a histogram here, and the graph cannot tell
    noise = np.random.default_rng(0)
    volumes = {str(i): tiny.head(n, i) + noise.uniform(0, 1, n).astype(np.float32) - below for i, n in enumerate(SIZES)}
    result, path = through_c(exported / direction / "1", "serving_default", "volume", volumes, tmp_path)
    assert result.returncode == 0, result.stderr
    translator = Translator.load(run.path, direction)
    extent = translator.target_intensity["high"] - translator.target_intensity["low"]
    with np.load(path) as made:
        for name, volume in volumes.items():
            expected = translator.translate_volume(Volume(volume, CANONICAL)).array
            assert np.ptp(expected) > 0.3 * extent  # a flat result would show nothing
            assert np.abs(made[name] - expected).max() < 1e-4 * extent


def test_patches(run, exported, tmp_path):
    patches = np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 4, 1)).astype(np.float32)
    result, path = through_c(exported / "a2b" / "1", "patches", "patches", {"x": patches}, tmp_path)
    assert result.returncode == 0, result.stderr
    with np.load(path) as made:
        np.testing.assert_allclose(made["x"], checkpoints.load_generator(run, "a2b")(patches), atol=1e-5)


def test_a_bad_volume_comes_back_with_a_sentence(exported, tmp_path):
    result, _ = through_c(exported / "a2b" / "1", "serving_default", "volume", {"x": np.ones((3, 3, 3))}, tmp_path)
    assert result.returncode == 1
    assert "The volume is constant; a scan must vary." in result.stderr
