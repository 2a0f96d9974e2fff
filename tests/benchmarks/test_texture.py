"""Checkerboards and the texture of spongy bone, on volumes made for it."""

import numpy as np
import pytest
from scipy import ndimage

from benchmarks import texture


def noise(seed, shape=(16, 64, 64)):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.7)


@pytest.mark.parametrize("period", texture.PERIODS)
def test_a_grid_raises_the_score(period):
    real, grid = noise(0), np.zeros((16, 64, 64))
    grid[:, :, ::period] = 0.2
    assert texture.checkerboard_score([noise(1)], [real]) == pytest.approx(1, abs=0.1)
    assert texture.checkerboard_score([noise(1) + grid], [real]) > 1.5
    peaks = texture.grid_peaks([noise(1) + grid])
    assert max(peaks, key=peaks.get).startswith("width")


def test_a_blur_is_no_grid():
    """It raises the score a little: a Gaussian's spectrum bends downwards between a frequency and those beside it."""
    cube = (64, 64, 64)
    blurred = ndimage.gaussian_filter(noise(1, cube), 0.8)
    assert texture.checkerboard_score([blurred], [noise(0, cube)]) < 1.15


def test_an_axis_too_short_for_a_grid_is_left_out():
    assert {name.split()[0] for name in texture.grid_peaks([noise(0, (8, 32, 32))])} == {"height", "width"}


def test_half_the_texture_is_six_decibels_less():
    real, bone = [noise(0), noise(1)], [np.ones((16, 64, 64), bool)] * 2
    found = texture.bone_spectrum_difference_db([0.5 * volume + 3 for volume in real], real, bone)
    assert len(found) == 6
    assert list(found.values()) == pytest.approx([-20 * np.log10(2)] * 6)


def test_only_windows_in_the_bone_count():
    volume, bone = noise(0), np.zeros((16, 64, 64), bool)
    bone[4:8, 8:40, 16:48] = True
    loud = np.where(bone, volume, 100 * volume)
    frequencies, power = texture.bone_spectrum([loud], [bone])
    assert texture.PASS_BAND[0] <= frequencies.min() and frequencies.max() <= texture.PASS_BAND[1]
    assert power.max() < texture.bone_spectrum([volume], [np.ones_like(bone)])[1].max() * 3
    with pytest.raises(ValueError, match="No window"):
        texture.bone_spectrum([volume], [np.zeros_like(bone)])
