"""Implicit solids by value: volumes, shares of voxels, blends and what covers what."""

import numpy as np
import pytest

from data_prep.phantom.solids import Canvas, Grid, ellipsoid, ramp, realise, superquadric, tube, union, without

SPACING_MM = (3.0, 2.0, 2.5)


def grid(shape=(20, 30, 24), **changes):
    usual = {"left": False, "turn": np.eye(3), "shift_mm": (0, 0, 0), "warp_mm": 0.0, "flexion_deg": 0.0}
    return Grid(shape, SPACING_MM, rng=np.random.default_rng(0), **(usual | changes))


def ml(share):
    return float(share.sum() * np.prod(SPACING_MM))


@pytest.mark.parametrize("centre", [(0, 0, 0), (0.7, -0.4, 1.1)])
def test_shares_add_up_to_the_volume(centre):
    """Without sub-voxels: within 2 % for a ball of seven voxels, wherever it lies."""
    g = grid()
    solid = g.solid(g.everything, ellipsoid(g.points, centre, (12, 12, 12)))
    assert ml(solid.cover()) == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.02)
    assert ml(solid.cover(3.0)) == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)
    # a sheet thinner than a voxel keeps its volume
    assert ml(solid.sheet(0.4)) == pytest.approx(4 / 3 * np.pi * (12.4**3 - 11.6**3), rel=0.05)


def test_a_field_of_any_slope_is_made_a_distance():
    g = grid()
    distance = ellipsoid(g.points, (0, 0, 0), (14, 14, 14))
    steep = realise(g.everything, 2 * distance, SPACING_MM)
    near = np.abs(distance) < 4
    assert np.abs(steep.distance - distance)[near].max() < 0.4


def test_superquadrics_grow_towards_a_box():
    g = grid()
    volumes = [
        ml(g.solid(g.everything, superquadric(g.points, (0, 0, 0), (12, 14, 13), e)).cover()) for e in (2, 2.5, 4)
    ]
    assert volumes[0] < volumes[1] < volumes[2] < 8 * 12 * 14 * 13
    assert volumes[0] == pytest.approx(4 / 3 * np.pi * 12 * 14 * 13, rel=0.02)
    # its general formula agrees with the fast one
    general = superquadric(g.points, (1, 2, 3), (12, 14, 13), 2.0000001)
    assert np.abs(general - ellipsoid(g.points, (1, 2, 3), (12, 14, 13))).max() < 0.05


def test_a_tube_is_a_cone_with_round_ends():
    g = grid()
    field = tube(g.points, [(0, -12, 0), (0, 12, 0)], [5, 8])
    x, y, z = (float(v.ravel()[0]) if v.size == 1 else v for v in g.points)
    on_axis = np.hypot(x, z) < 1e-6
    assert not on_axis.any() or field[on_axis].max() < 0
    expected = np.hypot(x, z) - (5 + 3 * (y + 12) / 24)
    between = np.broadcast_to(np.abs(y) < 12, field.shape)
    assert np.allclose(field[between], np.broadcast_to(expected, field.shape)[between], atol=1e-4)


def test_unions_bulge_and_cuts_remove():
    a, b = np.float32([-2.0, 1.0, 5.0]), np.float32([4.0, 1.0, -3.0])
    joined = union([a, b], 1.0)
    assert (joined <= np.minimum(a, b)).all() and joined[1] == pytest.approx(1 - np.log(2), abs=1e-5)
    assert joined[0] == pytest.approx(-2, abs=0.01)
    cut = without(a, b, 1.0)
    # outside stays outside, the tool's inside becomes outside, the rest stays
    assert np.allclose(cut, [-2, 1, 5], atol=0.15)


def test_what_is_painted_last_covers():
    canvas = Canvas(["air", "skin", "bone"], (2, 2, 2))
    everything = (slice(0, 2),) * 3
    canvas.paint(everything, {"skin": np.full((2, 2, 2), 0.5, np.float32)})
    canvas.paint((slice(0, 1), slice(0, 2), slice(0, 2)), {"bone": np.float32(0.8)})
    shares = canvas.fractions()
    assert shares["bone"][0].max() == pytest.approx(0.8) and shares["bone"][1].max() == 0
    assert shares["skin"][0, 0, 0] == pytest.approx(0.1) and shares["skin"][1, 0, 0] == pytest.approx(0.5)
    assert np.allclose(sum(shares.values()), 1)
    assert canvas.limb(everything)[0, 0, 0] == pytest.approx(0.9)


def test_boxes_enclose_what_they_are_asked_for():
    g = grid(flexion_deg=10.0, warp_mm=1.0)
    box = g.box((-5, -8, -6), (9, 12, 10))
    inside = np.ones(g.shape, bool)
    for values, low, high in zip(g.points, (-5, -8, -6), (9, 12, 10), strict=True):
        inside &= (values > low) & (values < high)
    outside = inside.copy()
    outside[box] = False
    assert inside.any() and not outside.any()
    assert np.prod([s.stop - s.start for s in box]) < 0.7 * inside.size
    assert all(s.stop == s.start for s in g.box((200, 0, 0), (210, 5, 5)))


def test_flexion_leans_the_thigh_back():
    straight, bent = grid(), grid(flexion_deg=15.0)
    low, high = (0, slice(0, 10), 0), (0, -1, 0)
    assert np.allclose(straight.points[2][low], bent.points[2][low])
    # what has the same z in the knee lies further back in the scan
    assert bent.points[2][high] > straight.points[2][high] + 0.5


def test_ramp():
    assert ramp(np.float32([0, 1, 2, 3]), 1, 2).tolist() == [0, 0, 1, 1] and ramp(np.float32(1.5), 1, 2) == 0.5
