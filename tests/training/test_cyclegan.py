"""The step, against a plain transcription of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclescan.config import Config
from cyclescan.training.cyclegan import CycleGAN
from cyclescan.training.image_pool import ImagePool

SETTINGS = Config().with_settings(
    "patch_shape=8,16,16 generator_levels=2 generator_filters=4 generator_full_resolution_filters=4 "
    "discriminator_levels=1 discriminator_filters=4 discriminator_dropout=0 pool_size=0".split()
)


def batch(paired=False, size=1):
    rng = np.random.default_rng(0)
    keys = ["real_a", "real_b"] + (["partner_a", "partner_b"] if paired else [])
    values = {k: tf.constant(np.tanh(rng.normal(size=(size, 8, 16, 16, 1))), tf.float32) for k in keys}
    if paired:
        values |= {"weight_a": tf.ones_like(values["real_a"]), "weight_b": tf.ones_like(values["real_b"]) * 0.5}
    return values


def weights(model):
    return [v.numpy() for v in model.trained["generators"] + model.trained["discriminators"]]


def plain_step(model, data, config):
    """The step as the CycleGAN tutorial writes it: one call per volume, four tapes in one, nothing shared."""
    g, f = model.generators["a2b"], model.generators["b2a"]
    d_a, d_b = model.discriminators["a"], model.discriminators["b"]
    a, b = data["real_a"], data["real_b"]
    mae = lambda x, y: tf.reduce_mean(tf.abs(x - y))  # noqa: E731
    bce = keras.losses.BinaryCrossentropy(from_logits=True)
    with tf.GradientTape(persistent=True) as tape:
        fake_b, fake_a = g(a, training=True), f(b, training=True)
        cycled_a, cycled_b = f(fake_b, training=True), g(fake_a, training=True)
        cycle = config.lambda_cycle * (mae(cycled_a, a) + mae(cycled_b, b))
        identity = config.lambda_identity * (mae(g(b, training=True), b) + mae(f(a, training=True), a))
        one, zero = tf.ones_like(d_a(a)), tf.zeros_like(d_a(a))
        generators = cycle + identity + bce(one, d_b(fake_b)) + bce(one, d_a(fake_a))
    gradients = tape.gradient(generators, model.trained["generators"])
    model.optimizers["generators"].apply(gradients, model.trained["generators"])
    with tf.GradientTape() as tape:
        discriminators = 0.5 * (bce(one, d_a(a)) + bce(zero, d_a(fake_a)) + bce(one, d_b(b)) + bce(zero, d_b(fake_b)))
    gradients = tape.gradient(discriminators, model.trained["discriminators"])
    model.optimizers["discriminators"].apply(gradients, model.trained["discriminators"])
    return float(generators), float(discriminators)


def test_step_equals_a_plain_transcription_of_the_seeds():
    config = SETTINGS.with_settings(["adversarial_loss=bce", "lambda_identity=10"])
    ours, plain = CycleGAN(config, 1), CycleGAN(config, 1)
    for _ in range(2):
        terms = {k: float(v) for k, v in ours.train_step(batch())[0].items()}
        expected = plain_step(plain, batch(), config)
        total = sum(ours._weight(k) * v for k, v in terms.items() if not k.startswith("discriminator"))
        assert total == pytest.approx(expected[0], rel=1e-4)
        assert terms["discriminator_a"] + terms["discriminator_b"] == pytest.approx(expected[1], rel=1e-4)
    # Adam's first steps are +-learning_rate whatever the gradient's size, so compare by its scale
    for mine, theirs in zip(weights(ours), weights(plain), strict=True):
        assert np.abs(mine - theirs).mean() < 0.05 * config.learning_rate


def test_discriminators_learn_in_the_warmup_when_they_are_to_and_the_generators_do_not_notice():
    config = SETTINGS.with_settings(["lambda_pair=10", "pool_size=2"])
    alone, together = CycleGAN(config, 0), CycleGAN(config, 0)
    data = batch(paired=True)
    before = [v.numpy() for v in alone.trained["discriminators"]]
    assert sorted(alone.warmup_step(data)[0]) == ["pair_a2b", "pair_b2a"]
    assert all(np.array_equal(x, y.numpy()) for x, y in zip(before, alone.trained["discriminators"], strict=True))
    first = together.warmup_step(data, discriminators=True)[0]
    assert sorted(first) == ["discriminator_a", "discriminator_b", "pair_a2b", "pair_b2a"]
    for mine, theirs in zip(alone.trained["generators"], together.trained["generators"], strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-6)
    for _ in range(30):
        last = together.warmup_step(data, discriminators=True)[0]
    for name in ("discriminator_a", "discriminator_b"):
        assert float(last[name]) < 0.8 * float(first[name])


def test_terms_of_weight_zero_are_not_computed():
    config = SETTINGS.with_settings(["lambda_cycle=0", "lambda_adversarial=0", "lambda_identity=1"])
    model = CycleGAN(config, 0)
    before = [v.numpy() for v in model.trained["discriminators"]]
    assert sorted(model.train_step(batch())[0]) == ["identity_a", "identity_b"]
    assert all(np.array_equal(x, y.numpy()) for x, y in zip(before, model.trained["discriminators"], strict=True))


def test_all_terms_are_named_by_path():
    config = SETTINGS.with_settings(["lambda_identity=1", "lambda_pair=1", "lambda_gradient_consistency=0.3"])
    model = CycleGAN(config, 0)
    assert set(model.train_step(batch(paired=True))[0]) == {
        "pair_a2b",
        "pair_b2a",
        "identity_a",
        "identity_b",
        "cycle_aba",
        "cycle_bab",
        "adversarial_a2b",
        "adversarial_b2a",
        "gradient_consistency_a2b",
        "gradient_consistency_b2a",
        "discriminator_a",
        "discriminator_b",
    }


def test_warmup_learns_the_pairs():
    model = CycleGAN(SETTINGS.with_settings(["lambda_pair=1", "learning_rate=0.002"]), 0)
    data = batch(paired=True)
    first = float(model.warmup_step(data)[0]["pair_a2b"])
    for _ in range(40):
        last = float(model.warmup_step(data)[0]["pair_a2b"])
    assert last < 0.8 * first
    assert int(model.step) == 41


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_updates_like_float32(precision):
    """Same seed, same data: the update has the direction and the size of the float32 one."""
    config = SETTINGS.with_settings(["learning_rate=0.001"])
    updates = {}
    for name in ("float32", precision):
        model = CycleGAN(config.with_settings([f"precision={name}"]), 3)
        before = weights(model)
        for _ in range(3):
            terms = model.train_step(batch())[0]
        assert all(v.dtype == tf.float32 for v in terms.values())
        updates[name] = np.concatenate([(y - x).ravel() for x, y in zip(before, weights(model), strict=True)])
    one, other = updates.values()
    assert np.corrcoef(one, other)[0, 1] > 0.9
    assert np.linalg.norm(other) == pytest.approx(np.linalg.norm(one), rel=0.1)


def test_float16_scales_the_loss_and_skips_an_overflow():
    model = CycleGAN(SETTINGS.with_settings(["precision=mixed_float16"]), 0)
    optimizer = model.optimizers["generators"]
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    scale = float(optimizer.dynamic_scale)
    before = [v.numpy() for v in model.trained["generators"]]
    bad = [tf.fill(v.shape, np.inf) for v in model.trained["generators"]]
    optimizer.apply(bad, model.trained["generators"])
    assert all(np.array_equal(x, y.numpy()) for x, y in zip(before, model.trained["generators"], strict=True))
    assert float(optimizer.dynamic_scale) == scale / 2


def test_batch_of_two_is_the_mean_of_its_volumes():
    config = SETTINGS.with_settings(["lambda_adversarial=0", "batch_size=2"])
    both = batch(size=2)
    models = [CycleGAN(config, 0) for _ in range(3)]
    terms, _ = models[0].train_step(both)
    singles = [models[i + 1].train_step({k: v[i : i + 1] for k, v in both.items()})[0] for i in range(2)]
    mean = np.mean([float(s["cycle_aba"]) for s in singles])
    assert float(terms["cycle_aba"]) == pytest.approx(mean, rel=1e-4)


def test_pool_fills_then_exchanges_half():
    pool = ImagePool(4, (1, 1, 1), seed=0, name="pool")
    exchange = tf.function(pool.exchange)
    sent, returned = [], []
    for step in range(200):
        value = float(step + 1)
        result = exchange(tf.fill((1, 1, 1, 1, 1), value), tf.constant(step, tf.int64))
        sent.append(value)
        returned.append(float(result[0, 0, 0, 0, 0]))
    assert returned[:4] == sent[:4]
    kept = sum(a == b for a, b in zip(sent[4:], returned[4:], strict=True))
    assert 70 < kept < 126  # 98 +- 4 SD of a fair coin
    assert all(value in sent[: i + 1] for i, value in enumerate(returned))
    old = [v for a, v in zip(sent, returned, strict=True) if v != a]
    assert len(old) == len(set(old))  # an exchanged patch leaves the pool


def test_pool_of_size_zero_passes_through():
    x = tf.random.normal((1, 2, 2, 2, 1))
    assert ImagePool(0, (2, 2, 2), 0, "pool").exchange(x, 0) is x
