"""What a scan costs among 100 and among 10,000, and the memory of a worker with 20 scans and with 200.

    python -m benchmarks.scale [--scans 100 10000] [--memory 20 200] [--workers 2]

Small scans (8x16x16 voxels, .nii.gz), so that everything but the voxels counts: finding files, headers, planning,
Beam, shards, the data set's JSON. `build` runs as a command; its CPU seconds are those of all its processes. A fixed
part, the imports of Beam in each process, is measured with two scans and told apart. Then the same command again,
which has nothing to do.

For the memory, scans of 100x256x256 voxels with one worker, which is this process' only child: its peak resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

# as a script its own folder comes first, where data_prep is a file
sys.path[0] = str(Path(__file__).parents[1])

AFFINE = np.diag([3.0, 1.5, 1.5, 1.0])
SMALL = (8, 16, 16)
LARGE = (100, 256, 256)


def write_scans(folder: Path, number: int, shape: tuple[int, int, int], suffix: str) -> None:
    """Half of them of each domain; every scan differs from every other."""
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 1.2)
    field = field / field.std() * 200 + 1000
    for i in range(number):
        array = (np.roll(field, i, axis=2) * (1 + i / number)).astype(np.int16)
        array.flat[:4] = i % 1000, i // 1000, 0, 3000
        path = folder / "ab"[i % 2] / f"sub-{i // 2:05d}{suffix}"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE), path)


def build(folder: Path, workers: int) -> tuple[float, float, float]:
    """Wall and CPU seconds of the command, and the largest resident set of its processes in MB."""
    # in a process of its own, because the peak of this process' children never falls
    code = (
        "import json, resource, subprocess, sys, time; start = time.perf_counter(); "
        "done = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE, text=True); "
        "sys.exit(done.stderr) if done.returncode else None; u = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps([time.perf_counter() - start, u.ru_utime + u.ru_stime, u.ru_maxrss / 1024]))"
    )
    command = [sys.executable, "-m", "data_prep", "build", "--a", f"x={folder}/a", "--b", f"y={folder}/b"]
    command += ["--out", f"{folder}/records", "--key-file", f"{folder}/key", "--workers", str(workers)]
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, stdout=subprocess.PIPE)
    return tuple(json.loads(done.stdout))


def header_pass(folder: Path) -> float:
    """CPU seconds for finding the scans and reading their headers, in this process."""
    from data_prep import scans
    from data_prep.build import sources

    start = time.process_time()
    sources.read_headers({d: scans.find(folder / d) for d in "ab"}, {"a": "x", "b": "y"}, bytes(32), None)
    return time.process_time() - start


def cost(counts: list[int], workers: int) -> None:
    fixed = None
    print(f"{'scans':>7} {'headers, ms':>12} {'build, s':>9} {'CPU s':>7} {'CPU ms a scan':>14} {'again, CPU s':>13}")
    for number in (4, *counts):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_scans(folder, number, SMALL, ".nii.gz")
            headers = header_pass(folder)
            # small runs are over before the machine has settled: the best of five
            runs = []
            for _ in range(5 if number < 1000 else 1):
                shutil.rmtree(folder / "records", ignore_errors=True)
                runs.append(build(folder, workers))
            wall, cpu, _ = min(runs, key=lambda run: run[1])
            _, again, _ = build(folder, workers)
        if fixed is None:
            fixed = cpu
        each = f"{1000 * (cpu - fixed) / number:14.2f}" if number > 4 else f"{'':14}"
        print(f"{number:7} {1000 * headers / number:12.2f} {wall:9.1f} {cpu:7.1f} {each} {again:13.1f}")


def memory(counts: list[int]) -> None:
    for number in counts:
        with tempfile.TemporaryDirectory() as folder:
            write_scans(Path(folder), number, LARGE, ".nii")
            _, cpu, peak = build(Path(folder), 1)
        volume = np.prod(LARGE) * 4 / 2**20
        print(f"{number} scans of {volume:.0f} MiB as float32: peak {peak:.0f} MiB, {cpu:.1f} CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, nargs="*", default=[100, 10000])
    parser.add_argument("--memory", type=int, nargs="*", default=[20, 200])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    cost(arguments.scans, arguments.workers)
    memory(arguments.memory)


if __name__ == "__main__":
    main()
