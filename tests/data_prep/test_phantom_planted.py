"""Planted lesions: where they are, how they look, and that nothing else changes."""

import numpy as np
import pytest

from data_prep.phantom import make_subject, planted
from data_prep.phantom.anatomy import Tissues

SHAPE = (16, 48, 48)


@pytest.fixture(scope="module")
def healthy():
    return make_subject(3, SHAPE)


@pytest.mark.parametrize("kind", planted.KINDS)
def test_a_lesion_is_bright_and_alone(kind, healthy):
    ill = make_subject(3, SHAPE, lesion=kind)
    inside = ill.lesion > 0.1
    assert 2 <= inside.sum() < 0.03 * inside.size
    # fluid is brighter than cartilage, marrow and fibres on CISS
    change = ill.ciss - healthy.ciss
    assert np.average(change, weights=ill.lesion) > 0.2 * np.percentile(healthy.ciss, 99)
    # slices thicker than their distance would reach further; these are 6 mm apart
    far = ill.lesion == 0
    assert np.array_equal(ill.ciss[far], healthy.ciss[far])
    assert np.array_equal(ill.dess[far], healthy.dess[far])
    again = make_subject(3, SHAPE, lesion=kind)
    assert np.array_equal(again.lesion, ill.lesion) and np.array_equal(again.dess, ill.dess)


def test_without_a_lesion_there_is_no_map(healthy):
    assert healthy.lesion is None


def test_no_tissue_no_lesion():
    nothing = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(ValueError, match="acl"):
        planted.plant(Tissues({"acl": nothing, "fluid": nothing}, nothing), "ligament_tear", (1, 1, 1), None)
