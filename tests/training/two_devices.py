"""Run by test_distribution.py in a process of its own: the same steps on two virtual devices and on one.

    python -m tests.training.two_devices OUT.npz RUNS KEY=VALUE ...

RUNS, separated by commas: "two" devices; "parts", one device and the batch in two parts; "one", one device and the
batch at once; "overflow", two devices that learn pairs in float16, and then a step whose gradients are infinite on the
second alone. OUT.npz has weights, moments of Adam, numbers of updates and pools after each run, and what the steps
told.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tensorflow as tf

from cyclescan.config import Config
from cyclescan.training import distribution
from cyclescan.training.cyclegan import CycleGAN

STEPS = 4
OWN_SETTINGS = {"overflow": ["precision=mixed_float16", "lambda_adversarial=0", "lambda_cycle=0", "average_decay=0"]}


def batch(size: int, number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    keys = ("real_a", "real_b", "partner_a", "partner_b")
    values = {key: np.tanh(rng.normal(size=(size, 8, 16, 16, 1))).astype("f4") for key in keys}
    return values | {"weight_a": np.ones_like(values["real_a"]), "weight_b": np.ones_like(values["real_b"])}


def take_step(model: CycleGAN, values: dict[str, np.ndarray]) -> dict[str, float]:
    losses, measures = model.train_step({key: tf.constant(value) for key, value in values.items()})
    return {name: float(value) for name, value in (losses | measures).items()}


def state(model: CycleGAN) -> dict[str, np.ndarray]:
    networks = [*model.generators.values(), *model.translators.values(), *model.discriminators.values()]
    optimizers = [getattr(o, "inner_optimizer", o) for o in model.optimizers.values()]
    pools = list(model.pools.values())
    return {
        "weights": _flat(v for network in networks for v in network.trainable_variables),
        "moments": _flat(v for o in optimizers for v in o.variables if "_momentum" in v.path or "_velocity" in v.path),
        "updates": _flat(o.iterations for o in optimizers),
        "pools": _flat(v for pool in pools for v in (pool.patches, pool.filled)),
    }


def _flat(variables) -> np.ndarray:
    return np.concatenate([np.ravel(v.numpy()).astype("f8") for v in variables])


def equal_everywhere(model: CycleGAN) -> bool:
    """Whether both devices have the same weights and moments, bit for bit."""
    variables = [v for group in model.trained.values() for v in group]
    variables += [v for optimizer in model.optimizers.values() for v in optimizer.variables]
    return all(len({copy.numpy().tobytes() for copy in v.value.values}) == 1 for v in variables)


def main(out: str, runs: str, settings: list[str]) -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    config = Config().with_settings(settings)
    devices = distribution.choose(config)
    arrays, told = {}, {"replicas": devices.replicas}
    for run in runs.split(","):
        own = [f"accumulate={2 * config.accumulate}"] if run == "parts" else OWN_SETTINGS.get(run, [])
        several = run in ("two", "overflow")
        model = CycleGAN(config.with_settings(own), 0, devices if several else None)
        tf.config.run_functions_eagerly(run == "one")  # what the others are compared with needs no graph
        told[run] = [take_step(model, batch(config.batch_size, number)) for number in range(STEPS)]
        if run == "overflow":
            arrays |= {f"before/{key}": value for key, value in state(model).items()}
            values = batch(config.batch_size, STEPS)
            values["weight_b"][-1] = 1e6  # the losses stay finite, but not the gradient times the loss scale
            told[run].append(take_step(model, values))
        arrays |= {f"{run}/{key}": value for key, value in state(model).items()}
        if several:
            told[f"{run} equal everywhere"] = equal_everywhere(model)
            told[f"{run} loss scale"] = float(model.optimizers["generators"].scale_loss(1.0))
    np.savez(out, told=json.dumps(told), **arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
