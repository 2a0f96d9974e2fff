"""Run by test_distribution.py in a process of its own: steps on two virtual devices beside the same on one.

Writes an .npz of every variable of the state after each run, named RUN/NUMBER, with RUN one of "two", "parts" (one
device, the batch in as many parts) and "one"; RUN/losses; and of a step whose gradients are infinite on one replica.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from cyclescan.config import Config
from cyclescan.training import distribution
from cyclescan.training.cyclegan import CycleGAN

STEPS = 4


def batch(size: int, number: int) -> dict:
    rng = np.random.default_rng(number)
    keys = ("real_a", "real_b", "partner_a", "partner_b")
    values = {key: np.tanh(rng.normal(size=(size, 8, 16, 16, 1))).astype("f4") for key in keys}
    return values | {"weight_a": np.ones_like(values["real_a"]), "weight_b": np.ones_like(values["real_b"])}


def state(model: CycleGAN) -> list[np.ndarray]:
    own = [*model.generators.values(), *model.translators.values(), *model.discriminators.values()]
    variables = [v for network in own for v in network.variables]
    variables += [v for optimizer in model.optimizers.values() for v in optimizer.variables]
    variables += [v for pool in model.pools.values() for v in (pool.patches, pool.filled)] + [model.step]
    return [v.numpy() for v in variables]


def everywhere(model: CycleGAN) -> bool:
    """Whether every replica has the same values."""
    variables = [v.value for network in (*model.generators.values(), *model.discriminators.values()) for v in network.variables]
    variables += [v.value for optimizer in model.optimizers.values() for v in optimizer.variables]
    return all(len({c.numpy().tobytes() for c in v.values}) == 1 for v in variables)


def take_steps(model: CycleGAN, batches) -> dict:
    for number, values in enumerate(batches):
        step = model.train_step if number else model.warmup_step
        losses, measures = step({key: tf.constant(value) for key, value in values.items()})
    return {name: float(value) for name, value in (losses | measures).items()}


def main(out: str, settings: list[str]) -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    devices = distribution.choose()
    config = Config().with_settings(settings)
    parts = config.with_settings([f"accumulate={devices.replicas * config.accumulate}"])
    models = {
        "two": CycleGAN(config, 0, devices),
        "parts": CycleGAN(parts, 0),
        "one": CycleGAN(config.with_settings(["accumulate=1"]), 0),
    }
    batches = [batch(config.batch_size, number) for number in range(STEPS)]
    arrays, told = {}, {"replicas": devices.replicas}
    for name, model in models.items():
        told[name] = take_steps(model, batches)
        arrays |= {f"{name}/{i}": value for i, value in enumerate(state(model))}
    model = models["two"]
    told["everywhere"] = everywhere(model)
    if config.precision == "mixed_float16":
        bad = batch(config.batch_size, 0)
        bad["real_b"][-1] = 1e38  # on the second replica only
        told["overflow"] = take_steps(model, [bad, ] * 1) if False else {
            name: float(v) for part in model.train_step({k: tf.constant(v) for k, v in bad.items()}) for name, v in part.items()
        }
        arrays |= {f"overflow/{i}": value for i, value in enumerate(state(model))}
        told["everywhere after"] = everywhere(model)
    np.savez(out, told=json.dumps(told), **arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
