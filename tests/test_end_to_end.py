"""The real commands, in processes of their own, on files: the way of a volume from a scan to a served model."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.conftest import SETTINGS

ROOT = Path(__file__).parent.parent
SHAPE = ("8", "16", "16")
# two kinds of step instead of four, each of which takes seconds to make: with every term of the preset, and with pairs
# and what goes back alone; and for what trains by the way, one kind with pairs alone
EVERY_TERM = [*SETTINGS, "warmup=0.5", "back_from=0", "discriminator_warmup=0"]
PAIRS_ALONE = [*SETTINGS, "warmup=1", "back_from=1"]


def call(*arguments, expected=0, timeout=300):
    """Run `python -m MODULE...` from a folder that is not the repository's."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
    assert done.returncode == expected, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    if expected == 0 and "--help" not in command:
        assert done.stderr.splitlines()[-1].startswith("next: "), f"{command} does not say what to do next"
    return done


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Scans, records with pairs, a run that was stopped and resumed, and its export."""
    folder = tmp_path_factory.mktemp("house")
    scans, data, run = folder / "scans", folder / "records", folder / "run"
    call("data_prep", "phantom", "--out", scans, "--subjects", "8", "--shape", *SHAPE, "--seed", "1", "--workers", "1")
    call(
        "data_prep", "build", "--a", f"ciss={scans / 'ciss'}", "--b", f"dess={scans / 'dess'}", "--out", data,
        "--split", "4", "2", "2", "--disjoint", "--seed", "1", "--workers", "1", "--key-file", folder / "key",
    )  # fmt: skip
    call("data_prep", "pair", data, "--per-volume", "2", "--workers", "1")
    call("data_prep", "verify", data)
    settings = ["--set", *EVERY_TERM]
    training = ["cyclescan.train", "--data", data, "--run", run, *settings, "steps=6", "--checkpoint-every", "3"]
    call(*training, "--minutes", "0.0001")
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000001"]
    call("cyclescan.train", "--data", data, "--run", run, "--resume")
    call("cyclescan.export", "--run", run, "--out", folder / "models")
    return folder


def test_training_left_what_the_contract_names(house):
    run = house / "run"
    assert json.loads((run / "config.json").read_text())["preset"] == "knee"
    assert (run / "checkpoints" / "step-00000006" / "checkpoint.json").exists()
    assert list((run / "tensorboard").iterdir())
    rows = list(csv.DictReader((run / "history.csv").open()))
    assert int(rows[-1]["step"]) == 6
    for name in ("pair_a2b", "back_aba", "texture_b2a", "adversarial_b2a", "discriminator_a"):
        assert float(rows[-1][name]) > 0


def test_a_folder_is_translated_and_evaluated_and_a_bad_scan_does_not_stop_the_others(house):
    mixed = shutil.copytree(house / "scans" / "ciss", house / "mixed")
    (mixed / "bad.nii.gz").write_bytes((mixed / "sub-0001.nii.gz").read_bytes()[:2000])
    done = call("cyclescan.translate", "--model", house / "run", "--direction", "a2b", mixed, house / "out", expected=1)
    assert "bad.nii.gz" in done.stderr
    call(
        "cyclescan.evaluate", "--predicted", house / "out", "--reference", house / "scans/dess",
        "--source", house / "scans/ciss", "--out", house / "evaluation",
    )  # fmt: skip
    metrics = json.loads((house / "evaluation" / "metrics.json").read_text())
    assert len(metrics["volumes"]) == 8
    assert metrics["mean"]["mae"] > 0
    assert -1 <= metrics["mean"]["ssim"] <= 1
    assert (house / "evaluation" / "metrics.csv").exists()


def test_a_scan_lies_where_it_lay_and_is_the_same_from_the_export(house):
    scan, alone = house / "scans" / "ciss" / "sub-0001.nii.gz", house / "alone.nii.gz"
    call("cyclescan.translate", "--model", house / "models", "--direction", "a2b", scan, alone)
    source, of_run, of_export = (nibabel.load(p) for p in (scan, house / "out/sub-0001.nii.gz", alone))
    np.testing.assert_array_equal(of_export.affine, source.affine)
    np.testing.assert_array_equal(of_run.affine, source.affine)
    assert of_run.shape == of_export.shape == source.shape
    assert b"synthetic" in of_export.header["descrip"].tobytes()
    a, b = of_run.get_fdata(), of_export.get_fdata()
    assert np.abs(a - b).max() <= 1e-4 * np.ptp(a)
    assert json.loads((house / "alone.json").read_text())["direction"] == "a2b"


def test_report_of_the_run(house):
    call("cyclescan.report", "--run", house / "run", "--data", house / "records", "--out", house / "report.html")
    page = (house / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "histogram matching" in page


def test_one_name_for_all_commands(house):
    done = call("cyclescan", "report", "--run", house / "nothing", expected=2)
    assert "nothing is not a training run" in done.stderr
    assert "Traceback" not in done.stderr
    assert "usage: cyclescan COMMAND" in call("cyclescan", "--help").stdout
    assert call("cyclescan", "data-prep", "verify", house / "records").returncode == 0


def test_demo(tmp_path):
    out = tmp_path / "demo"
    done = call(
        "cyclescan.demo", "--out", out, "--subjects", "4", "--shape", *SHAPE, "--workers", "1",
        "--set", *PAIRS_ALONE, "steps=4",
    )  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    for direction in ("a2b", "b2a"):
        for method in ("translated", "identity", "histogram_matching"):
            assert {"psnr", "ssim", "mae"} <= metrics[direction][method].keys()
    assert {"prepare", "train", "translate"} <= metrics["seconds"].keys()
    for name in ("report.html", "run/config.json", "saved_models/a2b/1/saved_model.pb", "saved_models/card.json"):
        assert (out / name).exists()
    assert "CISS to DESS" in done.stdout
    assert "histogram matching" in done.stdout
    assert "holds scans already, which a demo would write" in call("cyclescan.demo", "--out", out, expected=2).stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_beats_both_baselines(tmp_path, seed):
    """About ten minutes each on two cores; benchmarks/demo_bound.py adds the distance to training with true pairs."""
    call("cyclescan.demo", "--out", tmp_path / "demo", "--seed", seed, timeout=1800)
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    for direction in ("a2b", "b2a"):
        for measure in ("psnr", "ssim"):
            ours = metrics[direction]["translated"][measure]
            assert ours > metrics[direction]["identity"][measure]
            assert ours > metrics[direction]["histogram_matching"][measure]
