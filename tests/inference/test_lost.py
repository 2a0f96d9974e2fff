"""The flag of what a translation loses: by hand, and on a network that flattens what is bright."""

import json
import logging

import numpy as np
import pytest

from cyclescan.artifacts import runs
from cyclescan.inference import batch, lost, usual
from cyclescan.inference.translator import Translator
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume
from tests.conftest import SETTINGS, write_records
from tests.inference import tiny

LIMITS = {"level": 0.5, "largest_voxels": 20, "scans": 8}


def block(size, value, shape=(8, 16, 16)):
    cycle = np.zeros(shape, np.float32)
    cycle[: size[0], : size[1], : size[2]] = value
    return cycle


def test_the_largest_region_is_counted_in_tissue_alone():
    array = np.zeros((8, 16, 16), np.float32)
    cycle = block((2, 3, 4), 0.9)
    cycle[6:, 10:, 10:] = 0.8  # a second region, of 2 x 6 x 6 voxels
    assert lost.region(cycle, array, 0.5) == 72 and lost.region(cycle, array, 0.85) == 24
    array[6:] = -1  # air
    assert lost.region(cycle, array, 0.5) == 24 and lost.region(cycle, array, 1.0) == 0


def test_limits_by_hand():
    """1000 voxels of tissue, of which one of a thousand and no more is above the level."""
    array = np.full((10, 10, 20), -1, np.float32)
    array[:, :, :10] = 0
    cycle = np.zeros_like(array)
    cycle[:, :, :10] = np.arange(1000).reshape(10, 10, 10)
    cycle[:, :, 10:] = 5000  # air does not count
    found = lost.limits_of([(cycle, array)])
    assert found == {"level": pytest.approx(998.001), "largest_voxels": 1, "scans": 1}
    assert lost.limits_of([(cycle, np.full_like(array, -1))]) is None and lost.limits_of([]) is None


@pytest.mark.parametrize(("size", "fires"), [((2, 3, 5), False), ((2, 4, 4), True)])
def test_it_fires_where_a_region_is_half_as_large_again_as_usual(size, fires):
    found = lost.find(block(size, 0.6), np.zeros((8, 16, 16), np.float32), LIMITS, voxel_mm3=50.0)
    voxels = int(np.prod(size))
    assert found == {"voxels": voxels, "usual_voxels": 20, "volume_mm3": 50.0 * voxels, "fires": fires}


def test_sentences():
    found = {"voxels": 60, "usual_voxels": 20, "volume_mm3": 3000.0, "fires": True}
    said = "in a region of 3 ml that its translation may have lost, such as a lesion: 3 times the largest such region"
    assert said in lost.sentence(found)
    assert "region of 60 voxels" in lost.sentence(found | {"volume_mm3": None})
    assert "more than the largest" in lost.sentence(found | {"usual_voxels": 0})


def test_a_trained_run_knows_what_it_usually_loses(tmp_path):
    data = write_records(tmp_path / "records")
    config = tiny.CONFIG.with_settings([each for each in SETTINGS if not each.startswith("generator_")])
    run = tiny.write_run(tmp_path / "run", config)
    run = runs.Run(**{**vars(run), "records": str(data)})
    limited = usual.add_limits(run)
    assert runs.read_run(run.path) == limited
    for domain in "ab":
        about = limited.data["domains"][domain]
        assert about["lost"]["scans"] > 0 and 0 < about["lost"]["level"] <= 2
        assert about["intensity"] == run.data["domains"][domain]["intensity"]  # all else stays


def test_translate_says_what_may_be_lost(tmp_path, caplog, monkeypatch):
    """A model that cannot make anything brighter than half, given a scan in which something is."""
    run = tiny.write_run(tmp_path / "run")
    translator = Translator.load(run.path, "a2b", back=True)
    monkeypatch.setattr(translator, "_network", lambda array, *_: np.minimum(array, 0.5))
    monkeypatch.setattr(translator.back, "_network", lambda array, *_: array)
    array = np.random.default_rng(0).uniform(100, 200, (16, 16, 16)).astype(np.float32)
    array[4:8, 4:8, 4:8] = 400  # brighter than 99.5 % of the voxels would be only where 1.5 % are
    scan = tmp_path / "scan.nii.gz"
    volumes.write(Volume(array, np.diag([*tiny.SPACING_MM, 1.0])), scan)
    out = tmp_path / "out.nii.gz"
    with caplog.at_level(logging.WARNING):
        about = json.loads(batch.translate_file(translator, scan, out).read_text())
    assert about["doubt"]["lost"] is None and "lost" not in caplog.text  # a model of before this measure
    translator.data["domains"]["a"]["lost"] = {"level": 0.2, "largest_voxels": 4, "scans": 8}
    with caplog.at_level(logging.WARNING):
        about = json.loads(batch.translate_file(translator, scan, out).read_text())
    found = about["doubt"]["lost"]
    assert found["fires"] and found["voxels"] >= 27 and found["volume_mm3"] == found["voxels"] * 512
    assert f"{scan} shows something in a region of" in caplog.text
