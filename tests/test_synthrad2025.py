"""MR to CT as SynthRAD2025 has it: an unpacked download, from `build` to the challenge's own measures."""

import numpy as np
import pytest

from cyclescan import evaluate, records, train, translate
from cyclescan.common.files import read_json
from cyclescan.evaluation import synthrad
from cyclescan.preprocessing import body
from cyclescan.scans import volume
from data_prep import __main__ as data_prep
from data_prep.phantom import make_subject
from tests.conftest import SETTINGS
from tests.data_prep.scan_files import save_mha

PATIENTS = ("1HNA001", "1HNA014", "1HNB002", "1HNC003")
SHAPE = (16, 32, 32)


@pytest.fixture
def download(tmp_path):
    """CISS and CT of digital knees as MR and CT of patients, with masks, and an overview that is no scan."""
    for number, patient in enumerate(PATIENTS):
        knee = make_subject(seed=3, shape=SHAPE, index=number)
        folder = tmp_path / "Task1" / "HN" / patient
        for kind, array in (("mr", knee.ciss), ("ct", knee.ct), ("mask", body.mask(knee.ct))):
            save_mha(folder / f"{kind}.mha", np.rint(array).astype(np.int16), knee.affine)
    (tmp_path / "Task1" / "HN" / "overview").mkdir()
    return tmp_path / "Task1"


@pytest.mark.slow
def test_from_the_download_to_the_measures_of_the_challenge(download, tmp_path):
    data, run, out = tmp_path / "records", tmp_path / "run", tmp_path / "translated"
    domains = ["--a", f"mr={download}", "--b", f"ct={download}", "--layout", "synthrad2025"]
    where = ["--out", str(data), "--split", "3", "0", "1", "--workers", "1", "--key-file", str(tmp_path / "key")]
    assert data_prep.main(["build", *domains, *where]) == 0
    assert data_prep.main(["pair", str(data), "--own", "--workers", "1"]) == 0
    assert data_prep.main(["verify", str(data)]) == 0
    pairs = [r for path in records.shards(data / "pairs") for r in records.read_shard(path)]
    own = [about for about in read_json(data / "pairs" / "pairs.json")["own"] if about["accepted"]]
    # CT and MR lie upon each other in the download
    assert len(pairs) == 6 and own and all(about["moved_mm"] < 4 for about in own)
    assert sum(pair.is_own for pair in pairs) == 2 * len(own)
    assert read_json(data / "dataset.json")["domains"]["b"]["scaling"].startswith("window_hu:")
    settings = [*SETTINGS, "warmup=1", "back_from=1", "steps=1"]
    assert train.main(["--data", str(data), "--run", str(run), "--set", *settings]) == 0
    gathered = tmp_path / "mr"
    gathered.mkdir()
    for patient in PATIENTS[:2]:
        (gathered / f"{patient}.mha").symlink_to(download / "HN" / patient / "mr.mha")
    assert translate.main(["--model", str(run), "--direction", "a2b", str(gathered), str(out)]) == 0
    tree = str(download)
    measured = ["--predicted", str(out), "--reference", tree, "--mask", tree, "--measures", "synthrad2025"]
    assert evaluate.main([*measured, "--out", str(tmp_path / "evaluation")]) == 0
    result = read_json(tmp_path / "evaluation" / "metrics.json")
    assert [row["volume"] for row in result["volumes"]] == list(PATIENTS[:2])
    for row in result["volumes"]:
        true, mask = (volume.read(download / "HN" / row["volume"] / f"{k}.mha").array for k in ("ct", "mask"))
        made = volume.read(out / f"{row['volume']}.nii.gz").array
        assert row["synthrad2025"] == pytest.approx(synthrad.measures(made, true, mask != 0))
        assert 50 < row["synthrad2025"]["mae"] < 2000 and 0 <= row["synthrad2025"]["ms_ssim"] < 1
