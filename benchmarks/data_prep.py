"""Preparing scans against MONAI's and TorchIO's transforms, in one process and in two.

    pip install monai torchio && python -m benchmarks.data_prep [--volumes 20] [--repeats 3]

In one run, the same volumes of 100x256x256 voxels (int16, .nii.gz, axes L, A, S), the same steps: read, canonical
orientation, resample 1.5 x 0.6 x 0.6 mm to 1.5 x 0.75 x 0.75 mm, percentiles 0.5 and 99.5 to [-1, 1], crop to
96 x 192 x 192. Ours interpolates with cubic splines behind a Gaussian against aliasing; the other two do so with cubic
B-splines (MONAI's mode 3, which is SciPy's, and TorchIO's "bspline", which is SimpleITK's) and, as their defaults are,
linearly; neither smooths first. Every library is held to one thread in each process, processes are warm before the
clock starts, and volumes go to a process one by one.

Then the whole command `data_prep build` on the same files, which also hashes, packs and writes records, with one and
two workers; and what bounds one volume, step by step. CPU seconds are those of all processes; on a machine that others
use they say more than the wall clock does. MONAI, TorchIO and PyTorch are needed for this file alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from threadpoolctl import threadpool_limits

# as a script its own folder comes first, where data_prep is a file
sys.path[0] = str(Path(__file__).parents[1])

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
SHAPE = (100, 256, 256)
AFFINE = np.diag([-1.5, 0.6, 0.6, 1.0])
SPACING_MM = (1.5, 0.75, 0.75)
CROP = (96, 192, 192)
PERCENTILES = (0.5, 99.5)


def ours(path: str) -> np.ndarray:
    from cyclescan.preprocessing import prepare
    from cyclescan.scans.volume import read

    return prepare(read(path), "percentile:{},{}".format(*PERCENTILES), SPACING_MM, CROP)[0].array


def monai(path: str, mode=3) -> np.ndarray:
    return _monai(mode)(path)


def monai_linear(path: str) -> np.ndarray:
    return _monai("bilinear")(path)


def torchio(path: str, mode: str = "bspline") -> np.ndarray:
    import torchio as tio

    return _torchio(mode)(tio.ScalarImage(path)).data.numpy()


def torchio_linear(path: str) -> np.ndarray:
    return torchio(path, "linear")


_made: dict = {}


def _monai(mode):
    if mode not in _made:
        import torch
        from monai.transforms import (
            CenterSpatialCropd,
            Compose,
            EnsureChannelFirstd,
            LoadImaged,
            Orientationd,
            ScaleIntensityRangePercentilesd,
            Spacingd,
        )

        torch.set_num_threads(1)
        low, high = PERCENTILES
        transform = Compose(
            [
                LoadImaged("image", reader="NibabelReader"),
                EnsureChannelFirstd("image"),
                Orientationd("image", axcodes="RAS", labels=None),
                Spacingd("image", pixdim=SPACING_MM, mode=mode, padding_mode="border", dtype=np.float32),
                ScaleIntensityRangePercentilesd("image", low, high, -1, 1, clip=True),
                CenterSpatialCropd("image", CROP),
            ]
        )
        _made[mode] = lambda path: transform({"image": path})["image"].numpy()
    return _made[mode]


def _torchio(mode: str):
    if mode not in _made:
        import SimpleITK as sitk  # noqa: N813
        import torch
        import torchio as tio

        torch.set_num_threads(1)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        _made[mode] = tio.Compose(
            [
                tio.ToCanonical(),
                tio.Resample(SPACING_MM, image_interpolation=mode),
                tio.RescaleIntensity((-1, 1), percentiles=PERCENTILES),
                tio.CropOrPad(CROP),
            ]
        )
    return _made[mode]


LIBRARIES = {
    "cyclescan, cubic": ours,
    "MONAI, cubic": monai,
    "MONAI, linear": monai_linear,
    "TorchIO, cubic": torchio,
    "TorchIO, linear": torchio_linear,
}


def write_volumes(folder: Path, number: int) -> list[str]:
    """Smooth random scans with noise of a few grey values, so that gzip has the work of a real scan."""
    from scipy import ndimage

    paths = []
    for i in range(number):
        rng = np.random.default_rng(i)
        field = ndimage.gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), 1.2)
        array = field / field.std() * 200 + 1000 + rng.normal(size=SHAPE) * 10
        paths.append(str(folder / f"sub-{i:03d}.nii.gz"))
        nib.save(nib.Nifti1Image(array.astype(np.int16), AFFINE), paths[-1])
    return paths


def _timed(job: tuple) -> tuple[float, tuple[int, ...]]:
    """The CPU seconds that one volume takes in its process, and the shape that comes out."""
    name, path = job
    start = time.process_time()
    shape = LIBRARIES[name](path).shape
    return time.process_time() - start, shape


def compare(paths: list[str], repeats: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    figures = {}
    for processes in (1, 2):
        for name in LIBRARIES:
            with spawn.Pool(processes) as pool:
                pool.map(_timed, [(name, paths[0])] * 2 * processes, chunksize=1)
                walls, cpus = [], []
                for _ in range(repeats):
                    start = time.perf_counter()
                    results = list(pool.imap_unordered(_timed, [(name, path) for path in paths]))
                    walls.append(time.perf_counter() - start)
                    cpus.append(sum(seconds for seconds, _ in results))
            figures[name, processes] = (len(paths) / min(walls), min(cpus) / len(paths))
            if processes == 1:
                print(f"{name}: {'x'.join(map(str, results[0][1]))} voxels")
    width = max(map(len, LIBRARIES))
    print(f"\n{'':{width}} {'volumes/s, 1':>14} {'2 processes':>12} {'gain':>6} {'CPU s, 1':>9} {'2':>6}")
    for name in LIBRARIES:
        (one, cpu_one), (two, cpu_two) = figures[name, 1], figures[name, 2]
        print(f"{name:{width}} {one:14.2f} {two:12.2f} {two / one:6.2f} {cpu_one:9.3f} {cpu_two:6.3f}")
    others = [name for name in LIBRARIES if not name.startswith("cyclescan")]
    for kind in ("cubic", ""):
        best = max((n for n in others if n.endswith(kind)), key=lambda n: figures[n, 1][0])
        ratio = figures["cyclescan, cubic", 1][0] / figures[best, 1][0]
        cpu = figures[best, 1][1] / figures["cyclescan, cubic", 1][1]
        print(
            f"against the fastest {kind or 'of all'} ({best}): {ratio:.2f} times by the clock, {cpu:.2f} times by CPU"
        )


def steps(path: str) -> None:
    """Where the time of one volume goes."""
    from isal import igzip

    from cyclescan import records
    from cyclescan.preprocessing import geometry, intensity
    from cyclescan.scans.volume import read
    from data_prep import pseudonyms

    def best(action):
        times = []
        for _ in range(5):
            start = time.process_time()
            result = action()
            times.append(time.process_time() - start)
        return min(times), result

    rows = {}
    rows["gzip alone (isal)"], _ = best(lambda: igzip.open(path).read())
    rows["read"], scan = best(lambda: read(path))
    rows["canonical"], (canonical, _) = best(lambda: geometry.to_canonical(scan))
    rows["resample"], (fine, _) = best(lambda: geometry.resample(canonical, SPACING_MM))
    rows["percentiles"], limits = best(lambda: intensity.measure(fine.array, "percentile:0.5,99.5"))
    rows["scale"], scaled = best(lambda: intensity.apply(fine.array, limits))
    cropped = type(fine)(scaled, fine.affine)
    rows["crop"], (done, _) = best(lambda: geometry.crop_or_pad(cropped, CROP, -1.0))
    rows["content hash"], _ = best(lambda: pseudonyms.content("", geometry.to_canonical(scan)[0].array))
    record = records.Record(done.array, done.affine, "a", "ciss", "s", [])
    with tempfile.TemporaryDirectory() as folder:
        rows["encode, checksum, write"], _ = best(lambda: records.write_shard(Path(folder) / "x.tfrecord", [record]))
    print("\nCPU ms of one volume: " + ", ".join(f"{name} {1000 * t:.0f}" for name, t in rows.items()))


def whole_command(folder: Path, repeats: int) -> None:
    """`data_prep build` with one and two workers, on all volumes and on four.

    Four take little but the start of Python and Beam in every process.
    """
    names = sorted(p.name for p in folder.glob("*.nii.gz"))
    seconds = {}
    for count in (4, len(names)):
        for domain, files in (("a", names[: count // 2]), ("b", names[count // 2 : count])):
            rows = "".join(f"{name[:7]},{name}\n" for name in files)
            (folder / f"{domain}.csv").write_text(f"subject,path\n{rows}")
        command = [sys.executable, "-m", "data_prep", "build", "--a", f"a={folder}/a.csv", "--b", f"b={folder}/b.csv"]
        command += ["--key-file", f"{folder}/key", "--spacing-mm", *map(str, SPACING_MM), "--shape", *map(str, CROP)]
        command += ["--split", "1", "0", "0"]
        for workers in (1, 2):
            runs = []
            for number in range(repeats):
                out = f"{folder}/records-{count}-{workers}-{number}"
                before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run([*command, "--out", out, "--workers", str(workers)], check=True, capture_output=True)
                wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
                runs.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
            seconds[count, workers], cpu = min(runs)
            print(f"data_prep build, {count} volumes, {workers} workers: {min(runs)[0]:.1f} s, {cpu:.1f} CPU s")
    one, two = (seconds[len(names), w] - seconds[4, w] for w in (1, 2))
    print(f"beyond the start-up, two workers gain {one / two:.2f} times")


def main() -> None:
    os.environ.update(dict.fromkeys(THREADS, "1"))  # of the processes that are started from here
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_volumes(Path(folder), arguments.volumes)
        print(f"{len(paths)} files of {os.path.getsize(paths[0]) / 1e6:.1f} MB")
        compare(paths, arguments.repeats)
        with threadpool_limits(1):
            steps(paths[0])
        whole_command(Path(folder), arguments.repeats)


if __name__ == "__main__":
    main()
