"""The list of terms: what counts when, what it is called, and what a run has to bring for it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.config import Config
from cyclescan.config.presets import PRESETS, preset
from cyclescan.training import terms
from cyclescan.training.cyclegan import CycleGAN
from cyclescan.training.terms import Phase
from tests.training import terms_on_jax

ROOT = Path(__file__).parents[2]
ALL = Config(
    lambda_identity=1.0,
    lambda_pair=2.0,
    pair_share=0.5,
    lambda_gradient_consistency=4.0,
    lambda_cycle=8.0,
    lambda_detail=16.0,
    lambda_back=32.0,
    lambda_adversarial=64.0,
    lambda_r1=128.0,
    texture="a",
)
LESIONS = Config(lambda_pair=2.0, transplants=2, fluid_blobs=3, lambda_blob=16.0, lambda_back=1.0, lambda_cycle=0.0)
WARMUP = Phase(warmup=True, late=False, discriminators=False)


def names(parts):
    return [part.name for part in parts]


def test_the_order_of_the_sum_is_kept():
    """Another order has other last bits, and runs of before could not be repeated."""
    assert names(terms.of_generators(ALL, Phase.whole(ALL))) == [
        *("identity_b", "pair_a2b", "gradient_consistency_a2b", "adversarial_a2b"),
        *("identity_a", "pair_b2a", "gradient_consistency_b2a", "adversarial_b2a"),
        *("cycle_aba", "cycle_bab"),
        *("detail_a2b", "detail_b2a", "texture_b2a"),
        *("back_aba", "back_bab"),
    ]
    expected = ["r1_a", "discriminator_a", "r1_b", "discriminator_b"]
    assert names(terms.of_discriminators(ALL, Phase.whole(ALL))) == expected


def test_what_counts_in_a_warmup():
    assert names(terms.of_generators(ALL, WARMUP)) == ["pair_a2b", "pair_b2a"]
    late = Phase(warmup=True, late=True, discriminators=True)
    assert names(terms.of_generators(ALL, late)) == [
        *("pair_a2b", "pair_b2a", "detail_a2b", "detail_b2a", "texture_b2a", "back_aba", "back_bab")
    ]
    assert not terms.of_discriminators(ALL, WARMUP) and terms.of_discriminators(ALL, late)


def test_weights_in_the_sum():
    whole = Phase.whole(ALL)
    parts = [*terms.of_generators(ALL, whole), *terms.of_discriminators(ALL, whole)]
    weights = {name.rpartition("_")[0]: weight for name, weight in terms.weights(parts, ALL, whole).items()}
    assert weights == {
        "identity": 1.0,
        "pair": 2.0 * 0.5,
        "gradient_consistency": 4.0 / 2,
        "cycle": 8.0,
        "detail": 16.0,
        "back": 32.0,
        "adversarial": 64.0,
        "r1": 128.0,
        "texture": 1.0,
        "discriminator": 1.0,
    }
    assert terms.weights(terms.of_generators(ALL, WARMUP), ALL, WARMUP) == {"pair_a2b": 2.0, "pair_b2a": 2.0}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_names_say_the_domains_that_a_volume_passes(direction):
    source, target = ("a", "b") if direction is Direction.A2B else ("b", "a")
    assert terms.IDENTITY.column(direction) == f"identity_{target}"
    assert terms.PAIR.column(direction) == f"pair_{source}2{target}"
    assert terms.CYCLE.column(direction) == f"cycle_{source}{target}{source}"
    assert terms.CYCLE.path.domains(direction) == (source, target, source)


def test_every_column_of_history_has_one_term():
    columns = [term.column(direction) for term in terms.all_terms() for direction in DIRECTIONS]
    assert len(columns) == len(set(columns)) == 22


def test_what_a_run_has_to_bring():
    assert terms.batch_contents(ALL) == {"paired": True, "detail": True}
    assert terms.batch_contents(Config(lambda_pair=1.0)) == {"paired": True, "detail": False}
    assert terms.batch_contents(Config(lambda_pair=1.0, texture="b")) == {"paired": True, "detail": True}
    assert terms.batch_contents(preset("cyclescan")) == {"paired": False, "detail": False}
    assert terms.batch_contents(LESIONS) == {"paired": True, "detail": False, "transplants": 2, "fluid_blobs": 3}
    for _, config in PRESETS.values():
        assert terms.has_warmup(config) == (config.warmup > 0) == (config.lambda_pair > 0)


def test_what_the_planner_reads():
    assert {term.name for term in terms.used(preset("knee"))} == {
        *("pair", "adversarial", "detail", "texture", "back", "discriminator")
    }
    assert terms.used(Config(lambda_pair=1.0, lambda_adversarial=0.0, lambda_cycle=0.0)) == [terms.PAIR]


def test_terms_do_not_import_tensorflow():
    code = "import sys; sys.modules['tensorflow'] = None; import cyclescan.training.terms"
    environment = {"KERAS_BACKEND": "numpy", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_the_sums_on_jax_are_those_of_the_step(tmp_path):
    """Every term but those that chance decides over; the benchmarks on JAX choose recipes by them."""
    config, rng = terms_on_jax.config(), np.random.default_rng(0)
    model, whole = CycleGAN(config, 0), Phase.whole(terms_on_jax.config())
    given = {f"{kind}_{d}": rng.uniform(-1, 1, (1, 8, 16, 16, 1)) for kind in ("real", "partner") for d in "ab"}
    given |= {f"weight_{d}": rng.uniform(0, 1, (1, 8, 16, 16, 1)) for d in "ab"}
    given |= {f"detail_{d}": rng.uniform(0, 0.1, (1, 8, 16, 16, 2)) for d in "ab"}
    given = {key: value.astype("f4") for key, value in given.items()}
    (_, losses, _), _ = model._gradients({key: tf.constant(value) for key, value in given.items()}, 0, whole)
    expected = []
    for parts in (terms.of_generators(config, whole), terms.of_discriminators(config, whole)):
        weights = terms.weights(parts, config, whole)
        expected.append(sum(weights[name] * float(losses[name]) for name in weights))
    for name, network in (model.generators | model.discriminators).items():
        given |= {f"{name} {i}": weight.numpy() for i, weight in enumerate(network.trainable_variables)}
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-m", "tests.training.terms_on_jax", tmp_path / "given.npz", tmp_path / "made.npz"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "made.npz")["sums"], expected, rtol=1e-4)


class Shifting:
    """Networks that add 0.5, and teachers that add 0.25; sharpening and noise are none."""

    def translate(self, direction, volumes):
        return volumes + 0.5, None

    def teach(self, direction, volumes):
        return volumes + 0.25

    def noise(self, direction, volumes):
        return tf.zeros_like(volumes)

    def sharpening(self, direction, volumes):
        return None


def test_blobs_count_once_by_their_square_and_not_for_back_translation():
    """In a half that is a blob the pair is 0.4 away, in the rest 0.1; the healthy volume is another one."""
    blob = np.zeros((1, 4, 8, 8, 1), np.float32)
    blob[:, :, :4] = 1
    batch = {}
    for domain in ("a", "b"):
        real = np.random.default_rng(0).uniform(-0.3, 0.3, blob.shape).astype(np.float32)
        batch |= {f"real_{domain}": real + blob, f"healthy_{domain}": real, f"blobs_{domain}": blob}
        batch |= {f"partner_{domain}": real + 1.4 * blob + 0.5 - 0.1 * (1 - blob), f"weight_{domain}": 1 - blob}
    whole = Phase.whole(LESIONS)
    parts = [part for part in terms.of_generators(LESIONS, whole) if part.term.name != "adversarial"]
    assert names(parts)[-2:] == ["blob_a2b", "blob_b2a"]
    context = terms.Context(batch, Shifting(), [part.term for part in parts], LESIONS)
    found = {name: float(value) for name, value in terms.values(parts, context).items()}
    assert found["pair_a2b"] == pytest.approx(0.1 / 2, rel=1e-4)
    assert found["blob_a2b"] == pytest.approx(0.4**2 / 2, rel=1e-4)
    assert found["back_aba"] == pytest.approx(0.75, rel=1e-2)  # 0.25 of the teacher and 0.5 of the pupil
    assert terms.weights(parts, LESIONS, whole)["blob_a2b"] == 16.0
