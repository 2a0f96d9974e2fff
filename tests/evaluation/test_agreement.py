"""Agreement against published numbers."""

import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.evaluation.agreement import agreement, concordance

# peak expiratory flow by a large and a mini meter, first readings: Bland and Altman, Lancet 1986, table 1
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_bland_and_altmans_own_example():
    result = agreement(LARGE, MINI)
    bias, low, high = result["bias"]
    # they give -2.1, its interval -22.0 to 17.8, and SD 38.8
    assert (bias, low, high) == pytest.approx((-2.1, -22.0, 17.8), abs=0.06)
    assert result["sd"] == pytest.approx(38.8, abs=0.05)
    assert result["upper"][0] == pytest.approx(-2.1 + 1.96 * 38.8, abs=0.2)
    # their interval of a limit, 34.6 to either side, uses 3 / n for 1 / n + 1.96^2 / (2 (n - 1))
    assert result["upper"][2] - result["upper"][0] == pytest.approx(34.6, abs=1.0)


def test_icc_of_two_raters_against_the_mean_squares_of_shrout_and_fleiss():
    a, b = np.array(LARGE, float), np.array(MINI, float)
    n, table = len(a), np.stack([a, b], 1)
    rows, columns = 2 * table.mean(1).var(ddof=1), n * table.mean(0).var(ddof=1)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    error = (rest**2).sum() / (n - 1)
    expected = (rows - error) / (rows + error + 2 * (columns - error) / n)
    value, low, high = agreement(LARGE, MINI)["icc"]
    assert value == pytest.approx(expected, abs=1e-6)
    assert low < value < high


def test_a_shift_costs_agreement_and_not_correlation():
    a = np.arange(20.0)
    assert concordance(a, a)[0] == pytest.approx(1)
    # Lin 1989: 2 cov / (va + vb + shift^2), here with cov = va = vb
    assert concordance(a + 5, a)[0] == pytest.approx(2 * a.var() / (2 * a.var() + 25))
    assert concordance(-a, a)[0] < -0.1
    noisy = a + np.random.default_rng(0).normal(size=20)
    value, low, high = concordance(noisy, a)
    assert low < value < high < 1


def test_few_subjects_and_constants_give_none_not_numbers():
    assert agreement([1.0, 2.0], [1.0, 2.5])["icc"] is None
    assert agreement([3.0] * 5, [3.0] * 5)["ccc"] is None
    assert agreement([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])["icc"] == [1.0, 1.0, 1.0]


def test_what_is_no_pair_of_measurements_is_refused():
    with pytest.raises(InputError, match="same subjects"):
        agreement([1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="not finite"):
        agreement([1.0, float("nan")], [1.0, 2.0])
