"""`python -m cyclescan.doctor`: what is found on this machine, and what to mend before a day of training."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cyclescan import __version__
from cyclescan.common import command

DESCRIPTION = (
    "Say what is found on this machine, and what to mend: Python, TensorFlow, GPU, memory, oneDNN, disk, the key of "
    "the pseudonyms, extras. Exit code 1 where something has to be mended."
)
PYTHONS = ((3, 10), (3, 13))  # oldest and newest, see setup.py
GIB = 2**30
# below these a first run is likely to end early; what a given run needs, `train --plan` says
LEAST_MEMORY = 4 * GIB
LEAST_DISK = 2 * GIB
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


def key() -> Iterator[Finding]:
    """Look at the file of the pseudonyms' key: who can read it can test whether a known person is in a data set."""
    from data_prep import pseudonyms

    path = pseudonyms.key_file()
    if not path.exists():
        yield Finding("key file", f"{path} is not there yet; `data_prep build` makes it")
        return
    size, mode = path.stat().st_size, stat.S_IMODE(path.stat().st_mode)
    mend = None
    if size != pseudonyms.KEY_BYTES or not os.access(path, os.R_OK):
        mend = f"put the key back from a copy: it has {pseudonyms.KEY_BYTES} bytes that you can read, this file {size}"
    elif mode & 0o077:
        mend = f"others can read it: chmod 600 {path}"
    yield Finding("key file", f"{path}; keep a copy, apart from the data", mend)


def extras() -> Iterator[Finding]:
    """Look for what is not always installed."""
    missing = [name for name, (needs, _) in EXTRAS.items() if not all(map(importlib.util.find_spec, needs))]
    found = ", ".join(name for name in EXTRAS if name not in missing) or "none"
    uses = ", ".join(EXTRAS[name][1] for name in missing)
    mend = f"for {uses}: pip install 'cyclescan[{','.join(missing)}]'" if missing else None
    yield Finding("extras", found, mend, serious=False)


def tensorflow() -> Iterator[Finding]:
    """Look at TensorFlow, its kernels for CPUs, GPUs and the memory that there is for a step of training."""
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
    yield from _memory()


def _memory() -> Iterator[Finding]:
    from cyclescan.training import plan

    device = plan.present()
    mend = f"training needs {LEAST_MEMORY / GIB:g} GiB; `train --plan` says what fits"
    found = f"{device.memory / GIB:.1f} GiB for training on {device.name} ({device.explanation})"
    yield Finding("memory", found, mend if device.memory < LEAST_MEMORY else None)


# what is known at once comes first, TensorFlow, which takes seconds, last
CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (python, disk, key, extras, tensorflow)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there are no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Say what is found; return 1 where something has to be mended."""
    sys.stdout.write(f"cyclescan {__version__}\n")
    serious = 0
    for check in CHECKS:
        for finding in check():
            serious += finding.mend is not None and finding.serious
            mark = "ok  " if finding.mend is None else "MEND" if finding.serious else "note"
            mend = f"\n{'':16} -> {finding.mend}" if finding.mend else ""
            sys.stdout.write(f"{mark} {finding.name:11} {finding.found}{mend}\n")
            sys.stdout.flush()
    if serious:
        command.next_step(f"mend what is marked MEND ({serious}), then call {command.call('doctor')} again")
        return command.SOME_FAILED
    command.next_step(f"see it work: {command.call('demo')}")
    return command.DONE


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, by default that of this process, and return its exit code."""
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.doctor", arguments)


if __name__ == "__main__":
    sys.exit(main())
