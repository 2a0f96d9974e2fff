"""How long a command takes until it can say something: `python -m benchmarks.first_line [FOLDER ...]`.

Each command of each checkout is asked for its help, which needs what is imported before arguments are read. What counts
is the processor time of the process, which other work on the machine changes little; FOLDERs are checkouts to compare.
"""

import os
import subprocess
import sys
from pathlib import Path

COMMANDS = [
    *(f"cyclescan.{name}" for name in "train translate evaluate endpoints report plan export demo".split()),
    *(f"data_prep {name}" for name in "phantom scans build qc pair verify".split()),
]


def seconds(folder: Path, command: str) -> float:
    """Return the processor seconds of `python -m COMMAND --help`, the smaller of two."""
    taken = []
    for _ in range(2):
        before = os.times()
        words = [sys.executable, "-m", *command.split(), "--help"]
        subprocess.run(words, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(taken)


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parent.parent]
    for command in COMMANDS:
        print(
            f"| `{command}` | " + " | ".join(f"{seconds(folder, command):.1f}" for folder in folders) + " |", flush=True
        )
