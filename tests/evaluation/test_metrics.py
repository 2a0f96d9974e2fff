"""Every measure by value, by property, and against scikit-image."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from cyclescan.common.errors import InputError
from cyclescan.evaluation import metrics


def noise(seed, shape=(12, 14, 16)):
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def smooth(seed=0, shape=(16, 16, 16)):
    from scipy import ndimage

    field = ndimage.gaussian_filter(noise(seed, shape), 1.5)
    return field / np.abs(field).max()


def test_mae_and_psnr_of_a_known_error():
    reference = np.zeros((4, 5, 6))
    predicted = np.full((4, 5, 6), 0.2)
    predicted[:2] = -0.2
    assert metrics.mae(predicted, reference) == pytest.approx(0.2)
    # 10 log10(2^2 / 0.2^2) = 20
    assert metrics.psnr(predicted, reference, 2.0) == pytest.approx(20.0)
    assert metrics.psnr(predicted, reference, 20.0) == pytest.approx(40.0)


def test_psnr_without_error_is_infinite():
    assert metrics.psnr(noise(0), noise(0), 2.0) == math.inf


def test_ssim_of_equal_volumes_is_one_and_of_inverted_ones_negative():
    volume = smooth()
    assert metrics.ssim(volume, volume, 2.0) == pytest.approx(1.0)
    assert metrics.ssim(0.5 - 0.4 * volume, 0.5 + 0.4 * volume, 2.0) < 0


def test_ssim_is_that_of_scikit_image_with_a_three_dimensional_window():
    reference, predicted = smooth(1), smooth(1) + 0.2 * noise(2, (16, 16, 16))
    expected = structural_similarity(
        reference, predicted, data_range=2.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(predicted, reference, 2.0) == pytest.approx(expected, abs=1e-12)


def test_ssim_looks_across_slices():
    """A slice-wise 2-D SSIM does not change when slices of both volumes change places; a 3-D one does."""
    reference, predicted = smooth(1), smooth(1) + 0.3 * smooth(2)
    order = np.random.default_rng(0).permutation(16)
    shuffled = metrics.ssim(predicted[order], reference[order], 2.0)
    assert abs(shuffled - metrics.ssim(predicted, reference, 2.0)) > 1e-3


@pytest.mark.parametrize("shape", [(11, 11, 11), (10, 16, 16), (8, 16, 16), (3, 16, 16), (2, 12, 12), (1, 12, 12)])
def test_ssim_of_thin_volumes(shape):
    reference = smooth(3, (16, 16, 16))[: shape[0], : shape[1], : shape[2]]
    predicted = reference + 0.3 * noise(4, shape)
    assert metrics.ssim(reference, reference, 2.0) == pytest.approx(1.0)
    assert 0 < metrics.ssim(predicted, reference, 2.0) < 0.95


def test_ncc_is_blind_to_scale_and_sees_the_sign():
    volume = noise(0)
    assert metrics.ncc(3 * volume + 5, volume) == pytest.approx(1.0)
    assert metrics.ncc(-2 * volume + 1, volume) == pytest.approx(-1.0)
    assert abs(metrics.ncc(noise(1), volume)) < 0.05
    assert metrics.ncc(np.full(volume.shape, 0.3), volume) == 0.0


def test_ncc_by_hand():
    a, b = np.array([1.0, 2, 3, 4]).reshape(1, 2, 2), np.array([1.0, 3, 2, 4]).reshape(1, 2, 2)
    assert metrics.ncc(a, b) == pytest.approx(0.8)  # covariance 1 over variance 1.25


def test_mi_of_a_one_to_one_map_is_the_entropy():
    levels = np.repeat([0, 1, 2, 3], [4, 8, 4, 16]).astype(float).reshape(2, 4, 4)
    p = np.array([4, 8, 4, 16]) / 32
    entropy = -(p * np.log(p)).sum()
    permuted = np.array([2.0, 0.0, 3.0, 1.0])[levels.astype(int)]
    assert metrics.mi(permuted, levels) == pytest.approx(entropy)
    assert metrics.nmi(permuted, levels) == pytest.approx(2.0)


def test_mi_of_independent_volumes_is_near_zero():
    a, b = noise(1, (32, 64, 64)), noise(2, (32, 64, 64))
    bias = (metrics.MI_BINS - 1) ** 2 / (2 * a.size)
    assert metrics.mi(a, b) == pytest.approx(bias, rel=0.2)
    assert metrics.nmi(a, b) == pytest.approx(1.0, abs=2e-3)


def test_mi_and_nmi_by_hand():
    """Two bits that agree in 3 of 4 voxels: H = log 2 each, H(A, B) from 3/8, 3/8, 1/8, 1/8."""
    a = np.array([0, 0, 0, 0, 1, 1, 1, 1.0]).reshape(2, 2, 2)
    b = np.array([0, 0, 0, 1, 1, 1, 1, 0.0]).reshape(2, 2, 2)
    joint = -2 * (3 / 8 * math.log(3 / 8) + 1 / 8 * math.log(1 / 8))
    assert metrics.mi(a, b) == pytest.approx(2 * math.log(2) - joint)
    assert metrics.nmi(a, b) == pytest.approx(2 * math.log(2) / joint)


def test_a_constant_volume_tells_nothing():
    constant = np.zeros((4, 4, 4))
    assert metrics.nmi(constant, constant) == 1.0
    assert metrics.mi(constant, noise(0, (4, 4, 4))) == pytest.approx(0.0, abs=1e-12)


def test_all_metrics_are_the_single_ones():
    predicted, reference = np.clip(smooth(1) + 0.2 * noise(3, (16, 16, 16)), -1, 1), smooth(1)
    found = metrics.all_metrics(predicted, reference, 2.0, (-1, 1))
    assert tuple(found) == metrics.NAMES == tuple(metrics.DEFINITIONS)
    assert found["psnr"] == metrics.psnr(predicted, reference, 2.0)
    assert found["ssim"] == metrics.ssim(predicted, reference, 2.0)
    p, q = (np.histogram(a, 128, (-1, 1))[0] / a.size + 1e-6 for a in (reference, predicted))
    assert found["kl_histogram"] == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-3)


def test_equal_volumes_have_the_best_of_everything():
    found = metrics.all_metrics(smooth(), smooth(), 2.0)
    assert (found["mae"], found["psnr"], found["kl_histogram"]) == (0.0, math.inf, 0.0)
    assert found["ssim"] == found["ncc"] == pytest.approx(1.0)
    assert found["nmi"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("predicted", "reference", "data_range", "sentence"),
    [
        (np.zeros((2, 2, 3)), np.zeros((2, 2, 2)), 2.0, "one shape"),
        (np.zeros((2, 2)), np.zeros((2, 2)), 2.0, "3-D"),
        (np.full((2, 2, 2), np.nan), np.zeros((2, 2, 2)), 2.0, "predicted volume has voxels that are NaN"),
        (noise(0), noise(1), 0.0, "positive"),
        (noise(0), noise(1), float("nan"), "positive"),
    ],
)
def test_refusals(predicted, reference, data_range, sentence):
    with pytest.raises(InputError, match=sentence):
        metrics.all_metrics(predicted, reference, data_range)


def test_summaries():
    means, deviations = metrics.summarize([{"psnr": 10.0}, {"psnr": 14.0}], ["psnr"])
    assert means == {"psnr": 12.0}
    assert deviations["psnr"] == pytest.approx(math.sqrt(8))
    assert math.isnan(metrics.summarize([{"psnr": 10.0}], ["psnr"])[1]["psnr"])
    means, deviations = metrics.summarize([{"psnr": math.inf}, {"psnr": 1.0}], ["psnr"])
    assert means["psnr"] == math.inf and math.isnan(deviations["psnr"])


def test_grids_are_the_same_to_a_twentieth_of_a_voxel():
    affine = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, 6], [0, 0, 2.0, 7], [0, 0, 0, 1]])
    shifted, turned = affine.copy(), affine.copy()
    shifted[0, 3] += 0.09
    assert metrics.same_grid(affine, shifted, (8, 8, 8))
    shifted[0, 3] += 0.02
    assert not metrics.same_grid(affine, shifted, (8, 8, 8))
    turned[2, 0] += 0.01  # 1 mm over 100 slices: the origin is right, the far corner is not
    assert metrics.same_grid(affine, turned, (8, 8, 8))
    assert not metrics.same_grid(affine, turned, (101, 8, 8))
