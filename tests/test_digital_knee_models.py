"""The models in saved_models/: their cards, and what they do with a knee that they never saw."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from cyclescan import translate
from cyclescan.artifacts import shipped
from cyclescan.evaluation import metrics
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject

MODELS = Path(__file__).parent.parent / "saved_models"
# of each direction: source, target, and the least correlation of the translation with the truth
EXPECTED = {
    "digital-knee": {"a2b": ("ciss", "dess", 0.7), "b2a": ("dess", "ciss", 0.85)},
    "digital-knee-ct": {"a2b": ("ciss", "ct", 0.95)},
}


@pytest.fixture(scope="module")
def knee():
    return make_subject(seed=99, shape=(32, 64, 64))


def test_they_are_small():
    assert set(EXPECTED) <= set(shipped.names())
    files = [path for name in EXPECTED for path in (MODELS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6


@pytest.mark.parametrize("name", EXPECTED)
def test_cards_name_the_files_they_are_of(name):
    card = (MODELS / name / "README.md").read_text()
    for heading in ("Data", "Recipe", "Figures", "Limits", "Licence", "Checksums"):
        assert f"## {heading}" in card
    digests = dict(re.findall(r"`(generator_\w+\.npz)` `([0-9a-f]{64})`", card))
    files = list((MODELS / name).rglob("*.npz"))
    assert {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files} == digests


@pytest.mark.parametrize(("name", "direction"), [(n, d) for n, known in EXPECTED.items() for d in known])
def test_they_translate_by_name(name, direction, knee, tmp_path):
    source, target, least = EXPECTED[name][direction]
    scan, out = tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz"
    volumes.write(Volume(getattr(knee, source), knee.affine), scan, dtype=np.int16)
    assert translate.main(["--model", name, "--direction", direction, str(scan), str(out)]) == 0
    truth = getattr(knee, target)
    assert metrics.ncc(volumes.read(out).array, truth) > least
    assert metrics.ncc(getattr(knee, source), truth) < least - 0.2
