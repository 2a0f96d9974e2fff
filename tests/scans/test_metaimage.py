"""MetaImages are read as NIfTI files are."""

import math
from pathlib import Path

import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.scans import volume
from tests.data_prep.scan_files import AFFINE, save_mha, voxels


@pytest.mark.parametrize("compressed", [False, True])
def test_metaimage_volumes(tmp_path, compressed):
    path = save_mha(tmp_path / "x.mha", voxels(), compressed=compressed)
    shape, affine = volume.read_header(path)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-9)
    made = volume.read(path)
    assert shape == made.shape == voxels().shape
    np.testing.assert_array_equal(made.array, voxels())
    np.testing.assert_array_equal(made.affine, affine)
    assert volume.count(path) == 1 and volume.is_scan(path) and not volume.is_nifti(path)
    assert volume.placement(path) is None
    with pytest.raises(InputError, match="is 3-D and has no volume 2"):
        volume.read(path, 2)


def test_facts_beside_a_metaimage_are_read(tmp_path):
    path = save_mha(tmp_path / "x.mha", voxels())
    (tmp_path / "x.json").write_text('{"RepetitionTime": 0.5, "Laterality": "R"}')
    meta = volume.read(path).meta
    assert (meta["side"], meta["acquisition"]) == ("right", {"repetition_time_ms": 500.0})


def _cut(compressed):
    return lambda path: path.write_bytes(save_mha(path, voxels(), compressed=compressed).read_bytes()[:-50])


def _replace(old, new):
    def change(path):
        data = save_mha(path, voxels()).read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_bytes(b""), "is not a MetaImage file with its voxels inside"),
        (lambda p: p.write_text("ElementDataFile = LOCAL\n"), "is not a MetaImage file"),
        (_replace(b"LOCAL", b"/etc/passwd"), r"with its voxels inside \(ElementDataFile = LOCAL\)"),
        (_replace(b"DimSize = 10 12 14", b"DimSize = 9999 9999 9999"), "claims 9999x9999x9999 voxels; at most"),
        (_replace(b"DimSize = 10 12 14", b"DimSize = 10 12 15"), "its voxels need 3600 bytes, 3360 are there"),
        (_cut(compressed=True), "is truncated: its voxels need 3360 bytes"),
        (_cut(compressed=False), "is truncated: its voxels need 3360 bytes, 3310 are there"),
        (lambda p: save_mha(p, np.full((4, 5, 6), 7, np.int16)), r"is constant \(every voxel is 7\)"),
        (lambda p: save_mha(p, np.full((4, 5, 6), math.nan, np.float32)), "120 voxels that are NaN"),
    ],
)  # fmt: skip
def test_metaimages_that_are_wrong(tmp_path, write, sentence):
    path = Path(tmp_path / "x.mha")
    write(path)
    with pytest.raises(InputError, match=sentence):
        volume.read(path)
