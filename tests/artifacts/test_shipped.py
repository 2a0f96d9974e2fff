"""Models that come with cyclescan, and how a run becomes one."""

from pathlib import Path

import numpy as np
import pytest

from cyclescan import export
from cyclescan.artifacts import checkpoints, shipped
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.errors import InputError
from cyclescan.inference.translator import Translator
from tests.inference import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("pretrained") / "run", steps=(5, 10))


def test_a_published_run_translates_as_the_run(run, tmp_path, monkeypatch):
    folder = checkpoints.publish(run, tmp_path / "models" / "knees")
    array = tiny.head((8, 16, 16)) / 905 * 2 - 1
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path / "models",))
    for direction in DIRECTIONS:
        published, own = Translator.load("knees", direction), Translator.load(run.path, direction)
        assert published.origin.step == own.origin.step == 10
        difference = published.translate_array(array) - own.translate_array(array)
        # weights have 11 bits
        assert 0 < np.abs(difference).max() < 0.02
    text = (folder / "config.json").read_text()
    assert str(run.path.parent) not in text
    with pytest.raises(InputError, match="damaged"):
        (folder / "checkpoints" / "step-00000010" / "generator_a2b.npz").write_bytes(b"")
        Translator.load("knees", "a2b")


def test_one_direction_alone_can_be_published(run, tmp_path):
    folder = checkpoints.publish(run, tmp_path / "one", 5, ["a2b"])
    assert Translator.load(folder, "a2b").origin.step == 5
    with pytest.raises(InputError, match="does not translate b2a"):
        Translator.load(folder, "b2a")
    with pytest.raises(InputError, match="exists already"):
        checkpoints.publish(run, folder)


def test_export_command_publishes(run, tmp_path):
    out = tmp_path / "handed_on"
    assert export.main(["--run", str(run.path), "--out", str(out), "--weights", "5", "--weights-only", "b2a"]) == 0
    assert Translator.load(out, "b2a").origin.step == 5
    # nothing else is in it
    files = {path.name for path in out.rglob("*") if path.is_file()}
    assert files == {"config.json", "checkpoint.json", "generator_b2a.npz"}


def test_an_unknown_name_is_told_those_there_are(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path, tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"There is no model at hips\.$"):
        Translator.load("hips", "a2b")
    checkpoints.publish(run, tmp_path / "knees")
    with pytest.raises(InputError, match="those that come with cyclescan are knees"):
        Translator.load("hips", "a2b")


def test_a_folder_that_hides_a_model_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digital-knee").mkdir()
    for model in ("digital-knee", Path("digital-knee")):
        with pytest.raises(InputError, match="and hides the model of this name that comes with cyclescan"):
            Translator.load(model, "a2b")
