"""`data_prep pair`: what is written, and that it is better than what it began with."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from cyclescan import records
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, sha256, write_json
from cyclescan.preprocessing import detail
from data_prep import __main__ as data_prep
from data_prep import pairing
from data_prep.parallel import processes
from data_prep.phantom import make_subject
from tests.conftest import write_records

SHAPE = (16, 32, 32)
KNEES = 6  # for each domain


@pytest.fixture(scope="module")
def knees(tmp_path_factory):
    """A data set of CISS and DESS of different knees, its truth {(domain, subject): the other contrast}, and pairs."""
    folder, truth, shards = tmp_path_factory.mktemp("knees"), {}, {}
    (folder / "train").mkdir()
    for domain, name, other in (("a", "ciss", "dess"), ("b", "dess", "ciss")):
        items = []
        for number in range(KNEES):
            index = number + (KNEES if domain == "b" else 0)
            knee = make_subject(seed=3, shape=SHAPE, index=index)
            volumes = {n: _scaled(getattr(knee, n)) for n in (name, other)}
            truth[domain, f"s{index}"] = volumes[other]
            items.append(records.Record(volumes[name], knee.affine, domain, name, f"s{index}", []))
        path = folder / "train" / f"{domain}-00000-of-00001.tfrecord"
        records.write_shard(path, items)
        shards[f"train/{path.name}"] = {"records": KNEES, "bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / "dataset.json", {"schema_version": records.SCHEMA_VERSION, "shards": shards})
    facts = pairing.pair(folder, per_volume=2, workers=1, seed=0)
    return folder, truth, facts


@pytest.fixture(scope="module")
def of_all(knees, tmp_path_factory):
    """The same with the mean of all six as partners, as by default: the folder and its facts."""
    shutil.copytree(knees[0], copy := tmp_path_factory.mktemp("all") / "copy")
    return copy, pairing.pair(copy, workers=2, seed=0)


def _scaled(array):
    low, high = np.percentile(array, (0.5, 99.5))
    return np.clip(2 * (array - low) / (high - low) - 1, -1, 1).astype(np.float32)


def read(folder, split, domain):
    return [r for path in records.shards(folder / split, domain) for r in records.read_shard(path)]


def test_every_volume_gets_its_partners_from_other_subjects(knees):
    folder, _, facts = knees
    for domain, other in (("a", "b"), ("b", "a")):
        scans = {r.subject: r for r in read(folder, "train", domain)}
        pairs = read(folder, "pairs", domain)
        assert [r.subject for r in pairs] == list(scans)
        for pair in pairs:
            np.testing.assert_array_equal(pair.voxels, scans[pair.subject].voxels)
            assert pair.partner.shape == SHAPE
        used = [s for r in pairs for s in r.partner_subjects]
        assert set(used) == {r.subject for r in read(folder, "train", other)}
        assert {used.count(s) for s in used} == {2}
    assert {name: entry["records"] for name, entry in facts["shards"].items()} == {
        "pairs/a-00000-of-00001.tfrecord": 6,
        "pairs/b-00000-of-00001.tfrecord": 6,
    }


def test_partners_come_closer_to_the_truth(knees):
    folder, truth, _ = knees
    for domain, other in (("a", "b"), ("b", "a")):
        scans = {r.subject: r.voxels for r in read(folder, "train", other)}
        before, after = [], []
        for pair in read(folder, "pairs", domain):
            true, known = truth[domain, pair.subject], np.isfinite(pair.partner)
            assert known.mean() > 0.6
            unregistered = np.mean([scans[s] for s in pair.partner_subjects], 0)
            before.append(np.mean((unregistered - true)[known] ** 2))
            after.append(np.mean((pair.partner - true)[known] ** 2))
        assert np.mean(after) < 0.75 * np.mean(before)


def test_a_partner_is_the_mean_of_what_is_known(knees, tmp_path, monkeypatch):
    shutil.copytree(knees[0], folder := tmp_path / "copy")
    seen, warp = [], pairing._warp

    def watched(task):
        each = [warp(dataclasses.replace(task, moving=[moving])) for moving in task.moving] if len(seen) < 3 else []
        seen.append((warp(task), each))
        return seen[-1][0]

    monkeypatch.setattr(pairing, "_warp", watched)
    monkeypatch.setattr(pairing, "KNOWN", 0.6)  # of two, both
    pairing.pair(folder, per_volume=2, workers=1, seed=0)
    for pair, singles in seen[:3]:
        both, each = records.decode(pair), [records.decode(one) for one in singles]
        assert both.partner_subjects == tuple(s for one in each for s in one.partner_subjects)
        np.testing.assert_allclose(both.partner, np.mean([one.partner for one in each], 0), atol=4e-5)  # int16
        energies = np.stack([one.partner_detail**2 for one in each])
        known, energies = np.isfinite(energies).all(0), energies.mean(0)
        assert known.mean() > 0.5
        np.testing.assert_allclose(both.partner_detail[known] ** 2, energies[known], atol=4e-5)


def test_a_pair_knows_how_much_detail_the_mean_has_lost(knees, of_all):
    truth, copy = knees[1], of_all[0]
    assert {path.suffix for path in (copy / "pairs").iterdir()} == {".tfrecord", ".json"}  # nothing is left behind
    for pair in read(copy, "pairs", "a") + read(copy, "pairs", "b"):
        true, mean = (
            detail.thinned(detail.energies(np.nan_to_num(v, nan=-1.0)))
            for v in (truth[pair.domain, pair.subject], pair.partner)
        )
        found = pair.partner_detail**2
        known = detail.thinned(np.isfinite(pair.partner)) & np.isfinite(found).all(-1)
        # as much as the truth has, and more than the mean
        assert found[known].mean() == pytest.approx(true[known].mean(), rel=0.25)
        assert mean[known].mean() < 0.8 * found[known].mean()
        for band in range(2):
            assert np.corrcoef(found[known][:, band], true[known][:, band])[0, 1] > 0.45


def test_what_is_unusual_in_a_volume_has_no_partner(knees, tmp_path):
    """A bright block in one knee's CISS, as effusion: the mean of others' DESS has none and would erase it."""
    shutil.copytree(knees[0], folder := tmp_path / "copy")
    (shard,) = records.shards(folder / "train", "a")
    scans = list(records.read_shard(shard))
    block = np.zeros(SHAPE, bool)
    block[6:10, 13:18, 13:18] = True
    ill = scans[2].voxels.copy()
    ill[block] = 1.0
    records.write_shard(shard, [*scans[:2], dataclasses.replace(scans[2], voxels=ill), *scans[3:]])
    missing = {}
    for unusual in (None, 3.0):
        facts = pairing.pair(folder, per_volume=2, workers=1, seed=0, unusual=unusual)
        assert facts.get("unusual") == unusual
        missing[unusual] = [np.isnan(pair.partner) for pair in read(folder, "pairs", "a")]
    assert missing[None][2][block].mean() < 0.1 and missing[3.0][2][block].mean() > 0.7
    rest = [now & ~before for now, before in zip(missing[3.0], missing[None], strict=True)]
    assert np.mean([each[~block].mean() for each in rest]) < 0.15  # five others know little of what is usual
    assert all((now | ~before).all() for now, before in zip(missing[3.0], missing[None], strict=True))
    with pytest.raises(InputError, match="--unusual is -1; a number of standard deviations above 0"):
        pairing.pair(folder, unusual=-1)


def test_more_partners_are_closer_to_the_truth(knees, of_all, tmp_path):
    """Of all six by default, and none is left out."""
    folder, truth, _ = knees
    shutil.copytree(folder, one := tmp_path / "one")
    made = {1: (one, pairing.pair(one, per_volume=1, workers=2, seed=0)), KNEES: of_all}
    errors = {}
    for count, (copy, facts) in made.items():
        assert facts["per_volume"] == {"a": count, "b": count}
        pairs = [pair for domain in ("a", "b") for pair in read(copy, "pairs", domain)]
        errors[count] = np.mean([np.nanmean((p.partner - truth[p.domain, p.subject]) ** 2) for p in pairs])
    assert errors[KNEES] < 0.8 * errors[1]


def test_facts_hold_checksums_and_information(knees):
    folder, _, facts = knees
    assert read_json(folder / "pairs" / "pairs.json") == facts
    for name, entry in facts["shards"].items():
        assert sha256(folder / name) == entry["sha256"]
    information = facts["mutual_information"]
    assert len(information["a"]) == len(information["b"]) == KNEES
    # the atlases are free of noise: they tell more of each other than two scans of one contrast do
    assert information["between"] > 0.5


def test_bytes_depend_on_the_seed_and_not_on_the_workers(knees, tmp_path):
    folder, _, facts = knees
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert pairing.pair(copy, per_volume=2, workers=2, seed=0)["shards"] == facts["shards"]
    assert pairing.pair(copy, per_volume=2, workers=1, seed=1)["shards"] != facts["shards"]


def test_a_killed_process_ends_it(tmp_path):
    with pytest.raises(InputError, match="One of 2 processes was killed"), processes(2) as starmap:
        list(starmap(os._exit, [(1,), (1,)]))


def test_command(tmp_path, capsys):
    folder = write_records(tmp_path / "records")
    shutil.rmtree(folder / "pairs")
    assert data_prep.main(["pair", str(folder), "--per-volume", "1", "--workers", "1"]) == 0
    assert len(read(folder, "pairs", "a")) == 4
    assert data_prep.main(["verify", str(folder)]) == 0
    assert data_prep.main(["pair", str(folder), "--per-volume", "9"]) == 2
    assert "--per-volume 9 needs as many" in capsys.readouterr().err
    assert len(read(folder, "pairs", "a")) == 4  # nothing written is lost


def test_a_folder_of_others_is_not_taken_for_pseudo_pairs(knees, tmp_path):
    shutil.copytree(knees[0], tmp_path / "records")
    shutil.rmtree(tmp_path / "records/pairs")
    (tmp_path / "records/pairs").mkdir()
    (tmp_path / "records/pairs/shoes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no pseudo-pairs; move it away"):
        pairing.pair(tmp_path / "records", per_volume=1, workers=1)
    assert (tmp_path / "records/pairs/shoes.txt").read_text() == "mine"


@pytest.mark.parametrize(("per_volume", "workers"), [(0, 1), (1, 0)])
def test_numbers_out_of_range(knees, per_volume, workers):
    with pytest.raises(InputError, match="both must be at least 1"):
        pairing.pair(knees[0], per_volume=per_volume, workers=workers)


def test_no_data_set(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json"):
        pairing.pair(tmp_path)
