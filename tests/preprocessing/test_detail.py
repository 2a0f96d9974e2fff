import numpy as np
from scipy import ndimage

from cyclescan import losses
from cyclescan.preprocessing import detail


def test_a_smooth_volume_has_none():
    ramp = np.tile(np.arange(20.0), (20, 20, 1))
    # at the border the mean is of fewer voxels, of one side
    assert detail.energies(ramp)[:, :, 7:-7].max() < 1e-9


def test_white_noise_has_in_each_band_the_share_that_the_loss_takes_for_it():
    noise = np.random.default_rng(0).normal(size=(64, 64, 64), scale=2)
    shares = detail.energies(noise)[8:-8, 8:-8, 8:-8].mean((0, 1, 2))
    np.testing.assert_allclose(shares, [4 * losses._passed(band) for band in range(2)], rtol=0.05)


def test_a_finer_texture_has_it_in_the_finer_band():
    def ratio(period):
        wave = np.sin(2 * np.pi * np.arange(48) / period)
        volume = np.tile(wave, (24, 24, 1))
        fine, coarse = detail.energies(volume)[10:-10, 10:-10, 10:-10].mean((0, 1, 2))
        return fine / coarse

    assert ratio(3) > 5
    assert ratio(8) < 0.5


def test_energy_is_that_of_the_surroundings():
    volume = np.zeros((30, 30, 30), np.float32)
    volume[15:] = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(15, 30, 30)), 0.7)
    found = detail.energies(volume)
    assert found[: 15 - 7].max() < 1e-12
    assert found[18:].min() > 1e-4
