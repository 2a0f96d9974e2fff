"""By windows as in one piece, for every kind of generator, any window, any overlap and any size."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclescan.config.presets import PRESETS
from cyclescan.inference import sliding_window
from cyclescan.inference.whole_volume import WholeVolume
from cyclescan.models import build_generator, unet3d
from tests.inference.tiny import lively

SMALL = {"levels": 2, "filters": 4, "max_filters": 8, "full_resolution_filters": 4}
SEED = SMALL | {"full_resolution_filters": 0, "upsampling": "transposed", "kernel": 4, "decoder_width": 2}
GENERATORS = {
    "default": SMALL,
    "seed": SEED,
    "several convolutions": SMALL | {"convolutions": 2},
    "no norm, residual": SMALL | {"normalization": "none", "residual": True},
    "wide: plain resize convolutions": SMALL | {"filters": 65, "max_filters": 80},
    "nothing at full resolution": SMALL | {"full_resolution_filters": 0},
    "texture carried over": SMALL | {"carry_texture": True},
    "texture, one level": SMALL | {"levels": 1, "kernel": 5, "carry_texture": True},
    "transposed, kernel 3": SMALL | {"upsampling": "transposed"},
}


def whole(generator):
    specs = [tf.TensorSpec((None,) * 3), tf.TensorSpec((3,), tf.int32), tf.TensorSpec(())]
    return tf.function(WholeVolume(generator), input_signature=specs)


def one_piece(generator, x):
    """The network on the whole volume, padded as the documentation says."""
    stride = WholeVolume(generator).stride
    pads = [((-n % stride) // 2, -n % stride - (-n % stride) // 2) for n in x.shape]
    padded = np.pad(x, pads, mode="reflect")
    y = np.asarray(generator(padded[None, ..., None]))[0, ..., 0]
    return y[tuple(slice(before, before + n) for (before, _), n in zip(pads, x.shape, strict=True))]


@pytest.fixture(scope="module", params=GENERATORS)
def case(request):
    generator = lively(unet3d(**GENERATORS[request.param]), 1)
    return generator, whole(generator)


@pytest.mark.parametrize("shape", [(16, 24, 20), (7, 9, 13)])
@pytest.mark.parametrize(
    ("window", "overlap"), [((4, 4, 4), 0), ((8, 4, 16), 0.5), ((64, 64, 64), 0), ((8, 12, 8), 0.9)]
)
def test_windows_give_the_numbers_of_one_piece(case, shape, window, overlap):
    generator, translate = case
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype("f4")
    expected = one_piece(generator, x)
    assert expected.std() > 0.2  # a flat result would show nothing
    result = translate(x, np.int32(window), np.float32(overlap)).numpy()
    # 1e-3 of the range is promised; what remains is rounding
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.fixture(scope="module")
def default():
    generator = lively(unet3d(**SMALL, carry_texture=True), 1)
    return generator, whole(generator)


edge = st.integers(1, 30)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.tuples(edge, edge, edge), st.tuples(*[st.integers(1, 9)] * 3), st.floats(0, 0.95))
def test_any_size_window_and_overlap(default, shape, window, overlap):
    generator, translate = default
    x = np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype("f4")
    result = translate(x, np.int32(window) * 4, np.float32(overlap)).numpy()
    np.testing.assert_allclose(result, one_piece(generator, x), atol=2e-4)


def test_plain_windows_are_not_one_piece(default):
    """What this module is for: the same windows, each normalised by itself, are off by tens of per cent."""
    generator, translate = default
    x = np.random.default_rng(0).uniform(-1, 1, (16, 24, 20)).astype("f4")
    x[:8] *= 0.2
    plain = sliding_window.apply(x, lambda b: np.asarray(generator(b)), (8, 8, 8), 0.5, 4)
    assert np.abs(plain - one_piece(generator, x)).max() > 0.2
    ours = translate(x, np.int32((8, 8, 8)), np.float32(0)).numpy()
    np.testing.assert_allclose(ours, one_piece(generator, x), atol=1e-4)


def test_statistics_are_right_far_from_zero():
    """Variance by the difference of two large numbers would be lost in float32."""
    image = keras.Input((None, None, None, 1))
    kernel = keras.initializers.Constant(1.0)
    x = keras.layers.Conv3D(1, 1, padding="same", use_bias=True, bias_initializer=kernel, kernel_initializer=kernel)(
        image
    )
    x = keras.layers.GroupNormalization(groups=-1, epsilon=1e-5)(x)
    translate = whole(keras.Model(image, x))
    array = (1000 + np.random.default_rng(0).normal(0, 0.1, (8, 8, 8))).astype("f4")
    result = translate(array, np.int32((4, 4, 4)), np.float32(0)).numpy()
    exact = array.astype("f8")
    np.testing.assert_allclose(result, (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5), atol=5e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_the_networks_of_all_presets_are_understood(name):
    config = PRESETS[name][1].with_settings(["generator_filters=2", "generator_max_filters=4"])
    generator = build_generator(config, "b2a")
    assert WholeVolume(generator).stride == PRESETS[name][1].stride


def test_an_unknown_layer_is_named():
    image = keras.Input((None, None, None, 1))
    model = keras.Model(image, keras.layers.MaxPooling3D(2, name="pool")(image))
    with pytest.raises(TypeError, match="the layer pool is a MaxPooling3D"):
        WholeVolume(model)
