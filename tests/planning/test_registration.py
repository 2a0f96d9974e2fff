"""A known pose is found on images that another algorithm rendered; and where starts do not agree, it is refused."""

import dataclasses
import json

import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.planning import moved, registration, starts
from cyclescan.planning.bones import surface
from cyclescan.planning.projection import traced
from cyclescan.planning.registration import COARSE, LIMIT_MM, Agreement, distance_mm, register, shifted, verdict
from cyclescan.planning.xray import View, Xray
from tests.planning.test_projection import AFFINE, POSE, bone, solid

POINTS = surface(solid(), AFFINE)
CENTRE = moved(POSE, POINTS).mean(0)


@pytest.fixture(scope="module")
def xrays():
    views = [View.of_c_arm(1000, 700, (2.0, 2.0), (64, 64), angle) for angle in (0, 90)]
    return [Xray(f"{i}.png", traced(bone(), view, POSE), view) for i, view in enumerate(views)]


@pytest.fixture(scope="module")
def found(xrays):
    start = shifted(np.array([4.0, -3, 5, 4, -5, 3]), POSE, CENTRE)
    seen = []
    result = register(bone(), xrays, start, POINTS, starts=4, seed=1, progress=lambda *n: seen.append(n))
    assert distance_mm(POSE, start, POINTS)[0] > 6
    assert seen == [(n, 6) for n in range(1, 7)]
    return result


def test_a_known_pose_is_found(found):
    assert distance_mm(POSE, found.pose, POINTS)[0] < 0.7
    assert found.accepted and found.spread_mm < LIMIT_MM
    assert found.agreement > 0.9
    np.testing.assert_allclose(found.pose[:3, :3] @ found.pose[:3, :3].T, np.eye(3), atol=1e-12)


def test_agreement_is_largest_where_the_bone_is(xrays):
    agreement = Agreement(bone(), xrays, COARSE)
    here = agreement(POSE)
    for axis in range(6):
        for step in (-6.0, 6.0):
            assert agreement(shifted(step * np.eye(6)[axis], POSE, CENTRE)) < here


def test_tools_beside_the_bone_do_not_count(xrays):
    image = xrays[0].image.copy()
    image[:5] += 50  # far from the bone's shadow
    changed = dataclasses.replace(xrays[0], image=image)
    plain, other = (Agreement(bone(), [each], COARSE)(POSE) for each in (xrays[0], changed))
    assert other == pytest.approx(plain, abs=0.05)


def test_processes_change_nothing(xrays, found):
    start = shifted(np.array([4.0, -3, 5, 4, -5, 3]), POSE, CENTRE)
    again = register(bone(), xrays, start, POINTS, starts=4, seed=1, workers=2)
    np.testing.assert_allclose(again.pose, found.pose, atol=1e-9)


def test_of_one_view_depth_is_told_apart(xrays):
    axis = xrays[0].view.forward
    deeper = POSE.copy()
    deeper[:3, 3] += 7 * axis
    across, along = distance_mm(POSE, deeper, POINTS, axis)
    assert across == pytest.approx(0, abs=1e-9) and along == pytest.approx(7)


def test_a_turn_about_a_point_leaves_it_where_it_is():
    vector = np.array([10.0, -20, 30, 1, 2, 3])
    change = shifted(vector, POSE, CENTRE) @ np.linalg.inv(POSE)
    np.testing.assert_allclose(moved(change, CENTRE), CENTRE + np.array([1, 2, 3]))
    angle = np.rad2deg(np.arccos((np.trace(change[:3, :3]) - 1) / 2))
    assert angle == pytest.approx(np.linalg.norm(vector[:3]))


def ended(*pairs):
    return [{"agreement": a, "distance_mm": d, "depth_mm": 0.0} for a, d in pairs]


@pytest.mark.parametrize(
    ("starts_", "spread_mm", "words"),
    [
        (ended((0.6, 0), (0.6, 0.1), (0.59, 0.3), (0.58, 0.5)), 0.3, None),
        (ended((0.6, 0), (0.6, 0.1), (0.4, 12), (0.4, 15)), 0.1, None),  # two ended in a much worse place
        (ended((0.6, 0), (0.59, 8), (0.58, 9), (0.57, 0.2)), 8, "disagree"),
        (ended((0.6, 0), (0.4, 12), (0.3, 9), (0.3, 9)), 12, "disagree"),  # nobody confirms the best
        (ended((0.2, 0), (0.2, 0.1), (0.2, 0.1), (0.2, 0.1)), 0.1, "does not look like"),
    ],
)
def test_starts_that_disagree_are_refused(starts_, spread_mm, words):
    spread, _, why = verdict(starts_)
    assert spread == pytest.approx(spread_mm)
    assert (why is None) if words is None else (words in why)


def test_another_bone_is_not_accepted(xrays):
    """Where the X-ray shows something else, there is nothing to agree on."""
    rng = np.random.default_rng(0)
    noise = [dataclasses.replace(each, image=rng.normal(size=each.image.shape)) for each in xrays]
    assert not register(bone(), noise, POSE, POINTS, starts=2, seed=0).accepted


def test_one_start_cannot_agree(xrays):
    with pytest.raises(InputError, match="from 2 on"):
        register(bone(), xrays, POSE, POINTS, starts=1)


def landmarks(tmp_path, xrays, points, names=None):
    entries = [
        {
            "name": str(i),
            "position_lps": point.tolist(),
            "pixels": {x.name: x.view.project(moved(POSE, point)).tolist() for x in xrays[: names or 2]},
        }
        for i, point in enumerate(points)
    ]
    path = tmp_path / "landmarks.json"
    path.write_text(json.dumps({"landmarks": entries}))
    return path


CORNERS = np.array([[20.0, 5, -20], [-18, 12, 4], [3, -9, 25], [-7, -4, -15]])


@pytest.mark.parametrize("views", [1, 2])
def test_landmarks_give_the_pose(tmp_path, xrays, views):
    path = landmarks(tmp_path, xrays, CORNERS, views)
    start = shifted(np.array([25.0, -20, 15, 20, 10, -15]), POSE, CENTRE)
    pose, miss = starts.from_landmarks(path, xrays[:views], start)
    assert miss < 0.01
    assert distance_mm(POSE, pose, POINTS)[0] < 0.5


@pytest.mark.parametrize(
    ("points", "words"),
    [(CORNERS[:3], "at least 4"), (np.outer(range(5), [1.0, 2, 3]), "one line")],
)
def test_bad_landmarks_are_named(tmp_path, xrays, points, words):
    with pytest.raises(InputError, match=words):
        starts.from_landmarks(landmarks(tmp_path, xrays, points), xrays, POSE)


def test_landmarks_that_fit_no_pose_are_refused(tmp_path, xrays):
    path = landmarks(tmp_path, xrays, CORNERS)
    entries = json.loads(path.read_text())
    entries["landmarks"][0]["pixels"]["0.png"][0] += 300
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match="pixels off"):
        starts.from_landmarks(path, xrays, POSE)


def test_a_header_puts_the_middle_of_the_scan_at_the_isocentre():
    pose = starts.from_header((60, 60, 60), AFFINE)
    right, front, up = moved(AFFINE, np.full(3, 29.5))
    np.testing.assert_allclose(moved(pose, np.array([-right, -front, up])), 0, atol=1e-9)
    assert registration.REACH == 10
