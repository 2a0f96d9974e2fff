"""The step, against a plain transcription of it."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.plain import PlainCycleGAN
from cyclescan import losses
from cyclescan.artifacts.direction import Direction
from cyclescan.config import Config
from cyclescan.models import texture
from cyclescan.preprocessing import detail
from cyclescan.training import terms
from cyclescan.training.cyclegan import CycleGAN, _Networks
from cyclescan.training.image_pool import ImagePool
from cyclescan.training.terms import Phase
from tests.conftest import without_graphs

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
        values |= {f"detail_{d}": tf.fill((size, 8, 16, 16, 2), 0.1) for d in "ab"}
    return values


TEXTURED = ["lambda_pair=10", "texture=both"]


def weights(model):
    return [v.numpy() for v in model.trained["generators"] + model.trained["discriminators"]]


def test_step_equals_a_plain_transcription_of_the_seeds():
    """In losses, in gradients and, from step to step, in weights; deep levels, so that every kernel of ours is used."""
    config = SETTINGS.with_settings(
        "adversarial_loss=bce lambda_identity=10 generator_upsampling=transposed generator_kernel=4 "
        "generator_full_resolution_filters=0 generator_decoder_width=2 generator_levels=3".split()
    )
    ours, plain, data = CycleGAN(config, 1), PlainCycleGAN(config, 1), batch()
    networks = [*ours.generators.values(), *ours.discriminators.values()]
    for _ in range(2):
        expected, wanted = plain.gradients(data["real_a"], data["real_b"])
        (gradients, told, _), _ = ours._gradients(data, 0, Phase.whole(config))
        got = gradients["generators"] + gradients["discriminators"]
        for mine, theirs in zip(got, itertools.chain(*wanted), strict=True):
            # a ReLU whose input is 0 up to rounding may go either way
            assert np.linalg.norm(mine - theirs) < 5e-3 * np.linalg.norm(theirs) + 1e-6
        told = {name: float(value) for name, value in told.items()}
        cycle = 10 * (told["cycle_aba"] + told["cycle_bab"])
        totals = [
            told["adversarial_a2b"] + cycle + 10 * told["identity_b"],
            told["adversarial_b2a"] + cycle + 10 * told["identity_a"],
            told["discriminator_a"],
            told["discriminator_b"],
        ]
        np.testing.assert_allclose(totals, expected, rtol=1e-5)
        ours.train_step(data)
        plain.step(data["real_a"], data["real_b"])
        for mine, theirs in zip(networks, plain.networks, strict=True):
            for x, y in zip(mine.get_weights(), theirs.get_weights(), strict=True):
                # Adam's first steps are +-learning_rate even where a gradient is 0 but for rounding
                assert np.median(np.abs(x - y)) < 1e-3 * config.learning_rate
                assert np.abs(x - y).mean() < 0.02 * config.learning_rate


def test_parts_of_a_batch_give_the_step_of_the_whole():
    config = SETTINGS.with_settings(["batch_size=4", "lambda_identity=1", *TEXTURED])
    whole, parts = CycleGAN(config, 0), CycleGAN(config.with_settings(["accumulate=2"]), 0)
    for _ in range(2):
        with without_graphs():
            expected, measured = whole.train_step(batch(paired=True, size=4))
        got, measures = parts.train_step(batch(paired=True, size=4))
    for these, those in ((expected, got), (measured, measures)):
        assert these.keys() == those.keys()
        np.testing.assert_allclose([float(v) for v in these.values()], [float(v) for v in those.values()], rtol=1e-3)
    for mine, theirs in zip(weights(whole), weights(parts), strict=True):
        assert np.abs(mine - theirs).mean() < 0.02 * config.learning_rate


@pytest.mark.usefixtures("eagerly")
def test_parts_of_a_batch_draw_patches_of_their_own_from_the_pool():
    model = CycleGAN(SETTINGS.with_settings(["batch_size=4", "accumulate=4", "pool_size=8"]), 0)
    model.train_step(batch(size=4))
    pool = model.pools["a"]
    assert int(pool.filled) == 4
    stored = pool.patches.numpy()[:4].reshape(4, -1)
    assert len(np.unique(stored, axis=0)) == 4


def test_generators_that_are_computed_again_give_the_same_step():
    config = SETTINGS.with_settings(TEXTURED)
    plain, again = CycleGAN(config, 0), CycleGAN(config.with_settings(["rematerialize=true"]), 0)
    for _ in range(2):
        with without_graphs():
            expected, _ = plain.train_step(batch(paired=True))
        got, _ = again.train_step(batch(paired=True))
    np.testing.assert_allclose([float(v) for v in expected.values()], [float(v) for v in got.values()], rtol=1e-5)
    for mine, theirs in zip(weights(plain), weights(again), strict=True):
        assert np.abs(mine - theirs).mean() < 0.02 * SETTINGS.learning_rate


@pytest.mark.usefixtures("eagerly")
def test_measures_of_a_step_by_their_definitions():
    model = CycleGAN(SETTINGS, 0)
    (gradients, _, before), _ = model._gradients(batch(), 0, Phase.whole(SETTINGS))
    logits = {n: [model.discriminators[n](x, training=True) for x in (batch()[f"real_{n}"],)] for n in "ab"}
    _, measures = model.train_step(batch())
    assert set(measures) == {"accuracy_a", "accuracy_b", "gradient_norm_generators", "gradient_norm_discriminators"}
    for name in ("generators", "discriminators"):
        norm = np.sqrt(sum(np.square(g.numpy()).sum() for g in gradients[name]))
        assert float(measures[f"gradient_norm_{name}"]) == pytest.approx(norm, rel=1e-4)
    for name in "ab":
        assert float(measures[f"accuracy_{name}"]) == pytest.approx(float(before[f"accuracy_{name}"]), abs=1e-6)
        assert np.asarray(logits[name][0]).shape[-1] == 1


@pytest.mark.usefixtures("eagerly")
def test_r1_is_the_squared_gradient_on_real_volumes():
    config = SETTINGS.with_settings(["lambda_r1=3"])
    model, without = CycleGAN(config, 0), CycleGAN(SETTINGS, 0)
    real = batch()["real_a"]
    step = 1e-2 * np.random.default_rng(1).normal(size=real.shape).astype("f4")
    with tf.GradientTape() as tape:
        tape.watch(real)
        total = tf.reduce_sum(model.discriminators["a"](real, training=True))
    gradient = tape.gradient(total, real).numpy()
    # the gradient itself, by a difference in a random direction
    change = [float(tf.reduce_sum(model.discriminators["a"](real + s * step, training=True))) for s in (-0.5, 0.5)]
    assert change[1] - change[0] == pytest.approx(float((gradient * step).sum()), rel=0.05)
    logits = model.discriminators["a"](real).numpy().size
    told, _ = model.train_step(batch())
    assert float(told["r1_a"]) == pytest.approx(0.5 * np.square(gradient).sum() / logits, rel=1e-3)
    plain, _ = without.train_step(batch())
    assert float(told["discriminator_a"]) == pytest.approx(float(plain["discriminator_a"]), rel=1e-4)


def test_spectral_norm_bounds_every_kernel_and_is_seeded():
    config = SETTINGS.with_settings(["discriminator_normalization=spectral", "learning_rate=0.01"])

    def trained():
        model = CycleGAN(config, 0)
        for _ in range(12):
            model.train_step(batch())
        discriminator = model.discriminators["a"]
        discriminator(batch()["real_a"], training=True)  # normalises what the last step has changed
        return [v.numpy() for v in discriminator.trainable_variables if v.name == "kernel"]

    kernels, again = trained(), trained()
    assert len(kernels) == 3
    for one, other in zip(kernels, again, strict=True):
        assert np.array_equal(one, other)
        assert np.linalg.svd(one.reshape(-1, one.shape[-1]))[1][0] == pytest.approx(1.0, abs=0.1)


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


@pytest.mark.usefixtures("eagerly")
def test_terms_of_weight_zero_are_not_computed():
    config = SETTINGS.with_settings(["lambda_cycle=0", "lambda_adversarial=0", "lambda_identity=1"])
    model = CycleGAN(config, 0)
    before = [v.numpy() for v in model.trained["discriminators"]]
    assert sorted(model.train_step(batch())[0]) == ["identity_a", "identity_b"]
    assert all(np.array_equal(x, y.numpy()) for x, y in zip(before, model.trained["discriminators"], strict=True))


@pytest.mark.usefixtures("eagerly")
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


def test_a_step_has_the_same_bytes_each_time():
    """With every term, on volumes so large that operations have several threads and run beside one another."""
    settings = ["patch_shape=16,48,48", "generator_levels=3", "lambda_pair=10", "discriminator_levels=2"]
    settings += ["lambda_back=5", "lambda_detail=0.3", "lambda_gradient_consistency=0.3", "lambda_identity=1"]
    model = CycleGAN(Config().with_settings(settings), 0)
    rng = np.random.default_rng(0)
    keys = ("real_a", "real_b", "partner_a", "partner_b", "weight_a", "weight_b")
    data = {key: tf.constant(rng.uniform(size=(1, 16, 48, 48, 1)), tf.float32) for key in keys}
    data |= {f"detail_{d}": tf.constant(rng.uniform(size=(1, 16, 48, 48, 2)), tf.float32) for d in "ab"}
    step = tf.function(lambda: model._gradients(data, 0, Phase.whole(model.config))[0])
    first, *others = [[g.numpy() for g in tf.nest.flatten(step())] for _ in range(3)]
    for other in others:
        assert all(np.array_equal(x, y) for x, y in zip(first, other, strict=True))


@functools.cache
def update(precision):
    """What three steps change, of one seed and the same data."""
    model = CycleGAN(SETTINGS.with_settings(["learning_rate=0.001", *TEXTURED, f"precision={precision}"]), 3)
    before = weights(model)
    for _ in range(3):
        told = model.train_step(batch(paired=True))[0]
    assert all(v.dtype == tf.float32 for v in told.values())
    return np.concatenate([(y - x).ravel() for x, y in zip(before, weights(model), strict=True)])


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_updates_like_float32(precision):
    """The update has the direction and the size of the float32 one."""
    one, other = update("float32"), update(precision)
    assert np.corrcoef(one, other)[0, 1] > 0.9
    assert np.linalg.norm(other) == pytest.approx(np.linalg.norm(one), rel=0.1)


@functools.cache
def curve(precision):
    """The pair term of 40 steps."""
    settings = ["lambda_pair=10", "lambda_cycle=1", "learning_rate=0.002", "average_decay=0.5"]
    model, data = CycleGAN(SETTINGS.with_settings([*settings, f"precision={precision}"]), 0), batch(paired=True)
    steps = [model.train_step(data)[0] for _ in range(40)]
    return np.array([float(s["pair_a2b"]) + float(s["pair_b2a"]) for s in steps])


@pytest.mark.slow  # single updates are compared above, and a run in float16 is among the golden ones
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_a_short_run_in_mixed_precision_learns_what_float32_learns(precision):
    one, other = curve("float32"), curve(precision)
    assert one[-1] < 0.95 * one[0]
    np.testing.assert_allclose(other, one, rtol=0.1)


def test_an_overflow_in_float16_skips_the_step_and_nothing_else():
    model = CycleGAN(SETTINGS.with_settings(["precision=mixed_float16", "average_decay=0.9", "pool_size=4"]), 0)
    model.train_step(batch())
    kept = [v.numpy() for o in model.optimizers.values() for v in o.inner_optimizer.variables] + weights(model)
    too_much = 2.0**26
    for optimizer in model.optimizers.values():
        optimizer.dynamic_scale.assign(too_much)
    losses, measures = model.train_step(batch())
    assert all(np.isfinite(float(v)) for v in losses.values())
    assert int(model.step) == 2
    assert int(model.pools["a"].filled) == 2
    for name, optimizer in model.optimizers.items():
        assert not np.isfinite(float(measures[f"gradient_norm_{name}"]))
        assert float(measures[f"loss_scale_{name}"]) == too_much
        assert float(optimizer.dynamic_scale) == too_much / 2
    after = [v.numpy() for o in model.optimizers.values() for v in o.inner_optimizer.variables] + weights(model)
    assert all(np.array_equal(x, y) for x, y in zip(kept, after, strict=True))
    for _ in range(20):
        _, measures = model.train_step(batch())
    assert float(measures["loss_scale_generators"]) < 2.0**20
    assert np.isfinite(float(measures["gradient_norm_generators"]))
    moved = [not np.array_equal(x, y) for x, y in zip(kept[-len(weights(model)) :], weights(model), strict=True)]
    assert all(moved)


@pytest.mark.usefixtures("eagerly")
def test_gradient_norm_in_float16_is_that_of_the_unscaled_gradients():
    norms = []
    for precision in ("float32", "mixed_float16"):
        model = CycleGAN(SETTINGS.with_settings([f"precision={precision}"]), 0)
        _, measures = model.train_step(batch())
        norms.append([float(measures[f"gradient_norm_{name}"]) for name in ("generators", "discriminators")])
    np.testing.assert_allclose(norms[1], norms[0], rtol=0.05)


@pytest.mark.usefixtures("eagerly")
def test_batch_of_two_is_the_mean_of_its_volumes():
    config = SETTINGS.with_settings(["lambda_adversarial=0", "batch_size=2"])
    both = batch(size=2)
    models = [CycleGAN(config, 0) for _ in range(3)]
    told, _ = models[0].train_step(both)
    singles = [models[i + 1].train_step({k: v[i : i + 1] for k, v in both.items()})[0] for i in range(2)]
    mean = np.mean([float(s["cycle_aba"]) for s in singles])
    assert float(told["cycle_aba"]) == pytest.approx(mean, rel=1e-4)


def test_pool_fills_then_exchanges_half():
    pool = ImagePool(4, (1, 1, 1), batch_size=1, seed=0, name="pool")
    sent, returned = [], []

    @tf.function
    def exchange(patches, step):
        result = pool.exchange(patches, step)
        pool.keep(patches, step)
        return result

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


@pytest.mark.parametrize(("size", "batch_size"), [(5, 3), (2, 3)])
def test_patches_of_a_step_never_share_a_slot_of_the_pool(size, batch_size):
    """Each patch is returned once: as itself or, later, for another one; in parts as at once."""
    pool = ImagePool(size, (1, 1, 1), batch_size, seed=0, name="pool")
    returned = []
    for number in range(40):
        values = np.arange(1, batch_size + 1, dtype="f4") + number * batch_size
        patches, step = tf.reshape(tf.constant(values), (-1, 1, 1, 1, 1)), tf.constant(number, tf.int64)
        at_once = pool.exchange(patches, step).numpy().ravel()
        parts = [pool.exchange(patches[i : i + 1], step, i).numpy().ravel() for i in range(batch_size)]
        np.testing.assert_array_equal(np.concatenate(parts), at_once)
        pool.keep(patches, step)
        returned.extend(zip(values, at_once, strict=True))
    assert int(pool.filled) == size
    assert all(0 < given <= own for own, given in returned)
    older = [given for own, given in returned if given != own]
    assert len(older) == len(set(older)) > 20
    assert set(pool.patches.numpy().ravel()) <= {own for own, _ in returned}


def test_pool_of_size_zero_passes_through():
    x = tf.random.normal((1, 2, 2, 2, 1))
    pool = ImagePool(0, (2, 2, 2), 1, 0, "pool")
    assert pool.exchange(x, 0) is x
    pool.keep(x, 0)


def back_model(*more):
    settings = ["patch_shape=8,16,16", "generator_levels=2", "generator_filters=4", "discriminator_levels=1"]
    settings += ["lambda_pair=10", "lambda_back=5", "lambda_cycle=0", *more]
    return CycleGAN(Config().with_settings(settings), 0)


def context(model, data, number=0):
    """What terms that count late are computed from, in the step of a number."""
    return _Networks(model, tf.constant(number, tf.int64)).context(data, [])


def back_batch():
    rng = np.random.default_rng(0)
    keys = ("real_a", "real_b", "partner_a", "partner_b", "weight_a", "weight_b")
    return {key: tf.constant(rng.uniform(-1, 1, (1, 8, 16, 16, 1)), tf.float32) for key in keys}


def test_the_way_back_teaches_only_the_generator_that_takes_it():
    model, data = back_model(), back_batch()
    with tf.GradientTape() as tape:
        term = terms.BACK.compute(context(model, data), Direction.A2B)
    networks = {name: generator.trainable_variables for name, generator in model.generators.items()}
    gradients = tape.gradient(term, networks)
    assert all(g is None for g in gradients["a2b"])
    assert all(float(tf.norm(g)) > 0 for g in gradients["b2a"][:2])


@pytest.mark.usefixtures("eagerly")
def test_the_way_back_begins_when_it_is_asked_for():
    model, data = back_model(), back_batch()
    first, _ = model.warmup_step(data)
    then, _ = model.warmup_step(data, back=True)
    assert set(first) == {"pair_a2b", "pair_b2a"}
    assert set(then) == {*first, "back_aba", "back_bab"}
    whole, _ = model.train_step(data)
    assert {"back_aba", "back_bab", "adversarial_a2b"} <= set(whole) and "cycle_aba" not in whole


def detailed_batch(energy):
    return back_batch() | {f"detail_{d}": tf.fill((1, 8, 16, 16, 2), energy) for d in "ab"}


@pytest.mark.usefixtures("eagerly")
def test_the_detail_term_begins_with_the_way_back():
    model = back_model("lambda_detail=0.3", "lambda_back=0")
    data = detailed_batch(0.01)
    assert "detail_a2b" not in model.warmup_step(data)[0]
    for told in (model.warmup_step(data, back=True)[0], model.train_step(data)[0]):
        assert {"detail_a2b", "detail_b2a"} <= set(told)
    for warmup in (True, False):
        phase = terms.Phase(warmup=warmup, late=True, discriminators=False)
        parts = [part for part in terms.of_generators(model.config, phase) if part.term is terms.DETAIL]
        assert terms.weights(parts, model.config, phase) == {"detail_a2b": 0.3, "detail_b2a": 0.3}


def test_translations_get_as_much_detail_as_the_partners_have():
    made = {}
    for energy in (1e-4, 1e-2):
        # volumes whose noise is nothing: all detail is asked for
        model, data = back_model("lambda_detail=1", "lambda_pair=1", "lambda_back=0"), detailed_batch(energy)
        data |= {f"real_{d}": losses.smoothed(data[f"real_{d}"], 5) for d in "ab"}
        model.set_learning_rate(2e-3)
        for _ in range(60):
            told, _ = model.warmup_step(data, back=True)
        made[energy] = np.mean(detail.energies(model.generators["a2b"](data["real_a"])[0, ..., 0]))
        assert float(told["detail_a2b"]) < 2
    assert made[1e-2] > 2 * made[1e-4]


@pytest.mark.usefixtures("eagerly")
def test_texture_changes_nothing_but_its_amplitudes():
    """The translations before texture, and everything learned from them, are those of a run without."""
    plain, textured = (back_model("lambda_detail=0.3", f"texture={kind}") for kind in ("none", "both"))
    data = detailed_batch(0.01)
    for model in (plain, textured):
        assert not any(name.startswith("texture") for name in model.warmup_step(data)[0])
        model.warmup_step(data, back=True)
        told, _ = model.train_step(data)
    assert {"texture_a2b", "texture_b2a"} <= set(told)
    for direction, generator in textured.generators.items():
        before = texture.without(generator)
        expected = plain.generators[direction](data["real_a"])
        np.testing.assert_allclose(before(data["real_a"])[0], expected, atol=1e-6)  # sums in another order
        assert len(texture.heads(generator)) == 4 and not texture.heads(plain.generators[direction])
        assert all(np.any(v.numpy() != texture.BEGINNING * (len(v.shape) == 1)) for v in texture.heads(generator))


def test_amplitudes_become_those_that_give_the_texture_of_the_partners():
    """Partners have twice the detail of the volumes, and their mean has none."""
    model, data = back_model("texture=a", "lambda_back=0", "lambda_adversarial=0"), back_batch()
    own = detail.energies(data["real_b"].numpy()[0, ..., 0])[None]
    data |= {"detail_b": tf.constant(4 * own, tf.float32), "detail_a": tf.fill((1, 8, 16, 16, 2), 0.0)}
    data |= {"partner_b": tf.zeros((1, 8, 16, 16, 1)), "weight_b": tf.ones((1, 8, 16, 16, 1))}
    data["real_a"] = losses.smoothed(data["real_a"], 5)  # without noise
    model.set_learning_rate(1e-2)
    for _ in range(300):
        told, _ = model.warmup_step(data, back=True)
    assert "texture_a2b" not in told
    generator = model.generators["b2a"]
    _, features = texture.without(generator)(data["real_b"])
    expected = 2 * np.sqrt(losses.TEXTURE_ENERGY)
    np.testing.assert_allclose(np.median(texture.amplitudes(generator, features), (0, 1, 2, 3)), expected, rtol=0.1)


def test_noise_on_the_way_back_is_drawn_anew_and_again():
    model, data = back_model(), back_batch()

    def term(number):
        return float(terms.BACK.compute(context(model, data, number), Direction.A2B))

    assert term(0) == term(0) != term(1)


def test_the_teacher_of_the_way_back_is_the_running_average():
    model, data = back_model("average_decay=0.9"), back_batch()

    def term():
        return float(terms.BACK.compute(context(model, data), Direction.A2B))

    before = term()
    for variable in model.generators["a2b"].trainable_variables:
        variable.assign(variable * 2 + 0.1)
    assert term() == before
    for variable in model.translators["a2b"].trainable_variables:
        variable.assign(variable * 2 + 0.1)
    assert term() != before


def test_what_goes_back_is_sharpened_at_random(monkeypatch):
    seen = {}
    for sharpening in (0, 2):
        model, data = back_model(f"back_sharpening={sharpening}"), back_batch()
        asked = context(model, data)
        monkeypatch.setattr(
            asked._networks, "translate", lambda _, given, at=sharpening: (seen.update({at: given}) or given, None)
        )
        asked.returned(Direction.B2A)
    # the noise is the same; so is the clipping, where the detail is not sharpened
    plain = model.translators["b2a"](data["real_b"], training=True)
    detail = plain - losses.smoothed(plain, 3)
    added = seen[2] - seen[0]
    factor = np.median(added / detail)
    assert 0 < factor < 2
    expected = tf.clip_by_value(plain + factor * detail, -1.0, 1.0) - plain
    np.testing.assert_allclose(added, expected, atol=1e-3)


def test_the_pair_term_is_lighter_in_the_adversarial_phase_alone():
    def norms(share):
        """Of the gradients in the warm-up and in the adversarial phase, whose other terms weigh nothing."""
        model = back_model("lambda_back=0", "lambda_adversarial=1e-9", f"pair_share={share}")
        found = []
        for warmup in (True, False):
            phase = Phase(warmup=warmup, late=True, discriminators=not warmup)
            (gradients, _, _), _ = model._gradients(back_batch(), 0, phase)
            found.append(float(tf.linalg.global_norm(gradients["generators"])))
        return found

    (warmup, whole), (same, light) = norms(1), norms(0.3)
    assert same == pytest.approx(warmup, rel=1e-4)
    assert light == pytest.approx(0.3 * whole, rel=1e-3)
