"""Functions over many arguments in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from cyclescan.common.errors import InputError


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Callable[[Callable, Iterable[tuple]], Iterator]]:
    """Yield a function like `itertools.starmap` that works in `workers` processes; in this one if that is 1.

    Raises:
        InputError: a process was killed. A `multiprocessing.Pool` would wait for its result for ever.
    """
    if workers == 1:
        yield lambda function, arguments: (function(*each) for each in arguments)
        return
    # spawn: a forked child would inherit the state of TensorFlow's threads
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_the_parent)

    def starmap(function: Callable, arguments: Iterable[tuple]) -> Iterator:
        futures = [pool.submit(function, *each) for each in arguments]
        futures.reverse()
        while futures:
            yield futures.pop().result()  # popped, so that a result is not kept longer than it is needed

    try:
        yield starmap
    except BrokenProcessPool as error:
        raise InputError(
            f"One of {workers} processes was killed, perhaps because memory ran out; fewer (--workers) need less."
        ) from error
    except BaseException:
        # else a key pressed to stop it would wait for what is at work; the executor has no public way to do this
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_the_parent() -> None:
    """A process of an executor outlives a parent that is killed: it waits for work for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]  # a worker has one
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
