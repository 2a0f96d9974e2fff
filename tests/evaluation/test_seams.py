"""Seam scores by value: 0 for what windows cannot change, and for a network that they do what it comes to."""

import numpy as np
import pytest

from cyclescan.evaluation.seams import seam_scores


class Pointwise:
    stride = 2

    def translate_array(self, array, *, window=None):
        return array * 0.5


class MeanOfWindow(Pointwise):
    """Sees the mean of what it is given; `window` changes nothing, so it is consistent as a whole."""

    def translate_array(self, array, *, window=None):
        return np.full_like(array, array.mean())


class Inconsistent(Pointwise):
    def translate_array(self, array, *, window=None):
        return array + window[0] * 0.1


def test_what_is_done_voxel_by_voxel_has_no_seams():
    array = np.random.default_rng(0).uniform(-1, 1, (4, 12, 8)).astype("f4")
    scores = seam_scores(Pointwise(), array)
    assert scores["whole_volume"] == {"mean": 0.0, "largest": 0.0}
    assert scores["plain_windows"]["largest"] < 1e-6


def test_plain_windows_that_see_different_means_differ():
    array = np.zeros((2, 2, 12), np.float32)
    array[..., :6] = -1
    scores = seam_scores(MeanOfWindow(), array)
    assert scores["whole_volume"]["largest"] == 0.0
    # windows of 6 begin at 0, 2, 4, 6 with means -1, -2/3, -1/3, 0; those of 8 at 0, 4 with -3/4, -1/4
    assert scores["plain_windows"]["largest"] == pytest.approx(0.125, abs=0.01)
    assert 0.01 < scores["plain_windows"]["mean"] < scores["plain_windows"]["largest"]


def test_differences_are_shares_of_the_range():
    # windows of 4 and 6 voxels (5.3 to a multiple of 2) along the depth: 0.4 and 0.6 are added
    scores = seam_scores(Inconsistent(), np.zeros((8, 8, 8), np.float32))
    assert scores["whole_volume"]["mean"] == pytest.approx((0.6 - 0.4) / 2)
