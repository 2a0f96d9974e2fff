"""The training step against the machine's float32 matrix-product peak, and the input pipeline against the step.

    python -m benchmarks.step [--preset demo] [--set KEY=VALUE ...]
    python -m benchmarks.step --preset cyclescan --set patch_shape=32,64,64 --plain

Prints, from one run: the peak (a 4096 x 4096 product), operations of the convolutions of one step, the floor
(operations over peak), the time and the fraction of the peak, for the warm-up step and for the whole step; then the
time the input pipeline needs for a batch when nothing else runs, as a fraction of the step. The bytes are those of
weights, gradients and moments that the optimizer has to move. With --plain the same step as `benchmarks.plain` writes
it is timed beside ours, each in a process of its own, ours in the middle: with oneDNN and with TensorFlow's flags as
they are on a machine where it is off.
Gradients to inputs and to weights cost as much as a forward pass each; the gradient of the generators' adversarial term
to the discriminators' weights is not needed and not counted.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cyclescan.config.presets import preset
from cyclescan.preprocessing.detail import WINDOWS, energies, thinned

SECONDS = 8.0


def best_of(action) -> float:
    """The shortest of as many runs as fit in some seconds, after two to warm up."""
    action()
    action()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < SECONDS or len(times) < 3:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def peak() -> float:
    """Measured float32 matrix-product operations a second."""
    import tensorflow as tf

    n = 4096
    matrix = tf.random.normal((n, n))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    return 2 * n**3 / best_of(lambda: product().numpy())


def generator_operations(config, generator: float, discriminator: float) -> float:
    """Of all generator terms with their gradients, from those of one pass through a network of each kind."""
    from cyclescan.training import terms
    from cyclescan.training.terms import Pass

    needed = collections.Counter(each for term in terms.used(config) for each in term.passes)
    passes = 2 * (1 + needed[Pass.BESIDE] + needed[Pass.AGAIN])
    teaching = 2 * needed[Pass.TEACHER]  # translations that go back, without gradients
    judging = 2 * 2 * needed[Pass.JUDGED]
    return (3 * passes + teaching) * generator + judging * discriminator


def operations(config, model) -> dict[str, float]:
    """Floating-point operations of the convolutions of one step of each kind."""
    from benchmarks.cost import convolution_macs

    shape = (config.batch_size, *config.patch_shape, 1)
    generator = 2.0 * convolution_macs(model.generators["a2b"], shape)
    discriminator = 2.0 * convolution_macs(model.discriminators["a"], shape)
    learning = 3 * 4 * discriminator if config.lambda_adversarial else 0.0
    whole = generator_operations(config, generator, discriminator) + learning
    return {"warm-up": 3 * 2 * generator if config.lambda_pair else 0.0, "whole": whole}


def volumes(config) -> dict:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    keys = ["real_a", "real_b", "partner_a", "partner_b"]
    shape = (config.batch_size, *config.patch_shape, 1)
    batch = {key: tf.constant(np.tanh(rng.normal(size=shape)), tf.float32) for key in keys}
    usual = tf.constant(rng.uniform(0.01, 0.05, (*shape[:-1], len(WINDOWS))), tf.float32)
    return batch | {f"weight_{d}": tf.ones(config.batch_size) for d in "ab"} | {f"detail_{d}": usual for d in "ab"}


def plain(arguments, onednn: bool) -> float:
    """Seconds of the plain transcription's step."""
    command = [sys.executable, "-m", "benchmarks.plain", "--preset", arguments.preset]
    command += ["--set", *arguments.settings] if arguments.settings else []
    command += ["--steps", "3" if onednn else "1"]
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": str(int(onednn))}
    return float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)


def pipeline(config) -> float:
    """Seconds a batch takes to read, crop and augment."""
    from cyclescan import dataset, records
    from cyclescan.training import terms

    wanted = terms.batch_contents(config)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for domain in ("a", "b"):
            items = []
            for i in range(8):
                voxels = np.tanh(rng.normal(size=config.patch_shape)).astype(np.float32)
                detail = thinned(energies(voxels)) ** 0.5
                pair = {"partner": voxels, "partner_detail": detail} if wanted["paired"] else {}
                items.append(records.Record(voxels, np.eye(4), domain, domain, f"s{i}", [], **pair))
            (Path(folder) / "train").mkdir(exist_ok=True)
            records.write_shard(Path(folder) / "train" / f"{domain}-00000-of-00001.tfrecord", items)
        streams = {domain: dataset.open_stream(folder, "train", domain) for domain in ("a", "b")}
        batches = iter(dataset.batches(streams, config.patch_shape, config.batch_size, 0, config.augment, **wanted))
        for _ in range(5):
            next(batches)
        began = time.perf_counter()
        for _ in range(60):
            next(batches)
        return (time.perf_counter() - began) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", nargs="+", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--plain", action="store_true", help="time a plain transcription of the step as well")
    arguments = parser.parse_args()
    config = preset(arguments.preset).with_settings(arguments.settings)

    from cyclescan.training.cyclegan import CycleGAN

    others = {"with oneDNN": plain(arguments, True)} if arguments.plain else {}
    model, batch, top = CycleGAN(config, 0), volumes(config), peak()
    counted = operations(config, model)
    print(f"preset {arguments.preset}, patch {config.patch_shape}, batch {config.batch_size}, {config.precision}")
    print(f"peak            {top / 1e9:8.0f} GFLOP/s (matrix product)")
    steps = {"warm-up": model.warmup_step, "whole": model.train_step}
    seconds = {}
    for name, step in steps.items():
        if counted[name]:
            seconds[name] = best_of(lambda step=step: [float(v) for v in step(batch)[0].values()])
            done, floor = counted[name], counted[name] / top
            print(
                f"{name:8} step   {seconds[name]:8.3f} s, {done / 1e9:.1f} GFLOP, floor {floor:.3f} s, "
                f"{100 * floor / seconds[name]:.0f} % of the peak"
            )
    weights = sum(v.shape.num_elements() for variables in model.trained.values() for v in variables)
    print(f"optimizer       {28 * weights / 1e9:8.2f} GB moved a step")
    if arguments.plain:
        others["without oneDNN"] = plain(arguments, False)
    for flags, took in others.items():
        print(f"plain step      {took:8.3f} s {flags}: {took / seconds['whole']:.2f} times as long")
    spent = pipeline(config)
    print(f"input pipeline  {spent:8.4f} s a batch, {100 * spent / min(seconds.values()):.1f} % of the shortest step")


if __name__ == "__main__":
    main()
