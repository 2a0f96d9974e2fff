"""On digital knees: what a healthy new knee, a scan of the wrong contrast and a scan of another protocol look like."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import ndimage

from cyclescan.preprocessing import geometry, guard, intensity
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject
from tests.preprocessing.test_geometry import all_orientations, oblique

TRAINED, NEW = 12, 10
SEQUENCE = {"repetition_time_ms": 16.9, "echo_time_ms": 5.0}


def measures(scan: Volume, scaling=intensity.MR_SCALING) -> dict:
    return guard.measure(scan, [intensity.measure(scan.array, scaling)])


@pytest.fixture(scope="module")
def knees():
    return [make_subject(11, (16, 32, 32), index=i) for i in range(TRAINED + NEW)]


@pytest.fixture(scope="module")
def scans(knees):
    return {
        domain: [Volume(getattr(knee, domain), knee.affine, {"acquisition": SEQUENCE}) for knee in knees]
        for domain in ("ciss", "dess", "ct")
    }


@pytest.fixture(scope="module")
def measured(scans):
    return {domain: [measures(scan) for scan in each] for domain, each in scans.items()}


@pytest.fixture(scope="module")
def cohorts(measured):
    trained = {domain: each[:TRAINED] for domain, each in measured.items()}
    pairs = (("ciss", "dess"), ("dess", "ciss"))
    return {own: json.loads(json.dumps(guard.limits_of(trained[own], trained[other]))) for own, other in pairs}


@pytest.mark.parametrize("domain", ["ciss", "dess"])
def test_healthy_new_knees_are_inside(cohorts, measured, domain):
    assert [guard.outside(values, cohorts[domain]) for values in measured[domain][TRAINED:]] == [[]] * NEW


@pytest.mark.parametrize(("domain", "given"), [("ciss", "dess"), ("dess", "ciss"), ("ciss", "ct"), ("dess", "ct")])
def test_another_contrast_is_outside(cohorts, measured, domain, given):
    found = [guard.outside(values, cohorts[domain]) for values in measured[given][TRAINED:]]
    assert all(found)
    if given != "ct":
        assert all(guard.LIKENESS in {finding["measure"] for finding in each} for each in found)


def test_a_third_contrast_is_outside_by_all_measures_together(measured):
    """DESS given to a model of CISS and CT, which lies near both in each measure alone."""
    cohort = json.loads(json.dumps(guard.limits_of(measured["ciss"][:TRAINED], measured["ct"][:TRAINED])))
    new = {d: [guard.outside(values, cohort) for values in measured[d][TRAINED:]] for d in ("ciss", "dess")}
    assert new["ciss"] == [[]] * NEW
    assert all(each[0]["measure"] == guard.JOINT for each in new["dess"])
    # cards of before this measure have no limit of it
    assert guard.outside(measured["dess"][-1], cohort | {guard.JOINT: None}) == new["dess"][-1][1:]
    del cohort[guard.JOINT]
    assert guard.outside(measured["dess"][-1], cohort) == new["dess"][-1][1:]


def test_the_distance_from_the_usual_contrast_by_hand():
    """Independent measures: the root mean square of how many deviations each is off."""
    joint = {"keys": ["body_5", "edges"], "centre": [0.0, 0.0], "deviation": [0.1, 0.2], "inverse": [[1, 0], [0, 1]]}
    cohort = {"limits": {}, guard.LIKENESS: None, guard.JOINT: joint | {"high": 2.0}}
    near, far = ({"body_5": 0.3, "edges": math.exp(v)} for v in (0.0, -0.8))
    assert guard.outside(near, cohort) == [{"measure": guard.JOINT, "value": 2.12132, "low": None, "high": 2.0}]
    (found,) = guard.outside(far, cohort)
    assert found["value"] == pytest.approx(math.sqrt((3**2 + 4**2) / 2), rel=1e-5)
    assert guard.sentence([found]) == "distance from the usual contrast 3.54 SD (at most 2)"
    assert guard.outside({"body_5": 9.0}, cohort) == []  # one of its measures is not known


def changed(array=None, affine=None, **acquisition):
    def change(scan):
        meta = {"acquisition": SEQUENCE | acquisition}
        return Volume(array(scan.array) if array else scan.array, affine(scan.affine) if affine else scan.affine, meta)

    return change


def noisy(array):
    return np.abs(array + np.random.default_rng(0).normal(0, 0.3 * array.max(), array.shape)).astype(np.float32)


CHANGES = {
    "spacing_depth_mm": changed(affine=lambda a: a @ np.diag([2, 1, 1, 1.0])),
    "extent_height_mm": changed(array=lambda a: a[:, :16]),
    "tilt_deg": changed(affine=lambda a: oblique((1, 1, 1), (25, 0, 0)) @ a),
    "air": changed(array=lambda a: np.pad(a[4:12, 8:24, 8:24], ((4, 4), (8, 8), (8, 8)))),
    "body_90": changed(array=lambda a: (a / a.max()) ** 3),
    "edges": changed(array=lambda a: ndimage.gaussian_filter(a, 2)),
    "snr": changed(array=noisy),
    "echo_time_ms": changed(echo_time_ms=10.0),
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_is_changed_is_what_is_named(cohorts, scans, key):
    found = guard.outside(measures(CHANGES[key](scans["ciss"][-1])), cohorts["ciss"])
    assert key in [finding["measure"] for finding in found]
    assert guard.MEASURES[key].label in guard.sentence(found)


def test_the_orientation_of_the_file_changes_nothing(scans):
    scan = scans["ciss"][0]
    expected = measures(scan)
    for affine in list(all_orientations())[::7]:
        # the canonical scan as a file of this orientation holds it
        record = {"step": "canonical", "affine_before": affine.tolist(), "shape_before": [1]}
        stored = geometry.undo(scan, record).array
        turned = Volume(stored, scan.affine @ np.linalg.inv(geometry.canonical_grid(stored.shape, affine)[1]) @ affine)
        again = measures(dataclasses.replace(turned, meta=scan.meta))
        assert again == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("sigma", [5.0, 40.0])
def test_the_noise_is_found_beneath_the_anatomy(sigma):
    shape = (24, 60, 60)
    smooth = 500 + 300 * ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 4) * 50
    smooth[:, 20:40, 20:40] += 400  # an edge
    noise = np.random.default_rng(2).normal(0, sigma, shape)
    volume = Volume((smooth + noise).astype(np.float32), np.diag([3.0, 1.0, 1.0, 1.0]))
    assert guard.noise_sd(volume) == pytest.approx(sigma, rel=0.08)


def test_limits_by_hand():
    """Flip angles 20, 22, 24, 26, 100: ratios; the median is 24, the median factor from it 24/22."""
    cohort = [{"flip_deg": v, "air": a} for v, a in zip((20, 22, 24, 26, 100), (0.3, 0.3, 0.3, 0.3, 0.9), strict=True)]
    about = guard.limits_of([*cohort, {}])
    flip, air = about["limits"]["flip_deg"], about["limits"]["air"]
    factor = (24 / 22) ** (5 * 1.4826 * (1 + 5 / 5))
    assert (flip["low"], flip["median"], flip["high"]) == pytest.approx((24 / factor, 24, 24 * factor), rel=1e-4)
    assert (air["low"], air["high"], air["scans"]) == pytest.approx((0.15, 0.45, 5))  # all alike: the least width
    assert about["scans"] == 6 and set(about["limits"]) == {"flip_deg", "air"} and about[guard.LIKENESS] is None
    found = guard.outside({"flip_deg": 120.0, "air": 0.9}, about)
    assert [(f["measure"], f["value"]) for f in found] == [("air", 0.9), ("flip_deg", 120.0)]
    said = "share of air 0.9 (0.15 to 0.45), flip angle 120 degrees (6.61 to 87.2)"
    assert guard.sentence(found) == said
    assert guard.sentence(found, 1) == "share of air 0.9 (0.15 to 0.45), and 1 more"
    assert guard.outside({"flip_deg": 100.0, "snr": 3.0}, about) == [
        {"measure": "flip_deg", "value": 100.0, "low": flip["low"], "high": flip["high"]}
    ]


def test_few_scans_have_no_limits():
    assert guard.limits_of([{"air": 0.3}] * 3)["limits"] == {}
    assert guard.outside({"air": 0.9}, guard.limits_of([])) == []


def test_outliers_in_the_cohort_do_not_widen_its_limits(measured):
    good, bad = measured["ciss"][:TRAINED], measured["ct"][:2]
    clean, mixed = (guard.limits_of(cohort) for cohort in (good, [*good, *bad]))
    for key, limit in clean["limits"].items():
        width = limit["high"] - limit["low"]
        assert abs(mixed["limits"][key]["high"] - limit["high"]) < width
    assert all(guard.outside(values, mixed) for values in bad)


def test_domains_that_are_alike_are_not_told_apart(measured):
    half = TRAINED // 2
    assert guard.limits_of(measured["ciss"][:half], measured["ciss"][half:TRAINED])[guard.LIKENESS] is None
    assert guard.limits_of(measured["ciss"][:5], measured["dess"][:5])[guard.LIKENESS] is None


def test_likeness_is_0_here_and_1_there(cohorts, measured):
    weights, offset = (cohorts["ciss"][guard.LIKENESS][key] for key in ("weights", "offset"))
    for domain, expected in (("ciss", 0), ("dess", 1)):
        values = {key: np.median([v[key] for v in measured[domain][:TRAINED]]) for key in weights}
        linear = {k: math.log(v) if guard.MEASURES[k].is_ratio else v for k, v in values.items()}
        assert offset + sum(weights[k] * linear[k] for k in weights) == pytest.approx(expected, abs=0.02)


def test_every_measure_is_finite_for_strange_scans():
    rng = np.random.default_rng(0)
    for array in (rng.normal(size=(3, 4, 5)), np.eye(30)[None].repeat(2, 0), rng.random((1, 40, 40)) > 0.5):
        values = measures(Volume(array.astype(np.float32), np.eye(4)), "percentile:0,100")
        assert np.isfinite(list(values.values())).all() and set(values) <= set(guard.MEASURES)
