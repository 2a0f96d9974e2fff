"""X-rays of the digital knee: geometry, attenuation and truth by value."""

import json

import nibabel as nib
import numpy as np
import pytest

from cyclescan.common.errors import InputError
from data_prep.phantom import xray
from data_prep.phantom.command import run
from data_prep.phantom.xray import SID_MM, SOD_MM, VIEWS, Device, _Drill, _expose, _Solid, make_xrays, moved

COARSE = Device(64, 3.2, (3.0, 2.25, 2.25), (5.0, 5.0, 5.0), 2.0)
SHAPE = (16, 32, 32)


@pytest.fixture(scope="module")
def knee():
    return make_xrays(5, SHAPE, index=1, device=COARSE)


def cube():
    """20 mm of density 1 in the middle of a grid of 1 mm."""
    density = np.zeros((40, 40, 40), np.float32)
    density[10:30, 10:30, 10:30] = 1
    return _Solid.of(density, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("angle_deg", [0.0, 90.0])
def test_a_cube_is_as_thick_as_it_is(angle_deg):
    source, targets = COARSE.rays(angle_deg)
    middle = targets[31:33, 31:33].mean((0, 1), keepdims=True)
    straight = cube().straight_integral(np.eye(4), source, middle, 0.5)
    bent = cube().integral(lambda points: points, source, middle, 0.5)
    assert straight[0, 0] == pytest.approx(2.0, abs=0.02)  # cm
    assert bent[0, 0] == pytest.approx(2.0, abs=0.06)


def test_a_pose_moves_what_is_seen():
    pose = np.eye(4)
    pose[:3, 3] = 30, 0, -20  # to the left and down
    source, targets = COARSE.rays(0.0)
    image = cube().straight_integral(pose, source, targets, 1.0)
    where = np.argwhere(image > 0).mean(0)[::-1]
    np.testing.assert_allclose(where, COARSE.project(0.0, pose[:3, 3]), atol=0.6)


def test_points_project_by_the_pinhole_formula():
    x, y, z = 10.0, 20.0, -30.0
    u, v = COARSE.project(0.0, np.array([x, y, z]))
    assert u == pytest.approx(31.5 + x * SID_MM / (SOD_MM - y) / 3.2)
    assert v == pytest.approx(31.5 - z * SID_MM / (SOD_MM - y) / 3.2)


def test_a_drill_is_as_thick_as_it_is():
    drill = _Drill(np.array([0.0, 0, -50]), np.array([0.0, 0, 1]))
    source, targets = COARSE.rays(0.0)
    chord = drill.chord(source, targets)
    assert chord.max() == pytest.approx(2 * xray.DRILL_RADIUS_MM / 10, rel=0.25)  # no pixel is just at its axis
    aimed = drill.chord(source, np.array([[[0.0, -300, 0]]]))
    assert aimed[0, 0] == pytest.approx(0.4, abs=1e-3)
    assert drill.chord(source, np.array([[[0.0, -300, -120]]]))[0, 0] == 0  # below its tip


def test_the_beam_hardens():
    """Twice the bone attenuates less than twice as much."""
    soft = np.full((8, 8), 8.0)
    rng = np.random.default_rng(0)
    none, one, two = (_expose(soft, np.full((8, 8), b), np.zeros((8, 8)), rng).mean() for b in (0.0, 1.5, 3.0))
    assert 0 < two - one < 0.95 * (one - none)


def test_the_femur_is_flexed_against_the_tibia(knee):
    turn = knee.poses["femur"][:3, :3] @ knee.poses["tibia"][:3, :3].T
    angle = np.rad2deg(np.arccos((np.trace(turn) - 1) / 2))
    assert 4 <= knee.flexion_deg <= 14 and abs(angle - knee.flexion_deg) < 1.5


def test_masks_are_where_the_image_is_dense(knee):
    """The shadow of the femur's mask, moved by its pose, is denser than the rest of its neighbourhood."""
    to_lps = np.diag([-1.0, -1, 1, 1]) @ knee.affine
    for view, angle_deg in VIEWS.items():
        points = moved(knee.poses["femur"], moved(to_lps, np.argwhere(knee.masks["femur"]).astype(float)))
        pixels = np.rint(COARSE.project(angle_deg, points)).astype(int)
        pixels = pixels[((pixels >= 0) & (pixels < 64)).all(1)]
        inside = np.zeros((64, 64), bool)
        inside[pixels[:, 1], pixels[:, 0]] = True
        image = knee.images[view]
        assert np.median(image[inside]) > np.median(image[~inside]) + 0.3


def test_lines_begin_and_end_in_their_bones(knee):
    to_index = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ knee.affine)
    for bone, points in knee.lines.values():
        middle = np.rint(moved(to_index, points.mean(0))).astype(int)
        assert knee.masks[bone][tuple(middle)]


def test_the_same_seed_is_the_same_x_ray(knee):
    again = make_xrays(5, SHAPE, index=1, device=COARSE)
    for view, image in knee.images.items():
        np.testing.assert_array_equal(again.images[view], image)


def test_files_say_what_is_true(tmp_path):
    xray.write_xrays(tmp_path, ["sub-0001"], SHAPE, None, 5, device=COARSE)
    folder = tmp_path / "xray" / "sub-0001"
    truth = json.loads((folder / "truth.json").read_text())
    made = make_xrays(5, SHAPE, device=COARSE)
    np.testing.assert_allclose(truth["pose_lps"]["femur"], made.poses["femur"])
    for view in truth["views"]:
        angle_deg = VIEWS[view["xray"].removesuffix(".dcm")]
        for line in view["lines"]:
            bone, points = made.lines[line["name"]]
            expected = COARSE.project(angle_deg, moved(made.poses[bone], points))
            np.testing.assert_allclose(line["points_px"], expected)
    assert nib.load(folder / "femur.nii.gz").shape == SHAPE
    (folder / "truth.json").write_text("{}")
    with pytest.raises(InputError, match="no X-rays of digital knees"):
        xray.write_xrays(tmp_path, ["sub-0001"], SHAPE, None, 5, device=COARSE)


def test_other_makes_are_refused(tmp_path):
    class Arguments:
        out, montage, xray, make = str(tmp_path), False, True, "B"

    with pytest.raises(InputError, match="make A, not B"):
        run(Arguments())
