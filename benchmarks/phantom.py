"""Seconds to make one digital knee with all its scans, on one core: `python -m benchmarks.phantom`.

The processor time is that of this process with its libraries held to one thread; making the NIfTI files is included as
a separate figure because compression, not the phantom, decides it. Then knees of other makes, and what a stream of true
pairs draws (no CT; a random make each), healthy and with lesions.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time

BUDGET_S = {(32, 64, 64): 1.5, (64, 128, 128): 6.0}
REPEATS = 3


def main() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before numpy is imported
    import numpy as np

    from data_prep.phantom import draw_pair, make_subject, makes, write_cohort

    def stream(shape, lesion_rate, index):
        draw_pair(np.random.default_rng(index), shape, lesion_rate=lesion_rate)

    def files(shape, index):
        with tempfile.TemporaryDirectory() as folder:
            write_cohort(folder, 1, shape, seed=index)

    make_subject(0, (8, 16, 16))  # what is computed once does not count
    for shape, budget_s in BUDGET_S.items():
        print(f"{'x'.join(map(str, shape))} (budget for make A {budget_s} s)")
        for name, work in (
            ("make A", lambda index, shape=shape: make_subject(0, shape, index=index)),
            ("make A with files", functools.partial(files, shape)),
            ("make B", lambda index, shape=shape: make_subject(0, shape, index=index, make=makes.B)),
            ("pair of a random make", functools.partial(stream, shape, 0.0)),
            ("the same with lesions", functools.partial(stream, shape, 1.0)),
        ):
            seconds = [_seconds(work, index) for index in range(REPEATS)]
            print(f"  {name}: {min(seconds):.2f} to {max(seconds):.2f} s")


def _seconds(work, index: int) -> float:
    start = time.process_time()
    work(index)
    return time.process_time() - start


if __name__ == "__main__":
    main()
