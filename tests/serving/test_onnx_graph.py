"""ONNX files give the numbers of the Keras generators, for every kind of them, and say what they are."""

import json
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers

from cyclescan import NOTICE
from cyclescan.artifacts import checkpoints
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.config.presets import PRESETS
from cyclescan.models import build_generator, unet3d
from cyclescan.serving import onnx_graph
from tests.inference import tiny

SHAPES = [(1, 8, 16, 24), (3, 4, 4, 4), (2, 12, 8, 20)]


def predict(model, patches):
    data = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["translated"], {"patches": patches})[0]


def check_parity(generator, shapes=SHAPES):
    model = onnx_graph.convert(generator, {})
    for shape in shapes:
        patches = np.random.default_rng(0).uniform(-1, 1, (*shape, 1)).astype(np.float32)
        expected = generator(patches).numpy()
        assert np.ptp(expected) > 0.3  # a flat result would show nothing
        assert np.abs(predict(model, patches) - expected).max() < 1e-4


@pytest.mark.parametrize("upsampling", ["resize", "transposed"])
@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("full_resolution_filters", [0, 4])
def test_grids(upsampling, kernel, full_resolution_filters):
    """Even and odd kernels pad differently before and behind."""
    generator = unet3d(
        levels=2,
        filters=3,
        kernel=kernel,
        upsampling=upsampling,
        full_resolution_filters=full_resolution_filters,
    )
    check_parity(tiny.lively(generator, kernel))


@pytest.mark.parametrize(
    "options",
    [
        {"normalization": "none"},
        {"normalization": "none", "upsampling": "transposed"},
        {"residual": True},
        {"max_filters": 96, "filters": 70},  # too many for `UpsampledConv3D`
        {"convolutions": 2, "decoder_width": 2},
        {"carry_texture": True},
    ],
)
def test_kinds(options):
    check_parity(tiny.lively(unet3d(**{"levels": 2, "filters": 3, "full_resolution_filters": 3, **options}), 1))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_at_small_widths(name):
    config = PRESETS[name][1].with_settings(
        [
            "generator_filters=2",
            "generator_max_filters=4",
            f"generator_full_resolution_filters={min(2, PRESETS[name][1].generator_full_resolution_filters)}",
        ]
    )
    check_parity(tiny.lively(build_generator(config, "b2a"), 2), [(1, 32, 64, 32), (2, 32, 32, 64)])


def test_an_unknown_layer_is_refused():
    image = keras.Input((None, None, None, 1))
    model = keras.Model(image, layers.MaxPooling3D(name="pool")(image))
    with pytest.raises(
        InputError, match=r"The layer pool is a MaxPooling3D, which has no translation .* known are Act"
    ):
        onnx_graph.convert(model, {})
    model = keras.Model(image, layers.Conv3D(1, 3, padding="valid", name="edge")(image))
    with pytest.raises(InputError, match="The layer edge has padding 'valid'; ONNX export knows 'same' alone"):
        onnx_graph.convert(model, {})
    model = keras.Model(image, layers.Activation("gelu", name="act")(image))
    with pytest.raises(
        InputError, match="The layer act has the activation gelu; ONNX export knows linear, tanh, hard_tanh"
    ):
        onnx_graph.convert(model, {})


def test_without_the_package_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'cyclescan\[onnx\]'"):
        onnx_graph.convert(unet3d(levels=1, filters=2), {})


def test_the_exported_files(run, exported):
    assert sorted(p.name for p in (exported / "onnx").iterdir()) == ["a2b-1.onnx", "b2a-1.onnx"]
    for direction, source, target in (("a2b", "ciss", "ct"), ("b2a", "ct", "ciss")):
        path = str(exported / "onnx" / f"{direction}-1.onnx")
        patches = np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 4, 1)).astype(np.float32)
        expected = checkpoints.load_generator(run, direction)(patches)
        assert np.abs(predict(path, patches) - expected).max() < 1e-4
        model = onnx.load(path)
        edges = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        assert edges == ["batch", "depth", "height", "width", 1]
        facts = {entry.key: entry.value for entry in model.metadata_props}
        card = read_json(exported / direction / "1" / "assets.extra" / "card.json")
        assert facts["notice"] == NOTICE
        assert (facts["source"], facts["target"], facts["direction"]) == (source, target, direction)
        assert json.loads(facts["spacing_mm"]) == [8.0, 8.0, 8.0]
        assert (facts["edges_multiple_of"], facts["step"], facts["version"]) == ("4", "10", "1")
        assert facts["checkpoint_sha256"] == card["checkpoint_sha256"]
        assert facts["source_scaling"] == run.data["domains"][direction[0]]["scaling"]
        assert json.loads(facts["target_intensity"]) == run.data["domains"][direction[2]]["intensity"]
