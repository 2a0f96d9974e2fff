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
from cyclescan.evaluation import file_pairs, files, histograms, metrics
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume
from tests.conftest import scan
from tests.data_prep.scan_files import save_mha

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
    assert list(lines[0]) == ["volume", *metrics.NAMES, "psnr_p999", "ssim_p999"]


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
    assert {key: after["data_range"][key] for key in ("value", "definition")} == {
        "value": 10000.0, "definition": files.GIVEN
    }  # fmt: skip
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


@pytest.mark.parametrize("place", [(file_pairs, "check_grids"), (files.metrics, "all_metrics")])
def test_a_pair_that_fails_unforeseen_leaves_the_others(call, folders, monkeypatch, place):
    real, calls = getattr(*place), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise ArithmeticError("Doe^Jane")
        return real(*arguments)

    monkeypatch.setattr(*place, failing)
    code, _, said = call()
    assert code == 1
    assert re.search(r"failed: site/sub-1: .* not foreseen \(ArithmeticError, test_evaluate_command.py line", said)
    assert "Doe" not in said and "Traceback" not in said
    assert [row["volume"] for row in read_json(folders / "out" / "metrics.json")["volumes"]] == ["site/sub-2"]


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


def limb(seed):
    """Tissue in a column along the first axis, air around it; and where it is."""
    y, x = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 36), indexing="ij")
    inside = np.broadcast_to(np.hypot(y, x) < 0.6, (30, 40, 36))
    rng = np.random.default_rng(seed)
    tissue = 400 + 80 * np.cos(np.arange(30) / 4)[:, None, None] + rng.normal(0, 12, inside.shape)
    return np.where(inside, tissue, np.abs(rng.normal(0, 9, inside.shape))), inside


CANONICAL = np.array([[3.0, 0, 0, -15], [0, 0, 1.5, -10], [0, 2.0, 0, -12], [0, 0, 0, 1]])


@pytest.fixture
def limbs(tmp_path):
    """Predictions that are right in the air and wrong in the body."""
    for seed in (3, 4):
        array, inside = limb(seed)
        put(tmp_path / f"reference/{seed}.nii.gz", array, CANONICAL)
        put(tmp_path / f"predicted/{seed}.nii.gz", array + 50 * inside, CANONICAL)
        put(tmp_path / f"source/{seed}.nii.gz", array[::-1], CANONICAL)
        put(tmp_path / f"masks/{seed}.nii", 3 * inside, CANONICAL)
    return tmp_path


def compared(folder, capsys, *more):
    arguments = [word for role in ("predicted", "reference", "out") for word in (f"--{role}", folder / role)]
    assert evaluate.main([str(a) for a in (*arguments, *more)]) == 0
    return read_json(folder / "out" / "metrics.json"), capsys.readouterr().out


def test_a_hot_voxel_is_said_and_does_not_move_the_robust_measures(limbs, capsys, caplog):
    plain, _ = compared(limbs, capsys)
    assert caplog.text == ""
    array, inside = limb(3)
    for role, extra in (("reference", 0), ("predicted", 50)):
        hot = array + extra * inside
        hot[4, 5, 6] = 9000 if role == "reference" else 8990
        put(limbs / f"{role}/3.nii.gz", hot, CANONICAL)
    found, out = compared(limbs, capsys)
    assert found["mean"]["psnr"] > plain["mean"]["psnr"] + 15
    assert found["mean"]["psnr_p999"] == pytest.approx(plain["mean"]["psnr_p999"], abs=0.2)
    assert found["mean"]["ssim_p999"] == pytest.approx(plain["mean"]["ssim_p999"], abs=0.005)
    (said,) = [r.getMessage() for r in caplog.records]
    assert re.search(r"The data range 9000 is 1\d\.\d times the range of 99.9 % of the reference's voxels", said)
    low, high = found["data_range"]["p999"]
    assert 0 <= low < 5 and 480 < high < 560
    assert "of PSNR 99.9 and SSIM 99.9" in out
    # by the definition
    reference, predicted = (np.clip(np.float32(array + e * inside), low, high) for e in (0, 50))
    reference[4, 5, 6] = predicted[4, 5, 6] = high
    assert found["volumes"][0]["psnr_p999"] == pytest.approx(metrics.psnr(predicted, reference, high - low), abs=1e-3)


def test_measures_within_masks_stand_beside_those_of_whole_volumes(limbs, capsys):
    plain, _ = compared(limbs, capsys)
    found, out = compared(limbs, capsys, "--mask", limbs / "masks", "--source", limbs / "source")
    _, inside = limb(3)
    assert found["mean"] == plain["mean"] | {"kl_source_predicted": found["mean"]["kl_source_predicted"]}
    row = found["volumes"][0]
    assert row["masked"]["mae"] == pytest.approx(50, abs=1e-3)  # 50 in the body; in the air nothing
    assert row["mae"] == pytest.approx(50 * inside.mean(), abs=1e-3)
    assert row["masked"]["share"] == pytest.approx(inside.mean())
    reach = found["data_range"]["value"]
    assert row["masked"]["psnr"] == pytest.approx(20 * math.log10(reach / 50), abs=1e-3)
    assert row["masked"]["ssim"] < row["ssim"]
    assert row["source_masked"]["mae"] > 10
    assert found["masked"]["mean"]["mae"] == pytest.approx(50, abs=1e-3)
    assert re.search(r"\nmasked +50 ", out)
    with open(limbs / "out" / "metrics.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert float(lines[0]["masked_mae"]) == pytest.approx(50, abs=1e-3)
    assert float(lines[2]["masked_psnr"]) == pytest.approx(found["masked"]["mean"]["psnr"])


def test_the_body_of_the_reference_is_a_mask(limbs, capsys):
    by_hand, _ = compared(limbs, capsys, "--mask", limbs / "masks")
    found, _ = compared(limbs, capsys, "--mask", "body")
    for key in ("mae", "psnr", "ssim", "ncc"):
        assert found["masked"]["mean"][key] == pytest.approx(by_hand["masked"]["mean"][key], rel=0.1), key
    # a scan on other axes has the same body
    for role in ("predicted", "reference"):
        for seed in (3, 4):
            path = limbs / role / f"{seed}.nii.gz"
            read = volume.read(path)
            flipped = read.affine @ np.diag([1, -1, 1, 1])
            flipped[:3, 3] += read.affine[:3, 1] * (read.shape[1] - 1)
            put(path, read.array[:, ::-1], flipped)
    again, _ = compared(limbs, capsys, "--mask", "body")
    assert again["masked"]["mean"]["mae"] == pytest.approx(found["masked"]["mean"]["mae"], rel=1e-4)


def test_a_mask_that_is_missing_or_elsewhere_fails_its_pair_alone(limbs, capsys):
    (limbs / "masks/3.nii").unlink()
    arguments = [word for role in ("predicted", "reference", "out") for word in (f"--{role}", str(limbs / role))]
    assert evaluate.main([*arguments, "--mask", str(limbs / "masks")]) == 1
    (failed,) = read_json(limbs / "out/metrics.json")["failed"]
    assert failed == {"volume": "3", "reason": "There is no mask volume of the same name."}
    put(limbs / "masks/3.nii", limb(3)[1], np.diag([2.0, 2, 2, 1]))
    assert evaluate.main([*arguments, "--mask", str(limbs / "masks")]) == 1
    assert "The mask volume and its reference have other affines" in capsys.readouterr().err


def test_metaimages_are_compared_and_grids_that_differ_say_how_far(call, folders):
    for seed in (1, 2):
        (folders / f"predicted/site/sub-{seed}.nii.gz").unlink()
        save_mha(folders / f"predicted/site/sub-{seed}.mha", np.float32(made(seed)), AFFINE)
    assert call()[0] == 0
    assert read_json(folders / "out/metrics.json")["failed"] == []
    moved = AFFINE.copy()
    moved[0, 3] += 0.4004  # hardly more than is allowed
    put(folders / "reference/site/sub-2.nii", truth(2), moved)
    code, _, said = call()
    assert code == 1
    assert re.search(r"their voxels lie up to 0\.4004 mm apart, and at most 0\.3\d+ mm are allowed", said)


def test_an_empty_path_is_not_this_folder(call):
    refused(call("--source", ""), "The argument source is empty")


def test_histograms_before_and_after_by_subject_and_site(folders, call):
    """A CSV in which every value has its definition, figures for print, and a sentence; as `report` has them."""
    (folders / "sites.tsv").write_text("subject\tsite\nsub-1\tnorth\nsub-2\tsouth\n")
    code, said, _ = call("--source", folders / "source", "--sites", folders / "sites.tsv")
    assert code == 0
    with open(folders / "out" / "histograms.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 3  # subjects, regions, measures: noise is not known here
    assert all(row["unit"] == "nats" and "KL(" in row["definition"] and row["bins"] == "128" for row in rows)
    assert {(row["subject"], row["site"]) for row in rows} == {("site/sub-1", "north"), ("site/sub-2", "south")}
    low, high = (float(rows[0][key]) for key in ("low", "high"))
    counts = [histograms.count(volume.read(folders / name / "site" / file).array, (low, high))
              for name, file in (("reference", "sub-1.nii"), ("predicted", "sub-1.nii.gz"))]  # fmt: skip
    row = next(
        r for r in rows if r["subject"] == "site/sub-1" and r["region"] == "everything" and r["measure"] == "real_after"
    )
    assert float(row["value"]) == pytest.approx(histograms.kl_divergence(*counts), rel=1e-4)
    assert (folders / "out" / "histograms.svg").read_text().startswith("<?xml")
    assert (folders / "out" / "histograms.pdf").read_bytes().startswith(b"%PDF")
    assert re.search(r"nats KL over the body, the mean, without noise \(median of 2 subjects", said)
    assert call("--source", folders / "source")[0] == 0  # what is ours is replaced
    (folders / "out" / "histograms.svg").write_text("mine")
    refused(call("--source", folders / "source"), r"histograms\.svg .*figure of histograms")
    (folders / "out" / "histograms.svg").unlink()
    (folders / "sites.tsv").write_text("subject\tsite\nsub-1\tnorth\n")
    refused(call("--source", folders / "source", "--sites", folders / "sites.tsv"), "no site for site/sub-2")


def test_without_a_source_there_is_no_before(folders, call):
    assert call()[0] == 0
    assert not list((folders / "out").glob("histograms*"))
