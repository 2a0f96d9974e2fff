"""Geometry against the pinhole formula, and the files that X-rays come in."""

import json

import numpy as np
import pydicom
import pytest
from skimage import io

from cyclescan.common.errors import InputError
from cyclescan.planning import xray
from cyclescan.planning.xray import View
from data_prep.phantom.xray import _write_dicom

GEOMETRY = {"sid_mm": 1000, "sod_mm": 700, "pixel_mm": [0.8, 0.8], "primary_deg": 0, "secondary_deg": 0}


def test_a_point_projects_by_the_pinhole_formula():
    view = View.of_c_arm(1000, 700, (0.8, 0.5), (200, 100))
    # the source is 700 mm behind the patient (y = 700) and the detector in front: depth = 700 - y
    x, y, z = 12.0, -30.0, 7.0
    u, v = view.project(np.array([x, y, z]))
    assert u == pytest.approx(99.5 + x * 1000 / (700 - y) / 0.5)
    assert v == pytest.approx(49.5 - z * 1000 / (700 - y) / 0.8)
    assert view.sid_mm == pytest.approx(1000)


@pytest.mark.parametrize(
    ("primary", "secondary", "forward", "right", "down"),
    [
        (0, 0, (0, -1, 0), (1, 0, 0), (0, 0, -1)),  # detector in front, the patient's left on the right, head up
        (90, 0, (1, 0, 0), (0, 1, 0), (0, 0, -1)),  # detector at the left, the back on the right
        (180, 0, (0, 1, 0), (-1, 0, 0), (0, 0, -1)),
        (0, 90, (0, 0, 1), (1, 0, 0), (0, -1, 0)),  # detector above the head, the face at the bottom
    ],
)
def test_angles_are_those_of_dicom(primary, secondary, forward, right, down):
    view = View.of_c_arm(1000, 700, (1, 1), (11, 11), primary, secondary)
    np.testing.assert_allclose(view.forward, forward, atol=1e-12)
    np.testing.assert_allclose(view.column, right, atol=1e-12)
    np.testing.assert_allclose(view.row, down, atol=1e-12)
    np.testing.assert_allclose(view.project(np.zeros(3)), [5, 5], atol=1e-9)


def test_binned_and_refined_views_see_the_same_places():
    view, point = View.of_c_arm(1000, 700, (0.8, 0.8), (64, 64), 30, 10), np.array([5.0, 6, 7])
    u, v = view.project(point)
    # the middle of the first of 2x2 binned pixels is at 0.5 of the old ones
    np.testing.assert_allclose(view.binned(2).project(point), [(u - 0.5) / 2, (v - 0.5) / 2])
    np.testing.assert_allclose(view.refined(2).project(point), [2 * u + 0.5, 2 * v + 0.5])


def test_a_view_from_the_bone_sees_what_the_room_sees():
    pose = np.array([[0.0, -1, 0, 5], [1, 0, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1]])
    view, point = View.of_c_arm(1000, 700, (0.8, 0.8), (64, 64), 30, 10), np.array([5.0, 6, 7])
    moved = pose[:3, :3] @ point + pose[:3, 3]
    np.testing.assert_allclose(view.seen_from(pose).project(point), view.project(moved))


def image():
    return np.add.outer(np.arange(40.0), np.arange(48.0)).astype(np.float32) / 90


def test_monochrome1_is_monochrome2_turned_over(tmp_path):
    _write_dicom(tmp_path / "two.dcm", image(), 90.0, 0.8)
    data = pydicom.dcmread(tmp_path / "two.dcm")
    data.PhotometricInterpretation = "MONOCHROME1"
    del data.PixelIntensityRelationshipSign
    data.PixelData = (4095 - data.pixel_array).astype("<u2").tobytes()
    data.save_as(tmp_path / "one.dcm")
    one, two = (xray.read(tmp_path / f"{name}.dcm") for name in ("one", "two"))
    assert two.image[-1, -1] > two.image[0, 0]
    np.testing.assert_allclose(one.image - one.image.min(), two.image - two.image.min())
    np.testing.assert_allclose(one.view.matrix, View.of_c_arm(1000, 700, (0.8, 0.8), (48, 40), 90).matrix)


def test_photons_become_attenuation(tmp_path):
    counts = np.rint(50000 * np.exp(-image())).astype(np.uint16)
    io.imsave(tmp_path / "ap.png", counts, check_contrast=False)
    (tmp_path / "ap.json").write_text(json.dumps({**GEOMETRY, "bone": "dark", "scale": "linear"}))
    read = xray.read(tmp_path / "ap.png").image
    np.testing.assert_allclose(read - read.min(), image() - image().min(), atol=1e-4)


def test_a_principal_point_beside_the_middle(tmp_path):
    io.imsave(tmp_path / "ap.tif", np.rint(1000 * image()).astype(np.uint16), check_contrast=False)
    (tmp_path / "ap.json").write_text(json.dumps({**GEOMETRY, "principal_px": [10, 20]}))
    np.testing.assert_allclose(xray.read(tmp_path / "ap.tif").view.project(np.zeros(3)), [10, 20])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sid_mm": None}, "without geometry: sid_mm"),
        ({"sod_mm": 1200}, "0 < sod_mm < sid_mm"),
        ({"pixel_mm": 0.8}, "two numbers are needed"),
        ({"pixel_mm": [0.8, 0]}, "positive numbers"),
        ({"primary_deg": "left"}, "one number is needed"),
        ({"bone": "green"}, "bright or dark"),
        ({"sid": 3}, "entry 'sid'"),
    ],
)
def test_bad_geometry_is_named(tmp_path, change, words):
    io.imsave(tmp_path / "ap.png", np.rint(1000 * image()).astype(np.uint16), check_contrast=False)
    facts = {key: value for key, value in {**GEOMETRY, **change}.items() if value is not None}
    (tmp_path / "ap.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=words):
        xray.read(tmp_path / "ap.png")


def test_what_is_no_x_ray_is_refused(tmp_path):
    io.imsave(tmp_path / "no.png", np.rint(1000 * image()).astype(np.uint16), check_contrast=False)
    io.imsave(tmp_path / "colour.png", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    (tmp_path / "colour.json").write_text(json.dumps(GEOMETRY))
    (tmp_path / "text.dcm").write_text("nothing")
    for name, words in (
        ("no.png", "without geometry"),
        ("colour.png", "one grey image"),
        ("text.dcm", "neither DICOM"),
    ):
        with pytest.raises(InputError, match=words):
            xray.read(tmp_path / name)
