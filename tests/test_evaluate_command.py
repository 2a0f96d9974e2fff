"""`evaluate` on files: pairing, grids, ranges, exit codes and sentences."""

import csv
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from cyclescan import evaluate
from cyclescan.common.files import read_json
from cyclescan.evaluation import files, histograms, metrics
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume
from tests.conftest import scan

AFFINE = np.array([[0.3, -7.9, 0.2, 60.0], [-8.0, -0.3, 0.1, 40.0], [0.1, 0.2, 9.0, -50.0], [0, 0, 0, 1]])
SHAPE = (12, 13, 14)


def put(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    volume.write(Volume(np.asarray(array, np.float32), affine), path)
    return path


def truth(seed):
    return 500 + 400 * scan(seed, "b", SHAPE)


def made(seed):
    return truth(seed) + 40 * np.random.default_rng(seed).normal(size=SHAPE)


@pytest.fixture
def folders(tmp_path):
    for seed in (1, 2):
        put(tmp_path / "predicted" / "site" / f"sub-{seed}.nii.gz", made(seed))
        put(tmp_path / "reference" / "site" / f"sub-{seed}.nii", truth(seed))  # the suffix may differ
        put(tmp_path / "source" / "site" / f"sub-{seed}.nii.gz", 9 * scan(seed, "a", SHAPE))
    return tmp_path


@pytest.fixture
def call(folders, capsys):
    def call(*more, predicted="predicted", reference="reference"):
        given = [
            "--predicted",
            folders / predicted,
            "--reference",
            folders / reference,
            "--out",
            folders / "out",
            *more,
        ]
        code = evaluate.main([str(g) for g in given])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def refused(result, sentence):
    code, _, said = result
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2, said
    assert len(errors) == 1 and re.search(sentence, errors[0]), said


def test_the_command_line(folders):
    """As a user types it; the numbers are those of the volumes."""
    paths = [folders / name for name in ("predicted", "reference", "out")]
    options = [
        word for pair in zip(("--predicted", "--reference", "--out"), map(str, paths), strict=True) for word in pair
    ]
    command = [sys.executable, "-X", "importtime", "-m", "cyclescan.evaluate", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "tensorflow" not in result.stderr  # the import times name every module
    found = read_json(folders / "out" / "metrics.json")
    low = min(float(np.float32(truth(s)).min()) for s in (1, 2))
    high = max(float(np.float32(truth(s)).max()) for s in (1, 2))
    assert found["data_range"]["value"] == pytest.approx(high - low)
    assert "all reference volumes" in found["data_range"]["definition"]
    rows = [metrics.all_metrics(np.float32(made(s)), np.float32(truth(s)), high - low, (low, high)) for s in (1, 2)]
    for name in metrics.NAMES:
        assert [row[name] for row in found["volumes"]] == pytest.approx([row[name] for row in rows], rel=1e-5), name
        values = [row[name] for row in rows]
        assert found["mean"][name] == pytest.approx(np.mean(values), rel=1e-5)
        assert found["sd"][name] == pytest.approx(np.std(values, ddof=1), rel=1e-3)
        assert name in found["definitions"]
    assert [row["volume"] for row in found["volumes"]] == ["site/sub-1", "site/sub-2"]
    assert found["histogram"]["unit"] == "nats" and found["histogram"]["bins"] == histograms.BINS
    assert found["failed"] == found["without_prediction"] == []
    assert re.search(r"mean +[\d.]+", result.stdout) and "PSNR dB" in result.stdout

    with open(folders / "out" / "metrics.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["volume"] for line in lines] == ["site/sub-1", "site/sub-2", "mean", "sd"]
    assert float(lines[2]["psnr"]) == pytest.approx(found["mean"]["psnr"])
    assert list(lines[0]) == ["volume", *metrics.NAMES]


def test_with_the_source(call, folders):
    code, out, _ = call("--source", folders / "source")
    found = read_json(folders / "out" / "metrics.json")
    assert code == 0
    sources, fakes = ([np.float32(f(s)) for s in (1, 2)] for f in (lambda s: 9 * scan(s, "a", SHAPE), made))
    limits = [(float(min(map(np.min, v))), float(max(map(np.max, v)))) for v in (sources, fakes)]
    expected = [
        histograms.kl_divergence(histograms.count(x, limits[0]), histograms.count(y, limits[1]))
        for x, y in zip(sources, fakes, strict=True)
    ]
    assert [row["kl_source_predicted"] for row in found["volumes"]] == pytest.approx(expected)
    assert found["mean"]["kl_source_predicted"] == pytest.approx(np.mean(expected))
    assert found["histogram"]["range_of_source"] == pytest.approx(limits[0])
    # the source itself, taken for a translation
    assert found["source"]["mean"]["mae"] == pytest.approx(
        np.mean([np.abs(x - truth(s)).mean() for x, s in zip(sources, (1, 2), strict=True)]), rel=1e-5
    )
    assert "KL(source || predicted)" in out
    with open(folders / "out" / "metrics.csv", newline="") as stream:
        line = next(csv.DictReader(stream))
    assert float(line["source_mae"]) == pytest.approx(found["volumes"][0]["source"]["mae"])


def test_a_prediction_that_is_its_source_has_no_divergence(call, folders):
    code, _, _ = call("--source", folders / "predicted")
    assert code == 0
    assert read_json(folders / "out" / "metrics.json")["mean"]["kl_source_predicted"] == 0.0


def test_two_files_are_a_pair_whatever_their_names(call, folders):
    put(folders / "fake.nii.gz", made(1))
    code, _, _ = call(predicted="fake.nii.gz", reference="reference/site/sub-1.nii")
    found = read_json(folders / "out" / "metrics.json")
    assert code == 0
    assert [row["volume"] for row in found["volumes"]] == ["fake"]
    assert found["sd"]["psnr"] is None  # of one volume


def test_equal_volumes(call, folders):
    code, _, _ = call(predicted="reference")
    found = read_json(folders / "out" / "metrics.json")
    assert code == 0
    assert found["mean"]["psnr"] is None  # infinite
    assert found["mean"]["ssim"] == pytest.approx(1.0)
    assert found["mean"]["mae"] == found["mean"]["kl_histogram"] == 0.0


def test_a_given_data_range(call, folders):
    call()
    before = read_json(folders / "out" / "metrics.json")
    call("--data-range", "10000")
    after = read_json(folders / "out" / "metrics.json")
    assert after["data_range"] == {"value": 10000.0, "definition": files.GIVEN}
    gain = 20 * math.log10(10000 / before["data_range"]["value"])
    assert after["mean"]["psnr"] - before["mean"]["psnr"] == pytest.approx(gain)
    assert after["mean"]["kl_histogram"] == before["mean"]["kl_histogram"]


@pytest.mark.parametrize("value", ["0", "-3", "nan", "inf"])
def test_a_data_range_that_is_none(call, value):
    refused(call("--data-range", value), "--data-range is .*; it must be a positive number")


def break_shape(path):
    put(path, np.random.default_rng(0).normal(size=(12, 13, 15)))


def break_affine(path):
    affine = AFFINE.copy()
    affine[0, 3] += 1.0
    put(path, made(2), affine)


def break_nan(path):
    array = made(2)
    array[3, 3, 3] = np.nan
    put(path, array)


def break_series(path):
    import nibabel as nib

    nib.Nifti1Image(np.stack([made(2)] * 2, -1).astype(np.float32), AFFINE).to_filename(path)


def break_file(path):
    path.write_bytes(path.read_bytes()[:-2000])


BROKEN = {
    "shape": (break_shape, "12x13x15 voxels and its reference 12x13x14"),
    "affine": (break_affine, "other affines"),
    "nan": (break_nan, "1 voxels that are NaN or infinite"),
    "series": (break_series, "4-D and holds 2 volumes"),
    "truncated": (break_file, "truncated"),
    "missing reference": (lambda path: path.rename(path.with_name("lonely.nii.gz")), "no reference volume of the same"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_one_pair_that_fails_leaves_the_others(call, folders, what):
    change, sentence = BROKEN[what]
    change(folders / "predicted" / "site" / "sub-2.nii.gz")
    code, out, said = call()
    found = read_json(folders / "out" / "metrics.json")
    assert code == 1
    assert [row["volume"] for row in found["volumes"]] == ["site/sub-1"]
    assert re.search(sentence, found["failed"][0]["reason"])
    assert re.search(rf"failed: site/\S+: .*{sentence}", said)
    assert "Traceback" not in said and "site/sub-1" in out


def test_a_tiny_shift_of_the_grid_is_rounding(call, folders):
    affine = AFFINE.copy()
    affine[0, 3] += 0.01
    put(folders / "predicted" / "site" / "sub-2.nii.gz", made(2), affine)
    assert call()[0] == 0


def test_references_without_a_prediction_are_listed(call, folders, caplog):
    put(folders / "reference" / "site" / "sub-3.nii.gz", truth(3))
    assert call()[0] == 0
    assert read_json(folders / "out" / "metrics.json")["without_prediction"] == ["site/sub-3"]
    assert "1 reference volumes have no prediction and are left out: site/sub-3" in caplog.text


def test_nothing_pairs(call, folders):
    refused(
        call(predicted="predicted/site"), "No names of predicted and reference volumes are the same.*sub-1.*site/sub-1"
    )


def test_nothing_can_be_compared(call, folders):
    for seed in (1, 2):
        break_shape(folders / "predicted" / "site" / f"sub-{seed}.nii.gz")
    refused(call(), "None of the 2 predicted volumes can be compared")


def test_paths_that_are_wrong(call, folders):
    refused(call(predicted="nowhere"), "nowhere does not exist")
    (folders / "empty").mkdir()
    refused(call(reference="empty"), "no NIfTI file .* in .*empty")
    (folders / "notes.txt").write_text("x")
    refused(call(reference="notes.txt"), "not a NIfTI file")
    put(folders / "predicted" / "site" / "sub-1.nii", made(1))
    refused(call(), "have the same name; remove one")


def test_maps_of_doubt_and_hidden_files_are_no_predictions(call, folders):
    put(folders / "predicted" / "site" / ".sub-3.nii.gz", made(3))
    doubt = Volume(made(3).astype(np.float32), AFFINE)
    volume.write(doubt, folders / "predicted" / "site" / "sub-1_doubt.nii.gz", volume.synthetic_descrip("doubt"))
    code, _, err = call()
    assert code == 0 and "failed" not in err


def test_what_is_written_names_no_folder(call, folders):
    put(folders / "predicted" / "site" / "sub-1.nii.gz", np.zeros(SHAPE))
    assert call()[0] == 1
    written = (folders / "out" / "metrics.json").read_text()
    assert "the predicted volume is constant" in written and str(folders) not in written
    assert "not for clinical use" in written
