import numpy as np
import pytest
from scipy import ndimage

from cyclescan import detail, losses


def test_a_smooth_volume_has_none():
    ramp = np.tile(np.arange(20.0), (20, 20, 1))
    for energy in detail.energies(ramp):
        # at the border the mean is of fewer voxels, of one side
        assert energy[:, :, 7:-7].max() < 1e-9


def test_white_noise_has_in_each_band_the_share_that_the_loss_takes_for_it():
    noise = np.random.default_rng(0).normal(size=(64, 64, 64), scale=2)
    for band, energy in enumerate(detail.energies(noise)):
        assert energy[8:-8, 8:-8, 8:-8].mean() == pytest.approx(4 * losses._passed(band), rel=0.05)


def test_a_finer_texture_has_it_in_the_finer_band():
    def ratio(period):
        wave = np.sin(2 * np.pi * np.arange(48) / period)
        volume = np.tile(wave, (24, 24, 1))
        fine, coarse = (energy[10:-10, 10:-10, 10:-10].mean() for energy in detail.energies(volume))
        return fine / coarse

    assert ratio(3) > 5
    assert ratio(8) < 0.5


def test_energy_is_that_of_the_surroundings():
    volume = np.zeros((30, 30, 30), np.float32)
    volume[15:] = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(15, 30, 30)), 0.7)
    for energy in detail.energies(volume):
        assert energy[: 15 - 7].max() < 1e-12
        assert energy[18:].min() > 1e-4
