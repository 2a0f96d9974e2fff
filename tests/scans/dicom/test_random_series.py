"""Random series, classic and enhanced: each is read exactly, or refused in one sentence; see `random_series`."""

import collections
import re

import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom import convert, series
from tests.scans.dicom import random_series

FEW, MANY = 40, 600


def outcome(seed, folder):
    """("read" or "refused" or what is wrong, the case) for one seed."""
    case = random_series.make(seed, folder)
    read, refused = [], []
    for each in series.find(folder):
        try:
            read.append(convert.read(each))
        except InputError as error:
            if "\n" in str(error) or str(folder) not in str(error) or not re.search(r"[.)]$", str(error)):
                return f"a sentence that is none: {error}", case
            refused.append(str(error))
    left = list(case.volumes)
    for scan in read:
        same = [i for i, (array, affine) in enumerate(left) if is_same(scan, array, affine)]
        if not same:
            return "wrong voxels", case
        del left[same[0]]
    if case.kind in random_series.REFUSED:
        return ("refused" if refused and not read else "should be refused"), case
    if refused and (len(case.volumes) > 1 or case.unclear):
        return "refused", case
    if left or refused:
        return f"not read: {refused}", case
    return "read", case


def is_same(scan, array, affine):
    """Whether every voxel lies where its truth lies, to a thousandth of a voxel, and has its value to the last bit."""
    if sorted(scan.shape) != sorted(array.shape):
        return False
    corners = np.array(np.meshgrid(*((0, n - 1) for n in array.shape), indexing="ij")).reshape(3, -1)
    mapping = np.linalg.solve(scan.affine, affine)  # from the truth's indices to the scan's
    exact = np.rint(mapping[:3, :3])
    offset = np.rint(mapping[:3, 3])
    there = mapping[:3, :3] @ corners + mapping[:3, 3:]
    if np.abs(there - (exact @ corners + offset[:, None])).max() > 1e-3:
        return False
    index = np.indices(array.shape).reshape(3, -1)
    places = (exact @ index + offset[:, None]).astype(int)
    if places.min() < 0 or (places.max(1) >= scan.shape).any():
        return False
    return np.array_equal(scan.array[tuple(places)], array.ravel().astype(np.float32))


def tally(seeds, folder):
    counts, wrong = collections.Counter(), []
    for seed in seeds:
        said, case = outcome(seed, folder / str(seed))
        counts[case.kind, said if said in ("read", "refused") else "wrong"] += 1
        if said not in ("read", "refused"):
            wrong.append((said, case.about))
    return counts, wrong


def test_a_few_random_series(tmp_path):
    counts, wrong = tally(range(FEW), tmp_path)
    assert wrong == []
    assert sum(n for (_, said), n in counts.items() if said == "read") > FEW / 2


@pytest.mark.slow
def test_many_random_series(tmp_path):
    counts, wrong = tally(range(1000, 1000 + MANY), tmp_path)
    assert wrong == []
    assert sum(counts.values()) == MANY
    assert {kind for kind, _ in counts} == set(random_series.KINDS)


def test_the_check_itself_finds_a_slice_out_of_place_and_a_wrong_slope(tmp_path):
    case = next(c for c in (random_series.make(s, tmp_path / str(s)) for s in range(99)) if c.kind == "plain")
    (found,) = series.find(tmp_path / case.about["folder"])
    scan, ((array, affine),) = convert.read(found), case.volumes
    assert is_same(scan, array, affine)
    swapped = array[:, :, [1, 0, *range(2, array.shape[2])]]
    assert not is_same(scan, swapped, affine)
    assert not is_same(scan, array * (1 + 4e-7), affine)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 2]
    assert not is_same(scan, array, moved)
