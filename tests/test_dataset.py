import collections
import dataclasses
import itertools

import numpy as np
import pytest

from cyclescan import dataset, records
from cyclescan.common.errors import InputError
from tests.conftest import SHAPE, record, scan


def take(folder, count, split="train", shape=(8, 16, 16), **options):
    streams = {d: dataset.open_stream(folder, split, d) for d in ("a", "b")}
    options = {"batch_size": 1, "seed": 0, "augment": False} | options
    return list(itertools.islice(dataset.batches(streams, shape, **options).as_numpy_iterator(), count))


def test_batches_hold_the_records_of_each_domain(tiny_records):
    seen = take(tiny_records, 8)
    volumes = {d: [scan(i + (100 if d == "b" else 0), d) for i in range(4)] for d in ("a", "b")}
    for d in ("a", "b"):
        epochs = [
            [
                next(i for i, v in enumerate(volumes[d]) if np.allclose(v, s[f"real_{d}"][0, ..., 0], atol=1e-4))
                for s in seen[start : start + 4]
            ]
            for start in (0, 4)
        ]
        assert [sorted(e) for e in epochs] == [[0, 1, 2, 3]] * 2  # every volume once an epoch


def test_orders_of_the_domains_are_independent_and_change(tiny_records):
    streams = {d: dataset.open_stream(tiny_records, "train", d) for d in ("a", "b")}
    orders = {
        d: [
            [
                s.entries.index(next(e for e in s.entries if records.read_at(*e) == s.read(4 * epoch + i, 0)))
                for i in range(4)
            ]
            for epoch in range(4)
        ]
        for d, s in streams.items()
    }
    assert orders["a"] != orders["b"]
    assert len({tuple(o) for o in orders["a"]}) > 1


def test_a_subject_with_many_visits_counts_as_one(tmp_path):
    """Four subjects, of whom one came five times and one twice: in ten epochs each comes ten times."""
    visits = {"s1": 5, "s2": 1, "s3": 2, "s4": 1}
    scans = [
        dataclasses.replace(record(10 * i + v, "a"), subject=s) for i, s in enumerate(visits) for v in range(visits[s])
    ]
    records.write_shard(tmp_path / "train" / "a-00000-of-00001.tfrecord", scans)
    stream = dataset.open_stream(tmp_path, "train", "a")
    assert records.subjects(stream.entries) == [scan.subject for scan in scans]
    seen = collections.Counter()
    for epoch in range(10):
        found = [records.decode(stream.read(4 * epoch + i, 7)) for i in range(4)]
        assert {r.subject for r in found} == set(visits)
        seen.update((r.subject, r.voxels.tobytes()) for r in found)
    # every visit, equally often
    assert {s: [n for (subject, _), n in seen.items() if subject == s] for s in visits} == {
        "s1": [2] * 5, "s2": [10], "s3": [5] * 2, "s4": [10],
    }  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("split", ["train", "pairs"])
def test_a_resumed_stream_continues(tiny_records, split, batch_size):
    """Each batch is a function of seed and step: across epochs, with augmentation, pairs and their weights."""
    options = {"augment": True, "shape": (4, 8, 8), "batch_size": batch_size, "paired": split == "pairs", "seed": 7}
    whole = take(tiny_records, 7, split, **options)
    rest = take(tiny_records, 3, split, start=4, **options)
    for expected, got in zip(whole[4:], rest, strict=True):
        assert expected.keys() == got.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(value, got[key])


def test_pairs_are_cropped_and_mirrored_together(tiny_records):
    for item in take(tiny_records, 8, "pairs", (4, 8, 8), paired=True, augment=True):
        # the fixture's partner is a known function of the source, voxel by voxel
        np.testing.assert_allclose(item["partner_a"], 1 - 2 * np.abs(item["real_a"]), atol=1e-3)
        assert (item["weight_b"] == 1.0).all() and item["weight_b"].shape == item["real_b"].shape


def test_the_detail_of_partners_goes_with_them(tmp_path):
    ramps = np.stack(np.meshgrid(*[np.arange(n // 2) / n for n in SHAPE], indexing="ij"), -1).astype("f4")
    for domain in ("a", "b"):
        # the partner says where a voxel is along depth, its detail along depth and height
        pair = dataclasses.replace(record(1, domain, partner=True), partner_detail=ramps[..., :2])
        pair.partner[:] = np.arange(SHAPE[0])[:, None, None] / SHAPE[0]
        records.write_shard(tmp_path / "pairs" / f"{domain}-00000-of-00001.tfrecord", [pair])
    for item in take(tmp_path, 8, "pairs", (4, 8, 8), paired=True, detail=True, augment=True):
        depth = np.rint(item["partner_a"] * SHAPE[0])
        expected = (depth // 2 / SHAPE[0]) ** 2
        np.testing.assert_allclose(item["detail_a"][..., :1], expected, atol=1e-4)
        assert item["detail_b"].shape == (1, 4, 8, 8, 2)
    (item,) = take(tmp_path, 1, "pairs", (16, 16, 16), paired=True, detail=True)
    padded = item["real_a"][0, 0] == -1
    assert padded.all() and (item["detail_a"][0, 0] == -1).all()  # not known


def test_unknown_voxels_of_a_partner_have_no_weight(tmp_path):
    pair = record(1, "a", partner=True)
    pair.partner[2:4, :, 5] = np.nan
    records.write_shard(tmp_path / "pairs" / "a-00000-of-00001.tfrecord", [pair])
    records.write_shard(tmp_path / "pairs" / "b-00000-of-00001.tfrecord", [record(1, "b", partner=True)])
    (item,) = take(tmp_path, 1, "pairs", (8, 16, 16), paired=True)
    known = np.isfinite(pair.partner)[None, ..., None]
    np.testing.assert_array_equal(item["weight_a"], known)
    np.testing.assert_allclose(item["partner_a"], np.where(known, pair.partner[None, ..., None], -1), atol=1e-4)
    assert item["weight_b"].min() == 1.0


def test_small_volumes_are_padded_with_air(tiny_records):
    patch = take(tiny_records, 1, shape=(12, 16, 16))[0]["real_a"][0, ..., 0]
    assert (patch[:2] == -1).all() and (patch[-2:] == -1).all()
    assert not (patch[2:-2] == -1).all()


def test_seeds_differ(tiny_records):
    one, other = (take(tiny_records, 4, seed=s, shape=(4, 8, 8)) for s in (0, 1))
    assert any(not np.array_equal(x["real_a"], y["real_a"]) for x, y in zip(one, other, strict=True))


def test_missing_records_are_named(tiny_records, tmp_path):
    with pytest.raises(InputError, match="no records of domain a in nowhere"):
        dataset.open_stream(tiny_records, "nowhere", "a")
    with pytest.raises(InputError, match=r"no dataset\.json"):
        records.read_info(tmp_path)


def test_workers_read_their_shares_of_the_batches_of_one(tiny_records):
    options = {"batch_size": 4, "augment": True, "start": 3}
    whole = take(tiny_records, 3, **options)
    shares = [take(tiny_records, 3, worker=worker, workers=2, **options) for worker in range(2)]
    for one, *parts in zip(whole, *shares, strict=True):
        for key, value in one.items():
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)


def test_a_worker_reads_nothing_but_its_share(tiny_records, monkeypatch):
    read = []
    monkeypatch.setattr(
        dataset.Stream, "read", lambda self, number, seed: read.append(int(number)) or records.read_at(*self.entries[0])
    )
    take(tiny_records, 3, batch_size=4, worker=1, workers=2)
    assert {2, 3, 6, 7, 10, 11} <= set(read)
    assert all(number % 4 >= 2 for number in read)


def test_planted_pairs_continue_and_keep_the_healthy_volumes(tiny_records):
    """Blobs, too, are a function of seed and step, and all else of a batch is as without them."""
    options = {"shape": (4, 8, 8), "batch_size": 2, "paired": True, "seed": 7}
    blobs = {"transplants": 2, "fluid_blobs": 2, "spacing_mm": (3.0, 2.0, 2.0)}
    plain, planted = (take(tiny_records, 5, "pairs", **options, **extra) for extra in ({}, blobs))
    rest = take(tiny_records, 2, "pairs", start=3, **options, **blobs)
    for expected, got in zip(planted[3:], rest, strict=True):
        for key, value in expected.items():
            np.testing.assert_array_equal(value, got[key])
    for before, after in zip(plain, planted, strict=True):
        assert after.keys() - before.keys() == {"blobs_a", "blobs_b", "healthy_a", "healthy_b"}
        for d in ("a", "b"):
            np.testing.assert_array_equal(after[f"healthy_{d}"], before[f"real_{d}"])
            np.testing.assert_allclose(after[f"weight_{d}"] + after[f"blobs_{d}"], before[f"weight_{d}"], atol=1e-6)
            outside = after[f"blobs_{d}"] == 0
            known = outside & (after[f"weight_{d}"] > 0)
            np.testing.assert_array_equal(after[f"real_{d}"][known], before[f"real_{d}"][known])
            np.testing.assert_array_equal(after[f"partner_{d}"][known], before[f"partner_{d}"][known])
    assert any((batch["real_a"] != batch["healthy_a"]).any() for batch in planted)
    assert (planted[0]["blobs_a"][0] != planted[0]["blobs_a"][1]).any()  # each volume of a batch has its own
