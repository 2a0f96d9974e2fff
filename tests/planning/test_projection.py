"""The two ways of computing an X-ray agree with each other, with mass, and with the pinhole."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cyclescan.planning import FLIP, moved
from cyclescan.planning.projection import END_MM, SOFT_HU, Bone, Cloud, bone_of, coarser, traced
from cyclescan.planning.xray import View

POSE = np.eye(4)
POSE[:3, :3] = Rotation.from_rotvec([0.1, 0.2, -0.3]).as_matrix()
POSE[:3, 3] = 5, -7, 3
# sagittal slices to the right, height, width, as scans of the digital knee
AFFINE = np.array([[1.5, 0, 0, -45], [0, 0, 1.2, -36], [0, 1.1, 0, -33], [0, 0, 0, 1]])


def solid():
    """A bar and a ball, without any symmetry, (60, 60, 60) voxels."""
    right, front, up = moved(AFFINE, np.argwhere(np.ones((60, 60, 60)))).T
    bar = (np.abs(right - 8) < 9) & (np.abs(up - 3) < 20) & (np.abs(front + 6) < 7)
    ball = (right + 14) ** 2 + (front - 8) ** 2 + (up + 10) ** 2 < 11**2
    return (bar | ball).reshape(60, 60, 60)


def bone():
    return bone_of(np.where(solid(), 1000.0 + SOFT_HU, 0.0), solid(), AFFINE)


@pytest.mark.parametrize("angles", [(0, 0), (90, 0), (35, 20)])
def test_cloud_and_ray_tracing_agree(angles):
    view = View.of_c_arm(1000, 700, (2.0, 1.8), (90, 80), *angles, principal_px=(40.0, 45.0))
    cloud, exact = Cloud(bone()).image(view, POSE), traced(bone(), view, POSE)
    assert cloud.shape == exact.shape == (80, 90)
    assert cloud.sum() == pytest.approx(exact.sum(), rel=0.005)
    # pixels of the cloud have more and fewer voxels than their share; the search smooths, too
    smooth = [ndimage.gaussian_filter(image, 1.5) for image in (cloud, exact)]
    assert np.corrcoef(*(image.ravel() for image in smooth))[0, 1] > 0.998
    middles = [np.argwhere(i > -1).T @ i.ravel() / i.sum() for i in (cloud, exact)]
    np.testing.assert_allclose(*middles, atol=0.03)


def test_a_slab_is_as_thick_as_it_is():
    density = np.zeros((20, 20, 20), np.float32)
    density[2:18, 5:15, 2:18] = 0.5
    slab = Bone(density, np.array([[1.0, 0, 0, -9.5], [0, 1, 0, -9.5], [0, 0, 1, -9.5], [0, 0, 0, 1]]))
    view = View.of_c_arm(2000, 1800, (1.0, 1.0), (5, 5))
    # 10 mm of density 0.5 along y, seen from far away
    assert traced(slab, view, np.eye(4))[2, 2] == pytest.approx(5.0, abs=0.02)


def test_one_voxel_falls_on_its_pixel():
    density = np.zeros((9, 9, 9), np.float32)
    density[2, 3, 4] = 1
    single = Bone(density, np.diag([2.0, 2, 2, 1]))
    view = View.of_c_arm(1000, 700, (0.8, 0.8), (64, 64))
    u, v = view.project(moved(POSE, np.array([4.0, 6, 8])))
    image = Cloud(single).image(view, POSE)
    assert np.unravel_index(image.argmax(), image.shape) == (round(v), round(u))
    assert np.count_nonzero(image) == 1


def test_what_is_outside_adds_nothing():
    view = View.of_c_arm(1000, 700, (0.8, 0.8), (32, 32))
    away = np.eye(4)
    away[:3, 3] = 400, 0, 0
    assert Cloud(bone()).image(view, away).max() == 0
    away[:3, 3] = 0, 900, 0  # behind the source
    assert Cloud(bone()).image(view, away).max() == 0


def test_a_bone_is_what_exceeds_soft_tissue_inside_its_mask():
    mask = np.zeros((6, 6, 6), bool)
    mask[2:4, 2:4, 2:4] = True
    values = np.full((6, 6, 6), 1050.0)
    values[2, 2, 2] = -60
    density = bone_of(values, mask, np.diag([1.0, 1, 1, 1])).density
    assert density[3, 3, 3] == pytest.approx(1.0) and density[2, 2, 2] == 0 and density[0, 0, 0] == 0
    np.testing.assert_array_equal(bone_of(values, mask, np.eye(4)).affine, FLIP)


def test_a_bone_fades_where_the_scan_cuts_it():
    mask = np.zeros((5, 40, 5), bool)
    mask[2, 10:, 2] = True
    density = bone_of(np.full(mask.shape, 1050.0), mask, np.eye(4)).density[2, :, 2]
    assert density[-1] == 0 and density[-1 - int(END_MM)] == 1 and density[10] == 1
    assert (np.diff(density[-13:]) < 0).all()


def test_coarser_keeps_mass_and_place():
    fine, coarse = (Cloud(b) for b in (bone(), coarser(bone(), 2)))
    assert coarse.masses.sum() == pytest.approx(fine.masses.sum(), rel=1e-5)
    middles = [c.points @ c.masses / c.masses.sum() for c in (fine, coarse)]
    np.testing.assert_allclose(*middles, atol=0.05)  # within a block a place is not kept
