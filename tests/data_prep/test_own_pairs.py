"""`data_prep pair --own`: subjects in both domains become true pairs, and those that cannot are refused."""

import dataclasses
import logging

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from cyclescan import records
from cyclescan.common.files import sha256, write_json
from cyclescan.preprocessing import detail
from data_prep import __main__ as data_prep
from data_prep import own_pairs, pairing, registration, verify
from data_prep.phantom import make_subject

SHAPE = (24, 48, 48)
AFFINE = np.diag([4.0, 140 / 48, 140 / 48, 1.0])


def scaled(array):
    low, high = np.percentile(array, (0.5, 99.5))
    return np.clip(2 * (array - low) / (high - low) - 1, -1, 1).astype(np.float32)


def moved(array, affine, seed):
    """A volume that lies up to 4 mm and 4 degrees away in each axis, and the map from it as it was to it as it is."""
    rng = np.random.default_rng(seed)
    image = registration.image_of(array, np.linalg.norm(affine[:3, :3], axis=0))
    motion = sitk.Euler3DTransform()
    motion.SetCenter(registration._centre(image))
    motion.SetParameters([*np.radians(rng.uniform(-4, 4, 3)), *rng.uniform(-4, 4, 3)])
    away = sitk.Resample(image, image, motion.GetInverse(), sitk.sitkBSpline, -1.0)
    return np.clip(sitk.GetArrayFromImage(away), -1, 1), motion


@pytest.fixture(scope="module", autouse=True)
def few_voxels():
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(registration, "RIGID_VOXELS", 8000)
        yield


@pytest.fixture(scope="module")
def knees():
    """CISS of knees 0 to 2, their DESS, where it lies otherwise, and how it was moved."""
    made = [make_subject(seed=3, shape=SHAPE, index=i) for i in range(4)]
    ciss = [records.Record(scaled(k.ciss), k.affine, "a", "ciss", f"s{i}", []) for i, k in enumerate(made)]
    dess, motions = [], []
    for i, knee in enumerate(made):
        array, motion = moved(scaled(knee.dess), knee.affine, i)
        dess.append(records.Record(array, knee.affine, "b", "dess", f"s{i}", []))
        motions.append(motion)
    return ciss, dess, motions, [scaled(knee.dess) for knee in made]


def write(folder, a, b):
    """A data set of these training records."""
    shards = {}
    for domain, items in (("a", a), ("b", b)):
        path = folder / "train" / f"{domain}-00000-of-00001.tfrecord"
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write_shard(path, items)
        shards[f"train/{path.name}"] = {"records": len(items), "bytes": path.stat().st_size, "sha256": sha256(path)}
    names = {d: {"name": items[0].domain_name} for d, items in (("a", a), ("b", b))}
    splits = {s: {"a": [], "b": []} for s in ("val", "test")}
    splits["train"] = {d: [r.subject for r in items] for d, items in (("a", a), ("b", b))}
    spacing = [float(n) for n in np.linalg.norm(a[0].affine[:3, :3], axis=0)]
    info = {"schema_version": records.SCHEMA_VERSION, "shards": shards, "domains": names, "splits": splits}
    write_json(folder / "dataset.json", info | {"disjoint": False, "spacing_mm": spacing, "shape": list(SHAPE)})
    return folder


def read(folder, domain):
    return {r.subject: r for path in records.shards(folder / "pairs", domain) for r in records.read_shard(path)}


@pytest.fixture(scope="module")
def some(knees, tmp_path_factory):
    """Knees 0 and 1 are in both domains, 2 in a and 3 in b alone."""
    ciss, dess, *_ = knees
    folder = write(tmp_path_factory.mktemp("some") / "records", ciss[:3], [dess[0], dess[1], dess[3]])
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(registration, "ROUNDS", 1)
        return folder, pairing.pair(folder, workers=1, own=True, pseudo_weight=0.5)


def test_true_pairs_and_pseudo_pairs_in_one_store(some):
    folder, facts = some
    for domain, lone in (("a", "s2"), ("b", "s3")):
        pairs = read(folder, domain)
        assert list(pairs) == ["s0", "s1", lone]
        assert [pair.is_own for pair in pairs.values()] == [True, True, False]
        assert [pair.weight for pair in pairs.values()] == [1.0, 1.0, 0.5]
        assert set(pairs[lone].partner_subjects) == {"s0", "s1", "s3" if domain == "a" else "s2"}
    assert [about["accepted"] for about in facts["own"]] == [True, True]
    assert all(about["information"] > about["stranger_information"] for about in facts["own"])
    assert verify.verify(folder)["problems"] == []


def test_own_scans_lie_upon_each_other(some, knees):
    """Far closer to the truth than they were, and than a mean of others is."""
    folder, _ = some
    _, dess, _, truth = knees
    for number, (subject, pair) in enumerate(list(read(folder, "a").items())[:2]):
        known = np.isfinite(pair.partner)
        assert known.mean() > 0.75 and subject == f"s{number}"
        before = np.mean((dess[number].voxels - truth[number])[known] ** 2)
        after = np.mean((pair.partner - truth[number])[known] ** 2)
        assert after < 0.2 * before


def test_a_true_pair_has_the_detail_of_its_own_scan(some, knees):
    folder, _ = some
    _, _, _, truth = knees
    pair = read(folder, "a")["s0"]
    found = pair.partner_detail**2
    true = detail.thinned(detail.energies(truth[0]))
    known = np.isfinite(found).all(-1)
    assert found[known].mean() == pytest.approx(
        true[known].mean(), rel=0.25
    )  # that scan was resampled when it was moved
    for band in range(2):
        assert np.corrcoef(found[known][:, band], true[known][:, band])[0, 1] > 0.8


def test_the_way_back_is_the_inverse(some, knees):
    """What b gets is a, moved as b was."""
    folder, _ = some
    ciss, _, motions, _ = knees
    pair = read(folder, "b")["s1"]
    image = registration.image_of(ciss[1].voxels, np.linalg.norm(ciss[1].affine[:3, :3], axis=0))
    true = registration.resample(image, image, [motions[1].GetInverse()])
    known = np.isfinite(true) & np.isfinite(pair.partner)
    assert known.mean() > 0.7
    before = np.mean((ciss[1].voxels - true)[known] ** 2)
    assert np.mean((pair.partner - true)[known] ** 2) < 0.2 * before


def serial(function, arguments):
    return [function(*each) for each in arguments]


def registered(folder, **options):
    entries = {d: records.entries(folder, "train", d) for d in ("a", "b")}
    both = own_pairs.in_both(entries, {d: records.subjects(entries[d]) for d in entries})
    return own_pairs.register(both, serial, **options)


def test_somebody_elses_scan_under_ones_name_is_refused(knees, tmp_path, caplog):
    """Knee 0's DESS goes by the name of 1 and the other way round."""
    ciss, dess, *_ = knees
    swapped = [dataclasses.replace(dess[i], subject=f"s{1 - i}") for i in range(2)]
    tasks, facts = registered(write(tmp_path, ciss[:2], swapped))
    assert tasks == [] and [about["accepted"] for about in facts] == [False, False]
    assert all(about["information"] < about["stranger_information"] for about in facts)
    assert "The scans of s0 make no pair: they tell no more of each other (" in caplog.text
    assert "than a scan of somebody else does (" in facts[1]["why"]


def test_what_cannot_be_registered_is_refused_with_its_figure(knees, tmp_path, monkeypatch):
    """There and back are 9 mm apart; or little of one scan lies within the other."""
    ciss, dess, *_ = knees
    folder = write(tmp_path, ciss[:1], dess[:1])
    monkeypatch.setattr(registration, "register_rigid", lambda fixed, moving, start, *_: away(start, 4.5))
    assert registered(folder)[1][0]["why"] == "registered there and back they are 9.0 mm apart; 4.0 are allowed"
    monkeypatch.setattr(registration, "disagreement_mm", lambda *_: 0.0)
    monkeypatch.setattr(registration, "register_rigid", lambda fixed, moving, start, *_: away(start, 120.0))
    assert registered(folder)[1][0]["why"] == "only 15% of one lies within the other; 20% are needed"
    monkeypatch.setattr(registration, "register_rigid", lambda fixed, moving, start, *_: start)
    assert registered(folder)[1][0]["why"] == "they tell no more of each other (0.000 nats) than nothing"


def away(start, mm):
    return dataclasses.replace(start, affine=(*start.affine[:9], mm, *start.affine[10:]), information=1.0)


def as_they_lie(monkeypatch):
    """Registration leaves scans where they lie, and no strangers are asked."""
    monkeypatch.setattr(
        registration, "register_rigid", lambda fixed, moving, start, *_: dataclasses.replace(start, information=1.0)
    )
    monkeypatch.setattr(own_pairs, "STRANGERS", 0)


def test_all_in_both_domains_need_no_pseudo_pairs(knees, tmp_path, monkeypatch):
    """Also a single subject, who has nobody to be paired with; of several visits each gets its partner."""
    as_they_lie(monkeypatch)
    ciss, dess, *_ = knees
    visits = [dess[0], dataclasses.replace(dess[1], subject="s0")]
    folder = write(tmp_path, ciss[:1], visits)
    facts = pairing.pair(folder, workers=1, own=True)
    assert facts["mutual_information"] == {"a": [], "b": [], "between": None}
    assert (
        facts["per_volume"] == {"a": 0, "b": 0} and facts["shards"]["pairs/b-00000-of-00001.tfrecord"]["records"] == 2
    )
    of_b = [r for path in records.shards(folder / "pairs", "b") for r in records.read_shard(path)]
    for pair, scan in zip(of_b, visits, strict=True):
        assert pair.is_own and pair.weight == 1.0
        np.testing.assert_allclose(pair.voxels, scan.voxels, atol=1e-4)
        known = np.isfinite(pair.partner)
        np.testing.assert_allclose(pair.partner[known], ciss[0].voxels[known], atol=1e-3)  # as it lies
    assert verify.verify(folder)["problems"] == []
    write_json(folder / "pairs" / "pairs.json", {key: facts[key] for key in facts if key != "own"})
    assert "pairs the subject s0 with itself" in " ".join(verify.verify(folder)["problems"])


def test_where_headers_say_a_scan_lies_far_away_is_a_start(knees):
    """Two fields of view 30 mm apart: the header's start leads there, whatever the centres say."""
    ciss, *_ = knees
    cut = 10
    moving_affine = ciss[0].affine.copy()
    moving_affine[:3, 3] += moving_affine[:3, 2] * cut
    fixed, moving = (
        own_pairs._Scan(
            registration.image_of(v, np.linalg.norm(ciss[0].affine[:3, :3], axis=0)), own_pairs._to_world(a)
        )
        for v, a in ((ciss[0].voxels, ciss[0].affine), (ciss[0].voxels[:, :, cut:], moving_affine))
    )
    way = own_pairs._by_headers(fixed, moving)
    point = fixed.image.TransformContinuousIndexToPhysicalPoint((20.0, 7.0, 5.0))
    there = moving.image.TransformPhysicalPointToContinuousIndex(way.affine_transform().TransformPoint(point))
    np.testing.assert_allclose(there, (10.0, 7.0, 5.0), atol=1e-6)


def test_command(knees, tmp_path, monkeypatch, capsys, caplog):
    as_they_lie(monkeypatch)
    caplog.set_level(logging.INFO)
    ciss, dess, *_ = knees
    folder = write(tmp_path, ciss[:1], dess[:1])
    assert data_prep.main(["pair", str(folder), "--own", "--workers", "1"]) == 0
    assert "true ones of 1 of the 1 training subjects in both domains, pseudo-pairs for the rest" in caplog.text
    for more, sentence in (
        (["--pseudo-weight", "0.5"], "--pseudo-weight is beside true pairs alone; it needs --own."),
        (["--own", "--pseudo-weight", "0"], "--pseudo-weight is 0; above 0 and at most 1 is allowed."),
        (["--own", "--pseudo-weight", "nan"], "--pseudo-weight is nan; above 0 and at most 1 is allowed."),
        ([], "has 0 other subjects in domain b to be paired with; one is needed."),
    ):
        assert data_prep.main(["pair", str(folder), "--workers", "1", *more]) == 2
        assert sentence in capsys.readouterr().err
