"""The measures of SynthRAD2025 against its published formulas, written out here once more."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.signal import fftconvolve

from cyclescan import evaluate
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.evaluation import synthrad
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume
from tests.data_prep.scan_files import save_mha

SHAPE = (40, 99, 50)  # two axes are padded


@pytest.fixture(scope="module")
def case():
    """A CT, a generated one and a mask."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=SHAPE), 4)
    true = 900 * smooth / smooth.std()
    made = true + 150 * gaussian_filter(rng.normal(size=SHAPE), 1) + 60 * rng.normal(size=SHAPE)
    mask = gaussian_filter(rng.normal(size=SHAPE), 6) > -0.005
    mask[18:23, 46:51, 23:28] = True  # a voxel of the coarsest level
    return made, true, mask


def published_ms_ssim(made, true, mask):
    """Luminance, contrast and structure of cubes of 7, by the formulas of the challenge's code."""
    low, high = -1024.0, 3000.0
    images = [np.where(mask, np.clip(image, low, high), low) - low for image in (true, made)]
    pads = [((97 - n) // 2 if n < 97 else 0, 97 - n - (97 - n) // 2 if n < 97 else 0) for n in mask.shape]
    x, y, inside = (np.pad(image, pads, mode="edge") for image in (*images, mask))
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    product = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        ux, uy, uxx, uyy, uxy = (uniform_filter(image, 7) for image in (x, y, x * x, y * y, x * y))
        vx, vy, vxy = (343 / 342 * (a - b) for a, b in ((uxx, ux * ux), (uyy, uy * uy), (uxy, ux * uy)))
        sds = np.sqrt(np.clip(vx, 0, None)) * np.sqrt(np.clip(vy, 0, None))
        luminance = np.clip((2 * ux * uy + c1) / (ux * ux + uy * uy + c1), 0, None)
        contrast = np.clip((2 * sds + c2) / (vx + vy + c2), 0, None)
        structure = np.clip((vxy + c2 / 2) / (sds + c2 / 2), 0, None)
        result = luminance**weight * contrast**weight * structure**weight
        product *= np.clip(result[3:-3, 3:-3, 3:-3][inside[3:-3, 3:-3, 3:-3]].mean(), 0, 1)
        x, y = (fftconvolve(image, np.ones((2, 2, 2)) / 8, mode="same")[::2, ::2, ::2] for image in (x, y))
        inside = inside[::2, ::2, ::2]
    return product


def test_ms_ssim_is_the_published_one(case):
    found = synthrad.ms_ssim(*case)
    assert found == pytest.approx(published_ms_ssim(*case), abs=1e-9)
    assert 0.3 < found < 0.9995


def test_error_and_peak_signal_in_the_mask(case):
    """Cut to the range for PSNR, not for MAE; what lies outside the mask does not count."""
    _, true, mask = case
    found = synthrad.measures(np.where(mask, np.clip(true, -900, 2800) + 100, 7e4), np.clip(true, -900, 2800), mask)
    assert found["mae"] == pytest.approx(100)
    assert found["psnr"] == pytest.approx(20 * np.log10(4024 / 100))
    beyond = synthrad.measures(np.full(SHAPE, 3500.0), np.full(SHAPE, 3100.0), mask)
    assert beyond["mae"] == pytest.approx(400) and beyond["psnr"] == np.inf and beyond["ms_ssim"] == 1.0
    with pytest.raises(InputError, match="The mask has 0 voxels"):
        synthrad.measures(true, true, np.zeros(SHAPE, bool))


def test_a_mask_that_ends_before_the_coarsest_level_has_no_ms_ssim(case):
    made, true, mask = case
    corner = np.zeros_like(mask)
    corner[0, :9, 0] = True
    assert np.isnan(synthrad.ms_ssim(made, true, corner))


@pytest.fixture
def download(tmp_path, case):
    """Two patients as the challenge's tree has them, and translations named by patient."""
    made, true, mask = case
    for patient, offset in (("1HNA001", 0.0), ("1THB002", 40.0)):
        for kind, array in (("ct", true), ("mr", -true), ("mask", mask.astype(np.int16))):
            path = tmp_path / "Task1" / patient[1:3] / patient / f"{kind}.mha"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_mha(path, np.rint(array).astype(np.int16)[:, :20, :20])
        translated = np.rint(made + offset)[:, :20, :20]
        found = volume.read(tmp_path / "Task1" / patient[1:3] / patient / "ct.mha")
        (tmp_path / "made").mkdir(exist_ok=True)
        volume.write(Volume(as_read(translated, found), found.affine), tmp_path / "made" / f"{patient}.nii.gz")
    return tmp_path


def as_read(array, like):
    return array.astype(np.float32).reshape(like.array.shape)


def test_an_unpacked_download_is_the_folder_of_references_and_masks(download, capsys):
    tree = str(download / "Task1")
    arguments = ["--predicted", str(download / "made"), "--reference", tree, "--mask", tree, "--source", tree]
    assert evaluate.main([*arguments, "--measures", "synthrad2025", "--out", str(download / "out")]) == 0
    result = read_json(download / "out" / "metrics.json")
    assert [row["volume"] for row in result["volumes"]] == ["1HNA001", "1THB002"]
    for row in result["volumes"]:
        patient = download / "Task1" / row["volume"][1:3] / row["volume"]
        made = volume.read(download / "made" / f"{row['volume']}.nii.gz").array
        true, source, mask = (volume.read(patient / f"{kind}.mha").array for kind in ("ct", "mr", "mask"))
        expected = synthrad.measures(made, true, mask != 0)
        assert row["synthrad2025"] == pytest.approx(expected, nan_ok=True)
        assert row["synthrad2025"]["mae"] == pytest.approx(np.abs(made - true)[mask != 0].mean(), rel=1e-5)
        assert row["source_synthrad2025"]["mae"] == pytest.approx(np.abs(source - true)[mask != 0].mean(), rel=1e-5)
    mean = np.mean([row["synthrad2025"]["mae"] for row in result["volumes"]])
    assert result["synthrad2025"]["mean"]["mae"] == pytest.approx(mean)
    assert f"synthrad2025: MAE {mean:.4g} HU, PSNR" in capsys.readouterr().out
    assert "synthrad2025_ms_ssim" in (download / "out" / "metrics.csv").read_text().splitlines()[0]


def test_what_the_challenge_cannot_measure(download, capsys):
    tree = str(download / "Task1")
    arguments = ["--predicted", str(download / "made"), "--reference", tree, "--out", str(download / "out")]
    assert evaluate.main([*arguments, "--measures", "synthrad2025"]) == 2
    assert "The measures of synthrad2025 are of what lies in masks; give --mask." in capsys.readouterr().err
    (download / "Task1" / "HN" / "1HNA001" / "ct.mha").rename(download / "Task1" / "HN" / "1HNA001" / "ct2.mha")
    assert evaluate.main([*arguments, "--measures", "synthrad2025", "--mask", "body"]) == 2
    assert "has 3 files of 1HNA001 and not one named ct among them." in capsys.readouterr().err
    (download / "empty").mkdir()
    (download / "made" / "1HNA001.nii.gz").rename(download / "empty" / "somebody.nii.gz")
    arguments[1] = str(download / "empty")
    assert evaluate.main([*arguments, "--measures", "synthrad2025", "--mask", "body"]) == 2
    assert "states a patient of the challenge, as 1HNA001 does." in capsys.readouterr().err
