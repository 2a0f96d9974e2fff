"""What `export` leaves on disk, and that it needs nothing of ours to give the numbers of `translate`."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cyclescan import NOTICE, __version__
from cyclescan.artifacts import card as cards
from cyclescan.artifacts import checkpoints, exports
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, sha256, write_json
from cyclescan.config import Config
from cyclescan.export import export
from cyclescan.inference.translator import Translator
from cyclescan.scans.volume import Volume
from cyclescan.serving import saved_model
from cyclescan.training import beginning
from tests.inference import tiny
from tests.serving.conftest import MAX_VOXELS

# smaller than the window, exactly the window, one more, not multiples of the stride, flat, long
SIZES = [(3, 5, 7), (8, 16, 16), (9, 17, 17), (17, 33, 29), (1, 20, 31), (30, 16, 5), (10, 40, 22), (2, 2, 70)]
SIZES += [(13, 19, 11), (33, 65, 67)]
CANONICAL = np.array([[8.0, 0, 0, -9], [0, 0, 8, 4], [0, 8, 0, 7], [0, 0, 0, 1]])


@pytest.fixture
def copied(exported, monkeypatch):
    """For what an export writes around its graphs, whose making takes seconds: these are those of `exported`."""

    def save(run, direction, weights, card, folder):
        shutil.copytree(exported / direction / "1", folder, ignore=lambda *_: ["assets.extra"])

    monkeypatch.setattr(saved_model, "_save", save)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_process_without_cyclescan_gives_the_numbers_of_translate(run, exported, tmp_path, direction):
    """Percentile scaling in a2b, a fixed window of HU in b2a."""
    below = 500 if direction == "b2a" else 0
    # measured air: a constant beyond the field of view is no part of a histogram here, and the graph cannot tell
    noise = np.random.default_rng(0)
    volumes = {str(i): tiny.head(n, i) + noise.uniform(0, 1, n).astype(np.float32) - below for i, n in enumerate(SIZES)}
    np.savez(tmp_path / "volumes.npz", **volumes)
    command = [sys.executable, "-I", Path(__file__).parent / "isolated.py", exported / direction / "1"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [*map(str, command), "volumes.npz", "results.npz"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    translator = Translator.load(run.path, direction)
    target = translator.target_intensity
    served = np.load(tmp_path / "results.npz")
    for name, array in volumes.items():
        expected = translator.translate_volume(Volume(array, CANONICAL)).array
        assert np.ptp(expected) > 0.3 * (target["high"] - target["low"])  # a flat result would show nothing
        assert served[name].dtype == np.float32
        error = np.abs(served[name] - expected).max() / (target["high"] - target["low"])
        assert error < 1e-4, f"{array.shape}: {error}"


def test_the_card(run, exported):
    card = read_json(exported / "card.json")
    assert (card["version"], card["preset"], card["step"], card["weights"]) == (1, "demo", 10, "last")
    assert card["cyclescan_version"] == __version__
    assert card["notice"] == NOTICE
    assert Config.from_dict(card["config"]) == run.config
    assert card["data"] == run.data
    assert (card["window"], card["max_voxels"]) == ([32, 64, 64], MAX_VOXELS)
    assert card["directions"]["b2a"] == {"source": "ct", "target": "ciss", "path": "b2a/1"}
    assert card["limits"]
    assert card["licence"]
    assert card["training_data"]["domains"] == {"a": "ciss", "b": "ct"}
    files = {p.relative_to(exported).as_posix(): p for p in exported.rglob("*") if p.is_file()}
    for name in ("card.json", "batching.config", "compose.yaml"):  # the last two are for the user to change
        del files[name]
    assert card["checksums"] == {name: sha256(path) for name, path in files.items()}


def test_the_card_states_the_signatures_as_they_are(exported):
    stated = read_json(exported / "card.json")["signatures"]
    for direction in DIRECTIONS:
        loaded = tf.saved_model.load(str(exported / direction / "1"))
        assert set(loaded.signatures) == set(stated)
        for name, signature in loaded.signatures.items():
            taken, made = signature.structured_input_signature[1], signature.structured_outputs
            for given, specs in ((stated[name]["inputs"], taken), (stated[name]["outputs"], made)):
                assert set(given) == set(specs)
                for key, spec in specs.items():
                    assert given[key]["dtype"] == spec.dtype.name == ("int32" if key == "window" else "float32")
                    assert len(given[key]["axes"]) == len(spec.shape) or key == "window"
                    assert given[key]["shape"] == spec.shape.as_list()
                    assert given[key]["unit"]


def test_no_python_and_no_custom_object_in_the_graph(exported):
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((exported / "a2b" / "1" / "saved_model.pb").read_bytes())
    (meta,) = proto.meta_graphs
    library = meta.graph_def.library.function
    operations = {n.op for n in meta.graph_def.node} | {n.op for f in library for n in f.node_def}
    assert not {op for op in operations if "PyFunc" in op}
    assert {"Conv3D", "TopKV2"} <= operations  # the set holds the operations of the functions too
    kinds = {node.WhichOneof("kind") for node in meta.object_graph_def.nodes}
    objects = {n.user_object.identifier for n in meta.object_graph_def.nodes if n.HasField("user_object")}
    assert kinds <= {"user_object", "variable", "function", "bare_concrete_function", "captured_tensor", "constant"}
    assert not {name for name in objects if "keras" in name.lower()}


def test_training_data_is_counted_without_names(copied, tmp_path):
    run = tiny.write_run(tmp_path / "run")
    write_json(Path(run.records) / "dataset.json", {"splits": {"train": {"a": ["secret1", "secret2"], "b": ["x"]}}})
    card = export(run.path, tmp_path / "out") / "card.json"
    assert read_json(card)["training_data"]["subjects"] == {"train": {"a": 2, "b": 1}}
    assert "secret" not in card.read_text()


def test_versions(run, copied, tmp_path):
    for version in (1, 2, 7, 8):
        export(run.path, tmp_path / "out", version=7 if version == 7 else None)
        if version == 1:
            first = read_json(tmp_path / "out" / "a2b" / "1" / exports.OWN_CARD)
    assert exports.versions(tmp_path / "out" / "a2b") == [1, 2, 7, 8]
    assert exports.versions(tmp_path / "out" / "b2a") == [1, 2, 7, 8]
    assert read_json(tmp_path / "out" / "card.json")["version"] == 8
    assert Translator.load(tmp_path / "out", "a2b").version == "8"
    old = Translator.load(tmp_path / "out" / "a2b" / "1", "a2b")
    assert old.version == "1"
    assert old.origin.sha256 == cards.identity(first["checksums"])
    with pytest.raises(InputError, match=r"--version is 8; .* holds version 8 already, so at least 9"):
        export(run.path, tmp_path / "out", version=8)
    with pytest.raises(InputError, match="so at least 9"):
        export(run.path, tmp_path / "out", version=3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("models.config", "is damaged: models.config is missing or altered"),
        ("onnx/b2a-1.onnx", "is damaged: onnx/b2a-1.onnx is missing or altered"),
        ("a2b/1/saved_model.pb", "is damaged: saved_model.pb is missing or altered"),
        ("a2b/1/assets.extra/tf_serving_warmup_requests", "warmup_requests is missing or altered"),
        ("a2b/1/assets.extra/card.json", "is damaged: a2b/1/assets.extra/card.json is missing or altered"),
        ("a2b/1/assets/strange.txt", "holds assets/strange.txt, which was not exported with it; remove it"),
    ],
)
def test_an_altered_folder_is_refused(exported, tmp_path, name, sentence):
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    exports.find(out, "a2b")
    with open(out / name, "ab") as stream:
        stream.write(b" ")
    with pytest.raises(InputError, match=sentence):
        Translator.load(out, "a2b")
    (out / name).unlink()
    if "strange" in name:
        exports.find(out, "a2b")
    else:
        with pytest.raises(InputError, match=r"missing or altered|has no assets.extra|but no a2b model"):
            exports.find(out, "a2b")


def test_a_card_that_is_not_of_the_newest_version_is_refused(exported, tmp_path):
    """Edited by hand, or a version that was copied into the folder without its card."""
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    card = read_json(out / "card.json")
    card["data"]["spacing_mm"][0] = 4.0
    write_json(out / "card.json", card)
    with pytest.raises(InputError, match=r"card.json is altered, or not of version 1: it differs .* in data"):
        Translator.load(out, "a2b")
    exports.find(out / "a2b" / "1", "a2b")  # the version itself is whole
    shutil.copy(exported / "card.json", out)
    shutil.copytree(out / "a2b" / "1", out / "a2b" / "2")
    with pytest.raises(InputError, match=r"is damaged: a2b/2/assets.extra/card.json is missing or altered"):
        Translator.load(out, "a2b")


def test_what_the_user_may_change_is_not_checked_and_stays(run, exported, copied, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    (out / "compose.yaml").write_text("mine")
    export(run.path, out)
    assert (out / "compose.yaml").read_text() == "mine"
    assert exports.find(out, "a2b")[0] == out / "a2b" / "2"


def test_a_failed_export_leaves_nothing(run, copied, tmp_path, monkeypatch):
    """The second direction fails: the first, already saved, is not published."""
    save = saved_model._save

    def fail_on_b2a(run, direction, *rest):
        if direction == "b2a":
            raise RuntimeError("no space left")
        save(run, direction, *rest)

    monkeypatch.setattr(saved_model, "_save", fail_on_b2a)
    with pytest.raises(RuntimeError):
        export(run.path, tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
    assert exports.versions(tmp_path / "out" / "a2b") == []


def test_window_and_size_limit_of_the_graph_can_be_chosen(run, tmp_path):
    array = tiny.head((17, 33, 29))
    out = export(run.path, tmp_path / "out", window=(12, 16, 24), max_voxels=array.size)
    served = tf.saved_model.load(str(out / "a2b" / "1")).signatures["serving_default"]
    result = served(volume=tf.constant(array))["translated"].numpy()
    expected = Translator.load(run.path, "a2b").translate_volume(Volume(array, CANONICAL))
    assert np.abs(result - expected.array).max() < 1e-4 * 2500
    assert Translator.load(out, "a2b").window == (12, 16, 24)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 16269 voxels are allowed; it has"):
        served(volume=tf.constant(tiny.head((18, 33, 29))))
    with pytest.raises(InputError, match="positive multiple of 4 "):
        export(run.path, tmp_path / "out", window=(10, 16, 16))


def test_a_run_begins_with_an_exported_model_as_with_its_run(run, exported):
    for direction in DIRECTIONS:
        expected = checkpoints.load_generator(run, direction).get_weights()
        found = beginning.read(exported, run.config).load(direction).get_weights()
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)
    other = dataclasses.replace(run.config, generator_filters=run.config.generator_filters + 1)
    with pytest.raises(InputError, match=r"has generator_filters=\d+ and this run \d+; .*--set generator_filters="):
        beginning.read(exported, other)
    with pytest.raises(InputError, match=r"translates a2b, not b2a|has no b2a"):
        beginning.read(exported / "a2b", run.config).load(DIRECTIONS[1])
