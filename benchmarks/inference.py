"""A whole volume by our windows against plain sliding windows of MONAI, and what each needs of memory.

    pip install torch monai
    python -m benchmarks.inference [--shape 100 512 512] [--window 32 128 128] [--preset knee] [--repeat 1]

Ours is `Translator.translate_array` with the networks of a preset and random weights. Theirs is MONAI's
`SlidingWindowInferer` with 50 % overlap, Gaussian blending and a torch network of the same make (convolution, instance
norm, leaky ReLU, up-sampling, skips), as wide as makes its multiply-accumulates a voxel the closest to ours from below.
Each runs in a process of its own on the same volume with both cores; printed are seconds, the peak resident memory, and
for ours the floor: operations of one piece over the measured matrix-product peak. torch and MONAI are for this
comparison only and are no dependency of cyclescan.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import subprocess
import sys
import time

import numpy as np

from cyclescan.config.presets import preset

OVERLAP = 0.5


def volume(shape) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(action, repeat: int) -> tuple[float, float]:
    """The shortest wall-clock time, and the CPU time of that run."""
    runs = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        runs.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(runs)


def ours(arguments) -> dict:
    import tensorflow as tf

    from benchmarks.cost import convolution_macs
    from cyclescan.inference.translator import Translator, network_of
    from cyclescan.models import build_generator

    config = preset(arguments.preset)
    generator = build_generator(config, "b2a")
    domain = {"name": "x", "scaling": "percentile:0,100", "intensity": {}}
    data = {"domains": {"a": domain, "b": domain}, "spacing_mm": [1, 1, 1], "axes": ["R", "S", "A"]}
    translator = Translator(network_of(generator), config, data, "a2b", None, arguments.window)
    translator.translate_array(volume((32, 64, 64)))  # traced, and the libraries are loaded
    array = volume(arguments.shape)
    before = peak_mb()
    wall, cpu = timed(lambda: translator.translate_array(array), arguments.repeat)
    memory = peak_mb()
    macs = convolution_macs(generator, (1, 32, 64, 64, 1)) / (32 * 64 * 64)
    n = 4096
    matrix = tf.random.normal((n, n))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    product()
    peak = 2 * n**3 / timed(lambda: product().numpy(), 5)[0]
    floor = 2 * macs * math.prod(arguments.shape) / peak
    return {"seconds": wall, "cpu": cpu, "peak_mb": memory, "before_mb": before, "macs": macs, "floor": floor}


def monais(arguments) -> dict:
    import torch
    from monai.inferers import SlidingWindowInferer

    network, macs = torch_network(preset(arguments.preset), arguments.macs)
    array = torch.from_numpy(volume(arguments.shape))[None, None]
    inferer = SlidingWindowInferer(arguments.window, sw_batch_size=1, overlap=OVERLAP, mode="gaussian")
    with torch.inference_mode():
        inferer(array[..., :64, :128, :128], network)
        wall, cpu = timed(lambda: inferer(array, network), arguments.repeat)
    return {"seconds": wall, "cpu": cpu, "peak_mb": peak_mb(), "macs": macs}


def torch_network(config, most_macs: float):
    """A torch U-Net of the preset's make, narrowed until a voxel costs at most `most_macs`; and what it costs."""
    import torch
    from torch import nn

    levels, kernel = config.generator_levels, config.generator_kernel

    class Unit(nn.Sequential):
        def __init__(self, before, after, stride=1):
            convolution = nn.Conv3d(before, after, kernel, stride, kernel // 2, bias=False)
            super().__init__(convolution, nn.InstanceNorm3d(after, affine=True), nn.LeakyReLU(0.2))

    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            pairs = list(itertools.pairwise(width))
            self.down = nn.ModuleList([Unit(1, width[0]), *(Unit(a, b, 2) for a, b in pairs)])
            self.up = nn.ModuleList([Unit(a + b, a) for a, b in reversed(pairs)])
            self.head = nn.Conv3d(width[0], 1, kernel, padding=kernel // 2)

        def forward(self, x):
            skips = []
            for layer in self.down:
                x = layer(x)
                skips.append(x)
            skips.pop()
            for layer in self.up:
                x = layer(torch.cat([nn.functional.interpolate(x, scale_factor=2), skips.pop()], 1))
            return self.head(x).tanh()

    def cost(width):
        taps = kernel**3
        pairs = list(itertools.pairwise(width))
        down = taps * width[0] + sum(taps * a * b / 8 ** (i + 1) for i, (a, b) in enumerate(pairs))
        up = sum(taps * (a + b) * a / 8**i for i, (a, b) in enumerate(pairs))
        return down + up + taps * width[0]

    wide = [config.generator_full_resolution_filters]
    wide += [min(config.generator_filters * 2**i, config.generator_max_filters) for i in range(levels)]
    for share in np.arange(1.0, 0.0, -0.01):
        width = [max(1, round(n * share)) for n in wide]
        if cost(width) <= most_macs:
            return Net(width).eval(), cost(width)
    raise ValueError(f"no network costs {most_macs} a voxel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(100, 512, 512))
    parser.add_argument(
        "--window", type=int, nargs=3, default=None, help="default: ours (32, 64, 64), MONAI's 32 128 128"
    )
    parser.add_argument("--preset", default="knee")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", choices=("ours", "monai"))
    parser.add_argument("--macs", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        if arguments.only == "monai":
            arguments.window = arguments.window or (32, 128, 128)
        print(json.dumps((ours if arguments.only == "ours" else monais)(arguments)))
        return
    shape = " x ".join(map(str, arguments.shape))
    print(f"volume {shape}, preset {arguments.preset}, instance norm, float32")
    results = {}
    for name in ("ours", "monai"):
        macs = ["--macs", str(results["ours"]["macs"])] if results else []
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.inference", *sys.argv[1:], "--only", name, *macs],
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            sys.exit(process.stderr)
        results[name] = found = json.loads(process.stdout.splitlines()[-1])
        print(
            f"{name:6} {found['seconds']:7.1f} s wall, {found['cpu']:7.1f} s of CPU, {found['peak_mb']:6.0f} MB at peak"
        )
        print(f"{'':6} {found['macs'] / 1e3:7.1f} kMAC a voxel in one piece")
    seconds, floor = results["ours"]["seconds"], results["ours"]["floor"]
    print(f"floor  {floor:7.1f} s for one piece: ours takes {seconds / floor:.2f} times as long")
    print(f"MONAI takes {results['monai']['seconds'] / results['ours']['seconds']:.2f} times as long")


if __name__ == "__main__":
    main()
