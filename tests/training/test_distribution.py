"""Several devices and several machines do what one device does with the same batch."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from cyclescan.artifacts import runs
from cyclescan.common.errors import InputError
from cyclescan.config import Config
from cyclescan.training import distribution, trainer
from tests.conftest import SETTINGS

# one kind of step, and of its terms those that need no pairs
WITHOUT_WARMUP = [*SETTINGS, "lambda_pair=0", "lambda_detail=0", "texture=none", "warmup=0"]
WITHOUT_WARMUP += ["lambda_back=0", "lambda_cycle=1"]


def two_devices(folder, runs, *settings):
    """The arrays of tests/training/two_devices.py by name, and what its steps told."""
    out = folder / "out.npz"
    command = [sys.executable, "-m", "tests.training.two_devices", str(out), ",".join(runs), *SETTINGS, *settings]
    done = subprocess.run(
        command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    arrays = dict(np.load(out))
    return arrays, json.loads(str(arrays.pop("told")))


def assert_alike(arrays, told, one, other, learning_rate=2e-4):
    """Equal but for the order in which numbers are summed."""
    for mine, theirs in zip(told[one], told[other], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert value == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    # Adam makes its first steps +-learning_rate however small a gradient, so some weights are sums of such choices
    assert np.abs(arrays[f"{one}/weights"] - arrays[f"{other}/weights"]).mean() < 0.01 * learning_rate
    for key in ("moments", "pools"):
        mine, theirs = arrays[f"{one}/{key}"], arrays[f"{other}/{key}"]
        assert np.abs(theirs).max() > 0
        assert np.linalg.norm(mine - theirs) < 1e-2 * np.linalg.norm(theirs), key
    np.testing.assert_array_equal(arrays[f"{one}/updates"], arrays[f"{other}/updates"])


def test_two_devices_do_what_one_does(tmp_path):
    settings = ["batch_size=4", "generator_levels=1", "lambda_pair=1", "average_decay=0.9", "discriminator_dropout=0"]
    arrays, told = two_devices(tmp_path, ["two", "one", "overflow"], *settings)
    assert told["replicas"] == 2
    assert told["two equal everywhere"]
    assert_alike(arrays, told, "two", "one")
    # infinite on the second device alone: neither changes anything but the loss scale
    before, last = told["overflow"][-2:]
    assert np.isfinite(before["gradient_norm_generators"]) and not np.isfinite(last["gradient_norm_generators"])
    assert np.isfinite(last["pair_a2b"]) and np.isfinite(last["pair_b2a"])
    assert told["overflow equal everywhere"]
    for key in ("weights", "moments", "updates"):
        np.testing.assert_array_equal(arrays[f"overflow/{key}"], arrays[f"before/{key}"])
    assert told["overflow loss scale"] == last["loss_scale_generators"] / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["accumulate=2", "average_decay=0.9", "rematerialize=true"],
        ["precision=mixed_bfloat16", "lambda_identity=1"],
    ],
    ids=" ".join,
)
def test_two_devices_do_what_one_does_with_the_batch_in_parts(tmp_path, settings):
    """Dropout masks and exchanges with the pool are those of the part of the batch, whichever device computes it."""
    arrays, told = two_devices(tmp_path, ["two", "parts"], "batch_size=4", "lambda_pair=1", *settings)
    assert told["two equal everywhere"]
    assert_alike(arrays, told, "two", "parts")


@pytest.mark.slow
def test_two_devices_normalise_spectrally_as_one_does(tmp_path):
    """With the batch at once: each part of it would make a further step of the power iteration."""
    settings = ["lambda_r1=1", "batch_size=4", "discriminator_normalization=spectral", "discriminator_dropout=0"]
    arrays, told = two_devices(tmp_path, ["two", "one"], *settings)
    assert told["two equal everywhere"]
    assert_alike(arrays, told, "two", "one")


class Workers:
    """Two processes that train one run as TF_CONFIG tells them; the first is the chief."""

    def __init__(self, records, run, *settings, steps, every):
        self.run = run
        self._command = [sys.executable, "-m", "cyclescan.train", "--data", records, "--run", run, "--preset", "demo"]
        self._command += [
            "--set",
            *WITHOUT_WARMUP,
            *settings,
            "--steps",
            steps,
            "--checkpoint-every",
            every,
            "--resume",
        ]
        self._processes = []

    def start(self):
        """Start both, with the command line that they always have."""
        with socket.socket() as one, socket.socket() as other:
            addresses = []
            for free in (one, other):
                free.bind(("localhost", 0))
                addresses.append(f"localhost:{free.getsockname()[1]}")
        self._processes = []
        for index in range(2):
            cluster = {"chief": addresses[:1], "worker": addresses[1:]}
            task = {"type": ("chief", "worker")[index], "index": 0}
            environment = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task}), "CUDA_VISIBLE_DEVICES": ""}
            self._processes.append(
                subprocess.Popen(
                    list(map(str, self._command)), env=os.environ | environment, stderr=subprocess.PIPE, text=True
                )
            )

    def signal(self, worker, number, step):
        """Send a signal to one as soon as the checkpoint of a step is there."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not (self.run / "checkpoints" / f"step-{step:08d}").exists():
            time.sleep(0.02)
        self._processes[worker].send_signal(number)

    def end(self):
        """Exit code and last line of each, when both have ended."""
        said = [process.communicate(timeout=240)[1].strip().splitlines()[-1] for process in self._processes]
        return [(process.returncode, line) for process, line in zip(self._processes, said, strict=True)]


def last_state(run):
    """Every variable of the last checkpoint."""
    path = runs.find(runs.read_run(run)) / "state"
    reader = tf.train.load_checkpoint(str(path))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in key}


def test_two_workers_do_what_one_does(tiny_records, tmp_path):
    settings = ["batch_size=2", "generator_levels=1", "discriminator_dropout=0"]
    workers = Workers(tiny_records, tmp_path / "two", *settings, steps=6, every=3)
    workers.start()
    assert [code for code, _ in workers.end()] == [0, 0]
    begun = runs.read_run(tmp_path / "two").config
    one = trainer.train(tiny_records, tmp_path / "one", begun, checkpoint_every=3)
    mine, theirs = last_state(tmp_path / "two"), last_state(one.path)
    assert mine.keys() == theirs.keys() and len(mine) > 100
    for key, value in theirs.items():
        assert np.abs(mine[key].astype("f8") - value).mean() < 0.05 * begun.learning_rate, key
    assert {p.name for p in (tmp_path / "two").iterdir()} == {p.name for p in one.path.iterdir()}
    steps = [row["step"] for row in csv.DictReader(open(tmp_path / "two" / "history.csv", encoding="utf-8"))]
    assert steps == ["6"]


@pytest.mark.slow
def test_workers_that_are_killed_or_stopped_and_started_again_continue(tiny_records, tmp_path):
    """Any of them at any time: the state at the end is that of an undisturbed run, bit for bit."""
    undisturbed, disturbed = (
        Workers(tiny_records, tmp_path / name, "batch_size=2", steps=60, every=10) for name in ("calm", "rough")
    )
    undisturbed.start()
    assert [code for code, _ in undisturbed.end()] == [0, 0]
    for worker, number, step, code in (
        (1, signal.SIGKILL, 10, -signal.SIGKILL),
        (0, signal.SIGKILL, 20, -signal.SIGKILL),
        (1, signal.SIGTERM, 30, 0),
    ):
        disturbed.start()
        disturbed.signal(worker, number, step)
        began = time.monotonic()
        ends = disturbed.end()
        assert time.monotonic() - began < 60  # seconds; it does not wait for ever
        assert ends[worker][0] == code
        assert ends[1 - worker][0] == 75
        assert "with --resume." in ends[1 - worker][1]
    disturbed.start()
    assert [code for code, _ in disturbed.end()] == [0, 0]
    mine, theirs = last_state(tmp_path / "rough"), last_state(tmp_path / "calm")
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(mine[key], value, err_msg=key)
    steps = [row["step"] for row in csv.DictReader(open(tmp_path / "rough" / "history.csv", encoding="utf-8"))]
    assert steps == ["10", "20", "30", "40", "50", "60"]


@pytest.mark.slow
def test_a_worker_that_was_given_something_else_says_so(tiny_records, tmp_path):
    workers = Workers(tiny_records, tmp_path / "run", "batch_size=3", steps=6, every=3)
    workers.start()
    ends = workers.end()
    assert [code for code, _ in ends] == [2, 2]
    assert all("must be a multiple of 2 (2 devices, accumulate=1)" in line for _, line in ends)


def test_a_batch_that_cannot_be_divided_is_refused():
    devices = distribution.Distribution()
    devices.replicas = 4
    devices.check(Config(batch_size=8, accumulate=2))
    with pytest.raises(InputError, match=r"batch_size is 6, .*a multiple of 4 \(4 devices, accumulate=1\)"):
        devices.check(Config(batch_size=6))


def test_as_many_devices_as_can_divide_the_batch():
    assert distribution.share_out(Config(batch_size=1), 2) == 1
    assert distribution.share_out(Config(batch_size=4), 2) == 2
    assert distribution.share_out(Config(batch_size=6), 4) == 3
    assert distribution.share_out(Config(batch_size=8, accumulate=4), 4) == 2


CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", ([], 0)),
        (json.dumps({"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}), (["a:1"], 0)),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}), (["a:1", "b:1", "c:1"], 0)),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 1}}), (["a:1", "b:1", "c:1"], 2)),
        (
            json.dumps({"cluster": {"worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 0}}),
            (["b:1", "c:1"], 0),
        ),
    ],
)
def test_tf_config_names_workers_and_this_one(config, expected):
    assert distribution._cluster(config) == expected


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{", "TF_CONFIG is not a description of a cluster"),
        (json.dumps({"cluster": CLUSTER}), "TF_CONFIG is not a description of a cluster"),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "evaluator", "index": 0}}), "this the task evaluator 0"),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}), "this the task worker 2"),
    ],
)
def test_tf_config_that_is_not_understood(config, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        distribution._cluster(config)


def test_one_process_agrees_with_itself():
    devices = distribution.Distribution()
    assert devices.agree(False, False, 3.0) == distribution.Turn(False, False, 3.0)
    assert devices.agree(True, False, 3.0).over and not devices.agree(True, False, 3.0).stopped
    assert devices.agree(False, True, 3.0) == distribution.Turn(True, True, 3.0)
    assert devices.from_chief(lambda: {"a": 1}) == {"a": 1}
