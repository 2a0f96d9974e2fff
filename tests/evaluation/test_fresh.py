"""What a demo says of new scans, with models whose results are known."""

import numpy as np
import pytest

from cyclescan.evaluation import fresh, metrics
from cyclescan.evaluation.baselines import HistogramMatching
from cyclescan.evaluation.fresh import Lesion, Subject
from cyclescan.scans.volume import Volume
from tests.conftest import scan

SHAPE = (8, 16, 16)
AFFINE = np.array([[3.0, 0, 0, 0], [0, 0, 2, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
# -1 to 1 is kept as it is
DATA = {
    "spacing_mm": [3.0, 2.0, 2.0],
    "domains": {d: {"name": name, "scaling": "window_hu:-1,1"} for d, name in (("a", "ciss"), ("b", "dess"))},
}


class Model:
    """A function of arrays in the place of a translator."""

    stride = 4

    def __init__(self, direction, function):
        self.direction, self.translate_array, self.data = direction, function, DATA
        self.source_name, self.target_name = (DATA["domains"][direction[i]]["name"] for i in (0, 2))

    def outside(self, volume, records):
        return [{"measure": "air"}] if volume.array.max() > 2 else []


def volumes(seed, change=0.0):
    """One anatomy in both domains: b is -a / 2, and a change shows in both, half as strong in b."""
    a = 0.8 * scan(seed, "a") + change
    return {"a": Volume(a, AFFINE), "b": Volume(-a / 2, AFFINE)}


def subject(seed=0):
    mask = np.zeros(SHAPE, np.float32)
    mask[3:5, 6:9, 6:9] = 1
    return Subject("one", volumes(seed, 0.1 * mask), Lesion("blob", mask, volumes(seed)))


def models(there=lambda x: -x / 2, back=lambda x: -2 * x):
    return {"a2b": Model("a2b", there), "b2a": Model("b2a", back)}


def test_an_exact_model_keeps_the_lesion():
    one, other = fresh.show([subject()], models(), [Subject("p", volumes(7))])
    assert (one.case.direction, other.case.direction) == ("a2b", "b2a")
    assert (one.case.source, one.case.target, one.case.subject) == ("ciss", "dess", "one")
    np.testing.assert_allclose(one.case.translated, one.case.truth, atol=1e-6)
    np.testing.assert_allclose(one.case.affine, AFFINE)
    assert (one.remains.contrast, other.remains.contrast) == pytest.approx((-0.05, 0.1), abs=1e-5)
    assert (one.remains.surviving, other.remains.surviving) == pytest.approx((1.0, 1.0), abs=1e-4)
    np.testing.assert_array_equal(one.remains.mask, subject().lesion.mask)
    np.testing.assert_allclose(one.remains.healthy, subject().lesion.healthy["b"].array, atol=1e-6)


def test_a_model_that_paints_what_is_usual_keeps_nothing():
    usual = subject().lesion.healthy["b"].array
    shown = fresh.show([subject()], models(there=lambda x: np.resize(usual, x.shape)), [Subject("p", volumes(7))])
    assert [each.remains.surviving for each in shown] == pytest.approx([0.0, 1.0], abs=1e-4)


def test_a_lesion_without_contrast_cannot_be_said_to_survive():
    faint = subject()
    lesion = Lesion("blob", faint.lesion.mask, faint.scans)
    one, _ = fresh.show([Subject("one", faint.scans, lesion)], models(), [Subject("p", volumes(7))])
    assert one.remains.contrast == 0 and one.remains.surviving is None
    nowhere = Lesion("blob", np.zeros(SHAPE, np.float32), faint.scans)
    one, _ = fresh.show([Subject("one", faint.scans, nowhere)], models(), [Subject("p", volumes(7))])
    assert one.remains is None


def test_measures_are_those_of_the_methods():
    pool = [Subject("p", volumes(7)), Subject("q", volumes(8))]
    one, _ = fresh.show([Subject("one", volumes(0))], models(there=lambda x: -x / 2 + 0.1), pool)
    a, b = (volumes(0)[d].array for d in "ab")
    matched = HistogramMatching([other.scans["b"].array for other in pool])(a)
    for method, made in (("translated", b + 0.1), ("identity", a), ("histogram_matching", matched)):
        assert one.measures[method]["psnr"] == pytest.approx(metrics.psnr(made, b, 2.0), abs=0.02), method
    assert one.measures["translated"]["psnr"] == pytest.approx(26.02, abs=0.01)
    assert one.remains is None and one.findings == []


def test_where_it_doubts_most_is_compared_with_the_rest():
    """A model that is wrong by three times as much where the way back does not return by three times as much."""
    wrong = np.zeros(SHAPE, np.float32)
    wrong[2:6, 5:11, 5:11] = 1
    there = lambda x: -x / 2 + (0.1 + 0.2 * wrong if x.shape == SHAPE else 0)  # noqa: E731
    one, _ = fresh.show([Subject("one", volumes(0))], models(there), [Subject("p", volumes(7))])
    assert 1.5 < one.doubted < 3.01
