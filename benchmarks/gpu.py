"""Forward and backward passes of the networks under JAX against the device's matrix-product peak, without TensorFlow.

    python -m benchmarks.gpu [--preset cyclescan knee] [--precision mixed_float16 mixed_bfloat16] [--set KEY=VALUE ...]
        [--out benchmarks/results/gpu.md]

Keras runs on JAX, so a GPU that TensorFlow does not know will do; `pip install "jax[cuda12]" keras numpy` is enough.
For each preset and precision: the generator and the discriminator forward, forward and backward, and all generator
terms of one training step with their gradients. Each is a process of its own, because JAX' peak of memory never falls.

- GFLOP: of the convolutions, from the graph (`benchmarks.cost`); a backward pass is twice a forward pass, and the
  gradients of the adversarial terms to the discriminators' weights are not taken and not counted.
- Peak: a matrix product in the same precision, measured in the same process.
- Memory planned: arguments, results and temporaries of the compiled function, from XLA.
- Memory at peak: from the device (`memory_stats`), with what XLA allocates while it tries algorithms.

Without --set patch_shape the patch is 32x256x256 on a GPU. On a CPU, where 16-bit products are slow and nothing about a
GPU can be learned, it is 32x32x32 in float32, and the page says that the GPU was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import numpy as np

from benchmarks import jax_networks
from benchmarks.step import best_of, generator_operations
from cyclescan.config.presets import preset
from cyclescan.preprocessing.detail import WINDOWS
from cyclescan.training import terms
from cyclescan.training.terms import Phase

MEASURES = ("generator", "generator and gradients", "discriminator", "discriminator and gradients", "generator terms")
SHORT = {"float32": "float32", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}
LOSS_SCALE = 2.0**7  # or float16 gradients vanish; it costs nothing


def peak(dtype: str, edge: int) -> float:
    """Measured matrix-product operations a second in one precision."""
    import jax

    matrix = jax.random.normal(jax.random.key(0), (edge, edge), dtype)
    product = jax.jit(lambda m: m @ m)
    return 2 * edge**3 / best_of(lambda: product(matrix).block_until_ready())


class Models:
    """The Keras models of one measure: generators "a2b", "b2a", discriminators "a", "b"."""

    def __init__(self, config, measure: str):
        import keras

        from cyclescan.models import build_discriminator, build_generator

        keras.config.set_dtype_policy(config.precision)
        self.config = config
        # none that is not measured: it would count in the memory
        both = measure == "generator terms"
        generators = ("a2b", "b2a") if both or measure.startswith("generator") else ()
        discriminators = ("a", "b") if both or measure.startswith("discriminator") else ()
        generators, discriminators = generators[: 1 + both], discriminators[: 1 + both]
        self.by_name = {name: build_generator(config, name, name, seed) for seed, name in enumerate(generators)}
        self.by_name |= {name: build_discriminator(config, name, 2 + seed) for seed, name in enumerate(discriminators)}

    def weights(self, *names: str) -> dict:
        """The trainable weights of networks."""
        return {n: [v.value for v in self.by_name[n].trainable_variables] for n in names}

    def forward(self, name: str, weights: dict, batch: dict):
        """A number that depends on all of the output of a network."""
        return LOSS_SCALE * jax_networks.call(self.by_name[name], weights[name], batch["real_a"]).mean()

    def generator_terms(self, weights: dict, discriminators: dict, averages: dict, batch: dict):
        """The weighted sum that the generators minimise at the end of a run."""
        import jax

        sharpening = self.config.back_sharpening
        networks = jax_networks.Networks(
            self.by_name, weights | discriminators, averages, jax.random.key(0), sharpening
        )
        phase = Phase.whole(self.config)
        return LOSS_SCALE * jax_networks.generator_loss(self.config, phase, batch, networks)[0]


def prepared(models: Models, measure: str):
    """The function to time, its arguments and the operations of its convolutions."""
    import jax

    from benchmarks.cost import convolution_macs

    config = models.config
    shape = (config.batch_size, *config.patch_shape, 1)
    rng = np.random.default_rng(0)
    batch = {key: jax.numpy.asarray(np.tanh(rng.normal(size=shape)), "float32") for key in ("real_a", "real_b")}
    # of one pass
    forward_operations = {name: 2.0 * convolution_macs(model, shape) for name, model in models.by_name.items()}
    if measure == "generator terms":
        contents = terms.batch_contents(config)
        if contents["paired"]:
            batch |= {"partner_a": batch["real_b"], "partner_b": batch["real_a"]}
            batch |= {f"weight_{domain}": jax.numpy.ones(shape, "float32") for domain in "ab"}
        if contents["detail"]:
            energies = jax.numpy.asarray(rng.uniform(0.01, 0.05, (*shape[:-1], len(WINDOWS))), "float32")
            batch |= {f"detail_{domain}": energies for domain in "ab"}
        operations = generator_operations(config, forward_operations["a2b"], forward_operations["a"])
        generators = models.weights("a2b", "b2a")
        averages = jax.tree.map(jax.numpy.copy, generators) if config.lambda_back else {}
        arguments = (generators, models.weights("a", "b"), averages, batch)
        return jax.value_and_grad(models.generator_terms), arguments, operations
    network, _, gradients = measure.partition(" and ")
    name = {"generator": "a2b", "discriminator": "a"}[network]

    def forward(weights, volumes):
        return models.forward(name, weights, volumes)

    function = jax.value_and_grad(forward) if gradients else forward
    return function, (models.weights(name), batch), forward_operations[name] * (3 if gradients else 1)


def measured(config, measure: str) -> dict:
    """Figures of one function on JAX' default device."""
    import jax

    on_gpu = jax.default_backend() != "cpu"
    top = peak(SHORT[config.precision], 8192 if on_gpu else 2048)
    function, arguments, operations = prepared(Models(config, measure), measure)
    compiled = jax.jit(function).lower(*arguments).compile()
    result = compiled(*arguments)
    finite = all(bool(jax.numpy.isfinite(leaf).all()) for leaf in jax.tree.leaves(result))
    del result
    seconds = best_of(lambda: jax.block_until_ready(compiled(*arguments)))
    plan = compiled.memory_analysis()
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "seconds": seconds,
        "operations": operations,
        "peak": top,
        "finite": finite,
        "planned": sum(getattr(plan, part) for part in parts) if plan else None,
        "memory": stats.get("peak_bytes_in_use"),
    }


def device() -> tuple[str, str]:
    """JAX' backend and the name of its first device, asked in a process that then gives the device back."""
    code = "import jax; d = jax.local_devices()[0]; print(jax.default_backend()); print(d.device_kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    backend, name = done.stdout.splitlines()[-2:]
    return backend, name


def gib(value: float | None) -> str:
    return "not measured" if value is None else f"{value / 2**30:.2f}"


def row(measure: str, figures: dict | str) -> str:
    if isinstance(figures, str):
        return f"| {measure} | {figures} | | | | | |"
    rate = figures["operations"] / figures["seconds"]
    share = f"{100 * rate / figures['peak']:.0f} %" + ("" if figures["finite"] else ", result not finite")
    cells = [f"{figures['operations'] / 1e9:.1f}", f"{1000 * figures['seconds']:.1f}", f"{rate / 1e9:.0f}", share]
    return f"| {measure} | {' | '.join([*cells, gib(figures['planned']), gib(figures['memory'])])} |"


def one(name: str, settings: list[str], precision: str, measure: str) -> dict | str:
    """Figures from a process of its own, or why there are none (too little memory, for instance)."""
    words = ["--preset", name, "--precision", precision, "--only", measure]
    words += ["--set", *settings] if settings else []
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        return f"failed: {lines[-1].strip()[:160]}"
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["cyclescan", "knee"])
    parser.add_argument(
        "--precision", nargs="+", choices=list(SHORT), help="default: both of 16 bits; float32 on a CPU"
    )
    parser.add_argument("--set", nargs="+", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--out", type=Path, help="write the page here too")
    parser.add_argument("--only", choices=MEASURES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        # texture is added after training alone
        settings = [*arguments.settings, "texture=none", f"precision={arguments.precision[0]}"]
        config = preset(arguments.preset[0]).with_settings(settings)
        print(json.dumps(measured(config, arguments.only)))
        return
    backend, name = device()
    on_gpu = backend != "cpu"
    lines = ["# Networks on a GPU", "", f"`python -m benchmarks.gpu`, device: {name} ({backend})", ""]
    if not on_gpu:
        lines += ["**GPU: not measured**, there is none here. What follows is this CPU at a small size.", ""]
    print("\n".join(lines), flush=True)
    for chosen in arguments.preset:
        small = f"patch_shape={'32,256,256' if on_gpu else '32,32,32'}"
        settings = [small, *arguments.settings]
        config = preset(chosen).with_settings(settings)
        for precision in arguments.precision or (["mixed_float16", "mixed_bfloat16"] if on_gpu else ["float32"]):
            size = f"{config.batch_size} x {' x '.join(map(str, config.patch_shape))}"
            head = [f"## {chosen}, {size}, {SHORT[precision]}", ""]
            head += ["| | GFLOP | ms | GFLOP/s | of the peak | GiB planned | GiB at peak |"]
            head += ["|---|---|---|---|---|---|---|"]
            print("\n".join(head), flush=True)
            lines += head
            tops = []
            for measure in arguments.measure:
                figures = one(chosen, settings, precision, measure)
                tops += [figures["peak"]] if isinstance(figures, dict) else []
                lines.append(row(measure, figures))
                print(lines[-1], flush=True)
            if tops:
                lines += ["", f"Peak: {max(tops) / 1e9:.0f} GFLOP/s (matrix product, best of {len(tops)}).", ""]
                print("\n".join(lines[-3:]), flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
