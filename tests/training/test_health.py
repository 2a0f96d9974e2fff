"""One sentence for each thing that looks wrong, none for what looks well."""

import logging

import pytest

from cyclescan.config import Config
from cyclescan.training.health import WINDOWS, Health
from cyclescan.training.validation import Seen

WELL = {"distance": 0.14, "negative_distance": 0.86, "variety": 0.4, "ends": -0.03, "partner": 0.8}
PLAIN = Config()  # no pair term
KNEE = Config(lambda_pair=10.0, warmup=0.85)


def at_checkpoints(health, *changes):
    """Show `health` one checkpoint for each entry, in which a2b has these measures."""
    for i, change in enumerate(changes):
        measures = {"a2b": WELL | change, "b2a": WELL}
        health.look_at_checkpoint(100 * (i + 1), {d: Seen(m, None, {}) for d, m in measures.items()})


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("measures", "config", "words"),
    [
        ({"variety": 0.01}, PLAIN, ["collapsed", "1.0 %", "data_prep pair", "lambda_cycle=10"]),
        ({"variety": 0.01}, KNEE, ["collapsed", "lambda_pair=20"]),
        ({"ends": 0.4}, PLAIN, ["saturated", "40 %", "learning_rate", "lambda_adversarial=0.5", "lambda_r1"]),
        ({"partner": -0.6}, KNEE, ["inverted", "-0.60", "lambda_pair=20"]),
        ({"distance": 0.7, "negative_distance": 0.2}, PLAIN, ["inverted", "0.70", "0.20", "data_prep pair"]),
    ],
)
def test_a_planted_condition_is_said_once(said, measures, config, words):
    health = Health(config)
    at_checkpoints(health, measures)
    assert not said()  # one checkpoint may be bad
    at_checkpoints(health, measures, {}, measures, measures)
    (sentence,) = said()
    assert sentence.startswith("step 100: a2b looks ") and sentence.endswith(".")
    assert all(word in sentence for word in words)


def test_a_healthy_run_is_left_alone(said):
    health = Health(KNEE)
    at_checkpoints(health, *[{}] * 5)
    for step in range(50):
        loss = 0.5 + 0.01 * (step % 3)
        norms = {"gradient_norm_generators": 1.0 / (1 + step), "gradient_norm_discriminators": float("inf")}
        health.look_at_losses(10 * step, {"accuracy_b": 0.8, "adversarial_a2b": loss, **norms})
    assert not said()


def test_an_untrained_network_may_look_collapsed(said):
    health = Health(PLAIN)
    for step in (10, 20, 99):
        health.look_at_checkpoint(step, dict.fromkeys(("a2b", "b2a"), Seen(WELL | {"variety": 0.0}, None, {})))
    assert not said()


def test_two_conditions_are_two_sentences(said):
    at_checkpoints(Health(PLAIN), *[{"variety": 0.0, "ends": 0.9}] * 2)
    assert len(said()) == 2


@pytest.mark.parametrize(("accuracy", "rise", "expected"), [(1.0, 0.01, 1), (1.0, -0.01, 0), (0.9, 0.01, 0)])
def test_a_discriminator_that_outplays_its_generator(said, accuracy, rise, expected):
    health = Health(Config(discriminator_dropout=0.0))
    for i in range(2 * WINDOWS):
        means = {"accuracy_b": accuracy, "adversarial_a2b": 1 + rise * i, "accuracy_a": 0.7, "adversarial_b2a": 0.5}
        health.look_at_losses(10 * i, means)
    assert len(said()) == expected
    if expected:
        assert "discriminator of domain b is right on 100.0 %" in said()[0]
        assert "discriminator_dropout=0.5" in said()[0]


def test_gradients_that_vanish(said):
    health = Health(Config())
    for i in range(4 * WINDOWS):
        health.look_at_losses(10 * i, {"gradient_norm_generators": 2.0 if i < 2 * WINDOWS else 1e-4})
    (sentence,) = said()
    assert "gradient norm of the generators has vanished (2 at first, 0.0001 now)" in sentence
