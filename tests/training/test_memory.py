"""The memory of a step on paper against what TensorFlow's allocator gave out."""

import gc

import pytest
import tensorflow as tf

from cyclescan.common.errors import InputError
from cyclescan.config.presets import preset
from cyclescan.training.cyclegan import CycleGAN
from cyclescan.training.memory import Networks, estimate
from cyclescan.training.terms import batch_contents
from tests.conftest import SETTINGS

NARROW = "patch_shape=32,64,64 generator_filters=16 generator_max_filters=128 discriminator_filters=16"
TINY = preset("demo").with_settings(SETTINGS)


def measured(config, steps=3) -> int:
    """Bytes at the peak of a few steps, above what there was before; which ones are alive together differs a little."""
    gc.collect()
    before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    model = CycleGAN(config, 0)
    shape = (config.batch_size, *config.patch_shape, 1)
    keys = ["real_a", "real_b"]
    if config.lambda_pair:
        keys += ["partner_a", "partner_b", "weight_a", "weight_b"]
    batch = {key: tf.random.stateless_uniform(shape, [0, i]) for i, key in enumerate(keys)}
    if batch_contents(config)["detail"]:
        batch |= {f"detail_{d}": tf.random.stateless_uniform((*shape[:-1], 2), [1, 0]) for d in "ab"}
    tf.config.experimental.reset_memory_stats("CPU:0")
    for _ in range(steps):
        losses, _ = model.train_step(batch)
        assert all(float(value) == float(value) for value in losses.values())
    return tf.config.experimental.get_memory_info("CPU:0")["peak"] - before


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="the allocator of the CPU is what is read")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cyclescan", NARROW),
        pytest.param("demo", "", marks=pytest.mark.slow),
        pytest.param("demo", "patch_shape=16,64,64 batch_size=2 accumulate=2", marks=pytest.mark.slow),
        pytest.param("demo", "rematerialize=true", marks=pytest.mark.slow),
        pytest.param("demo", "precision=mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param("gradient_consistency", "patch_shape=16,64,64 generator_filters=16", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_within_15_percent_of_the_measured_peak(name, settings):
    config = preset(name).with_settings(settings.split())
    need = estimate(config)
    assert need.device + need.pool == pytest.approx(measured(config), rel=0.15)


def test_weights_moments_averages_and_pool_are_counted_exactly():
    # the convolutions that amplitudes of texture come from are not counted
    config = TINY.with_settings(["patch_shape=8,16,32", "pool_size=5", "texture=none"])
    model, need = CycleGAN(config, 0), estimate(config)
    trained = sum(v.value.shape.num_elements() for group in model.trained.values() for v in group)
    averages = sum(v.value.shape.num_elements() for v in model.trained["generators"])
    assert need.weights == 4 * (trained + averages)
    assert need.optimizer == 4 * 2 * trained
    assert need.pool == 2 * 2 * 5 * 8 * 16 * 32
    assert need.batches == 4 * 10 * 8 * 16 * 32


def test_what_needs_less_memory_is_estimated_to():
    networks = Networks()

    def device(*settings):
        return estimate(preset("demo").with_settings(settings), networks).device

    whole = device("batch_size=4")
    assert device("batch_size=4", "accumulate=4") < device("batch_size=4", "accumulate=2") < whole
    assert device("batch_size=4", "rematerialize=true") < whole
    assert device("batch_size=4", "precision=mixed_bfloat16") < 0.75 * whole
    assert device("batch_size=4", "lambda_identity=1") > whole > device("batch_size=4", "lambda_back=0")
    assert device("batch_size=4", "generator_filters=16") < whole < device("batch_size=4", "average_decay=0.9") + 1


def test_activations_grow_with_the_voxels():
    networks = Networks()
    small, large = (
        estimate(TINY.with_settings([f"patch_shape={shape}"]), networks) for shape in ("16,32,32", "32,64,64")
    )
    assert large.activations == pytest.approx(8 * small.activations, rel=0.1)
    assert large.weights == small.weights


def test_a_patch_too_small_for_the_discriminator_is_a_sentence():
    config = TINY.with_settings(["discriminator_levels=3", "patch_shape=8,8,8"])
    with pytest.raises(InputError, match="patch_shape 8,8,8 is too small for the discriminator"):
        estimate(config)
