"""The parts of doubt, on networks whose faults are known."""

import numpy as np

from cyclescan.inference import doubt


def volume(shape=(8, 16, 16)):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def parts(there, back):
    array = volume()
    return doubt.parts(array, there(array), there, back, 4)


def test_a_voxelwise_inverse_leaves_no_doubt():
    found = parts(lambda v: 0.5 * v, lambda v: 2 * v)
    assert max(np.abs(part).max() for part in found.values()) < 1e-6


def test_what_does_not_come_back_is_doubted_where_it_is():
    def back(v):
        wrong = v.copy()
        wrong[:, :8] += 0.5
        return wrong

    cycle = parts(lambda v: v, back)["cycle"]
    assert np.allclose(cycle[:, :3], 0.5, atol=0.01) and np.allclose(cycle[:, 13:], 0, atol=0.01)


def test_views_that_disagree_are_doubted():
    # answers that depend on the mean of what is in view, as instance normalisation's do
    assert parts(lambda v: v - v[:, :4].mean(), lambda v: v)["views"].min() > 0.001
    # an answer that depends on the side
    ramp = np.linspace(0, 1, 8, dtype=np.float32)[:, None, None]
    sided = parts(lambda v: v + np.resize(ramp, (v.shape[0], 1, 1)), lambda v: v)["views"]
    assert sided[0].mean() > 0.1


def test_doubt_is_limited():
    array = volume()
    assert doubt.doubt(doubt.parts(array, array, lambda v: v, lambda v: v + 10, 4)).max() == 2.0
