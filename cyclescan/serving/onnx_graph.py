"""The patch signature as an ONNX model, for 3D Slicer, MONAI, Triton and whatever else runs ONNX.

Input `patches` and output `translated` are those of the SavedModel's signature `patches`: float32 (batch, depth,
height, width, 1) on [-1, 1], every size free, the three edges multiples of the card's stride. Tools whose tensors are
(batch, channel, depth, height, width) need no transposition: with one channel both are the same bytes, and a reshape
does.

The graph is built from the layers of our functional models, one operator for each; an unknown layer is refused.
`keras.Model.export(format="onnx")` works too and gives the same numbers, but needs tf2onnx, which looks for a
maintainer and knows TensorFlow up to 2.15, and writes 577 operators for the CISS to DESS generator
of `demo` where this writes 39.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

from cyclescan.common.errors import InputError
from cyclescan.models.graph import calls
from cyclescan.models.upsampled_conv import UpsampledConv3D

OPSET, IR_VERSION = 17, 8  # of 2022: old enough for what hospitals run, and it has every operator needed
INPUT, OUTPUT = "patches", "translated"
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 4, 1, 2, 3), (0, 2, 3, 4, 1)


def write(generator: keras.Model, path: str | Path, metadata: dict[str, object]) -> None:
    """Write the generator as one ONNX file; see `convert`."""
    model = convert(generator, metadata)
    Path(path).write_bytes(model.SerializeToString())


def convert(generator: keras.Model, metadata: dict[str, object]):
    """Return the generator as a checked `onnx.ModelProto`.

    Args:
        generator: a functional model (n, d, h, w, 1) -> the same, made of the layers of `models.unet3d`.
        metadata: what stands in the file's metadata_props; values that are not text are written as JSON.

    Raises:
        InputError: the package onnx is not installed, or the model has a layer that is not known here.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("ONNX needs the package onnx; install it with: pip install 'cyclescan[onnx]'.") from None
    graph = _Graph(generator)
    edges: list[str | int | None] = ["batch", "depth", "height", "width", 1]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            generator.name,
            [onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, edges)],
            [onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, edges)],
            graph.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cyclescan",
    )
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and weights of a functional model, with channels first as ONNX wants them."""

    def __init__(self, model: keras.Model) -> None:
        self.nodes: list = []
        self.initializers: list = []
        self._names: dict[int, str] = {}  # of the Keras tensors made so far
        self._names[id(model.inputs[0])] = self._node("Transpose", [INPUT], "to_channels_first", perm=TO_CHANNELS_FIRST)
        for layer, given in calls(model):
            if type(layer) not in LAYERS:
                known = ", ".join(sorted(kind.__name__ for kind in LAYERS))
                raise InputError(
                    f"The layer {layer.name} is a {type(layer).__name__}, which has no translation to ONNX here; known "
                    f"are {known}."
                )
            inputs = [self._names[id(tensor)] for tensor in given]
            self._names[id(layer.output)] = LAYERS[type(layer)](self, layer, inputs)
        self._node("Transpose", [self._names[id(model.outputs[0])]], "to_channels_last", perm=TO_CHANNELS_LAST)
        self.nodes[-1].output[0] = OUTPUT

    def _node(self, operator: str, inputs: Sequence[str], name: str, **attributes) -> str:
        """Add an operator and return the name of its result."""
        import onnx

        self.nodes.append(onnx.helper.make_node(operator, list(inputs), [f"{name}/out"], name=name, **attributes))
        return f"{name}/out"

    def _constant(self, name: str, values) -> str:
        import onnx

        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(values, np.float32, order="C"), name))
        return name

    def convolution(self, layer, inputs: list[str]) -> str:
        _require(layer, padding="same", data_format="channels_last", dilation_rate=(1, 1, 1), groups=1)
        return self._activate(layer, self._convolve("Conv", layer, inputs, layer.strides))

    def transposed_convolution(self, layer, inputs: list[str]) -> str:
        _require(layer, padding="same", data_format="channels_last", dilation_rate=(1, 1, 1), output_padding=None)
        return self._activate(layer, self._convolve("ConvTranspose", layer, inputs, layer.strides))

    def upsampled_convolution(self, layer, inputs: list[str]) -> str:
        """Return what the layer stands for: the coarse volume doubled beside the fine one, and their convolution."""
        coarse, *fine = inputs
        joined = self._double(f"{layer.name}/up", coarse, (2, 2, 2))
        if fine:
            joined = self._node("Concat", [joined, *fine], f"{layer.name}/skip", axis=1)
        return self._convolve("Conv", layer, [joined], (1, 1, 1))

    def _convolve(self, operator: str, layer, inputs: list[str], strides) -> str:
        # Keras keeps (d, h, w, in, out) and ONNX (out, in, d, h, w); for transposed ones both swap out and in
        weights = [self._constant(f"{layer.name}/kernel", np.transpose(layer.kernel, (4, 3, 0, 1, 2)))]
        if layer.use_bias:
            weights.append(self._constant(f"{layer.name}/bias", layer.bias))
        # SAME of TensorFlow for sizes that are multiples of the stride, as all are here: what is missing at the ends,
        # the larger half behind. A transposed convolution crops what its gradient's convolution would have padded.
        total = [max(0, k - s) for k, s in zip(layer.kernel_size, strides, strict=True)]
        before = [n // 2 for n in total]
        behind = [n - b for n, b in zip(total, before, strict=True)]
        return self._node(operator, [*inputs, *weights], layer.name, strides=strides, pads=[*before, *behind])

    def normalization(self, layer, inputs: list[str]) -> str:
        # Keras replaces the -1 of instance norm by the number of channels when it builds the layer
        _require(layer, groups=layer.gamma.shape[0], axis=-1, scale=True, center=True)
        scale = self._constant(f"{layer.name}/scale", layer.gamma)
        offset = self._constant(f"{layer.name}/offset", layer.beta)
        return self._node("InstanceNormalization", [*inputs, scale, offset], layer.name, epsilon=layer.epsilon)

    def upsampling(self, layer, inputs: list[str]) -> str:
        _require(layer, data_format="channels_last")
        return self._double(layer.name, inputs[0], layer.size)

    def _double(self, name: str, given: str, factors) -> str:
        scales = self._constant(f"{name}/scales", [1, 1, *factors])
        return self._node(
            "Resize",
            [given, "", scales],
            name,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def leaky_relu(self, layer, inputs: list[str]) -> str:
        return self._node("LeakyRelu", inputs, layer.name, alpha=float(layer.negative_slope))

    def relu(self, layer, inputs: list[str]) -> str:
        _require(layer, max_value=None, negative_slope=0, threshold=0)
        return self._node("Relu", inputs, layer.name)

    def concatenation(self, layer, inputs: list[str]) -> str:
        _require(layer, axis=-1)
        return self._node("Concat", inputs, layer.name, axis=1)

    def addition(self, layer, inputs: list[str]) -> str:
        return self._node("Sum", inputs, layer.name)

    def subtraction(self, layer, inputs: list[str]) -> str:
        return self._node("Sub", inputs, layer.name)

    def product(self, layer, inputs: list[str]) -> str:
        return self._node("Mul", inputs, layer.name)

    def average(self, layer, inputs: list[str]) -> str:
        _require(layer, padding="same", data_format="channels_last", strides=(1, 1, 1))
        pads = [n // 2 for n in layer.pool_size]  # of odd sizes
        attributes = {"kernel_shape": layer.pool_size, "pads": [*pads, *pads], "count_include_pad": 0}
        return self._node("AveragePool", inputs, layer.name, **attributes)

    def activation(self, layer, inputs: list[str]) -> str:
        return self._activate(layer, inputs[0])

    def _activate(self, layer, result: str) -> str:
        """Add the activation that a layer carries to what it computed."""
        name = keras.activations.serialize(layer.activation)
        if name not in ACTIVATIONS:
            raise InputError(
                f"The layer {layer.name} has the activation {name}; ONNX export knows {', '.join(ACTIVATIONS)}."
            )
        if name == "linear":
            return result
        operator, *constants = ACTIVATIONS[name]
        more = [self._constant(f"{layer.name}/{value:g}", value) for value in constants]
        return self._node(operator, [result, *more], f"{layer.name}/{name}")


def _require(layer, **settings) -> None:
    for key, expected in settings.items():
        got = getattr(layer, key)
        if got != expected:
            raise InputError(f"The layer {layer.name} has {key} {got!r}; ONNX export knows {expected!r} alone.")


ACTIVATIONS: dict[str, tuple] = {
    "linear": (),
    "tanh": ("Tanh",),
    "hard_tanh": ("Clip", -1.0, 1.0),
}  # operator, further inputs
LAYERS: dict[type, Callable] = {
    layers.Conv3D: _Graph.convolution,
    layers.Conv3DTranspose: _Graph.transposed_convolution,
    UpsampledConv3D: _Graph.upsampled_convolution,
    layers.GroupNormalization: _Graph.normalization,
    layers.UpSampling3D: _Graph.upsampling,
    layers.LeakyReLU: _Graph.leaky_relu,
    layers.ReLU: _Graph.relu,
    layers.Concatenate: _Graph.concatenation,
    layers.Add: _Graph.addition,
    layers.Subtract: _Graph.subtraction,
    layers.Multiply: _Graph.product,
    layers.AveragePooling3D: _Graph.average,
    layers.Activation: _Graph.activation,
}
