"""Drawn lesions by value: what becomes what and where, how it looks, who has them, and that nothing else changes."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from data_prep import __main__ as data_prep
from data_prep.phantom import draw_pair, lesions_of, make_subject, makes, pathology, write_cohort
from data_prep.phantom.anatomy import NAMES, Tissues
from data_prep.phantom.pathology import CARTILAGE, FAT, KINDS, MARROW

SHAPE = (24, 56, 56)
MAKES = {"A": makes.A, "B": makes.B, "random": makes.random(4)}
TAKEN = {  # what each kind may take from
    "cartilage_defect": CARTILAGE,
    "cartilage_thinning": CARTILAGE,
    "effusion": (*FAT, "fascia"),
    "oedema_femur": MARROW,
    "oedema_tibia": MARROW,
    "acl_tear": ("acl", *FAT),
    "pcl_tear": ("pcl", *FAT),
    "meniscus_tear": ("meniscus",),
    "muscle_oedema": ("muscle",),
    "cyst": (*FAT, "muscle", "fascia"),
    "acl_tunnel": (*MARROW, "cortical_bone", "acl"),
}


@pytest.fixture(scope="module")
def knees():
    """A healthy knee of each make: its tissues and spacing."""
    found = {}
    for name, make in MAKES.items():
        spacing_mm = tuple(f / n for f, n in zip(make.field_of_view_mm, SHAPE, strict=True))
        rng = np.random.default_rng(1)
        found[name] = make.build_knee(make.draw_knee(rng), SHAPE, spacing_mm, rng), spacing_mm
    return found


@pytest.fixture(scope="module")
def twins():
    """The same knee of A healthy and with each kind; slices lie further apart than they are thick."""
    return {kind: make_subject(3, (16, 48, 48), lesions=(kind,) if kind else ()) for kind in (None, *KINDS)}


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("kind", KINDS)
def test_lesions_take_from_the_tissues_that_they_are_named_after(knees, name, kind):
    tissues, spacing_mm = knees[name]
    before = {n: f.copy() for n, f in tissues.fractions.items()}
    ill, share, there = pathology.inflict(tissues, (kind,), spacing_mm, np.random.default_rng(7))
    assert there == (kind,) and share.dtype == np.float32 and share.min() >= 0 and 0.1 < share.max() <= 1
    assert np.prod(spacing_mm) * share.sum() >= pathology.LEAST_MM3
    # shares stay a partition, and the healthy knee as it was
    assert np.abs(sum(ill.fractions.values()) - 1).max() < 1e-5
    assert min(f.min() for f in ill.fractions.values()) > -1e-6
    assert all(np.array_equal(before[n], tissues.fractions[n]) for n in NAMES)
    # what is lost is the share, and it is lost from these tissues alone
    lost = sum(np.maximum(before[n] - ill.fractions[n], 0) for n in NAMES)
    assert np.allclose(lost, share, atol=1e-5)
    for tissue in set(NAMES) - set(TAKEN[kind]):
        assert (ill.fractions[tissue] - before[tissue]).min() > -1e-6, tissue
    gained = {n for n in NAMES if (ill.fractions[n] - before[n]).max() > 1e-4}
    assert gained <= ({"fluid", "quadriceps_tendon", "cortical_bone"} if kind == "acl_tunnel" else {"fluid"})
    assert np.array_equal(share, pathology.inflict(tissues, (kind,), spacing_mm, np.random.default_rng(7))[1])
    assert not np.array_equal(share, pathology.inflict(tissues, (kind,), spacing_mm, np.random.default_rng(8))[1])


@pytest.mark.parametrize("name", MAKES)
def test_lesions_lie_in_the_bones_that_they_are_named_after(knees, name):
    """Above and below the menisci; a cyst not in bone; a tunnel in both bones."""
    tissues, spacing_mm = knees[name]
    joint = ndimage.center_of_mass(tissues.fractions["meniscus"])[1]
    heights = np.broadcast_to(np.arange(SHAPE[1])[None, :, None], SHAPE)

    def share(kind, seed):
        return pathology.inflict(tissues, (kind,), spacing_mm, np.random.default_rng(seed))[1]

    for seed in range(4):
        above, below = (share(f"oedema_{bone}", seed) for bone in ("femur", "tibia"))
        assert np.average(heights, weights=above) > joint > np.average(heights, weights=below)
        assert 0.1 < above.max() <= 0.9
    bore = share("acl_tunnel", 0) * (tissues.fractions["acl"] < 0.05)
    assert bore[heights > joint + 3].sum() > 0.15 * bore.sum() and bore[heights < joint - 3].sum() > 0.3 * bore.sum()


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "acl_tunnel"])
def test_water_is_bright_in_both_contrasts(kind, twins):
    """Fluid is brighter than what it replaces in CISS and in DESS; in CT it is denser than fat, less than cartilage."""
    healthy, ill = twins[None], twins[kind]
    for scan in ("ciss", "dess"):
        change = np.average(getattr(ill, scan) - getattr(healthy, scan), weights=ill.lesion)
        assert change > 0.04 * np.percentile(getattr(healthy, scan), 99.5), scan
    change = np.average(ill.ct - healthy.ct, weights=ill.lesion)
    denser = kind in ("effusion", "oedema_femur", "oedema_tibia")
    if kind != "cyst":  # fat and muscle, in any mixture
        assert (change > 3) if denser else (change < 0)


def test_oedema_leaves_the_trabeculae(twins):
    """Its voxels would lose hundreds of HU if bone went with the marrow."""
    for kind in ("oedema_femur", "oedema_tibia"):
        assert 0 < np.average(twins[kind].ct - twins[None].ct, weights=twins[kind].lesion) < 60


def test_a_tunnel_has_a_dense_wall(twins):
    change, share = twins["acl_tunnel"].ct - twins[None].ct, twins["acl_tunnel"].lesion
    assert change[share > 0.2].max() > 150 > np.median(change[share > 0.8])


def test_a_twin_differs_in_its_lesions_alone(twins):
    healthy = twins[None]
    assert healthy.lesion.max() == 0 and healthy.participant["lesions"] == ""
    plain = make_subject(3, (16, 48, 48))
    assert plain.lesion is None and "lesions" not in plain.participant
    for scan in ("ciss", "dess", "ct", "labels"):
        assert np.array_equal(getattr(plain, scan), getattr(healthy, scan))
    for kind, ill in twins.items():
        if kind is None:
            continue
        assert ill.participant == {**plain.participant, "lesions": kind}
        far = ndimage.binary_dilation(ill.lesion > 0, iterations=1) == 0
        for scan in ("ciss", "dess", "labels"):
            assert np.array_equal(getattr(ill, scan)[ill.lesion == 0], getattr(healthy, scan)[ill.lesion == 0]), kind
        assert np.allclose(ill.ct[far], healthy.ct[far], atol=0.01)


def test_edges_are_irregular(knees):
    """The solid differs from its ellipsoid by a part of its volume, and keeps the volume about."""
    scene = pathology.Scene(*knees["A"])
    radii = (12, 14, 11)
    smooth, rough = (scene.blob((0, 0, 0), radii, np.random.default_rng(2), r) for r in (0.0, 0.22))
    voxel = np.prod(knees["A"][1])
    assert smooth.sum() * voxel == pytest.approx(4 / 3 * np.pi * np.prod(radii), rel=0.03)
    assert rough.sum() == pytest.approx(smooth.sum(), rel=0.4)
    assert np.abs(rough - smooth).sum() > 0.1 * smooth.sum()


def test_sizes_and_shares_differ(knees):
    tissues, spacing_mm = knees["A"]
    for kind, spread in (("cartilage_defect", 2), ("oedema_tibia", 2), ("cyst", 2.5)):
        shares = [pathology.inflict(tissues, (kind,), spacing_mm, np.random.default_rng(s))[1] for s in range(8)]
        volumes = [float(s.sum()) for s in shares]
        assert max(volumes) > spread * min(volumes), kind
    peaks = [
        pathology.inflict(tissues, ("oedema_femur",), spacing_mm, np.random.default_rng(s))[1].max() for s in range(8)
    ]
    assert max(peaks) > 1.4 * min(peaks)


def test_several_lesions_add_up(knees):
    tissues, spacing_mm = knees["B"]
    kinds = ("oedema_tibia", "meniscus_tear", "cyst")
    ill, share, there = pathology.inflict(tissues, kinds, spacing_mm, np.random.default_rng(3))
    assert there == kinds
    for tissue in ("marrow_epiphysis", "meniscus"):
        assert ill.fractions[tissue].sum() < tissues.fractions[tissue].sum() - 1e-3
    lost = sum(np.maximum(tissues.fractions[n] - ill.fractions[n], 0) for n in NAMES)
    assert np.allclose(share, lost, atol=1e-5)


def test_what_the_field_of_view_lacks_cannot_be_ill():
    shape = (8, 8, 8)
    empty = np.zeros(shape, np.float32)
    tissues = Tissues({n: (empty + 1 if n == "muscle" else empty) for n in NAMES}, empty)
    _, share, there = pathology.inflict(tissues, tuple(KINDS), (4.0, 4.0, 4.0), np.random.default_rng(0))
    assert set(there) == {"muscle_oedema"} and share.max() > 0.1
    with pytest.raises(KeyError, match="gout"):
        pathology.inflict(tissues, ("gout",), (4.0, 4.0, 4.0), np.random.default_rng(0))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_the_rate_is_met(rate):
    for seed in range(5):
        ill = [bool(lesions_of(seed, i, rate)) for i in range(60)]
        assert abs(sum(ill[:10]) - 10 * rate) <= 1.5 and abs(sum(ill) - 60 * rate) <= 2.5
    if 0 < rate < 1:
        assert len({tuple(bool(lesions_of(seed, i, rate)) for i in range(20)) for seed in range(8)}) > 4


def test_kinds_are_drawn():
    """One to four each, no kind twice, every kind about as often; a subject's do not depend on the rate."""
    drawn = [lesions_of(0, i, 1.0) for i in range(400)]
    assert {len(kinds) for kinds in drawn} == {1, 2, 3, 4} and all(len(set(k)) == len(k) for k in drawn)
    counts = np.array([sum(kind in kinds for kinds in drawn) for kind in KINDS])
    assert counts.min() > 0.6 * counts.mean()
    assert all(lesions_of(0, i, 0.5) in ((), drawn[i]) for i in range(50))


def test_a_cohort_with_lesions(tmp_path):
    """Masks and table; scans of the healthy half are those of the cohort without; same seed, same bytes."""
    shape = (12, 36, 36)
    # the one of two processes: bytes do not depend on them
    for name, rate in (("ill", 0.5), ("again", 0.5), ("well", None)):
        write_cohort(tmp_path / name, 4, shape, seed=4, lesion_rate=rate, workers=1 + (name == "again"))
    header, *rows = [line.split("\t") for line in (tmp_path / "ill/participants.tsv").read_text().splitlines()]
    plain = (tmp_path / "well/participants.tsv").read_text().splitlines()
    assert header == [*plain[0].split("\t"), "lesions"] and not (tmp_path / "well/lesions").exists()
    kinds = {row[0]: row[-1].split(",") if row[-1] else [] for row in rows}
    assert sum(bool(k) for k in kinds.values()) == 2 and all(set(k) <= set(KINDS) for k in kinds.values())
    for subject, which in kinds.items():
        image = nib.load(tmp_path / f"ill/lesions/{subject}.nii.gz")
        share = np.asarray(image.dataobj)
        assert image.get_data_dtype() == np.float32 and image.shape == shape and share.max() <= 1
        assert (share.max() > 0.1) if which else (share.max() == 0)
        for scan in ("ciss", "dess", "ct", "labels"):
            files = [(tmp_path / name / scan / f"{subject}.nii.gz").read_bytes() for name in ("ill", "again", "well")]
            assert files[0] == files[1] and (files[0] == files[2]) == (not which)
    index = next(i for i, subject in enumerate(kinds) if kinds[subject])
    ill = make_subject(4, shape, index=index, lesions=lesions_of(4, index, 0.5))
    stored = nib.load(tmp_path / f"ill/lesions/sub-{index + 1:04d}.nii.gz").dataobj
    assert np.allclose(stored, ill.lesion, atol=1e-6)


def test_a_stream_with_lesions_has_healthy_twins():
    ill, twin = (draw_pair(np.random.default_rng(5), (24, 48, 48), lesion_rate=rate) for rate in (1.0, 0.0))
    assert ill.participant["lesions"] and not twin.participant["lesions"] and twin.lesion.max() == 0 < ill.lesion.max()
    plain = draw_pair(np.random.default_rng(5), (24, 48, 48))
    assert np.array_equal(plain.ciss, twin.ciss) and not np.array_equal(plain.ciss, ill.ciss)


@pytest.mark.parametrize("rate", ["-0.1", "1.5", "nan", "inf"])
def test_a_rate_that_is_none_is_one_sentence(rate, tmp_path, capsys):
    arguments = ["phantom", "--out", str(tmp_path / "out"), "--subjects", "1", "--lesions", rate]
    assert data_prep.main(arguments) == 2
    assert capsys.readouterr().err == f"error: --lesions is {rate}; numbers from 0 to 1 are allowed.\n"
    assert not (tmp_path / "out").exists()
