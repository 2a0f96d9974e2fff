"""What stands at an output and is not the command's own is refused in one sentence and stays byte for byte."""

import re

import numpy as np
import pytest

from cyclescan import demo, endpoints, evaluate, export, plan, report, translate
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume
from data_prep.__main__ import main as data_prep
from tests.data_prep.scan_files import save
from tests.inference import tiny

MINE = {
    "json": '{"weights": [1, 2], "version": 4}\n',
    "csv": "step,loss\n1,0.5\n",
    "tsv": "participant_id\tage\nsub-0001\t44\n",
    "html": "<!DOCTYPE html><html><title>My thesis</title>a page about cyclescan</html>\n",
    "config": 'model_config_list { config { name: "mine" } }\n',
    "png": "\x89PNG and a picture of mine",
}
REFUSED = (
    r"is not replaced|which a demo would write|is no exported model|must end in \.html|holds files that are no|"
    r"must be a folder|is no result of a translation|is not of a translation|cannot be written: File exists"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("nothing_is_lost") / "run")


@pytest.fixture
def calls(run, tmp_path):
    """What each command is called with, but for its output."""
    for role in ("predicted", "reference"):
        volume.write(Volume(tiny.head((8, 9, 10), len(role)), np.eye(4)), tmp_path / role / "sub-1.nii.gz")
    pairs = ["--predicted", str(tmp_path / "predicted"), "--reference", str(tmp_path / "reference")]
    scan = str(tmp_path / "predicted" / "sub-1.nii.gz")
    # what is not there is read after the output is looked at
    planned = ["--model", str(run.path), "--direction", "a2b"]
    planned += ["--mr", "none.nii", "--plan", "none.mrk.json", "--bone", "none.nii", "--xray", "ap.dcm"]
    domains = ["--a", f"ciss={tmp_path / 'predicted'}", "--b", f"ct={tmp_path / 'reference'}"]
    return {
        "demo": (demo.main, []),
        "phantom": (data_prep, ["phantom", "--subjects", "2", "--shape", "16", "16", "16", "--workers", "1"]),
        "phantom montage": (data_prep, ["phantom", "--subjects", "1", "--shape", "16", "16", "16", "--montage"]),
        "report": (report.main, ["--run", str(run.path), "--data", str(tmp_path / "nowhere")]),
        "evaluate": (evaluate.main, pairs),
        "export": (export.main, ["--run", str(run.path)]),
        "export onnx": (export.main, ["--run", str(run.path), "--onnx"]),
        "endpoints": (endpoints.main, [*pairs, "--masks", str(tmp_path / "reference")]),
        "plan": (plan.main, planned),
        "build": (data_prep, ["build", *domains, "--overwrite"]),
        "xray": (data_prep, ["phantom", "--subjects", "1", "--shape", "16", "16", "16", "--xray"]),
        "lesions": (data_prep, ["phantom", "--subjects", "1", "--shape", "16", "16", "16", "--lesions", "1"]),
        "translate": (translate.main, ["--model", str(run.path), "--direction", "a2b", scan]),
    }


@pytest.mark.parametrize(
    ("command", "name", "out"),
    [
        ("demo", "metrics.json", "."),
        ("demo", "report.html", "."),
        ("demo", "scans/participants.tsv", "."),
        ("phantom", "participants.tsv", "."),
        ("phantom", "ciss/sub-0002.nii.gz", "."),
        ("phantom", "labels/sub-0001.nii.gz", "."),
        ("phantom montage", "montage.png", "."),
        ("report", "page.html", "page.html"),
        ("report", "scan.nii.gz", "scan.nii.gz"),
        ("evaluate", "metrics.json", "."),
        ("evaluate", "metrics.csv", "."),
        ("export", "card.json", "."),
        ("export", "models.config", "."),
        ("export", "a2b/1/variables.json", "."),
        ("export onnx", "onnx/b2a-1.onnx", "."),
        ("endpoints", "endpoints.json", "."),
        ("endpoints", "endpoints.csv", "."),
        ("endpoints", "endpoints.html", "."),
        ("endpoints", "subjects.tsv", "."),
        ("endpoints", "figures/femur.svg", "."),
        ("endpoints", "figures", "."),
        ("plan", "plan.json", "."),
        ("plan", "plan.html", "."),
        ("plan", "pose.tfm", "."),
        ("plan", "lines.mrk.json", "."),
        ("plan", "ap.png", "."),
        ("build", "dataset.json", "."),
        ("build", "notes.txt", "."),
        ("build", "mine", "mine"),
        ("xray", "xray/sub-0001/ap.dcm", "."),
        ("xray", "xray/sub-0001/truth.json", "."),
        ("lesions", "lesions/sub-0001.nii.gz", "."),
        ("translate", "result.nii.gz", "result.nii.gz"),
        ("translate", "result.json", "result.nii.gz"),
    ],
)
def test_a_file_of_the_user_stays(calls, tmp_path, capsys, command, name, out):
    main, arguments = calls[command]
    folder = tmp_path / "mine"
    path = folder / name
    path.parent.mkdir(parents=True)
    if name.endswith(".nii.gz"):
        save(path)
    else:
        path.write_text(MINE.get(path.suffix[1:], "mine"))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    output = [str(folder / out)] if command in ("plan", "translate") else ["--out", str(folder / out)]
    assert main([*arguments, *output]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert re.search(REFUSED, said), said
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["history.csv", "tensorboard/events.out.tfevents.1"])
def test_training_takes_no_folder_with_a_history_of_others(tmp_path, name):
    from cyclescan.common.errors import InputError
    from cyclescan.training import trainer

    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    fresh = tiny.write_run(tmp_path / "other")
    with pytest.raises(InputError, match="and no run; choose another folder"):
        trainer._begun(type(fresh)(tmp_path / "run", fresh.config, "demo", fresh.data, "records", 0))
    assert path.read_text() == "mine"


@pytest.mark.parametrize("command", ["phantom", "evaluate"])  # of exports: tests/serving/test_saved_model.py
def test_its_own_are_replaced(calls, tmp_path, command):
    main, arguments = calls[command]
    for _ in range(2):
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
