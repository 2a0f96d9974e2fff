"""All that waits for a GPU, in one command: the speed of the networks, and networks that know many makes of knees.

    python -m benchmarks.on_gpu WORK [--minutes 20]

First `benchmarks.gpu`, which takes minutes and writes benchmarks/results/gpu.md, then `benchmarks.pretrain`, whose
run in WORK goes on when the command is given again. The first needs JAX, the second TensorFlow with CUDA (`pip install
'.[cuda]' 'jax[cuda12]'`); each is a process of its own, so that neither keeps the other's memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent / "results" / "gpu.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for the records and the run of benchmarks.pretrain")
    parser.add_argument("--minutes", type=float, default=20.0, help="of pre-training (default: %(default)s)")
    arguments = parser.parse_args()
    speed = ["benchmarks.gpu", "--out", str(PAGE)]
    knees = ["benchmarks.pretrain", str(arguments.work), "--minutes", str(arguments.minutes)]
    return max(subprocess.run([sys.executable, "-m", *each], check=False).returncode for each in (speed, knees))


if __name__ == "__main__":
    sys.exit(main())
