"""Several GPUs and several machines (tf.distribute): who computes which part of a step, and what all must agree on.

The batch of a step is divided among the GPUs of all machines ("replicas" on "workers"), in the order of its patches. A
replica has all the variables. Gradients are averaged over the replicas before any of them uses them, and everything
else that changes is a function of the step's number, so the variables are equal everywhere at the end of each step.
Nothing belongs to one replica alone: the checkpoint of any of them is the checkpoint of the run, and a run can go on
with another number of replicas.

One of the workers is the chief. It alone writes, and what only it can know it tells the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cyclescan.common.errors import InputError
from cyclescan.config import Config

log = logging.getLogger(__name__)

# What a collective operation ends with when a worker has gone.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnavailableError,
)


class WorkerLostError(RuntimeError):
    """Another worker has ended, so that the run cannot go on; all of them are to be started again."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the workers agreed on before a step.

    Attributes:
        over: there is no further step.
        stopped: because a worker was asked to end by a signal.
        seconds: that the run has taken, by the clock of the chief.
    """

    over: bool
    stopped: bool
    seconds: float


class Distribution:
    """The devices of a run. Without arguments: this process, on the one device that TensorFlow chooses.

    Args:
        strategy: of tf.distribute; the variables of the run are made in its `scope`.
        worker: the number of this process among the `workers`; the chief is 0.
        workers: the number of processes.

    Attributes:
        replicas: the number of devices, over all workers.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, worker: int = 0, workers: int = 1):
        self._strategy = strategy or tf.distribute.get_strategy()
        self.worker, self.workers = worker, workers
        self.replicas = self._strategy.num_replicas_in_sync
        self._sum = tf.function(self._sum_over_workers, autograph=False)

    @property
    def is_chief(self) -> bool:
        """Return whether this process is the one that writes."""
        return self.worker == 0

    def scope(self):
        """Return a context; variables made in it are on every replica."""
        return self._strategy.scope()

    def check(self, config: Config) -> None:
        """Raise InputError unless a batch can be divided among the replicas and each share into its parts."""
        multiple = self.replicas * config.accumulate
        if config.batch_size % multiple:
            raise InputError(
                f"batch_size is {config.batch_size}, over all devices together; it must be a multiple of {multiple} "
                f"({self.replicas} devices, accumulate={config.accumulate}); choose --set batch_size={multiple}."
            )

    # --- in a step ---

    def run(self, function: Callable, batch: dict[str, tf.Tensor]) -> Any:
        """Call `function` on each replica of this worker with its share of the batch; returns what the first returns.

        Args:
            function: of a batch. What it returns is to be equal on all replicas, made so by `mean` and `gather`.
            batch: tensors whose first axis is the worker's share of the batch.
        """
        if self.replicas == 1:
            return function(batch)
        local = self.replicas // self.workers
        shares = {key: tf.split(value, local) for key, value in batch.items()}
        given = self._strategy.experimental_distribute_values_from_function(
            lambda context: {key: parts[context.replica_id_in_sync_group % local] for key, parts in shares.items()}
        )
        results = self._strategy.run(function, (given,))
        return tf.nest.map_structure(lambda value: self._strategy.experimental_local_results(value)[0], results)

    @property
    def replica(self) -> int | tf.Tensor:
        """Return, within `run`, the number of the replica among all of them."""
        return tf.distribute.get_replica_context().replica_id_in_sync_group if self.replicas > 1 else 0

    def mean(self, values: Any) -> Any:
        """Average a structure of tensors over all replicas, within `run`. Infinite or NaN on one is so on all."""
        if self.replicas == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, values)

    def gather(self, values: Any) -> Any:
        """Join tensors of all replicas, one after the other along the first axis, within `run`."""
        if self.replicas == 1 or not values:
            return values
        return tf.distribute.get_replica_context().all_gather(values, axis=0)

    # --- between steps ---

    def agree(self, done: bool, stopped: bool, seconds: float) -> Turn:
        """Agree on whether there is a step; each worker calls this before every step, and once when there is none.

        Args:
            done: nothing is left to do; that of the chief counts.
            stopped: this worker was asked to end; that of any counts.
            seconds: that the run has taken; those of the chief count.
        """
        if self.workers > 1:
            mine = [float(done and self.is_chief), float(stopped), seconds if self.is_chief else 0.0]
            done, stopped, seconds = self._sum(tf.constant(mine, tf.float64)).numpy()
        return Turn(bool(done) or bool(stopped), bool(stopped), float(seconds))

    def from_chief(self, compute: Callable[[], Any]) -> Any:
        """Return on every worker what `compute` returns on the chief, where alone it is called.

        Args:
            compute: returns what JSON can hold.

        Raises:
            InputError: it did so on the chief.
        """
        if self.workers == 1:
            return compute()
        answer, failure = {}, None
        if self.is_chief:
            try:
                answer["value"] = compute()
            except InputError as error:
                answer["error"], failure = str(error), error
        text = np.frombuffer(json.dumps(answer).encode(), np.uint8).astype(np.int32)
        length = int(self._sum(tf.constant(len(text) if self.is_chief else 0)))
        told = self._sum(tf.constant(text if self.is_chief else np.zeros(length, np.int32)))
        answer = json.loads(told.numpy().astype(np.uint8).tobytes())
        if "error" in answer:
            raise failure or InputError(answer["error"])
        return answer["value"]

    def _sum_over_workers(self, mine: tf.Tensor) -> tf.Tensor:
        local = self.replicas // self.workers
        given = self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.zeros_like(mine) if context.replica_id_in_sync_group % local else tf.identity(mine)
        )
        total = self._strategy.run(
            lambda value: tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.SUM, tf.identity(value)
            ),
            (given,),
        )
        return self._strategy.experimental_local_results(total)[0]

    @contextlib.contextmanager
    def explaining_a_lost_worker(self) -> Iterator[None]:
        """Turn what TensorFlow raises when another worker has gone into one sentence.

        Raises:
            WorkerLostError: within some ten seconds of that, as soon as this worker needs the other one.
        """
        try:
            yield
        except LOST as error:
            if self.workers == 1:
                raise
            raise WorkerLostError(
                f"Worker {self.worker} of {self.workers} has lost another one; start all of them again with --resume."
            ) from error


def choose(config: Config) -> Distribution:
    """Choose the devices that the environment gives to this process, before anything else in TensorFlow is used.

    TF_CONFIG with several workers, as Vertex AI sets it: all their GPUs (`MultiWorkerMirroredStrategy`). Several
    visible GPUs, or several logical CPUs where there is no GPU: as many of them as the batch can be divided among
    (`MirroredStrategy`).

    Raises:
        InputError: TF_CONFIG is not understood, or several machines cannot divide the batch.
        WorkerLostError: another worker did not come.
    """
    addresses, worker = _cluster(os.environ.get("TF_CONFIG", ""))
    if len(addresses) > 1:
        try:
            devices = Distribution(tf.distribute.MultiWorkerMirroredStrategy(), worker, len(addresses))
        except LOST as error:
            raise WorkerLostError(
                f"Worker {worker} has not met the other {len(addresses) - 1}; start all of them again."
            ) from error
        devices.check(config)
        return devices
    names = [d.name for d in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    used = share_out(config, len(names))
    if used < len(names):
        log.info(
            "%d of %d devices are used: batch_size is %d, over all of them; a multiple of %d uses all",
            used,
            len(names),
            config.batch_size,
            len(names) * config.accumulate,
        )
    return Distribution(tf.distribute.MirroredStrategy(names[:used])) if used > 1 else Distribution()


def this_worker() -> int:
    """Return the number that TF_CONFIG gives to this process among the workers, 0 for the chief or where it is alone.

    Raises:
        InputError: TF_CONFIG is not understood.
    """
    return _cluster(os.environ.get("TF_CONFIG", ""))[1]


def share_out(config: Config, devices: int) -> int:
    """Count among how many of so many devices a batch, each share of it in its parts, can be divided."""
    each = config.batch_size // config.accumulate
    return max(n for n in range(1, devices + 1) if each % n == 0)


def _cluster(text: str) -> tuple[list[str], int]:
    """The addresses of the workers, the chief first, and the number of this one."""
    if not text.strip():
        return [], 0
    try:
        values = json.loads(text)
        cluster, task = values.get("cluster", {}), values.get("task", {})
        chiefs = list(cluster.get("chief", []))
        addresses = chiefs + list(cluster.get("worker", []))
        if len(addresses) < 2:
            return addresses, 0
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"TF_CONFIG is not a description of a cluster and this task in it ({error!r}).") from error
    number = index + (len(chiefs) if kind == "worker" else 0)
    if kind not in ("chief", "worker") or not 0 <= number < len(addresses):
        raise InputError(
            f"TF_CONFIG makes this the task {kind} {index}; cyclescan trains on chief and workers alone, of which it "
            f"names {len(addresses)}."
        )
    return addresses, number
