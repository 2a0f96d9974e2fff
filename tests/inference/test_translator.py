"""A model from disk, and what it makes of a scan."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest

from cyclescan.artifacts import checkpoints
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, write_json
from cyclescan.export import export
from cyclescan.inference.translator import Translator
from cyclescan.scans.volume import Volume
from tests.inference import tiny

OBLIQUE = np.array([[0.3, -7.9, 0.2, 60.0], [-8.0, -0.3, 0.1, 40.0], [0.1, 0.2, 9.0, -50.0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("translator") / "run", steps=(5, 10), scores={5: 1.0, 10: 2.0})


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export(run.path, tmp_path_factory.mktemp("translator") / "out", version=3)


def test_what_a_translator_knows(run):
    translator = Translator.load(run.path, "a2b")
    assert (translator.source_name, translator.target_name) == ("ciss", "ct")
    assert translator.config == run.config
    assert translator.data == run.data
    assert translator.direction == "a2b"
    assert (translator.window, translator.overlap, translator.mirror) == ((32, 64, 64), 0.0, False)
    assert translator.version == "step-00000010"
    assert (translator.origin.step, translator.origin.kind, translator.origin.preset) == (10, "run", "demo")
    assert Translator.load(run.path, "b2a").target_name == "ciss"


@pytest.mark.parametrize("window", [None, (8, 16, 16), (4, 8, 24), (64, 64, 64)])
def test_a_volume_is_translated_as_one_piece_whatever_the_window(run, window):
    x = np.random.default_rng(0).uniform(-1, 1, (12, 24, 20)).astype("f4")
    expected = checkpoints.load_generator(run, "a2b")(x[None, ..., None], training=False)[0, ..., 0]
    result = Translator.load(run.path, "a2b", window=window).translate_array(x)
    assert result.std() > 0.1
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_models_that_share_a_graph_keep_their_own_weights(run):
    """A graph is of an architecture, which both directions and all steps of a run have."""
    x = np.random.default_rng(0).uniform(-1, 1, (8, 16, 12)).astype("f4")
    asked = [("a2b", 10), ("b2a", 10), ("a2b", 5)]
    translators = [Translator.load(run.path, direction, weights) for direction, weights in asked]
    for _ in range(2):
        for (direction, weights), one in zip(asked, translators, strict=True):
            expected = checkpoints.load_generator(run, direction, weights)(x[None, ..., None], training=False)
            np.testing.assert_allclose(one.translate_array(x), expected[0, ..., 0], atol=2e-5)
    results = [one.translate_array(x) for one in translators]
    assert min(np.abs(results[0] - other).mean() for other in results[1:]) > 0.01


def test_mirroring_is_the_mean_of_both_ways(run):
    x = np.random.default_rng(0).uniform(-1, 1, (8, 16, 12)).astype("f4")
    plain = Translator.load(run.path, "a2b")
    expected = (plain.translate_array(x) + plain.translate_array(x[::-1])[::-1]) / 2
    result = Translator.load(run.path, "a2b", mirror=True).translate_array(x)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert np.abs(result - plain.translate_array(x)).max() > 0.01


def test_weights_are_those_asked_for(run):
    x = tiny.head((8, 16, 16)) / 500 - 1
    results = {w: Translator.load(run.path, "a2b", w).translate_array(x) for w in ("last", "best", "5", 10)}
    np.testing.assert_array_equal(results["last"], results[10])
    np.testing.assert_array_equal(results["best"], results["5"])
    assert np.abs(results["last"] - results["best"]).max() > 0.1
    assert Translator.load(run.path, "a2b", "best").origin.step == 5


def test_a_scan_comes_back_on_its_own_grid_in_target_intensities(run):
    """Oblique, left-posterior-superior axes: the grid of the result is that of the scan, bit for bit."""
    scan = Volume(tiny.head((15, 14, 11)), OBLIQUE)
    assert scan.axes == ("P", "L", "S")
    translator = Translator.load(run.path, "a2b")
    result = translator.translate_volume(scan)
    assert result.shape == scan.shape
    assert result.array.dtype == np.float32
    np.testing.assert_array_equal(result.affine, scan.affine)
    assert -1000 <= result.array.min() < -200
    assert 600 < result.array.max() <= 1500
    back = Translator.load(run.path, "b2a").translate_volume(Volume(tiny.head((15, 14, 11)) - 500, OBLIQUE))
    assert 5 <= back.array.min() < back.array.max() <= 905


def test_orientation_does_not_change_the_result(run):
    """The same anatomy stored with other axes gives the same voxels in those axes."""
    translator = Translator.load(run.path, "a2b")
    affine = np.array([[8.0, 0, 0, 0], [0, 0, 8, 0], [0, 8, 0, 0], [0, 0, 0, 1]])
    scan = Volume(tiny.head((9, 18, 17)), affine)
    flipped = np.diag([-8.0, 8, 8, 1])
    flipped[0, 3] = 8 * 8.0
    other = Volume(np.ascontiguousarray(scan.array[::-1].transpose(0, 2, 1)), flipped)
    expected = translator.translate_volume(scan).array
    result = translator.translate_volume(other).array
    np.testing.assert_allclose(result[::-1].transpose(0, 2, 1), expected, atol=1e-3)


def test_mixed_precision_changes_neither_the_type_nor_the_numbers(run, tmp_path):
    mixed = dataclasses.replace(tiny.CONFIG, precision="mixed_float16")
    twin = tiny.write_run(tmp_path / "run", mixed)
    x = tiny.head((9, 17, 16)) / 500 - 1
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        result = Translator.load(twin.path, "a2b").translate_array(x)
    finally:
        keras.config.set_dtype_policy(policy)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, Translator.load(run.path, "a2b").translate_array(x), atol=1e-6)


def test_an_exported_model_translates_as_its_run(run, exported):
    scan = Volume(tiny.head((15, 14, 11)), OBLIQUE)
    for direction in DIRECTIONS:
        expected = Translator.load(run.path, direction).translate_volume(scan).array
        for path in (exported, exported / direction, exported / direction / "3"):
            translator = Translator.load(path, direction)
            assert (translator.version, translator.origin.kind, translator.origin.step) == ("3", "saved_model", 10)
            result = translator.translate_volume(scan).array
            assert np.abs(result - expected).max() < 1e-4 * np.ptp(expected)


def test_the_identity_of_a_model_is_that_of_its_weights(run, exported):
    first, again, other, served = (
        Translator.load(*a).origin.sha256
        for a in [(run.path, "a2b"), (run.path, "b2a", 10), (run.path, "a2b", 5), (exported, "a2b")]
    )
    assert first == again  # one checkpoint holds both directions
    assert len({first, other, served}) == 3
    assert all(len(digest) == 64 for digest in (first, other, served))
    assert read_json(exported / "card.json")["checkpoint_sha256"] == first


def test_progress_counts_windows_of_all_stages(run, exported):
    steps = []
    x = np.random.default_rng(0).uniform(-1, 1, (8, 32, 16)).astype("f4")
    translator = Translator.load(run.path, "a2b", window=(8, 16, 16))
    for _ in range(2):  # a bar belongs to one call
        steps.clear()
        translator.translate_array(x, lambda *a: steps.append(a))
        # two windows; five normalised convolutions, then the translation itself
        assert steps == [(i + 1, 12) for i in range(12)]
    translator.translate_array(x)
    assert len(steps) == 12
    steps.clear()
    Translator.load(exported, "a2b").translate_array(x, lambda *a: steps.append(a))
    assert steps == [(1, 1)]


def test_an_exported_model_takes_other_windows(run, exported):
    x = np.random.default_rng(0).uniform(-1, 1, (9, 17, 30)).astype("f4")
    expected = Translator.load(run.path, "a2b").translate_array(x)
    result = Translator.load(exported, "a2b", window=(4, 12, 8), overlap=0.5).translate_array(x)
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_sentences_of_models_that_cannot_be_used(run, exported, tmp_path):
    def fails(match, *arguments, **options):
        with pytest.raises(InputError, match=match):
            Translator.load(*arguments, **options)

    fails("There is no model at", tmp_path / "nowhere", "a2b")
    fails("neither a training run", tmp_path, "a2b")
    fails("allowed is a2b or b2a", run.path, "a2c")
    fails("allowed are last, best and the steps 5, 10", run.path, "a2b", "7")
    fails("positive multiple of 4 ", run.path, "a2b", window=(8, 18, 16))
    fails("less than 1", run.path, "a2b", overlap=1.0)
    fails("positive multiple of 4 ", exported, "a2b", window=(8, 18, 16))
    fails("is for training runs", exported, "a2b", "best")
    fails("translates a2b, not b2a", exported / "a2b" / "3", "b2a")

    empty = tiny.write_run(tmp_path / "empty", steps=())
    fails("no complete checkpoint", empty.path, "a2b")

    changed = shutil.copytree(run.path, tmp_path / "changed")
    values = read_json(changed / "config.json")
    values["config"]["generator_filters"] = 8
    write_json(changed / "config.json", values)
    fails("made with another config: generator_filters is 4 there and 8 here", changed, "a2b")


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_an_altered_export_is_refused(exported, tmp_path, name):
    copy = shutil.copytree(exported, tmp_path / "copy")
    file = copy / "a2b" / "3" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"damaged: {name} is missing or altered"):
        Translator.load(copy, "a2b")
    assert Translator.load(copy, "b2a").version == "3"
