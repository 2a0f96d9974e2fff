import json
import pathlib

import keras
import numpy as np
import pytest

from benchmarks import cost
from benchmarks.cost import convolution_macs
from cyclescan.config.presets import preset
from cyclescan.models import build_discriminator, build_generator, patchgan3d, texture, unet3d, upsampled_conv
from cyclescan.models.blocks import instance_norm
from cyclescan.models.upsampled_conv import UpsampledConv3D
from cyclescan.preprocessing.detail import WINDOWS, mean_around

SMALL = {"levels": 2, "filters": 4, "max_filters": 8, "full_resolution_filters": 4}


def test_cyclescan_preset_is_the_seeds_network():
    config = preset("cyclescan")
    generator, discriminator = build_generator(config, "a2b"), build_discriminator(config, "d")
    assert generator.count_params() == 93_869_569
    assert discriminator.count_params() == 11_048_705
    # operations stated with the issue: 13.0 and 2.9 GMAC at 32 x 64 x 64
    assert convolution_macs(generator, (1, 32, 64, 64, 1)) == pytest.approx(13.0e9, rel=0.01)
    assert convolution_macs(discriminator, (1, 32, 64, 64, 1)) == pytest.approx(2.9e9, rel=0.01)


def test_texture_is_detail_of_the_input_times_amplitudes():
    plain, textured = unet3d(**SMALL, seed=3), unet3d(**SMALL, seed=3, carry_texture=True)
    assert texture.without(plain) is plain
    x = np.random.default_rng(0).uniform(-1, 1, (8, 12, 8)).astype("f4")
    np.testing.assert_array_equal(textured(x[None, ..., None]), plain(x[None, ..., None]))  # none to begin with
    for variable in texture.heads(textured):  # amplitudes of both signs: what is below 0 adds nothing
        variable.assign(np.random.default_rng(1).normal(0, 0.1, variable.shape))
    translated, features = texture.without(textured)(x[None, ..., None])
    np.testing.assert_array_equal(translated, plain(x[None, ..., None]))
    amplitudes = np.asarray(texture.amplitudes(textured, features))[0]
    assert (amplitudes > 0.1).any() and (amplitudes < -0.1).any()
    finer, added = x, 0.0
    for band, window in enumerate(WINDOWS):
        coarser = mean_around(x, window)
        added = added + np.maximum(amplitudes[..., band], 0) * (finer - coarser)
        finer = coarser
    expected = np.clip(np.asarray(translated)[0, ..., 0] + added, -1, 1)
    np.testing.assert_allclose(np.asarray(textured(x[None, ..., None]))[0, ..., 0], expected, atol=1e-5)


def test_macs_of_one_convolution_by_hand():
    image = keras.Input((None, None, None, 1))
    down = keras.layers.Conv3D(5, 3, strides=2, padding="same")(image)
    up = keras.layers.Conv3DTranspose(2, 4, strides=2, padding="same")(down)
    voxels = 4 * 2 * 3  # after the halving of 8 x 4 x 6
    expected = voxels * 27 * 1 * 5 + voxels * 64 * 5 * 2
    assert convolution_macs(keras.Model(image, up), (1, 8, 4, 6, 1)) == expected


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels", [(3, 2), (3,)])
def test_the_convolution_of_a_doubled_volume_by_its_definition(kernel, channels):
    images = [keras.Input((None, None, None, n)) for n in channels]
    doubled = [keras.layers.UpSampling3D(2)(images[0]), *images[1:]]
    joined = keras.layers.Concatenate()(doubled) if len(doubled) > 1 else doubled[0]
    plain = keras.Model(images, keras.layers.Conv3D(4, kernel, padding="same")(joined))
    merged = keras.Model(images, UpsampledConv3D(4, kernel, True, "glorot_uniform", name="up")(images))
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=w.shape) for w in plain.get_weights()]
    for model in (plain, merged):
        model.set_weights(weights)
    shapes = [(2, 3, 4, 1, n) if i == 0 else (2, 6, 8, 2, n) for i, n in enumerate(channels)]
    x = [rng.normal(size=shape).astype("f4") for shape in shapes]
    np.testing.assert_allclose(np.asarray(merged(x)), np.asarray(plain(x)), atol=3e-5)


def test_macs_of_a_doubled_convolution_by_hand():
    coarse, skip = keras.Input((None, None, None, 5)), keras.Input((None, None, None, 3))
    layer = UpsampledConv3D(2, 3, False, "zeros", name="up")
    layer([coarse, skip])
    assert len(upsampled_conv.merging(3)) == 2 * 2
    assert cost._macs_a_voxel(layer) == (8 * 5 + 27 * 3) * 2


@pytest.mark.parametrize("shape", [(8, 8, 8), (4, 12, 20)])
@pytest.mark.parametrize("upsampling", ["resize", "transposed"])
@pytest.mark.parametrize("full", [0, 4])
def test_generator_keeps_shape_and_range(shape, upsampling, full):
    generator = unet3d(**(SMALL | {"full_resolution_filters": full, "upsampling": upsampling}))
    x = np.random.default_rng(0).normal(size=(2, *shape, 1)).astype("f4")
    y = np.asarray(generator(x))
    assert y.shape == x.shape
    assert np.abs(y).max() <= 1
    # nothing mixes the batch: training batches several inputs into one call and relies on it
    np.testing.assert_allclose(np.asarray(generator(x[1:])), y[1:], atol=1e-5)


def checkerboard(upsampling):
    """Energy of the output at the grid frequency, on a constant input, away from the border."""
    generator = unet3d(
        3, 8, 16, 0, kernel=4 if upsampling == "transposed" else 3, upsampling=upsampling, seed=3, normalization="none"
    )
    y = np.asarray(generator(np.full((1, 48, 48, 48, 1), 0.7, "f4")))[0, 16:32, 16:32, 16:32, 0]
    return float(np.std(y) / (np.abs(np.mean(y)) + 1e-12))


def test_resize_convolution_leaves_no_checkerboard():
    assert checkerboard("resize") < 1e-4
    assert checkerboard("transposed") > 1e-2


def test_residual_generator_begins_near_the_input():
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 8, 8, 8, 1)).astype("f4")
    generator = unet3d(**SMALL, residual=True)
    generator.get_layer("head").set_weights([np.zeros_like(w) for w in generator.get_layer("head").get_weights()])
    np.testing.assert_allclose(np.asarray(generator(x)), np.tanh(x), atol=1e-6)


def test_seed_determines_weights():
    one, same, other = (unet3d(**SMALL, seed=s).get_weights() for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    kernels = [w for w in one if w.ndim == 5 and w.shape == (3, 3, 3, 4, 4)]
    assert not any(np.array_equal(kernels[0], k) for k in kernels[1:])


def test_discriminator_drops_out_only_in_training():
    discriminator = patchgan3d(levels=1, filters=4)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 8, 1)).astype("f4")
    first, second = (np.asarray(discriminator(x, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.asarray(discriminator(x)), np.asarray(discriminator(x)))


def test_instance_norm_equals_tensorflow_addons():
    """The numbers are in tests/models/instance_norm_golden.json, with how they were computed."""
    golden = json.loads((pathlib.Path(__file__).parent / "instance_norm_golden.json").read_text())
    x = np.asarray(golden["input"], np.float32).reshape(golden["shape"])
    image = keras.Input((None, None, None, x.shape[-1]))
    model = keras.Model(image, instance_norm(image, "norm"))
    model.get_layer("norm").set_weights([np.asarray(golden["gamma"], "f4"), np.asarray(golden["beta"], "f4")])
    np.testing.assert_allclose(np.asarray(model(x)).ravel(), golden["output"], atol=2e-6)


def test_mixed_precision_is_float32_at_the_border():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        generator, discriminator = unet3d(**SMALL), patchgan3d(levels=1, filters=4)
    finally:
        keras.config.set_dtype_policy(policy)
    x = np.zeros((1, 8, 8, 8, 1), "f4")
    assert generator.get_layer("down1_conv").compute_dtype == "bfloat16"
    assert str(np.asarray(generator(x)).dtype) == "float32"
    assert str(np.asarray(discriminator(x)).dtype) == "float32"
