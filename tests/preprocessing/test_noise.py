"""Noise on a translation: the mean stays, the level is the target's, the kind is Rician for MR and normal for CT."""

import numpy as np
import pytest
from scipy.stats import kstest, rice

from cyclescan.preprocessing import guard, noise
from cyclescan.preprocessing.noise import FLOOR, GAUSSIAN, RICIAN, Noise
from cyclescan.scans.volume import Volume

SHAPE = (40, 60, 60)


def domain(snr=10.0, body_50=0.0, scaling="percentile:0.5,99.5", low=20.0, high=1020.0):
    limits = {"snr": {"median": snr}, "body_50": {"median": body_50}}
    return {
        "scaling": scaling,
        "intensity": {"step": "intensity", "scaling": scaling, "low": low, "high": high},
        "guard": {"limits": limits},
    }


def channels(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal((2, *shape), np.float32)


@pytest.mark.parametrize("mean_in_sds", [FLOOR, 1.5, 2.0, 3.0, 6.0, 50.0])
def test_the_magnitude_is_rician_and_its_mean_is_what_was_given(mean_in_sds):
    sd = 7.0
    values = noise.rician(np.full(SHAPE, mean_in_sds * sd), sd, *channels()).ravel()
    error = sd / np.sqrt(values.size)
    assert values.mean() == pytest.approx(mean_in_sds * sd, abs=0.003 * sd + 4 * error)
    # the signal whose Rician distribution it is, from the second moment: E m^2 = s^2 + 2 sd^2
    signal = np.sqrt(max((values.astype(float) ** 2).mean() / sd**2 - 2, 0))
    assert kstest(values[:2000] / sd, rice(signal).cdf).pvalue > 1e-3


def test_air_that_is_darker_than_the_noise_keeps_its_mean():
    values = noise.rician(np.full(SHAPE, 3.0), 100.0, *channels())
    assert values.mean() == pytest.approx(3.0, rel=0.01)
    assert values.mean() / values.std() == pytest.approx(1.913, rel=0.02)  # of Rayleigh's distribution
    assert not noise.rician(np.array([0.0, -5.0]), 10.0, np.ones(2), np.ones(2)).any()


def test_the_level_is_that_of_the_guard():
    """A signal of SNR 10 at the middle of the scale, which is 1 above its lower end, has noise of 0.1 of the scale."""
    assert Noise.of(domain()) == Noise(RICIAN, pytest.approx(0.1 * 1000 / 2))
    assert Noise.of(domain(snr=4, body_50=-0.5)).sd == pytest.approx(0.125 * 1000 / 2)
    soft = Noise.of(domain(scaling="soft_percentile:0.5,99.95"))
    assert soft.sd == pytest.approx(0.1 * 1000 / 1.9)
    hounsfield = Noise.of(domain(snr=50, scaling="window_hu:-1000,1500", low=-1000.0, high=1500.0))
    assert (hounsfield.kind, hounsfield.sd) == (GAUSSIAN, pytest.approx(25.0))
    assert Noise.of({}) is None
    assert Noise.of(domain() | {"guard": {"limits": {}}}) is None


@pytest.mark.parametrize("kind", [RICIAN, GAUSSIAN])
def test_what_is_lacking_is_added_and_no_more(kind):
    """The measured noise of the result is that of the target, whether the translation had some or none."""
    target = Noise(kind, 20.0)
    for own in (0.0, 12.0):
        array = 500 + own * np.random.default_rng(1).standard_normal(SHAPE)
        volume = Volume(array.astype(np.float32), np.diag([3.0, 2.0, 2.0, 1.0]))
        result, facts = target.add(volume, np.random.default_rng(0))
        assert guard.noise_sd(result) == pytest.approx(20.0, rel=0.04)
        assert facts["sd_of_translation"] == pytest.approx(own, rel=0.04, abs=1e-3)
        assert facts["sd_added"] == pytest.approx(np.sqrt(400 - own**2), rel=0.04)
        assert result.array.mean() == pytest.approx(500, abs=0.5)
        np.testing.assert_array_equal(result.affine, volume.affine)
    noisy = Volume((500 + 40 * channels()[0]).astype(np.float32), volume.affine)
    unchanged, facts = target.add(noisy, np.random.default_rng(0))
    assert facts["sd_added"] == 0
    np.testing.assert_allclose(unchanged.array, noisy.array, rtol=1e-5)


def test_the_seed_decides(seeds=(3, 3, 4)):
    volume = Volume(np.full((8, 9, 10), 100.0, np.float32), np.eye(4))
    one, same, other = (Noise(RICIAN, 5.0).add(volume, np.random.default_rng(s))[0].array for s in seeds)
    np.testing.assert_array_equal(one, same)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.15
