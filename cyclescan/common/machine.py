"""What a machine has: Python, disk, optional packages, TensorFlow, GPUs."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

PYTHONS = ((3, 10), (3, 13))  # oldest and newest, see setup.py
GIB = 2**30
LEAST_DISK = 2 * GIB  # below it a first run is likely to end early
# modules of each extra of setup.py, and what needs them
EXTRAS = {
    "plan": (("plastimatch", "cma"), "cyclescan plan"),
    "endpoints": (("pingouin",), "cyclescan endpoints"),
    "onnx": (("onnx", "onnxruntime"), "cyclescan export --onnx"),
    "notebooks": (("jupyterlab", "ipywidgets"), "notebooks/"),
}
FLOAT16, BFLOAT16 = (7, 0), (8, 0)  # compute capability from which GPUs are faster with them


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of what is found.

    Attributes:
        name: of what was looked at.
        found: what it is.
        mend: what to do about it, or None where all is well.
        serious: nothing works well before it is mended.
    """

    name: str
    found: str
    mend: str | None = None
    serious: bool = True


def python() -> Iterator[Finding]:
    """Look at the interpreter."""
    oldest, newest = (".".join(map(str, version)) for version in PYTHONS)
    fits = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    mend = None if fits else f"use Python {oldest} to {newest}; TensorFlow has no package for others"
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}", mend)


def disk() -> Iterator[Finding]:
    """Look for room where the command is called."""
    free = shutil.disk_usage(".").free
    mend = f"make room for {LEAST_DISK / GIB:g} GiB, or work on another disk" if free < LEAST_DISK else None
    yield Finding("disk", f"{free / GIB:.1f} GiB are free in {Path.cwd()}", mend)


def extras() -> Iterator[Finding]:
    """Look for what is not always installed."""
    missing = [name for name, (needs, _) in EXTRAS.items() if not all(map(importlib.util.find_spec, needs))]
    found = ", ".join(name for name in EXTRAS if name not in missing) or "none"
    uses = ", ".join(EXTRAS[name][1] for name in missing)
    mend = f"for {uses}: pip install 'cyclescan[{','.join(missing)}]'" if missing else None
    yield Finding("extras", found, mend, serious=False)


def tensorflow() -> Iterator[Finding]:
    """Look at TensorFlow, its kernels for CPUs, and GPUs."""
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1":
        yield Finding("oneDNN", "on")
    else:
        mend = "unset TF_ENABLE_ONEDNN_OPTS: with it 3-D convolutions on CPUs are 2 to 8 times faster"
        yield Finding("oneDNN", "off", mend, serious=False)
    try:
        import keras
        import tensorflow as tf
    except Exception as error:  # a broken installation fails in as many ways as there are
        yield Finding("TensorFlow", f"{type(error).__name__}: {error}", "pip install --force-reinstall cyclescan")
        return
    yield Finding("TensorFlow", f"{tf.__version__}, Keras {keras.__version__}")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
        install = "pip install 'cyclescan[cuda]', and see that `nvidia-smi` lists the GPU" if driver else None
        yield Finding("GPU", "a driver, but none that TensorFlow can use" if driver else "none", install)
    for gpu in gpus:
        about = tf.config.experimental.get_device_details(gpu)
        able = about.get("compute_capability", (0, 0))
        fast = "mixed_bfloat16" if able >= BFLOAT16 else "mixed_float16" if able >= FLOAT16 else "float32"
        name = about.get("device_name", gpu.name)
        yield Finding(
            "GPU", f"{name}, compute capability {'.'.join(map(str, able))}: train with --set precision={fast}"
        )
