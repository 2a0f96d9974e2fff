"""The digital knee's anatomy by value: fractions, volumes, neighbourhoods, sides and variation."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from data_prep.phantom import anatomy
from data_prep.phantom.anatomy import NAMES, Anatomy
from data_prep.phantom.fields import EXTENT_MM, smooth_field, smooth_noise

BONE = ("cortical_bone", "marrow_shaft", "marrow_epiphysis")
CARTILAGE = ("cartilage_deep", "cartilage_superficial")


def grid(shape):
    return tuple(f / n for f, n in zip((96.0, 140.0, 140.0), shape, strict=True))


def mask(labels, *names):
    return np.isin(labels, [NAMES.index(name) for name in names])


def distance_mm(inside, spacing_mm):
    """Distance of every voxel to the nearest one inside."""
    return ndimage.distance_transform_edt(~inside, sampling=spacing_mm)


@pytest.fixture(scope="module")
def usual():
    """The mean knee, unwarped, over the whole field of view."""
    shape = (48, 96, 96)
    tissues = anatomy.build(Anatomy(warp_mm=0.0), shape, grid(shape), np.random.default_rng(0))
    return tissues, tissues.labels(), grid(shape)


@pytest.fixture(scope="module")
def close():
    """The joint of the mean knee at 1 x 0.6 x 0.6 mm, where thin structures are whole voxels."""
    shape, spacing_mm = (84, 120, 140), (1.0, 0.6, 0.6)
    tissues = anatomy.build(Anatomy(warp_mm=0.0), shape, spacing_mm, np.random.default_rng(0))
    return tissues, tissues.labels(), spacing_mm


@pytest.mark.parametrize("seed", range(4))
def test_fractions_are_a_partition(seed):
    rng = np.random.default_rng(seed)
    shape = (20, 40, 44)
    tissues = anatomy.build(anatomy.draw(rng), shape, grid(shape), rng)
    stack = np.stack(list(tissues.fractions.values()))
    assert tuple(tissues.fractions) == NAMES and stack.shape == (len(NAMES), *shape) and stack.dtype == np.float32
    assert stack.min() >= -1e-6 and stack.max() <= 1 + 1e-6
    assert np.abs(stack.sum(axis=0) - 1).max() < 1e-5
    assert tissues.bone_volume.min() >= 0.05 and tissues.bone_volume.max() <= 0.4
    # partial volume: a boundary is no staircase
    assert ((stack > 0.1) & (stack < 0.9)).any(axis=0).mean() > 0.05


@pytest.mark.parametrize(
    ("names", "low", "high"),
    [  # ml in a field of view of 96 x 140 x 140 mm; wide bounds around what studies of adults report
        (BONE, 220, 420),
        (("cortical_bone",), 25, 70),
        (CARTILAGE, 15, 32),
        (("meniscus",), 4, 9),
        (("acl",), 1, 3.5),
        (("pcl",), 1.5, 4.5),
        (("patellar_tendon",), 4, 12),
        (("quadriceps_tendon",), 3, 12),
        (("fluid",), 2, 12),
        (("hoffa_fat",), 20, 65),
        (("vessel",), 5, 20),
        (("muscle",), 200, 450),
        (("skin",), 25, 70),
        (("subcutaneous_fat",), 300, 700),
    ],
)
def test_volumes(usual, names, low, high):
    tissues, _, spacing_mm = usual
    assert low < sum(tissues.fractions[n].sum() for n in names) * np.prod(spacing_mm) / 1e3 < high


def test_every_tissue_is_there(usual):
    assert set(np.unique(usual[1])) == set(range(len(NAMES)))


def test_bones_by_size(close):
    """Bicondylar width 68 to 84 mm; condyle and plateau 50 to 72 and 40 to 58 mm from front to back; a gap between."""
    _, labels, (x_mm, y_mm, z_mm) = close
    bone = mask(labels, *BONE)
    middle = labels.shape[1] // 2
    across = bone[:, middle + round(12 / y_mm)].any(axis=1).sum() * x_mm
    assert 68 < across < 84
    for offset_mm, low, high in ((12, 50, 72), (-20, 40, 58)):
        line = bone[labels.shape[0] // 2 + round(22 / x_mm), middle + round(offset_mm / y_mm)]
        behind_patella = line[: round(72 / z_mm)]
        assert low < behind_patella.sum() * z_mm < high
    # along a vertical through the lateral compartment: bone, cartilage (no bone) of 2.5 to 8 mm, bone
    column = bone[labels.shape[0] // 2 + round(21 / x_mm), :, labels.shape[2] // 2 - round(5 / z_mm)]
    runs = np.flatnonzero(np.diff(column.astype(int)))
    assert len(runs) >= 2
    gap = np.diff(runs).min() * y_mm
    assert 2.5 < gap < 8


def test_shaft_and_cortex(usual):
    """At the top of the field of view the femur is a tube of about 30 to 40 mm with a cortex of 2 to 5 mm."""
    _, labels, (x_mm, _, z_mm) = usual
    level = labels[:, -4]
    bone, marrow = mask(level, *BONE), mask(level, "marrow_shaft", "marrow_epiphysis")
    assert 28 < bone.any(axis=1).sum() * x_mm < 44
    assert 24 < bone.any(axis=0).sum() * z_mm < 36
    wall = 2 * bone.sum() * x_mm * z_mm - 2 * marrow.sum() * x_mm * z_mm
    perimeter = np.pi * np.sqrt(4 * bone.sum() * x_mm * z_mm / np.pi)
    assert 2.0 < wall / (2 * perimeter) < 5.0


@pytest.mark.parametrize(
    ("cortex_mm", "enclosed"), [((0.9, 3.2), 0.985), pytest.param((1.8, 3.2), 0.9995, marks=pytest.mark.slow)]
)
def test_cortex_encloses_marrow(close, cortex_mm, enclosed):
    """What touches marrow is marrow, cortex or the end of the picture.

    A plate of 0.9 mm that faces sideways can be the lesser part of a slice of 1 mm; one of 1.8 mm cannot.
    """
    labels = close[1]
    if cortex_mm[0] > 1:
        knee = Anatomy(warp_mm=0.0, cortex_mm=cortex_mm)
        labels = anatomy.build(knee, labels.shape, close[2], np.random.default_rng(0)).labels()
    marrow = mask(labels, "marrow_shaft", "marrow_epiphysis")
    shell = ndimage.binary_dilation(marrow) & ~marrow
    assert marrow.sum() > 1e5
    assert mask(labels, "cortical_bone")[shell].mean() > enclosed


def test_cartilage_lies_on_bone(close):
    _, labels, spacing_mm = close
    away = distance_mm(mask(labels, *BONE), spacing_mm)[mask(labels, *CARTILAGE)]
    assert np.percentile(away, 99) < 4.2
    assert 0.6 < np.median(away) < 2.0
    deep = distance_mm(mask(labels, *BONE), spacing_mm)[mask(labels, "cartilage_deep")].mean()
    superficial = distance_mm(mask(labels, *BONE), spacing_mm)[mask(labels, "cartilage_superficial")].mean()
    assert superficial > deep + 0.6


def test_menisci_are_wedges_between_the_cartilages(close):
    """On each side, between femur and tibia, taller at the rim than towards the middle."""
    _, labels, (x_mm, y_mm, z_mm) = close
    meniscus = mask(labels, "meniscus")
    half = labels.shape[0] // 2
    left, right = meniscus[:half].sum(), meniscus[half:].sum()
    assert 0.6 < left / right < 1.6
    for slice_ in (half - round(21 / x_mm), half + round(21 / x_mm)):
        height_mm = meniscus[slice_].sum(axis=0) * y_mm
        where = np.flatnonzero(height_mm)
        # two triangles with a gap between them: the horns
        gap = np.diff(where).max() * z_mm
        assert gap > 8
        back = height_mm[where[0] : where[np.argmax(np.diff(where))] + 1]
        thirds = [part.mean() for part in np.array_split(back, 3)]
        assert thirds[0] > thirds[1] > thirds[2]
        assert 4 < height_mm.max() < 11


def test_cruciate_ligaments_join_the_bones(close):
    _, labels, spacing_mm = close
    bone = mask(labels, *BONE)
    parts, _ = ndimage.label(ndimage.binary_erosion(bone))
    centre = [n // 2 for n in labels.shape]
    column = parts[centre[0] + 21, :, centre[2] - 8]
    femur = parts == np.bincount(column[round(70 / 0.6) - 10 :][column[round(70 / 0.6) - 10 :] > 0]).argmax()
    tibia = parts == np.bincount(column[: round(18 / 0.6)][column[: round(18 / 0.6)] > 0]).argmax()
    assert femur.sum() > 1e5 and tibia.sum() > 3e4 and not (femur & tibia).any()
    for name in ("acl", "pcl"):
        ligament = mask(labels, name)
        for part in (femur, tibia):
            assert distance_mm(part, spacing_mm)[ligament].min() < 3.0, name
        # it runs between them: its middle is higher than the plateau and lower than the roof of the notch
        x, y, z = (np.nonzero(ligament)[i] * spacing_mm[i] for i in range(3))
        assert np.ptp(y) > 18
        # the upper end of the anterior ligament lies at the back and lateral, of the posterior in front and medial
        upper, lower = y > np.percentile(y, 85), y < np.percentile(y, 15)
        backwards = z[lower].mean() - z[upper].mean()
        sideways = x[upper].mean() - x[lower].mean()
        assert (backwards > 10 and sideways > 4) if name == "acl" else (backwards < -5 and sideways < -2)


def test_extensor_mechanism_is_continuous(usual):
    """Quadriceps tendon, patella and patellar tendon form one piece that ends on the tibia."""
    _, labels, spacing_mm = usual
    front = np.zeros(labels.shape, bool)
    front[:, :, labels.shape[2] // 2 + round(18 / spacing_mm[2]) :] = True
    tendons = mask(labels, "quadriceps_tendon", "patellar_tendon")
    chain = (tendons | (mask(labels, *BONE) & front)) & ~mask(labels, "air")
    parts, _ = ndimage.label(chain, np.ones((3, 3, 3)))
    quadriceps, patellar = mask(labels, "quadriceps_tendon"), mask(labels, "patellar_tendon")
    piece = np.bincount(parts[patellar]).argmax()
    assert (parts[patellar] == piece).mean() > 0.98
    assert (parts[quadriceps] == piece).mean() > 0.9
    tendon_y = np.nonzero(patellar)[1] * spacing_mm[1]
    assert 35 < np.ptp(tendon_y) < 75
    lowest = patellar & (np.arange(labels.shape[1])[:, None] * spacing_mm[1] < tendon_y.min() + 6)
    assert distance_mm(mask(labels, *BONE), spacing_mm)[lowest].min() < 3


def test_axes_grow_to_the_right_up_and_forward(usual):
    """A right knee: the fibula is below and towards the right, the patella is in front, the thigh has the femur."""
    _, labels, (x_mm, y_mm, z_mm) = usual
    d, h, w = labels.shape
    bone = mask(labels, *BONE)
    low = bone[:, : round(25 / y_mm)]
    assert low[d // 2 + round(28 / x_mm) :].sum() > 50
    assert low[: d // 2 - round(28 / x_mm)].sum() == 0
    assert bone[d // 2, h // 2 + round(24 / y_mm), w // 2 + round(37 / z_mm)]
    assert mask(labels, "air")[:, :, -1].mean() > 0.9
    assert mask(labels, "patellar_tendon").nonzero()[2].mean() > mask(labels, "vessel").nonzero()[2].mean()


def test_sides_are_mirror_images():
    """Without warp and rotation, bone of a left knee is the flipped bone of a right one."""
    shape = (24, 48, 48)
    knees = {}
    for side in ("right", "left"):
        knee = Anatomy(side=side, warp_mm=0.0)
        knees[side] = anatomy.build(knee, shape, grid(shape), np.random.default_rng(0)).fractions
    for name in ("cortical_bone", "meniscus", "acl", "patellar_tendon", "air"):
        assert np.allclose(knees["right"][name], knees["left"][name][::-1], atol=1e-3), name
    assert not np.allclose(knees["right"]["acl"], knees["left"]["acl"], atol=0.1)


def test_anatomy_does_not_depend_on_the_grid():
    """Volumes of a random knee on two grids agree; only textures are drawn voxel by voxel."""
    knee = anatomy.draw(np.random.default_rng(7))
    volumes = []
    for shape in ((32, 64, 64), (48, 96, 96)):
        tissues = anatomy.build(knee, shape, grid(shape), np.random.default_rng(7))
        volumes.append({n: float(f.sum() * np.prod(grid(shape))) for n, f in tissues.fractions.items()})
    for name in NAMES:
        tolerance = 0.15 if name in ("fluid", "fascia", "vessel") else 0.05
        assert volumes[0][name] == pytest.approx(volumes[1][name], rel=tolerance), name


def test_flexion_turns_the_thigh_alone():
    shape = (24, 64, 64)
    straight, bent = (
        anatomy.build(Anatomy(warp_mm=0.0, flexion_deg=f), shape, grid(shape), np.random.default_rng(0)).labels()
        for f in (0.0, 15.0)
    )
    below = slice(0, 18)
    bones = [mask(labels, *BONE) for labels in (straight, bent)]
    assert (bones[0][:, below] == bones[1][:, below]).mean() > 0.999
    # the femur leans back: its centre at the top moves to the back
    tops = [np.nonzero(b[:, -3])[1].mean() * grid(shape)[2] for b in bones]
    assert tops[0] - tops[1] > 10


def test_drawn_knees_stay_in_range_and_differ():
    knees = [anatomy.draw(np.random.default_rng(seed)) for seed in range(300)]
    assert len({dataclasses.astuple(k) for k in knees}) == 300
    assert {k.side for k in knees} == {"right", "left"}
    scale = np.array([k.scale for k in knees])
    assert np.exp(-0.111) <= scale.min() and scale.max() <= np.exp(0.111) and scale.mean(axis=1).std() > 0.02
    for name, limit in (("rotation_deg", 6), ("translation_mm", 5)):
        values = np.array([getattr(k, name) for k in knees])
        assert np.abs(values).max() <= limit and values.std() > limit / 3
    flexion = np.array([k.flexion_deg for k in knees])
    assert flexion.min() >= 0 and flexion.max() <= 16 and flexion.std() > 2.5


def test_smooth_field_is_a_function_of_place():
    """The same generator gives the same field on two grids, of unit SD over many draws, and constant beyond."""
    coarse = smooth_field(np.random.default_rng(0), (8, 20, 20), (12.0, 7.0, 7.0), (4, 5, 5))
    fine = smooth_field(np.random.default_rng(0), (24, 60, 60), (4.0, 7 / 3, 7 / 3), (4, 5, 5))
    assert np.allclose(coarse, fine[1::3, 1::3, 1::3], atol=1e-4)
    rng = np.random.default_rng(1)
    spacing = [e / 40 for e in EXTENT_MM]
    draws = np.stack([smooth_field(rng, (40, 40, 40), spacing, (4, 5, 5)) for _ in range(60)])
    assert draws.std() == pytest.approx(1, abs=0.05) and abs(draws.mean()) < 0.1
    wide = smooth_field(rng, (40, 4, 4), (12.0, 35.0, 35.0), (4, 5, 5))
    assert np.allclose(wide[0], wide[10], atol=1e-5) and not np.allclose(wide[15], wide[20], atol=0.01)


def test_smooth_noise_has_unit_spread_and_correlates():
    noise = smooth_noise(np.random.default_rng(0), (40, 60, 60), (0.0, 2.0, 2.0))
    assert noise.std() == pytest.approx(1, abs=1e-3)
    beside = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    through = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    # white noise through a Gaussian of SD s has the autocorrelation exp(-d^2 / 4 s^2)
    assert beside == pytest.approx(np.exp(-1 / 16), abs=0.03) and abs(through) < 0.05
