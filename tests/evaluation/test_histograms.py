"""The divergence by hand, its bound, and the seed's two values."""

import math

import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.evaluation import histograms


def test_kl_by_hand():
    # P = (1/2, 1/4, 1/4), Q = (1/4, 1/4, 1/2): 1/2 log 2 + 0 - 1/4 log 2
    assert histograms.kl_divergence([2, 1, 1], [1, 1, 2], epsilon=0) == pytest.approx(math.log(2) / 4)
    assert histograms.kl_divergence([3, 1], [1, 1], epsilon=0) == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    )


def test_kl_is_zero_for_the_same_distribution_and_not_symmetric():
    p, q = np.array([5, 3, 0, 2]), np.array([1, 1, 7, 1])
    assert histograms.kl_divergence(p, 3 * p) == pytest.approx(0.0, abs=1e-12)
    assert histograms.kl_divergence(p, q) != pytest.approx(histograms.kl_divergence(q, p), rel=0.1)
    assert histograms.kl_divergence(p, q) > 0


def test_epsilon_makes_empty_bins_finite_and_bounds_the_value():
    apart = histograms.kl_divergence([1, 0], [0, 1])
    e = histograms.EPSILON
    assert apart == pytest.approx((1 / (1 + 2 * e)) * math.log((1 + e) / e), rel=1e-9)
    assert apart < math.log((1 + e) / e) < 14
    assert histograms.kl_divergence([1, 0], [0, 1], epsilon=0) == math.inf


def test_counts_have_stated_bins_and_keep_what_lies_outside():
    counts = histograms.count(np.array([-9.0, -1.0, -0.5, 0.1, 0.5, 1.0, 7.0]), (-1, 1), bins=4)
    np.testing.assert_array_equal(counts, [2, 1, 1, 3])


@pytest.mark.parametrize("limits", [(1, 1), (1, 0), (0, float("nan"))])
def test_empty_ranges_are_refused(limits):
    with pytest.raises(InputError, match="must be larger"):
        histograms.count(np.zeros(3), limits)


def test_histograms_that_cannot_be_compared():
    with pytest.raises(InputError, match="3 and 2 bins"):
        histograms.kl_divergence([1, 1, 1], [1, 1])
    with pytest.raises(InputError, match="empty"):
        histograms.kl_divergence([0, 0], [1, 1])


def test_the_values_of_the_seed_stand_with_what_defines_them():
    source, generated, target = np.array([6, 2, 0, 0]), np.array([1, 3, 4, 0]), np.array([0, 3, 5, 0])
    found = histograms.compare(source, generated, target, (-1, 1))
    assert found["kl"] == {
        "input_generated": histograms.kl_divergence(source, generated),
        "target_generated": histograms.kl_divergence(target, generated),
        "target_input": histograms.kl_divergence(target, source),
    }
    assert {k: found[k] for k in ("bins", "range", "epsilon", "unit")} == {
        "bins": 4,
        "range": [-1.0, 1.0],
        "epsilon": 1e-6,
        "unit": "nats",
    }
    assert found["counts"]["generated"] == [1, 3, 4, 0]


def test_subjects_before_and_after_by_hand():
    """Each region by itself; a subject without a real scan of its own is compared with all real ones."""
    comparison = histograms.Comparison((-1, 1))
    rng = np.random.default_rng(0)
    body = np.zeros((6, 8, 8), bool)
    body[:3] = True
    images = {name: rng.uniform(low, 1, body.shape) for name, low in (("before", -1), ("after", -0.5), ("real", -0.4))}
    comparison.add("s1", "north", images | {"noisy": images["real"]}, body)
    comparison.add("s2", "south", {name: images[name] for name in ("before", "after")}, body)
    count = lambda name, where: histograms.count(images[name][where], (-1, 1))  # noqa: E731
    everywhere = np.ones_like(body)
    of_all = {"body": count("before", body), "everything": count("before", everywhere)}
    found = comparison.found(of_all)
    assert len(comparison) == 2
    rows = {(row["subject"], row["region"]): row for row in found["values"]}
    for region, where in (("body", body), ("everything", everywhere)):
        own, other = rows["s1", region], rows["s2", region]
        assert (own["against"], other["against"]) == ("own scan", "all real scans")
        assert own["real_after"] == histograms.kl_divergence(count("real", where), count("after", where)) > 0
        assert own["real_noisy"] == 0
        assert own["before_after"] == histograms.kl_divergence(count("before", where), count("after", where))
        assert other["real_before"] == 0 and "real_noisy" not in other
        assert sum(found["counts"][region]["after"]) == 2 * where.sum()
        assert found["counts"][region]["real"] == of_all[region].tolist()  # not every subject has its own
    median = next(
        r for r in found["summary"] if (r["region"], r["site"], r["measure"]) == ("body", "all", "real_after")
    )
    values = [rows[s, "body"]["real_after"] for s in ("s1", "s2")]
    assert (median["median"], median["least"], median["most"]) == (np.mean(values), min(values), max(values))
    assert {r["site"]: r["subjects"] for r in found["summary"]} == {"all": 2, "north": 1, "south": 1}


def test_each_image_on_its_own_range_as_the_seed_compares_them():
    """A translation that multiplies changes nothing then; against the real scan it does."""
    before = np.random.default_rng(1).uniform(0, 10, (4, 4, 4))
    own = {"before": (0, 10), "after": (0, 100)}
    comparison = histograms.Comparison((0, 10), own)
    comparison.add("s", "", {"before": before, "after": 10 * before, "real": before}, np.ones((4, 4, 4), bool))
    row = comparison.values()[0]
    assert row["before_after"] == pytest.approx(0, abs=1e-9)
    assert row["real_before"] == 0 < row["real_after"]
