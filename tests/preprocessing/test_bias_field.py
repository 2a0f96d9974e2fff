import subprocess
import sys

import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import bias_field, body
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject


@pytest.fixture(scope="module")
def corrected():
    """Tissues of one brightness each under a field that varies by a factor of 3: before, field, after, record, body."""
    knee = make_subject(5, (16, 32, 32))
    tissues = np.random.default_rng(1).uniform(200, 900, 256)[knee.labels] * (knee.labels > 0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in tissues.shape), indexing="ij")
    planted = np.exp(0.35 * axes[1] - 0.25 * axes[2] + 0.2 * axes[0] * axes[1])
    noise = np.random.default_rng(0).normal(0, 15, tissues.shape)
    scan = Volume(np.abs(tissues * planted + noise).astype(np.float32), knee.affine)
    return scan, planted, *bias_field.correct(scan), body.mask(scan.array)


def test_a_planted_field_is_found(corrected):
    scan, planted, _, record, inside = corrected
    found = np.log(bias_field.field_of(record, scan.shape))
    found, expected = ((x - x[inside].mean())[inside] for x in (found, np.log(planted)))
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert (found - expected).std() < 0.35 * expected.std()


def test_the_overall_brightness_stays(corrected):
    scan, _, after, _, inside = corrected
    ratio = np.log(scan.array[inside].clip(1)).mean() - np.log(after.array[inside].clip(1)).mean()
    assert abs(ratio) < 0.02


def test_undoing_needs_the_record_alone_and_is_exact(corrected):
    scan, _, after, record, _ = corrected
    assert np.abs(bias_field.undo(after, record).array - scan.array).max() < 1e-5 * np.ptp(scan.array)
    assert np.abs(after.array - scan.array).max() > 0.1 * np.ptp(scan.array)


def test_the_spline_is_the_field_that_simpleitk_returns(corrected):
    scan, record = corrected[0], corrected[3]
    assert record["factors"] == [1, 1, 1]  # so that both are on one grid
    inside = body.mask(scan.array)
    field = bias_field._estimate(scan.array, inside, scan.spacing_mm)
    field -= field[inside].mean()
    np.testing.assert_allclose(np.log(bias_field.field_of(record, scan.shape)), field, atol=1e-4)


def test_blocks_keep_the_field_where_it_was():
    """A spline that rises along one axis, on blocks of three voxels: its value at the middle voxel of a block."""
    record = {"step": "bias_field", "factors": [1, 3, 1], "coarse_shape": [4, 5, 6]}
    ramp = np.broadcast_to(np.linspace(-0.25, 1.25, 7)[None, :, None], (7, 7, 7))  # cubic splines repeat a line
    record["log_field"] = ramp.ravel().tolist()
    field = np.log(bias_field.field_of(record, (4, 16, 6)))[2, :, 3]
    np.testing.assert_allclose(field[1::3][:5], np.linspace(0, 1, 5), atol=1e-5)
    np.testing.assert_allclose(field[[0, 14, 15]], [0, 1, 1], atol=1e-5)


def test_a_single_slice_is_refused():
    with pytest.raises(InputError, match="needs at least 2 voxels along each axis; the scan has 1 x 30 x 30"):
        bias_field.correct(Volume(np.random.default_rng(0).random((1, 30, 30), np.float32), np.eye(4)))


def test_simpleitk_is_imported_only_when_a_scan_is_corrected():
    code = "import cyclescan.preprocessing, sys; sys.exit('SimpleITK' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
