"""Makes of digital knees by value: A as it always was, B as its table says, random ones within their ranges."""

import dataclasses
import json
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from cyclescan.common.errors import InputError
from data_prep import __main__ as data_prep
from data_prep.phantom import blended, draw_pair, make_subject, makes, scanner, signals, write_cohort
from data_prep.phantom.anatomy import NAMES

SHAPE = (24, 56, 56)
GOLDEN = json.loads((Path(__file__).parent / "phantom_golden.json").read_text())
BONE = ("cortical_bone", "marrow_shaft", "marrow_epiphysis")


def mask(labels, *names):
    return np.isin(labels, [NAMES.index(name) for name in names])


def interior(subject, name, scan):
    """Median intensity of a tissue; of fluid, whose films share their voxels, that of the purest."""
    values = getattr(subject, scan)[mask(subject.labels, name)]
    return float(np.percentile(values, 95 if name == "fluid" else 50))


def alike(first, second):
    """Whether two makes hold the same values; bound methods are never equal."""
    rest = [dataclasses.replace(m, draw_knee=None) for m in (first, second)]
    return rest[0] == rest[1] and first.draw_knee.__self__ == second.draw_knee.__self__


@pytest.fixture(scope="module")
def b():
    return make_subject(2, SHAPE, make=makes.B)


@pytest.fixture(scope="module")
def drawn():
    """Many random makes; cheap, since nothing is scanned."""
    return [makes.random(seed) for seed in range(200)]


def test_make_a_is_what_it_always_was():
    """Voxels of a knee as they were before there were makes; file intensities, so half a unit is rounding."""
    subject = make_subject(7, (16, 32, 32), index=1)
    places = np.linspace(0, subject.labels.size - 1, len(GOLDEN["labels"])).astype(int)
    assert subject.labels.ravel()[places].tolist() == GOLDEN["labels"]
    for scan in ("ciss", "dess", "ct"):
        assert np.abs(getattr(subject, scan).ravel()[places] - GOLDEN[scan]).max() < 0.5, scan
    assert subject.participant == GOLDEN["participant"]


def test_b_differs_from_a_as_its_table_says():
    a, b = makes.A, makes.B
    assert b.build_knee is not a.build_knee and b.field_of_view_mm != a.field_of_view_mm
    assert b.ciss.tr_ms < a.ciss.tr_ms and b.ciss.flip_deg > a.ciss.flip_deg and b.ciss.combination == "rss"
    assert b.dess.water_excitation == 0 and b.dess.fat_saturation == 0.75 and b.dess.echo_weights == (1.0, 0.6)
    assert b.draw_knee(np.random.default_rng(0)).plan.skin_mm == 0
    for seed in range(20):
        ours, theirs = (scanner.draw(np.random.default_rng(seed), m.examinations) for m in (a, b))
        assert theirs.sigma_ciss < 0.5 * ours.sigma_ciss and theirs.sigma_dess < 0.5 * ours.sigma_dess
        assert max(theirs.bias_sd) <= 0.06 < min(ours.bias_sd) and theirs.df_sd_hz < 0.7 * ours.df_sd_hz
    water = [n for n, t in b.tissues.items() if t.pd_water and n not in ("vessel",)]
    assert all(b.tissues[n].t1_ms < a.tissues[n].t1_ms and b.tissues[n].t2_ms >= a.tissues[n].t2_ms for n in water)


@pytest.mark.parametrize("name", ["fluid", "cartilage_deep", "meniscus", "muscle", "marrow_shaft", "skin"])
def test_diffusion_factors_of_b(name):
    t = makes.B.tissues[name]
    expected = signals.diffusion_factors(t.t1_ms, t.t2_ms, t.diffusion_mm2_s, makes.B_DESS)
    assert (t.diffusion_s1, t.diffusion_s2) == pytest.approx(expected, abs=2e-4)


def test_contrast_of_b(b):
    """Fat is bright in its CISS, and in its DESS a saturated quarter: below muscle, above marrow."""
    ciss, dess, ct = (
        {n: interior(b, n, scan) for n in ("fluid", "cartilage_deep", "muscle", "subcutaneous_fat", *BONE)}
        for scan in ("ciss", "dess", "ct")
    )
    # as the tissues' signals on resonance: 0.376, 0.197, 0.122, 0.049, 0.037 of CISS
    assert ciss["fluid"] > ciss["subcutaneous_fat"] > ciss["marrow_epiphysis"] > ciss["muscle"] > ciss["cartilage_deep"]
    assert dess["fluid"] > dess["muscle"] > dess["subcutaneous_fat"]
    assert dess["subcutaneous_fat"] > 1.5 * dess["marrow_epiphysis"]
    assert ct["cortical_bone"] > 400 > ct["marrow_epiphysis"] > ct["muscle"] > 0 > ct["subcutaneous_fat"]
    assert not mask(b.labels, "skin").any()


def test_b_is_cleaner_than_a(b):
    """What noise is in air, over the brightest tissues."""
    ours = make_subject(2, SHAPE)
    for scan in ("ciss", "dess"):
        noise = [
            np.median(getattr(s, scan)[mask(s.labels, "air")]) / np.percentile(getattr(s, scan), 99) for s in (ours, b)
        ]
        assert noise[1] < 0.5 * noise[0], scan


def test_fat_saturation_and_echo_weights_reach_the_signal():
    fat = signals.TISSUES["subcutaneous_fat"]
    only = dataclasses.replace(fat, pd_water=0.0)
    for function, protocol in ((signals.tissue_cycles, signals.CISS), (signals.tissue_echoes, signals.Dess())):
        full = function(only, 0.0, 1.0, protocol)
        part = function(only, 0.0, 1.0, dataclasses.replace(protocol, fat_saturation=0.75))
        none = function(only, 0.0, 1.0, dataclasses.replace(protocol, fat_saturation=1.0))
        for i in range(2):
            assert abs(part[i]) == pytest.approx(0.25 * abs(full[i])) and abs(none[i]) == 0
    subjects = [
        make_subject(2, (8, 16, 16), make=dataclasses.replace(makes.A, dess=signals.Dess(echo_weights=w)))
        for w in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
    ]
    both, first, second = (s.dess for s in subjects)
    assert np.allclose(both, np.hypot(first, second), rtol=1e-4)


def _within(value, limits):
    if isinstance(limits[0], tuple):
        return len(value) == len(limits) and all(_within(v, pair) for v, pair in zip(value, limits, strict=True))
    return limits[0] - 1e-9 <= value <= limits[1] + 1e-9


def test_random_makes_lie_in_their_ranges_and_fill_them(drawn):
    plans = [m.draw_knee.__self__ for m in drawn]
    for name, limits in makes.PLAN.items():
        assert all(_within(getattr(plan, name), limits) for plan in plans), name
    for name in ("notch_mm", "muscle", "subcutaneous_mm", "warp_mm", "bone_volume", "flexion_deg"):
        low, high = makes.PLAN[name]
        values = [getattr(plan, name) for plan in plans]
        assert min(values) < low + 0.1 * (high - low) and max(values) > high - 0.1 * (high - low), name
    assert {plan.form for plan in plans} == {"sweeps"} and blended.Plan().form == "superquadrics"
    skins = np.array([plan.skin_mm for plan in plans])
    assert 0.2 < (skins == 0).mean() < 0.5 and 0.8 <= skins[skins > 0].min() and skins.max() <= 2.5
    for kind in ("ciss", "dess"):
        for name, limits in makes.SEQUENCES[kind].items():
            assert all(_within(getattr(getattr(m, kind), name), limits) for m in drawn), name
    assert all(m.ciss.te_ms == m.ciss.tr_ms / 2 and m.dess.te1_ms < m.dess.te2_ms for m in drawn)
    assert {m.dess.water_excitation for m in drawn} == {0, 1, 2}
    unsuppressed = np.mean([m.dess.water_excitation == 0 and m.dess.fat_saturation == 0 for m in drawn])
    assert 0.15 < unsuppressed < 0.35
    for m in drawn:
        assert all(_within(v, pair) for v, pair in zip(m.field_of_view_mm, makes.FIELD_OF_VIEW_MM, strict=True))
        for name, t in m.tissues.items():
            ours = signals.TISSUES[name]
            if name != "air":
                assert _within(t.t1_ms / ours.t1_ms, makes.TISSUE_FACTORS["t1"])
                assert t.t2_ms < t.t1_ms
        low, high = makes.EXAMINATIONS["sigma_ciss"]
        assert low * 0.7 < m.examinations.sigma_ciss[0] < m.examinations.sigma_ciss[1] < high * 1.3
        assert m.tissues["cartilage_deep"].t1_ms == m.tissues["cartilage_superficial"].t1_ms
    noise = np.array([m.examinations.sigma_ciss[0] for m in drawn])
    assert noise.max() > 15 * noise.min()


def test_a_seed_is_a_make(drawn):
    assert alike(makes.random(3), makes.random(3)) and not alike(makes.random(3), makes.random(4))
    assert len({m.ciss.tr_ms for m in drawn}) == len(drawn)
    # subjects of one make share its protocol and tissues and differ as people do
    make = makes.random(3)
    people = [make.draw_knee(np.random.default_rng(i)) for i in range(40)]
    assert {p.plan.warp_mm for p in people} == {make.draw_knee.__self__.warp_mm}
    assert {p.side for p in people} == {"left", "right"} and len({p.plan.notch_mm for p in people}) == 40
    assert alike(pickle.loads(pickle.dumps(make)), make)


@pytest.mark.parametrize("make", [makes.B, *(makes.random(seed) for seed in (0, 1, 2, 3))])
def test_knees_of_other_makes_are_knees(make):
    """Shares are a partition; tissues have the volumes of a knee, and lie where they belong."""
    spacing_mm = tuple(f / n for f, n in zip(make.field_of_view_mm, SHAPE, strict=True))
    rng = np.random.default_rng(5)
    tissues = make.build_knee(make.draw_knee(rng), SHAPE, spacing_mm, rng)
    stack = np.stack(list(tissues.fractions.values()))
    assert tuple(tissues.fractions) == NAMES and stack.dtype == np.float32
    assert stack.min() >= -1e-6 and np.abs(stack.sum(axis=0) - 1).max() < 1e-5
    ml = {n: float(f.sum() * np.prod(spacing_mm) / 1e3) for n, f in tissues.fractions.items()}
    for names, low, high in (
        (BONE, 150, 520),
        (("cartilage_deep", "cartilage_superficial"), 9, 45),
        (("meniscus",), 2, 13),
        (("acl",), 0.8, 5),
        (("pcl",), 0.8, 6),
        (("patellar_tendon",), 2, 12),
        (("fluid",), 1.5, 25),
        (("hoffa_fat",), 10, 80),
        (("muscle",), 60, 520),
        (("subcutaneous_fat",), 120, 1100),
        (("vessel",), 4, 25),
    ):
        assert low < sum(ml[n] for n in names) < high, names
    labels = tissues.labels()
    bone = mask(labels, *BONE)
    away = ndimage.distance_transform_edt(~bone, sampling=spacing_mm)
    assert np.percentile(away[mask(labels, "cartilage_deep", "cartilage_superficial")], 95) < 7
    assert np.percentile(away[mask(labels, "meniscus")], 95) < 12
    # bone, menisci and muscle lie within the limb
    limb = ndimage.distance_transform_edt(~mask(labels, "air"), sampling=spacing_mm)
    assert (limb[mask(labels, *BONE, "meniscus", "muscle", "acl", "vessel")] > 0).all()
    # the patella in front of the femur, vessels behind
    behind, front = (np.nonzero(mask(labels, n))[2].mean() for n in ("vessel", "patellar_tendon"))
    assert front - behind > 25 / spacing_mm[2]


def test_a_knee_of_b_does_not_depend_on_the_grid():
    knee = makes.B.draw_knee(np.random.default_rng(4))
    volumes = []
    for shape in ((32, 64, 64), (48, 96, 96)):
        spacing_mm = tuple(f / n for f, n in zip(makes.B.field_of_view_mm, shape, strict=True))
        tissues = makes.B.build_knee(knee, shape, spacing_mm, np.random.default_rng(4))
        volumes.append({n: float(f.sum() * np.prod(spacing_mm)) for n, f in tissues.fractions.items()})
    for name in ("cortical_bone", "marrow_epiphysis", "cartilage_deep", "meniscus", "acl", "muscle", "patellar_tendon"):
        assert volumes[0][name] == pytest.approx(volumes[1][name], rel=0.08), name


@pytest.mark.parametrize("form", ["superquadrics", "sweeps"])
def test_a_left_knee_is_a_mirrored_right_one(form):
    knees = [
        blended.build(
            blended.Knee(blended.Plan(form=form, warp_mm=0.0), side), (20, 40, 40), (5, 4, 4), np.random.default_rng(0)
        )
        for side in ("right", "left")
    ]
    for name in ("cortical_bone", "meniscus", "acl", "patellar_tendon", "air"):
        # boxes around bones are not mirrored, which a few voxels at their ends can tell
        unlike = np.abs(knees[0].fractions[name] - knees[1].fractions[name][::-1]) > 1e-3
        assert unlike.mean() < 2e-4, name
    assert not np.allclose(knees[0].fractions["acl"], knees[1].fractions["acl"], atol=0.1)


def test_a_stream_draws_pairs(drawn):
    """The same state gives the same knee; every call is another make, unless one is given; both contrasts are there."""
    first, again = (draw_pair(np.random.default_rng(8), (16, 32, 32)) for _ in range(2))
    assert np.array_equal(first.ciss, again.ciss) and np.array_equal(first.dess, again.dess)
    rng = np.random.default_rng(8)
    stream = [draw_pair(rng, (16, 32, 32)) for _ in range(3)]
    assert np.array_equal(stream[0].ciss, first.ciss) and first.ct is None
    assert len({s.affine[0, 0] for s in stream}) == 3  # three fields of view
    one = [draw_pair(rng, (16, 32, 32), make=drawn[0]) for _ in range(2)]
    assert one[0].affine[0, 0] == one[1].affine[0, 0] == pytest.approx(drawn[0].field_of_view_mm[0] / 16)
    assert not np.array_equal(one[0].ciss, one[1].ciss)
    for s in (*stream, *one):
        assert s.ciss.shape == s.dess.shape == (16, 32, 32) and s.ciss.std() > 0 and s.ciss.max() < 32767


def test_cohorts_of_other_makes(tmp_path):
    """Same seed, same bytes; two seeds are two fields of view; the subject of a file is that of the interface."""
    for name, make, seed in (("b", "B", 1), ("r", "random", 1), ("again", "random", 1), ("other", "random", 2)):
        write_cohort(tmp_path / name, 2, (10, 20, 24), seed=seed, make=make)
    for scan in ("ciss", "dess", "ct", "labels"):
        files = [(tmp_path / name / scan / "sub-0002.nii.gz").read_bytes() for name in ("r", "again", "other", "b")]
        assert files[0] == files[1] and len(set(files)) == 3
    image = nib.load(tmp_path / "r/ciss/sub-0002.nii.gz")
    make = makes.random(1)
    assert image.header.get_zooms() == pytest.approx(
        [f / n for f, n in zip(make.field_of_view_mm, (10, 20, 24), strict=True)], rel=1e-5
    )
    subject = make_subject(1, (10, 20, 24), index=1, make=make)
    assert np.abs(np.asarray(image.dataobj) - subject.ciss).max() <= 0.5
    heads = [(tmp_path / n / "participants.tsv").read_text().splitlines()[0] for n in ("b", "r")]
    assert heads[0] == heads[1] == "\t".join(["participant_id", *GOLDEN["participant"]])


def test_a_spacing_that_is_asked_for_is_taken(tmp_path):
    arguments = ["--out", str(tmp_path / "k"), "--subjects", "1", "--shape", "8", "8", "8", "--make", "random"]
    assert data_prep.main(["phantom", *arguments, "--spacing-mm", "9", "10", "11"]) == 0
    assert nib.load(tmp_path / "k/dess/sub-0001.nii.gz").header.get_zooms() == pytest.approx([9, 10, 11])


def test_an_unknown_make_is_one_sentence(tmp_path, capsys):
    out = tmp_path / "out"
    assert data_prep.main(["phantom", "--out", str(out), "--subjects", "1", "--make", "C"]) == 2
    assert capsys.readouterr().err == "error: --make is C; allowed are A, B, random.\n"
    assert not out.exists()
    with pytest.raises(InputError, match="--make is a; allowed"):
        makes.named("a")
