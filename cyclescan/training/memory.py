"""How much memory a training step needs, counted from the graphs of the networks before the first step is taken."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

import keras
from keras import layers

from cyclescan.common.errors import InputError
from cyclescan.config import Config
from cyclescan.models import build_discriminator, build_generator
from cyclescan.models.graph import calls, precision
from cyclescan.models.upsampled_conv import UpsampledConv3D, merging
from cyclescan.preprocessing.detail import WINDOWS
from cyclescan.training import kernels, terms
from cyclescan.training.terms import Pass

FLOAT32, FLOAT16 = 4, 2
FIRST_LEVEL = 3  # calls: convolution, norm, activation
# How many gradients of activations are alive where one would do: TensorFlow takes up what is ready, also of other
# branches. With this figure the estimates of 13 settings lay from 11 % below to 12 % above the measured peaks.
IN_FLIGHT = 1.5
# numbers for each voxel of what terms read of a batch
READ = {"partner": 1, "weight": 1, "blobs": 1, "healthy": 1, "detail": len(WINDOWS)}


# --- what a layer leaves in memory ---


@dataclasses.dataclass(frozen=True)
class Trace:
    """What one call of a layer needs beside its output, in bytes, for one volume; `fixed` does not grow with the batch.

    Attributes:
        keeps_input, keeps_output: whether the way back reads them.
        kept: what else the way back reads.
        fixed: the same, for instance weights brought to 16 bits.
        forward, backward: what is needed only while the layer computes.
        for_weights: what is kept of the inputs serves the gradients of the weights alone.
        in_place: the output takes the place of the input, where nobody else reads that.
        backward_in_place: the same for their gradients.
    """

    keeps_input: bool = False
    keeps_output: bool = False
    kept: int = 0
    fixed: int = 0
    forward: int = 0
    backward: int = 0
    for_weights: bool = False
    in_place: bool = False
    backward_in_place: bool = False


def _trace(layer, inputs: list[tuple], output: tuple) -> Trace:
    """Apply the rules to a call. Shapes are (depth, height, width, channels) of one volume."""
    width = _bytes(layer)
    inner = getattr(layer, "layer", layer)  # inside its spectral normalisation
    if isinstance(inner, layers.Conv3DTranspose):
        weights = 0 if width == FLOAT32 else width * math.prod(inner.kernel.shape)
        columns = math.prod(inner.kernel_size) * output[-1] * math.prod(inputs[0][:3]) * width
        few = math.prod(inputs[0][:3]) <= kernels.FEW_VOXELS_TRANSPOSED or inner.filters == 1
        columns *= few
        return Trace(keeps_input=True, for_weights=True, fixed=weights, forward=columns, backward=columns)
    if isinstance(inner, layers.Conv3D):
        weights = 0 if width == FLOAT32 else width * math.prod(inner.kernel.shape)
        few = math.prod(output[:3]) <= kernels.FEW_VOXELS
        columns = math.prod(inner.kernel.shape[:4]) * math.prod(output[:3]) * width
        if few:
            return Trace(kept=columns, for_weights=True, fixed=weights, forward=columns, backward=columns)
        return Trace(keeps_input=True, for_weights=True, fixed=weights)
    if isinstance(inner, UpsampledConv3D):
        taps = len(merging(inner.kernel_size[0])) ** 3
        whole, coarse = inner.kernel.shape[3], inner.coarse_channels
        merged = width * inner.filters * taps * coarse
        slices = width * inner.filters * math.prod(inner.kernel_size) * whole
        # the two convolutions are summed
        return Trace(keeps_input=True, for_weights=True, fixed=merged + slices, forward=_size(output, width))
    if isinstance(inner, layers.GroupNormalization):
        return Trace(keeps_input=True)
    if isinstance(inner, layers.LeakyReLU):
        return Trace(keeps_input=True, backward_in_place=True)
    if isinstance(inner, layers.ReLU):
        return Trace(keeps_output=True, in_place=True, backward_in_place=True)
    if isinstance(inner, layers.Dropout):
        voxels = math.prod(output)
        return Trace(kept=voxels, forward=FLOAT32 * voxels)
    if isinstance(inner, layers.Activation):
        return Trace(keeps_output=True, in_place=width == FLOAT32)
    return Trace()


def _bytes(layer) -> int:
    return {"float32": 4, "float16": 2, "bfloat16": 2}[layer.compute_dtype]


def _size(shape: Sequence[int], width: int) -> int:
    return math.prod(shape) * width


# --- one network as a list of calls ---


@dataclasses.dataclass(frozen=True)
class _Call:
    inputs: tuple[int, ...]
    output: int
    size: int  # of the output, of one volume
    trace: Trace
    weights: int  # bytes of their gradients


class _Graph:
    """A functional model at one size of its volumes."""

    def __init__(self, model: keras.Model, patch_shape: Sequence[int]):
        called = list(calls(model))
        outputs = [layer.output for layer, _ in called]
        shapes = keras.Model(model.inputs, outputs).compute_output_shape((1, *patch_shape, 1))
        self.image, self.result = id(model.inputs[0]), id(model.outputs[0])
        shape = {self.image: (*patch_shape, 1)} | {id(t): tuple(s[1:]) for t, s in zip(outputs, shapes, strict=True)}
        self.sizes = {self.image: _size(shape[self.image], FLOAT32)}
        self.calls = []
        for layer, given in called:
            output = id(layer.output)
            self.sizes[output] = _size(shape[output], _bytes(layer))
            trace = _trace(layer, [shape[id(t)] for t in given], shape[output])
            weights = sum(FLOAT32 * math.prod(v.shape) for v in layer.trainable_variables)
            self.calls.append(_Call(tuple(id(t) for t in given), output, self.sizes[output], trace, weights))
        self.weights = sum(call.weights for call in self.calls)
        self.readers = collections.Counter(t for call in self.calls for t in call.inputs)


def _kept(call: _Call, to_weights: bool) -> tuple[tuple[int, ...], int]:
    """Tensors, and bytes beside them, that the way back of a call reads."""
    trace = call.trace
    serves = to_weights or not trace.for_weights
    inputs = call.inputs if trace.keeps_input and serves else ()
    return (*inputs, *([call.output] if trace.keeps_output else [])), trace.kept * serves


# --- the step, allocation by allocation ---


class _Memory:
    """What is alive, by kind, and what was when it was most."""

    def __init__(self):
        self._live: dict = {}
        self.now: collections.Counter = collections.Counter()
        self.peak: collections.Counter = collections.Counter()

    def take(self, key, kind: str, size: int) -> None:
        self.free(key)
        self._live[key] = kind, size
        self.now[kind] += size
        if self.now.total() > self.peak.total():
            self.peak = self.now.copy()

    def free(self, key) -> None:
        kind, size = self._live.pop(key, ("", 0))
        self.now[kind] -= size

    def keys(self) -> list:
        return list(self._live)

    def has(self, key) -> bool:
        return key in self._live

    def move(self, old, new, kind: str) -> None:
        _, size = self._live.get(old, ("", 0))
        self.free(old)
        self.take(new, kind, size)


class _Pass:
    """One call of a network on some volumes, there and back."""

    def __init__(self, memory: _Memory, name: str, graph: _Graph, volumes: int, networks: int, to_weights: bool = True):
        """`networks` of the same graph, with weights of their own, take this pass side by side.

        `to_weights` is false where the way back goes to the image alone.
        """
        self.memory, self.name, self.graph = memory, name, graph
        self.volumes, self.networks, self.to_weights = volumes * networks, networks, to_weights
        # what is made of weights alone waits for nothing and is there from the beginning of the step
        for i, call in enumerate(graph.calls):
            memory.take((name, "fixed", i), "activations", call.trace.fixed * networks)

    def forward(self, keep: bool = True) -> None:
        graph, memory = self.graph, self.memory
        keepers = collections.Counter(t for call in graph.calls for t in _kept(call, self.to_weights)[0])
        unread = graph.readers.copy()
        unread[graph.result] += 1
        for i, call in enumerate(graph.calls):
            trace, source = call.trace, call.inputs[0]
            kept = {t for t in call.inputs if keep and keepers[t]}
            reuse = trace.in_place and unread[source] == 1 and source not in kept and source != graph.image
            self._work(trace.forward)
            if reuse:
                memory.free((self.name, source))
            memory.take((self.name, call.output), "activations", call.size * self.volumes)
            memory.take((self.name, "kept", i), "activations", _kept(call, self.to_weights)[1] * self.volumes)
            memory.free((self.name, "work"))
            if not keep:
                memory.free((self.name, "kept", i))
                memory.free((self.name, "fixed", i))
            for tensor in call.inputs:
                unread[tensor] -= 1
                if not unread[tensor] and tensor not in kept:
                    memory.free((self.name, tensor))
        self._keepers = keepers

    def backward(self, to_image: bool = False, leaving: bool = False) -> None:
        """Go back through the pass, to the gradients of its weights and of its image.

        With `leaving`, what the first level needs stays until `leave`: the gradient of the image does not wait for
        those of the weights, so what follows it begins while these are still to be computed.
        """
        graph, memory = self.graph, self.memory

        def gradient(tensor):
            return self.name, "gradient", tensor

        result = graph.sizes[graph.result] * self.volumes
        memory.take(gradient(graph.result), "workspace", round(IN_FLIGHT * result))
        if not self._keepers[graph.result]:
            memory.free((self.name, graph.result))
        for i, call in reversed(list(enumerate(graph.calls))):
            trace = call.trace
            self._work(trace.backward)
            wanted = [t for t in call.inputs if t != graph.image or to_image]
            if trace.backward_in_place and not memory.has(gradient(call.inputs[0])):
                memory.move(gradient(call.output), gradient(call.inputs[0]), "workspace")
                wanted = []
            for tensor in wanted:
                size = graph.sizes[tensor] * self.volumes
                # a second one is added to the first
                key = gradient(tensor) if not memory.has(gradient(tensor)) else (self.name, "second")
                memory.take(key, "workspace", round(IN_FLIGHT * size))
                memory.free((self.name, "second"))
            if self.to_weights and call.weights:
                # gradients of two passes through the same weights are summed
                key = ("gradient", id(graph), i)
                key = (self.name, "second") if memory.has(key) else key
                memory.take(key, "gradients", call.weights * self.networks)
                memory.free((self.name, "second"))
            memory.free((self.name, "work"))
            if leaving and i < FIRST_LEVEL:
                continue
            memory.free((self.name, "kept", i))
            memory.free((self.name, "fixed", i))
            memory.free(gradient(call.output))
            for tensor in _kept(call, self.to_weights)[0]:
                self._keepers[tensor] -= 1
                if not self._keepers[tensor]:
                    memory.free((self.name, tensor))
        if not leaving:
            self.leave()

    def _work(self, size: int) -> None:
        self.memory.take((self.name, "work"), "workspace", size * self.volumes)

    def leave(self) -> None:
        """Free all that is left of the pass but the gradients of its weights."""
        for key in [key for key in self.memory.keys() if isinstance(key, tuple) and key[0] == self.name]:
            self.memory.free(key)


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes a training step needs at its peak; `pool` lies in host memory, the rest on the device.

    Attributes:
        weights: of both generators and discriminators, and the generators' running averages.
        optimizer: two moments of each weight.
        gradients: of the weights, as many as are alive at the peak.
        activations: what the forward passes keep for the way back.
        workspace: gradients of activations, columns of matrix products, sums: what is needed for a moment.
        batches: the volumes of one step.
        pool: the history of generated volumes.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    workspace: int
    batches: int
    pool: int

    @property
    def device(self) -> int:
        """Return the bytes on the device, all but the pool."""
        return sum(dataclasses.astuple(self)) - self.pool


class Networks:
    """Networks as settings describe them, built once for all settings that share them, in host memory."""

    def __init__(self):
        self._models: dict = {}
        self._graphs: dict = {}

    def graphs(self, config: Config) -> dict[str, _Graph]:
        """Make the graphs of one generator and one discriminator.

        Raises:
            InputError: the patch is too small for the discriminator.
        """
        return {
            "generator": self._graph("generator", _translating, config),
            "discriminator": self._graph("discriminator", build_discriminator, config),
        }

    def _graph(self, kind: str, build, config: Config) -> _Graph:
        settings = {key: value for key, value in config.to_dict().items() if key.startswith(kind)}
        key = kind, config.precision, repr(settings)
        if key not in self._models:
            with precision(config.precision), keras.device("cpu:0"):
                self._models[key] = build(config, name=f"planned_{kind}")
        sized = *key, config.patch_shape
        if sized not in self._graphs:
            try:
                self._graphs[sized] = _Graph(self._models[key], config.patch_shape)
            except ValueError as error:
                raise InputError(
                    f"patch_shape {','.join(map(str, config.patch_shape))} is too small for the {kind} of "
                    f"{kind}_levels={settings[f'{kind}_levels']}: nothing is left after its convolutions."
                ) from error
        return self._graphs[sized]


def _translating(config: Config, name: str) -> keras.Model:
    """Build a generator without texture, whose learning takes next to nothing."""
    return build_generator(dataclasses.replace(config, texture="none"), "a2b", name)


def estimate(config: Config, networks: Networks | None = None) -> Need:
    """Estimate what one whole training step of these settings needs at its peak.

    The step is gone through on paper, allocation by allocation, with both directions side by side.

    Raises:
        InputError: the patch is too small for the networks.
    """
    graphs = (networks or Networks()).graphs(config)
    generator, discriminator = graphs["generator"], graphs["discriminator"]
    used = terms.used(config)
    passes = collections.Counter(each for term in used for each in term.passes)
    reads = {name for term in used for name in term.reads}
    adversarial = bool(passes[Pass.JUDGED])
    memory = _Memory()
    trained = 2 * (generator.weights + discriminator.weights)
    averages = 2 * generator.weights if config.average_decay else 0
    memory.take("weights", "weights", trained + averages)
    memory.take("optimizer", "optimizer", 2 * trained)
    # of each domain real volumes and what else terms read
    volumes = 2 * (1 + sum(READ[name] for name in reads)) * config.batch_size
    memory.take("batch", "batches", volumes * _volume(config))
    part = config.batch_size // config.accumulate
    if config.accumulate > 1:
        # the batch once more, in parts, and the part at hand
        memory.take("parts", "batches", (volumes + volumes * part // config.batch_size) * _volume(config))
        memory.take("mean", "gradients", trained)

    inputs = 1 + bool(passes[Pass.BESIDE])
    there = _Pass(memory, "there", generator, inputs * part, 2)
    ways_back = 2 * passes[Pass.AGAIN]
    back = _Pass(memory, "back", generator, part, ways_back) if ways_back else None
    if adversarial:
        judged = _Pass(memory, "judged", discriminator, part, 2, to_weights=False)
        # real and generated volumes; the gradient on the real ones keeps its own way as well
        learning = _Pass(memory, "learning", discriminator, (2 + bool(passes[Pass.TWICE])) * part, 2)
    keep = not config.rematerialize
    if not keep:
        there_again = _Pass(memory, "there again", generator, inputs * part, 2)
        back_again = _Pass(memory, "back again", generator, part, ways_back) if ways_back else None
    there.forward(keep)
    if adversarial:
        judged.forward()
        learning.forward()
        learning.backward()
    if back:
        back.forward(keep)
        if not keep:
            back.leave()
            back = back_again
            back.forward()  # type: ignore[union-attr]
        back.backward(to_image=True, leaving=not keep)  # type: ignore[union-attr]
    if adversarial:
        judged.backward(to_image=True)
    if not keep:
        there.leave()
        there = there_again
        there.forward()
    if back:
        back.leave()
    there.backward()
    if config.precision == "mixed_float16":
        memory.take("unscaled", "gradients", trained)
    pool = 2 * config.pool_size * FLOAT16 * math.prod(config.patch_shape) if adversarial else 0
    return Need(**{field.name: memory.peak[field.name] for field in dataclasses.fields(Need)} | {"pool": pool})


def _volume(config: Config) -> int:
    return FLOAT32 * math.prod(config.patch_shape)
