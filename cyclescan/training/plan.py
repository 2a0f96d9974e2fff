"""Which settings fit a device: their need, what fits instead, in the order of what it costs, and a sentence why."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cyclescan.common.errors import InputError
from cyclescan.config import Config, reference
from cyclescan.training.memory import Need, Networks, estimate

log = logging.getLogger(__name__)

GIB = 2**30
# Assumptions, not measured: the CUDA context takes 0.3 GiB, which leaves about 14.6 GiB of a T4's 16 GB; 1 GiB is for
# cuDNN's workspaces, copies in the layout that it likes, and gaps between allocations.
GPU_RESERVE = 1.3 * GIB
# What a process took beyond its tensors on a CPU: program, graphs, oneDNN (measured: 0.2 to 0.7 GiB).
HOST_RESERVE = 0.7 * GIB
# What a container may use, uses, and of that could give back (files read before), by version of Linux's control groups.
CONTAINER = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
CONTROL_GROUPS = Path("/sys/fs/cgroup")
SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4)  # of the edges of a patch, to be tried


@dataclasses.dataclass(frozen=True)
class Device:
    """Where the step is to run.

    Attributes:
        name: as a sentence has it.
        memory: bytes that tensors can have.
        explanation: how that was found.
        is_gpu: else the image pool needs the same memory.
    """

    name: str
    memory: float
    explanation: str
    is_gpu: bool = True

    def need(self, need: Need) -> int:
        """Return how many bytes of it a step takes."""
        return need.device if self.is_gpu else need.device + need.pool


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings to try.

    Attributes:
        words: for `--set`, all that differs from what was asked.
        added: those that the choice before did not have.
        cost: in quality or speed.
    """

    words: str
    added: str
    cost: str
    config: Config
    need: Need


def gpu(gigabytes: float) -> Device:
    """Describe a GPU of so many GB (10^9 bytes, as vendors count).

    Raises:
        InputError: nothing would be left for tensors.
    """
    memory = gigabytes * 1e9 - GPU_RESERVE
    if not (math.isfinite(gigabytes) and memory > 0):
        raise InputError(
            f"--gpu-memory-gb is {gigabytes:g}; it must be a number above {GPU_RESERVE / 1e9:.1f}, which is kept for "
            "CUDA and cuDNN."
        )
    explanation = f"{gigabytes:g} GB less {GPU_RESERVE / GIB:.1f} GiB for CUDA and cuDNN, an assumption, not measured"
    return Device(f"a GPU of {gigabytes:g} GB", memory, explanation)


def present() -> Device:
    """Describe the smallest GPU of this machine that TensorFlow sees, or the machine itself."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU") and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        sizes = [float(line) * 2**20 for line in found.stdout.split() if line.isdigit()]
        if sizes:
            return dataclasses.replace(gpu(min(sizes) / 1e9), name="this machine's GPU")
    available = _available()
    explanation = f"{available / GIB:.1f} GiB are free, less {HOST_RESERVE / GIB:.1f} GiB for the program"
    return Device("this machine (no GPU)", max(0.0, available - HOST_RESERVE), explanation, is_gpu=False)


def _available() -> int:
    """Read how many bytes of memory a program, also in a container, can still have; where Linux does not tell, all."""
    source = Path("/proc/meminfo")
    if not source.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = source.read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for *files, key in CONTAINER:
        try:
            limit, used, stat = ((CONTROL_GROUPS / file).read_text(encoding="ascii").split() for file in files)
            # without a limit it is "max" (version 2) or a number beyond all memory (version 1)
            free = min(free, int(limit[0]) - int(used[0]) + int(stat[stat.index(key) + 1]))
        except (OSError, ValueError):
            continue
    return max(0, free)


def alternatives(config: Config, networks: Networks) -> Iterator[Choice]:
    """Yield what was asked, then what needs less, each with all that came before it, in the order of what it costs."""

    def choice(cost, **changes):
        nonlocal config
        config = dataclasses.replace(config, **changes)
        words = {
            key: f"{key}={reference.text(value)}" for key, value in config.to_dict().items() if value != asked[key]
        }
        added = " ".join(words[key] for key in words if key in changes)
        return Choice(" ".join(words.values()), added, cost, config, estimate(config, networks))

    asked = config.to_dict()
    yield choice("as asked")
    if config.precision == "float32":
        yield choice("nearly the same numbers, and faster on a GPU", precision="mixed_float16")
    if config.accumulate < config.batch_size:
        yield choice("the same numbers, one volume after the other", accumulate=config.batch_size)
    if not config.rematerialize:
        yield choice("the same numbers for a third more operations", rematerialize=True)
    tried = {config.patch_shape}
    whole = config.patch_shape
    for share in SHARES:
        # the longest edges first: volumes of knees have few slices
        longest = share * max(whole)
        edge = max(config.stride, int(longest / config.stride) * config.stride)
        patch = min(whole[0], edge), min(whole[1], edge), min(whole[2], edge)
        if patch not in tried and _possible(config, patch, networks):
            tried.add(patch)
            yield choice("the networks see less of a volume at a time", patch_shape=patch)
    for divisor in (2, 4):
        width = {
            key: max(1, getattr(config, key) // 2)
            for key in ("generator_filters", "generator_max_filters", "discriminator_filters")
        }
        if config.generator_full_resolution_filters:
            width["generator_full_resolution_filters"] = max(1, config.generator_full_resolution_filters // 2)
        yield choice(f"networks {divisor} times narrower, which learn less", **width)


def _possible(config: Config, patch: tuple[int, int, int], networks: Networks) -> bool:
    try:
        networks.graphs(dataclasses.replace(config, patch_shape=patch))
    except InputError:
        return False
    return True


def page(config: Config, device: Device) -> str:
    """Write the plan as text: the need of these settings by part, the alternatives, and which to take."""
    choices = list(alternatives(config, Networks()))
    fitting = next((choice for choice in choices if device.need(choice.need) <= device.memory), None)
    need = choices[0].need
    lines = [f"One training step on {device.name}: {device.memory / GIB:.2f} GiB for it ({device.explanation}).", ""]
    parts = {name: size for name, size in dataclasses.asdict(need).items() if name != "pool" or not device.is_gpu}
    lines += [f"{'as asked':14} {'GiB':>7}", *(f"{name:14} {size / GIB:7.2f}" for name, size in parts.items())]
    total = device.need(need)
    lines += [f"{'total':14} {total / GIB:7.2f}  {_fits(total, device)}"]
    if device.is_gpu and need.pool:
        lines.append(f"{'image pool':14} {need.pool / GIB:7.2f}  in host memory")
    lines += ["", f"{'GiB':>7}  {'':12}  each with all before it"]
    for choice in choices:
        total = device.need(choice.need)
        lines.append(
            f"{total / GIB:7.2f}  {_fits(total, device):12}  {choice.added}{': ' if choice.added else ''}{choice.cost}"
        )
    return "\n".join([*lines, "", *_advice(choices, fitting, device)]) + "\n"


def _fits(size: float, device: Device) -> str:
    return "fits" if size <= device.memory else "does not fit"


def _advice(choices: list[Choice], fitting: Choice | None, device: Device) -> list[str]:
    least = min(device.need(choice.need) for choice in choices)
    if fitting is None:
        return [
            f"Recommended: a device with more memory. Even the last of these needs {least / GIB:.2f} GiB; fewer "
            "generator_levels or smaller numbers of filters need less."
        ]
    need, first = fitting.need, choices[0].need
    left = (device.memory - device.need(need)) / GIB
    if fitting is choices[0]:
        return ["Recommended: the settings as asked.", f"Why: they fit with {left:.2f} GiB to spare."]
    over = (device.need(first) - device.memory) / GIB
    largest = max(("weights", "optimizer", "gradients", "activations", "workspace"), key=lambda k: getattr(first, k))
    share = getattr(first, largest) / device.need(first)
    return [
        f"Recommended: --set {fitting.words}",
        f"Why: as asked, the step needs {over:.2f} GiB too many, and {100 * share:.0f} % of its need is {largest}; of "
        f"what fits, this costs least ({fitting.cost}), and {left:.2f} GiB are left.",
    ]


def warn(config: Config) -> None:
    """Say in the log what a step needs, and warn where this machine has less."""
    device = present()
    need = device.need(estimate(config))
    text = f"a step needs an estimated {need / GIB:.2f} GiB; {device.name} has {device.memory / GIB:.2f} GiB for it"
    if need <= device.memory:
        log.info("%s", text)
    else:
        log.warning("warning: %s, so it may not fit; `python -m cyclescan.train --plan` shows what does", text)
