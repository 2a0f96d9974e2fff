"""Blobs in pairs: by value where both sides are simple functions, and what must not change."""

import numpy as np
import pytest
import tensorflow as tf

from cyclescan import planting

SHAPE = (12, 24, 24)
SPACING_MM = (3.0, 2.0, 2.0)


def plant(real, partner, weight=None, other=None, key=0, transplants=0, fluid=0, spacing_mm=SPACING_MM):
    weight = np.ones_like(real) if weight is None else weight
    pair = {"real": real, "partner": partner, "weight": weight}
    pair = {name: tf.constant(volume[..., None], tf.float32) for name, volume in pair.items()}
    drawn = planting.draw(tf.constant([key, 1]), transplants + fluid)
    other = pair["real"] if other is None else tf.constant(other[..., None], tf.float32)
    found = planting.plant(pair, other, drawn, transplants, spacing_mm)
    return {name: volume.numpy()[..., 0] for name, volume in found.items()}


def knee(seed=0):
    """Something that varies from place to place, on (-0.8, 0.8)."""
    return np.random.default_rng(seed).uniform(-0.8, 0.8, SHAPE).astype(np.float32)


def test_what_is_drawn_is_a_function_of_the_key():
    first, again, other = (planting.draw(tf.constant([key, 0]), 5) for key in (1, 1, 2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
        assert not np.array_equal(values, other[name])
        assert values.shape[0] == (4 if name in ("directions", "waves") else 5)
    np.testing.assert_allclose(np.linalg.norm(first["directions"], axis=1), 1, rtol=1e-6)


def test_fluid_is_the_brightest_of_each_domain_in_the_same_shares():
    real, other = np.zeros(SHAPE, np.float32), np.full(SHAPE, -0.7, np.float32)
    real[0, :5, :10], other[3, :5, :10] = 0.8, 0.6  # more than the share of voxels that counts as the brightest
    found = plant(real, np.full_like(real, -0.5), other=other, fluid=3)
    elsewhere = np.ones(SHAPE, bool)
    elsewhere[0, :5, :10] = False
    share_of_real, share_of_partner = found["real"] / 0.8, (found["partner"] + 0.5) / 1.1
    np.testing.assert_allclose(share_of_real[elsewhere], share_of_partner[elsewhere], atol=1e-6)
    inside = found["blobs"][elsewhere] == 1
    assert inside.any()
    assert share_of_real[elsewhere][inside].min() >= planting.LEAST_SHARE - 1e-6
    assert (share_of_real[elsewhere][found["blobs"][elsewhere] == 0] == 0).all()


def test_a_transplant_keeps_what_one_contrast_is_to_the_other():
    """Where the partner is a function of the volume, a straight line, it is so after planting."""
    real = knee()
    found = plant(real, 0.25 - 0.5 * real, transplants=4)
    np.testing.assert_allclose(found["partner"], 0.25 - 0.5 * found["real"], atol=1e-6)
    changed = found["real"] != real
    assert changed.mean() > 0.002
    assert found["real"].min() >= real.min()
    assert found["real"].max() <= real.max()
    np.testing.assert_array_equal(changed, found["blobs"] > 0)


def test_every_weight_is_either_of_the_blobs_or_of_the_rest():
    weight = np.full(SHAPE, 0.75, np.float32)
    found = plant(knee(), knee(1), weight, fluid=4)
    np.testing.assert_allclose(found["weight"] + found["blobs"], 0.75, atol=1e-6)
    assert found["blobs"].max() == pytest.approx(0.75)


def test_a_transplant_of_what_is_not_known_has_no_weight():
    partner, weight = knee(1), np.ones(SHAPE, np.float32)
    weight[:, :12], partner[:, :12] = 0, 5.0
    for key in range(5):
        found = plant(knee(), partner, weight, key=key, transplants=6)
        counts = found["weight"] + found["blobs"] > 0
        assert found["partner"][counts].max() < 1
        assert (found["partner"] > 1).any()


def test_air_stays_air():
    real = knee()
    real[:, :, :12] = -1.0
    found = plant(real, real, transplants=4, fluid=4)
    assert (found["real"][:, :, :12] == -1).all()
    assert (found["blobs"][:, :, :12] == 0).all()


def test_blobs_have_their_size_in_millimetres():
    real = np.zeros((16, 32, 32), np.float32)
    fine = np.zeros((32, 64, 64), np.float32)
    for key in range(3):
        coarse_mm3 = plant(real, real, fluid=2, key=key, spacing_mm=(4, 3, 3))["blobs"].sum() * 36
        fine_mm3 = plant(fine, fine, fluid=2, key=key, spacing_mm=(2, 1.5, 1.5))["blobs"].sum() * 4.5
        assert fine_mm3 == pytest.approx(coarse_mm3, rel=0.25)
        assert 50 < fine_mm3 < 2 * 4 / 3 * np.pi * (2 * planting.RADIUS_MM[1]) ** 3
