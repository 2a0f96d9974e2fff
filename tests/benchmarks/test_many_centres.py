"""More than two centres: which commands run, and that every site has its table."""

import shutil

import numpy as np
import pytest

from benchmarks import many_centres
from cyclescan.common.files import read_json
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume

SHAPE = (8, 10, 12)
GAINS = {"ams": 2.0, "bern": 0.5, "utrecht": 1.0}


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    volume.write(Volume(np.asarray(array, np.float32), np.diag([3.0, 2.0, 2.0, 1.0])), path)


@pytest.fixture
def study(tmp_path):
    """Four subjects who travelled to three centres, whose scanners differ in gain."""
    rng = np.random.default_rng(0)
    inside = np.zeros(SHAPE)
    inside[2:6, 3:7, 4:9] = 1
    for i in range(4):
        knee = 100 + 20 * i + 50 * inside + rng.normal(size=SHAPE)
        put(tmp_path / "masks" / f"sub-{i}.nii.gz", inside)
        for centre, gain in GAINS.items():
            put(tmp_path / "travelling" / centre / f"sub-{i}.nii.gz", gain * knee)
            put(tmp_path / "centres" / centre / f"{centre}-{i}.nii.gz", gain * knee)
    return tmp_path


@pytest.fixture
def said(monkeypatch):
    """The commands that were called; training does nothing, and a translator knows its centre's gain."""
    found = []

    def translates(given):
        source, target = given[-2:]
        for path in volume.files_below(many_centres.Path(source)):
            scan = volume.read(path)
            put(many_centres.Path(target) / path.name, scan.array / GAINS[many_centres.Path(source).name])
        return 0

    own = {"data_prep": lambda given: 0, "cyclescan.train": lambda given: 0, "cyclescan.translate": translates}
    for name, command in many_centres.COMMANDS.items():
        run = own.get(name, command)
        monkeypatch.setitem(
            many_centres.COMMANDS, name, lambda given, name=name, run=run: found.append((name, *given)) or run(given)
        )
    return found


def call(study, *more):
    given = [str(study / "centres"), str(study / "out"), "--reference", "utrecht", *more]
    return many_centres.main(given)


def test_each_centre_is_brought_to_the_reference_and_has_its_table(study, said):
    test = ["--test", str(study / "travelling"), "--masks", str(study / "masks"), "--steps", "5"]
    assert call(study, *test) == 0
    names = [(name.removeprefix("cyclescan."), *given[:1]) for name, *given in said if name != "cyclescan.endpoints"]
    each = [("data_prep", "build"), ("data_prep", "pair"), ("train", "--data"), ("translate", "--model")]
    assert names == [*each, *each, ("evaluate", "--predicted"), ("evaluate", "--predicted")]
    build = next(given for name, *given in said if name == "data_prep")
    assert build[1:5] == ["--a", f"ams={study}/centres/ams", "--b", f"utrecht={study}/centres/utrecht"]
    train = next(given for name, *given in said if name == "cyclescan.train")
    assert train[train.index("--steps") + 1] == "5" and "--resume" in train
    for centre, gain in (("ams", 2.0), ("bern", 0.5)):
        result = read_json(study / "out" / "evaluation" / centre / "metrics.json")
        assert result["mean"]["mae"] < 1e-3 < 10 * abs(gain - 1) < result["source"]["mean"]["mae"]
    rows = read_json(study / "out" / "endpoints" / "endpoints.json")["agreement"]
    signal = {(row["site"], row["image"]): row for row in rows if row["measure"] == "signal"}
    assert {site for site, _ in signal} == {"all", "ams", "bern"}
    mean = signal["ams", "predicted"]["reference"]
    for centre, gain in (("ams", 2.0), ("bern", 0.5)):
        assert signal[centre, "predicted"]["bias"][0] == pytest.approx(0, abs=1e-3)
        assert signal[centre, "source"]["bias"][0] == pytest.approx((gain - 1) * mean, rel=1e-3)


def test_a_preset_without_pairs_makes_none(study, said):
    assert call(study, "--preset", "gradient_consistency") == 0
    assert [given[0] for name, *given in said if name == "data_prep"] == ["build", "build"]
    assert sorted(path.name for path in (study / "out" / "harmonised").iterdir()) == ["ams", "bern"]


@pytest.mark.parametrize(
    ("spoil", "more", "sentence"),
    [
        (
            lambda study: shutil.rmtree(study / "centres" / "utrecht"),
            [],
            "has no folder utrecht of the reference; there",
        ),
        (
            lambda study: [shutil.rmtree(study / "centres" / c) for c in ("ams", "bern")],
            [],
            "at least one other centre",
        ),
        (lambda study: None, ["--test", "TEST"], "--test and --masks belong together"),
        (
            lambda study: shutil.rmtree(study / "centres" / "bern"),
            ["--test", "TEST", "--masks", "MASKS"],
            "has scans of bern, of which",
        ),
        (
            lambda study: [p.unlink() for p in (study / "masks").glob("*2.nii.gz")],
            ["--test", "TEST", "--masks", "MASKS"],
            "has no mask named sub-2.",
        ),
        (
            lambda study: [p.rename(p.with_name(f"x{p.name}")) for p in (study / "travelling" / "ams").iterdir()],
            ["--test", "TEST", "--masks", "MASKS"],
            "nobody travelled.",
        ),
        (lambda study: None, ["--preset", "nobody"], "nobody"),
    ],
)
def test_bad_input_gets_one_sentence(study, said, capsys, spoil, more, sentence):
    spoil(study)
    places = {"TEST": str(study / "travelling"), "MASKS": str(study / "masks")}
    assert call(study, *(places.get(word, word) for word in more)) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_a_command_that_fails_ends_it(study, said, monkeypatch, capsys):
    monkeypatch.setitem(many_centres.COMMANDS, "cyclescan.train", lambda given: 2)
    assert call(study) == 2
    assert "python -m cyclescan.train --data" in capsys.readouterr().err
