"""What a notebook's viewer is given: voxels, places, windows, links."""

import sys

import nibabel as nib
import numpy as np
import pytest

import cyclescan
from cyclescan.common.errors import InputError

AFFINE = np.array([[-0.4, 0, 0, 30], [0, 0.1, 2.9, -11], [0, 0.4, -0.7, 5], [0, 0, 0, 1]])  # oblique, anisotropic


@pytest.fixture
def scan():
    return cyclescan.Volume(np.random.default_rng(0).normal(100, 20, (5, 6, 4)).astype(np.float32), AFFINE)


def image_of(layer):
    return nib.Nifti1Image.from_bytes(layer.data)


def views_of(widget):
    return list(widget.children[1::2])


def test_each_volume_on_its_own_grid(scan, tmp_path):
    other = cyclescan.Volume(scan.array[:, ::2].copy(), AFFINE @ np.diag([1, 2, 1, 1]))
    cyclescan.write(other, tmp_path / "sub-0001_dess.nii.gz")
    widget = cyclescan.show(scan, tmp_path / "sub-0001_dess.nii.gz")
    for view, given, name in zip(views_of(widget), (scan, other), ("volume 1", "sub-0001_dess"), strict=True):
        (layer,) = view.volumes
        np.testing.assert_array_equal(np.asarray(image_of(layer).dataobj), given.array)
        np.testing.assert_allclose(image_of(layer).affine, given.affine, atol=1e-6)
        assert image_of(layer).header.get_xyzt_units()[0] == "mm"
        assert (layer.cal_min, layer.cal_max) == pytest.approx(np.percentile(given.array, [0.5, 99.5]), rel=1e-5)
        assert layer.name == f"{name}.nii" and layer.colormap == "gray"
    assert [label.value for label in widget.children[::2]] == ["volume 1", "sub-0001_dess"]


def test_crosses_are_linked_and_planes_are_as_radiologists_have_them(scan):
    widget = cyclescan.show(scan, scan, scan, names=["CISS", "DESS, synthetic", "DESS, true"], height=300)
    views = views_of(widget)
    for view in views:
        assert {id(other) for other in view.other_nv} == {id(v) for v in views} - {id(view)}
        assert view.sync_opts["2d"] and view.height == 300
        assert view.opts.slice_type.name == "MULTIPLANAR" and view.opts.is_radiological_convention
        assert view.opts.sagittal_nose_left
    assert [label.value for label in widget.children[::2]] == ["CISS", "DESS, synthetic", "DESS, true"]


def test_uncertainty_lies_over_what_was_translated(scan):
    doubt = cyclescan.Volume(np.linspace(0, 1, scan.array.size, dtype=np.float32).reshape(scan.shape), AFFINE)
    source, translated = views_of(cyclescan.show(scan, scan, uncertainty=doubt))
    assert len(source.volumes) == 1
    image, overlay = translated.volumes
    np.testing.assert_array_equal(np.asarray(image_of(overlay).dataobj), doubt.array)
    assert overlay.opacity < 1 == image.opacity and overlay.colormap != "gray"
    assert overlay.cal_max == pytest.approx(0.995, abs=0.01) and overlay.cal_min == pytest.approx(0.0995, abs=0.001)
    (alone,) = views_of(cyclescan.show(scan, uncertainty=doubt))
    assert len(alone.volumes) == 2


def test_refusals(scan, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="needs a volume"):
        cyclescan.show()
    with pytest.raises(InputError, match="2 volumes and 1 names"):
        cyclescan.show(scan, scan, names=["one"])
    with pytest.raises(InputError, match=r"none\.nii"):
        cyclescan.show(tmp_path / "none.nii")
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(InputError, match=r"needs ipyniivue: pip install 'cyclescan\[notebooks\]'\.$"):
        cyclescan.show(scan)
