"""Histogram matching: the pool's distribution, without looking at the truth."""

import numpy as np
import pytest
from skimage.exposure import match_histograms

from cyclescan.common.errors import InputError
from cyclescan.evaluation.baselines import HistogramMatching, identity


def pool(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.beta(2, 5, (4, 6, 5)), rng.beta(5, 1, (3, 8, 8)) - 1]


def test_it_is_scikit_images_matching_to_all_pooled_voxels():
    volumes = pool()
    array = np.random.default_rng(9).normal(size=(5, 6, 7))
    expected = match_histograms(array, np.concatenate([v.ravel() for v in volumes]).reshape(1, 1, -1))
    np.testing.assert_allclose(HistogramMatching(iter(volumes))(array), expected, atol=1e-6)


def test_ties_and_repeated_values_as_in_scikit_image():
    rng = np.random.default_rng(3)
    volumes = [np.round(v, 1) for v in pool()]
    array = rng.integers(0, 4, (4, 5, 6)).astype(np.float32)
    expected = match_histograms(array, np.concatenate([v.ravel() for v in volumes]).reshape(1, 1, -1))
    np.testing.assert_allclose(HistogramMatching(volumes)(array), expected, atol=1e-6)


def test_the_result_has_the_pools_distribution_and_the_volumes_order():
    volumes = pool()
    array = np.random.default_rng(1).normal(size=(16, 16, 16))
    matched = HistogramMatching(volumes)(array)
    pooled = np.concatenate([v.ravel() for v in volumes])
    quantiles = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.quantile(matched, quantiles), np.quantile(pooled, quantiles), atol=0.02)
    assert (np.diff(matched.ravel()[np.argsort(array, axis=None)]) >= 0).all()
    assert matched.shape == array.shape and matched.dtype == np.float32


def test_a_volume_of_the_pool_alone_stays_as_it_is():
    volume = pool()[0].astype(np.float32)
    np.testing.assert_allclose(HistogramMatching([volume])(volume), volume, atol=1e-6)


def test_an_empty_pool_is_refused():
    with pytest.raises(InputError, match="at least one volume"):
        HistogramMatching([])


def test_identity_is_the_volume_itself():
    volume = pool()[0]
    assert identity(volume) is volume
