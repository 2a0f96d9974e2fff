"""Evaluation on records with models whose results are known."""

import dataclasses
import logging
import shutil

import numpy as np
import pytest
from scipy import ndimage

from cyclescan import records
from cyclescan.common.errors import InputError
from cyclescan.evaluation import metrics as measures
from cyclescan.evaluation.baselines import HistogramMatching
from cyclescan.evaluation.histograms import count, kl_divergence
from cyclescan.evaluation.paired import evaluate_on_records
from tests import conftest

SUBJECTS = ["s5", "s6"]  # the test subjects of the fixture


class Model:
    """A function of arrays in the place of a translator; remembers what it was given."""

    def __init__(self, function):
        self.function, self.given, self.stride = function, [], 4

    def translate_array(self, array, *, window=None):
        if window is None:  # the seam score's windows are not what these tests look at
            self.given.append(array)
        return self.function(array)


def exact():
    """1 - 2 |x| is domain b of the fixture; the way back shifts by 0.1."""
    return {"a2b": Model(lambda x: 1 - 2 * np.abs(x)), "b2a": Model(lambda x: x + 0.1)}


def edited(source, folder, change, split="test", domain="b"):
    """A copy of a data set with changed records."""
    shutil.copytree(source, folder)
    for shard in records.shards(folder / split, domain):
        records.write_shard(shard, [change(i, r) for i, r in enumerate(records.read_shard(shard))])
    return folder


def test_an_exact_model_is_exact(tiny_records):
    metrics, _, _ = evaluate_on_records(exact(), tiny_records)
    translated = metrics["a2b"]["translated"]
    assert translated["mae"] < 1e-4  # records are rounded to 16 bits
    assert translated["psnr"] > 80
    assert translated["ssim"] == pytest.approx(1.0, abs=1e-4)
    assert [row["subject"] for row in translated["subjects"]] == SUBJECTS


def test_numbers_are_those_of_the_volumes(tiny_records):
    metrics, _, _ = evaluate_on_records(exact(), tiny_records)
    train_b = [r.voxels for shard in records.shards(tiny_records / "train", "b") for r in records.read_shard(shard)]
    matching = HistogramMatching(train_b)
    expected = {"identity": [], "histogram_matching": []}
    for seed in (5, 6):
        real, truth = conftest.scan(seed, "a"), conftest.scan(seed, "b")
        expected["identity"].append(measures.all_metrics(real, truth, 2.0, (-1, 1)))
        expected["histogram_matching"].append(measures.all_metrics(matching(real), truth, 2.0, (-1, 1)))
    for method, rows in expected.items():
        for name in ("psnr", "ssim", "mae", "ncc", "mi", "nmi"):
            values = [row[name] for row in rows]
            assert metrics["a2b"][method][name] == pytest.approx(np.mean(values), abs=5e-3), (method, name)
            assert metrics["a2b"][method]["sd"][name] == pytest.approx(np.std(values, ddof=1), abs=5e-3)
    assert metrics["about"]["split"] == "test"
    assert metrics["about"]["data_range"] == 2.0
    assert set(metrics) == {"a2b", "b2a", "about"}


def test_matching_never_sees_the_truth(tiny_records, tmp_path):
    """With other test volumes of the target domain, histogram matching makes the same volumes."""
    before, _, _ = evaluate_on_records(exact(), tiny_records)
    train_a = [r.voxels for shard in records.shards(tiny_records / "train", "a") for r in records.read_shard(shard)]
    pooled = np.sort(np.concatenate(train_a, axis=None))
    changed = edited(
        tiny_records, tmp_path / "r", lambda i, r: dataclasses.replace(r, voxels=r.voxels * 0.5), "test", "a"
    )
    after, _, _ = evaluate_on_records(exact(), changed)
    matched = HistogramMatching(train_a)(conftest.scan(5, "b"))
    assert abs(np.median(matched) - np.median(pooled)) < 0.05
    for metrics, factor in ((before, 1.0), (after, 0.5)):
        expected = measures.mae(matched, factor * conftest.scan(5, "a"))
        assert metrics["b2a"]["histogram_matching"]["subjects"][0]["mae"] == pytest.approx(expected, abs=1e-3)


def test_histograms_and_the_cycle(tiny_records):
    metrics, _, compared = evaluate_on_records(exact(), tiny_records)
    real = np.stack([conftest.scan(s, "a") for s in (5, 6)])
    target = np.stack([conftest.scan(s, "b") for s in (5, 6)])
    fake = 1 - 2 * np.abs(real)
    p, q, r = (count(x, (-1, 1)) for x in (real, fake, target))
    kl = compared["a2b"]["kl"]
    assert kl["input_generated"] == pytest.approx(kl_divergence(p, q), rel=0.02)
    assert kl["target_input"] == pytest.approx(kl_divergence(r, p), rel=0.02)
    assert kl["target_generated"] < 0.01
    assert sum(compared["a2b"]["counts"]["input"]) == real.size
    assert metrics["a2b"]["unpaired"]["kl"]["unit"] == "nats"
    assert metrics["a2b"]["unpaired"]["seams"]["whole_volume"] == {"mean": 0.0, "largest": 0.0}
    assert metrics["a2b"]["unpaired"]["cycle_mae"] == pytest.approx(np.abs(fake + 0.1 - real).mean(), abs=1e-3)


def test_cases_hold_what_the_pictures_show(tiny_records):
    _, cases, _ = evaluate_on_records(exact(), tiny_records)
    assert [(c.direction, c.source, c.target) for c in cases] == [("a2b", "ciss", "dess")] * 2 + [
        ("b2a", "dess", "ciss")
    ] * 2
    case = cases[0]
    assert case.subject == "s5"
    assert case.spacing_mm == pytest.approx(conftest.SPACING_MM)
    np.testing.assert_allclose(case.input, conftest.scan(5, "a"), atol=1e-4)
    np.testing.assert_allclose(case.truth, conftest.scan(5, "b"), atol=1e-4)
    np.testing.assert_allclose(case.cycled, case.translated + 0.1, atol=1e-6)
    assert case.scores["psnr"] > 80
    # what this model does is the same from every view, so that the way back alone is doubted: by the 0.1 that it adds
    cycle = ndimage.gaussian_filter(np.abs(case.translated + 0.1 - case.input), 1.0)
    np.testing.assert_allclose(case.doubt, np.minimum(cycle, 2), atol=1e-4)
    assert [c.doubt is None for c in cases] == [False, True, False, True]


def test_a_subject_of_the_other_domain_only_is_no_truth(tiny_records, tmp_path):
    """s6 has another name in b: its volume counts for the histograms, not for the measures."""
    folder = edited(tiny_records, tmp_path / "r", lambda i, r: dataclasses.replace(r, subject="other") if i == 1 else r)
    metrics, cases, _ = evaluate_on_records(exact(), folder)
    assert [row["subject"] for row in metrics["a2b"]["translated"]["subjects"]] == ["s5"]
    assert np.isnan(metrics["a2b"]["translated"]["sd"]["psnr"])
    assert metrics["a2b"]["unpaired"]["volumes"] == 2
    assert [c.truth is None for c in cases if c.direction == "a2b"] == [False, True]


def test_another_grid_is_no_truth(tiny_records, tmp_path):
    moved = np.diag([3.0, 2.0, 2.0, 1.0])
    moved[1, 3] = 1.0
    folder = edited(tiny_records, tmp_path / "r", lambda i, r: dataclasses.replace(r, affine=moved))
    metrics, cases, compared = evaluate_on_records(exact(), folder)
    for direction in ("a2b", "b2a"):
        assert set(metrics[direction]) == {"unpaired"}
        assert metrics[direction]["unpaired"]["volumes"] == 2
        assert compared[direction]["kl"]["input_generated"] > 0
    assert all(c.truth is None and c.scores is None for c in cases)


def test_one_direction_alone(tiny_records):
    metrics, cases, _ = evaluate_on_records({"a2b": exact()["a2b"]}, tiny_records)
    assert "b2a" not in metrics
    assert metrics["a2b"]["unpaired"]["cycle_mae"] is None
    assert cases[0].cycled is None and cases[0].doubt is None


def test_a_limit(tiny_records):
    models = exact()
    metrics, _, _ = evaluate_on_records(models, tiny_records, limit=1)
    assert len(metrics["a2b"]["translated"]["subjects"]) == 1
    assert len(models["a2b"].given) == 9  # one volume there, one cycle back, seven of both for the uncertainty
    with pytest.raises(InputError, match="limit is 0"):
        evaluate_on_records(models, tiny_records, limit=0)


def test_without_test_volumes_validation_takes_their_place(tiny_records, tmp_path, caplog):
    folder = tmp_path / "r"
    shutil.copytree(tiny_records, folder)
    shutil.rmtree(folder / "test")
    with caplog.at_level(logging.WARNING):
        metrics, _, _ = evaluate_on_records(exact(), folder)
    assert metrics["about"]["split"] == "val"
    assert [row["subject"] for row in metrics["a2b"]["translated"]["subjects"]] == ["s4"]
    assert "validation volumes are used" in caplog.text
    shutil.rmtree(folder / "val")
    with pytest.raises(InputError, match="neither test nor validation"):
        evaluate_on_records(exact(), folder)


def test_a_model_that_makes_nan_is_named(tiny_records):
    models = exact() | {"a2b": Model(lambda x: x * np.nan)}
    with pytest.raises(InputError, match="a2b model makes voxels of the subject s5"):
        evaluate_on_records(models, tiny_records)


def test_a_damaged_record_is_an_error(tiny_records, tmp_path):
    folder = tmp_path / "r"
    shutil.copytree(tiny_records, folder)
    shard = records.shards(folder / "test", "a")[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        evaluate_on_records(exact(), folder)
