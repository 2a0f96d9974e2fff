"""`export` as a command: what it writes and what it refuses."""

import pytest

from cyclescan import export
from cyclescan.common.files import read_json
from tests.inference import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("export_command") / "run", steps=(5, 10))


def test_version_weights_window_and_onnx(run, tmp_path):
    arguments = ["--version", "7", "--onnx", "--weights", "5", "--window", "12", "16", "16", "--max-voxels", "9000"]
    assert export.main(["--run", str(run.path), "--out", str(tmp_path / "out"), *arguments]) == 0
    card = read_json(tmp_path / "out" / "card.json")
    assert (card["version"], card["step"], card["window"], card["max_voxels"]) == (7, 5, [12, 16, 16], 9000)
    assert sorted(p.name for p in (tmp_path / "out" / "onnx").iterdir()) == ["a2b-7.onnx", "b2a-7.onnx"]
    for direction in ("a2b", "b2a"):
        assert (tmp_path / "out" / direction / "7" / "saved_model.pb").exists()
        assert [p.name for p in (tmp_path / "out" / direction).iterdir()] == ["7"]  # nothing temporary is left


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--run", "nowhere"], "nowhere is not a training run"),
        (["--weights", "7"], "allowed are last, best and the steps 5, 10"),
        (["--version", "0"], "--version is 0; it must be at least 1"),
        (["--window", "8", "15", "16"], "positive multiple of 4 "),
        (["--max-voxels", "0"], "at least 1"),
        (["--out", "FILE"], "cannot be written"),
    ],
)
def test_refusals(run, tmp_path, capsys, arguments, sentence):
    (tmp_path / "file").write_text("in the way")
    arguments = [str(tmp_path / "file" / "out") if a == "FILE" else a for a in arguments]
    given = {"--run": str(run.path), "--out": str(tmp_path / "out")}
    options = [word for key, value in given.items() if key not in arguments for word in (key, value)]
    assert export.main([*options, *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("error: ") == 1
    assert not (tmp_path / "out").exists()
