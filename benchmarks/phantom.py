"""Seconds to make one digital knee with all its scans, on one core: `python -m benchmarks.phantom`.

The processor time is that of this process with its libraries held to one thread; making the NIfTI files is included as
a separate figure because compression, not the phantom, decides it.
"""

from __future__ import annotations

import os
import tempfile
import time

BUDGET_S = {(32, 64, 64): 1.5, (64, 128, 128): 6.0}
REPEATS = 3


def main() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before numpy is imported
    from data_prep.phantom import make_subject, write_cohort

    make_subject(0, (8, 16, 16))  # what is computed once does not count
    for shape, budget_s in BUDGET_S.items():
        makes, writes = [], []
        for index in range(REPEATS):
            start = time.process_time()
            make_subject(0, shape, index=index)
            makes.append(time.process_time() - start)
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                write_cohort(folder, 1, shape, seed=index)
                writes.append(time.process_time() - start)
        size = "x".join(map(str, shape))
        print(
            f"{size}: {min(makes):.2f} to {max(makes):.2f} s per subject, with files {min(writes):.2f} to "
            f"{max(writes):.2f} s (budget {budget_s} s)"
        )


if __name__ == "__main__":
    main()
