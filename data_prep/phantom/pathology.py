"""Lesions as a cohort of a trial has them: drawn kinds, places, sizes and shares, with irregular edges, in any make.

`draw` says which kinds a person has, `inflict` changes the tissues. Everything is placed by what the tissues are: by
their shares, by pieces of marrow, by distances to bone, cartilage and skin; no coordinate of any make's anatomy stands
here. A lesion is an implicit solid whose surface is moved to and fro by smooth noise; within it a share of a tissue
becomes fluid (or, in a tunnel, a graft). Sizes are engineering choices within the usual range of magnetic resonance
imaging reports, not measurements.

| kind | what becomes what | size (mm) and share |
|---|---|---|
| cartilage_defect | the outer 50 to 100 % of the cartilage of one bone: fluid | radius 3 to 8 |
| cartilage_thinning | the outer 35 to 75 % over a wide field: fluid | radius 11 to 20 |
| effusion | fat around the joint's fluid: fluid | 1 to 3.5 thicker on average |
| oedema_femur, oedema_tibia | 20 to 60 %, unevenly, of marrow near cartilage: water; trabeculae stay | radius 6 to 15 |
| acl_tear, pcl_tear | 75 to 100 % of the fibres of a gap, or 30 to 60 % of a stretch; swelling: fluid | radius 4 to 9 |
| meniscus_tear | a sheet through it, upright, lying or oblique, or a frayed part: fluid | 1.2 to 2.5 thick |
| muscle_oedema | 15 to 45 %, unevenly, of a stretch of muscle, along its fibres: fluid | 8 to 16 wide, 15 to 35 long |
| cyst | behind the joint (Baker's) or beside ligaments and menisci (a ganglion): lobes of fluid | radius 3 to 18 |
| acl_tunnel | tunnels of 8 to 10 mm from the ligament's ends through tibia and femur: graft, fluid, a dense wall | |
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data_prep.phantom.anatomy import Tissues
from data_prep.phantom.fields import smooth_field, smooth_noise
from data_prep.phantom.solids import ramp, realise, tube

CARTILAGE = ("cartilage_deep", "cartilage_superficial")
MARROW = ("marrow_epiphysis", "marrow_shaft")
FAT = ("subcutaneous_fat", "hoffa_fat")
LEAST_MM3 = 15.0  # what is smaller than this was not hit, and is tried elsewhere
TRIES = 4
GOLDEN = (np.sqrt(5) - 1) / 2


class NowhereError(ValueError):
    """The field of view has no place for a lesion of this kind."""


def has_lesions(seed: int, index: int, rate: float) -> bool:
    """Return whether subject `index` of the cohort of `seed` is one of the share `rate` that has lesions.

    The numbers index * golden ratio + a number of the seed, modulo 1, are as even as can be: of N subjects in a row the
    share differs from the rate by little more than 1 / N, although nobody depends on N.
    """
    start = np.random.default_rng(np.random.SeedSequence([seed], spawn_key=(2, 1))).random()
    return (start + index * GOLDEN) % 1 < rate


def draw(rng: np.random.Generator) -> tuple[str, ...]:
    """Return the kinds of one person with lesions: one to four of `KINDS`, in the order in which they are tried."""
    order = rng.permutation(list(KINDS))
    return tuple(str(kind) for kind in order[: int(rng.choice((1, 2, 3, 4), p=(0.3, 0.3, 0.25, 0.15)))])


def inflict(
    tissues: Tissues, kinds: Sequence[str], spacing_mm: Sequence[float], rng: np.random.Generator
) -> tuple[Tissues, np.ndarray, tuple[str, ...]]:
    """Change the tissues of a knee.

    Args:
        tissues: of the healthy knee; left as they are.
        kinds: keys of `KINDS`; those that the field of view has no place for are left out.
        spacing_mm: (depth, height, width).
        rng: of places, sizes, shares and edges; each kind has its own generator.

    Returns:
        The knee with its lesions; the share of each voxel that changed, float32 (depth, height, width) from 0 to 1;
        and the kinds that it has now.

    Raises:
        KeyError: there is no such kind.
    """
    scene = Scene(tissues, spacing_mm)
    there = []
    for kind, own in zip(kinds, rng.spawn(len(kinds)), strict=True):
        for _ in range(TRIES):
            trial = scene.copy()
            try:
                KINDS[kind](trial, own)
            except NowhereError:
                break
            if np.prod(spacing_mm) * trial.difference(scene).sum() >= LEAST_MM3:
                scene = trial
                there.append(kind)
                break
    return scene.tissues(), np.clip(scene.difference(Scene(tissues, spacing_mm)), 0, 1), tuple(there)


class Scene:
    """Tissues that are being changed, with what lesions are placed by; the landmarks are those of the healthy knee."""

    def __init__(self, tissues: Tissues, spacing_mm: Sequence[float]) -> None:
        self._healthy, self.spacing_mm = tissues, tuple(float(s) for s in spacing_mm)
        self.shape = tissues.bone_volume.shape
        self.fractions = dict(tissues.fractions)
        self.wet_marrow = np.zeros(self.shape, np.float32) if tissues.wet_marrow is None else tissues.wet_marrow
        self.everything = tuple(slice(0, n) for n in self.shape)
        self.points = tuple(
            ((np.arange(n) - (n - 1) / 2) * s).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
            for axis, (n, s) in enumerate(zip(self.shape, self.spacing_mm, strict=True))
        )

    def copy(self) -> Scene:
        """Return the same, to be changed on trial; landmarks that were computed are shared."""
        other = Scene.__new__(Scene)
        other.__dict__.update(self.__dict__)
        other.fractions = dict(self.fractions)
        return other

    def tissues(self) -> Tissues:
        """Return what has become of the knee."""
        return dataclasses.replace(self._healthy, fractions=self.fractions, wet_marrow=self.wet_marrow)

    def difference(self, other: Scene) -> np.ndarray:
        """Return the share of each voxel in which two scenes differ."""
        changed = [name for name, f in self.fractions.items() if f is not other.fractions[name]]
        total = sum((np.abs(self.fractions[name] - other.fractions[name]) for name in changed), start=np.float32(0))
        return np.broadcast_to(np.float32(0.5) * total, self.shape).astype(np.float32)

    # --- where things are ---

    def amount(self, *names: str) -> np.ndarray:
        """Return what tissues have of each voxel, in the healthy knee."""
        return sum(self._healthy.fractions[name] for name in names)

    @functools.cached_property
    def bones(self) -> dict[str, np.ndarray]:
        """Return the marrow of "femur", "tibia" and "patella": the largest pieces above, below and in front of the
        joint.
        """
        pieces, count = ndimage.label(self.amount(*MARROW) > 0.5)
        if not count:
            return {}
        number = np.arange(1, count + 1)
        sizes = ndimage.sum_labels(np.ones(self.shape, np.float32), pieces, number)
        heights = np.array(ndimage.center_of_mass(pieces > 0, pieces, number))[:, 1]
        level = self._index_of_joint()[1]
        found = {}
        for name, where in (("femur", heights > level), ("tibia", heights <= level)):
            if where.any():
                found[name] = pieces == number[where][np.argmax(sizes[where])]
        return found

    def _index_of_joint(self) -> np.ndarray:
        menisci = self.amount("meniscus")
        if menisci.sum() < 1:
            raise NowhereError
        return np.array(ndimage.center_of_mass(menisci))

    @functools.cached_property
    def joint_mm(self) -> np.ndarray:
        """Return the middle of the menisci."""
        index = self._index_of_joint()
        return (index - (np.array(self.shape) - 1) / 2) * self.spacing_mm

    def bone(self, name: str) -> np.ndarray:
        """Return the marrow of one bone; `NowhereError` if it is out of the field of view."""
        if name not in self.bones:
            raise NowhereError
        return self.bones[name]

    def away_from(self, there: np.ndarray) -> np.ndarray:
        """Return the distance of each voxel from the nearest one where `there` holds, mm."""
        if not there.any():
            raise NowhereError
        return ndimage.distance_transform_edt(~there, sampling=self.spacing_mm).astype(np.float32)

    @functools.cached_property
    def depth_mm(self) -> np.ndarray:
        """Return how deep each voxel lies under the skin, mm; the border of the field of view counts as inside."""
        air = self.amount("air") > 0.5
        return self.away_from(air) if air.any() else np.full(self.shape, 50, np.float32)

    def place(self, likely: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a point (mm) in a voxel drawn by weights; voxels under half the largest weight are left out."""
        likely = np.where(likely > 0.5 * likely.max(), likely, 0).astype(np.float64).ravel()
        if likely.sum() <= 1e-6:
            raise NowhereError
        index = np.array(np.unravel_index(rng.choice(likely.size, p=likely / likely.sum()), self.shape))
        return (index - (np.array(self.shape) - 1) / 2 + rng.uniform(-0.4, 0.4, 3)) * self.spacing_mm

    # --- shapes ---

    def rough(self, rng: np.random.Generator) -> np.ndarray:
        """Draw smooth noise of unit SD with features of about 8 mm: what makes edges irregular."""
        return smooth_field(rng, self.shape, self.spacing_mm, (14, 20, 20))

    def blob(self, centre, radii, rng: np.random.Generator, rough: float = 0.22, soft_mm: float = 0.0) -> np.ndarray:
        """Return the share of each voxel in a turned ellipsoid (radii in mm, the second along the leg) with an
        irregular edge.

        `soft_mm` is the width over which it fades out; 0 for a sharp edge, which only the voxels blur.
        """
        tilt = np.deg2rad(rng.uniform(-25, 25))
        x, y, z = (p - np.float32(c) for p, c in zip(self.points, centre, strict=True))
        y, z = (
            np.float32(np.cos(tilt)) * y - np.float32(np.sin(tilt)) * z,
            np.float32(np.sin(tilt)) * y + np.float32(np.cos(tilt)) * z,
        )
        length = np.sqrt(sum((v * np.float32(1 / r)) ** 2 for v, r in zip((x, y, z), radii, strict=True)))
        least = np.float32(min(radii))
        field = least * (length - 1 + np.float32(rough) * self.rough(rng))
        if soft_mm:
            return np.clip(np.float32(0.5) - field / np.float32(soft_mm), 0, 1)
        return realise(self.everything, field.astype(np.float32), self.spacing_mm).cover()

    # --- changes ---

    def turn(self, names: Sequence[str], share: np.ndarray, into: dict[str, float] | None = None) -> np.ndarray:
        """A share of each of some tissues becomes fluid, or the mixture `into`; returns how much of a voxel that is."""
        moved = np.zeros(self.shape, np.float32)
        share = share.astype(np.float32)
        for name in names:
            part = share * self.fractions[name]
            moved += part
            self.fractions[name] = self.fractions[name] - part
        for name, weight in (into or {"fluid": 1.0}).items():
            self.fractions[name] = self.fractions[name] + np.float32(weight) * moved
        return moved


def _uniform(rng, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


# --- cartilage and fluid ---


def _of_one_bone(scene: Scene, centre) -> np.ndarray:
    """Voxels nearest to the bone that a point is nearest to: the cartilage opposite stays."""
    bony = scene.amount(*MARROW) > 0.5
    pieces, _ = ndimage.label(bony)
    if not bony.any():
        raise NowhereError
    nearest = ndimage.distance_transform_edt(~bony, scene.spacing_mm, return_distances=False, return_indices=True)
    owner = pieces[tuple(nearest)]
    index = np.clip(np.rint(centre / scene.spacing_mm + (np.array(scene.shape) - 1) / 2), 0, np.array(scene.shape) - 1)
    return owner == owner[tuple(index.astype(int))]


def _wear(scene: Scene, field, centre, part: float) -> None:
    """The outer part of the cartilage within a field becomes fluid; the layers' shares say how deep a voxel lies."""
    deep, superficial = (scene.amount(name) for name in CARTILAGE)
    depth = superficial / np.maximum(deep + superficial, np.float32(1e-3))
    outer = ramp(depth, 1 - part - 0.25, 1 - part + 0.25)
    scene.turn(CARTILAGE, field * outer * _of_one_bone(scene, centre))


def _cartilage_defect(scene: Scene, rng) -> None:
    centre, radius = scene.place(scene.amount(*CARTILAGE) ** 2, rng), _uniform(rng, 3, 8)
    field = scene.blob(centre, [radius * _uniform(rng, 0.8, 1.25) for _ in range(3)], rng)
    _wear(scene, field, centre, _uniform(rng, 0.5, 1.25))


def _cartilage_thinning(scene: Scene, rng) -> None:
    centre, radius = scene.place(scene.amount(*CARTILAGE) ** 2, rng), _uniform(rng, 11, 20)
    field = scene.blob(centre, [radius] * 3, rng, soft_mm=4.0)
    _wear(scene, field, centre, _uniform(rng, 0.35, 0.75))


def _effusion(scene: Scene, rng) -> None:
    """Joint fluid pushes fat aside: where cartilage, menisci or the pouch are near, not under the skin."""
    wet = (scene.amount("fluid") > 0.25) & (scene.depth_mm > 5)
    away = scene.away_from(wet)
    recess = scene.away_from(scene.amount(*CARTILAGE) > 0.3) < 45
    # more in one recess than in another
    uneven = smooth_field(rng, scene.shape, scene.spacing_mm, (5, 6, 6))
    grown = _uniform(rng, 1.0, 3.5) * np.clip(1 + 0.6 * uneven + 0.3 * scene.rough(rng), 0, 2.5)
    width = np.float32(max(1.5, scene.spacing_mm[1], 0.6 * scene.spacing_mm[0]))
    share = np.clip(0.5 - (away - grown) / width, 0, 1) * ramp(scene.depth_mm, 4, 8) * recess
    scene.turn((*FAT, "fascia"), share)


# --- bone ---


def _oedema(name: str, scene: Scene, rng) -> None:
    marrow = scene.bone(name)
    near = 1 - ramp(scene.away_from(scene.amount(*CARTILAGE) > 0.3), 4, 14)
    centre = scene.place(scene.amount("marrow_epiphysis") * marrow * near, rng)
    radius = _uniform(rng, 6, 15)
    field = scene.blob(centre, [radius * _uniform(rng, 0.7, 1.2) for _ in range(3)], rng, 0.3, soft_mm=4.0)
    patchy = np.clip(1 + 0.2 * scene.rough(rng), 0.5, 1.5)
    # of this bone alone, and its border, whose voxels it shares
    share = np.clip(_uniform(rng, 0.2, 0.6) * field * patchy, 0, 0.9) * ndimage.binary_dilation(marrow)
    scene.wet_marrow = scene.wet_marrow + scene.turn(MARROW, share)


# --- ligaments, menisci, muscle ---


def _ligament_tear(name: str, scene: Scene, rng) -> None:
    centre = scene.place(scene.amount(name) ** 2, rng)
    if rng.random() < 0.6:  # a gap
        radius, share = _uniform(rng, 4, 7), _uniform(rng, 0.75, 1.0)
    else:  # a sprain: fibres swollen by water
        radius, share = _uniform(rng, 6, 9), _uniform(rng, 0.3, 0.6)
    radii = [radius * _uniform(rng, 0.9, 1.2) for _ in range(3)]
    field = scene.blob(centre, radii, rng, 0.35)
    scene.turn((name,), share * field)
    around = scene.blob(centre, [r + 1.5 for r in radii], rng, 0.35) * (scene.away_from(scene.amount(name) > 0.4) < 3.5)
    scene.turn(FAT, 0.45 * share * around)


def _meniscus_tear(scene: Scene, rng) -> None:
    centre = scene.place(scene.amount("meniscus") ** 2, rng)
    if rng.random() < 0.25:
        share = _uniform(rng, 0.3, 0.6) * scene.blob(centre, [_uniform(rng, 4, 7)] * 3, rng)
    else:
        around, tilt = _uniform(rng, 0, 2 * np.pi), np.deg2rad(rng.choice((0.0, 45.0, 90.0)) + rng.normal(0, 12))
        normal = (np.cos(tilt) * np.cos(around), np.sin(tilt), np.cos(tilt) * np.sin(around))
        off = sum(np.float32(n) * (p - np.float32(c)) for n, p, c in zip(normal, scene.points, centre, strict=True))
        sheet = realise(scene.everything, off + np.float32(0.6) * scene.rough(rng), scene.spacing_mm)
        reach = scene.blob(centre, [_uniform(rng, 6, 12)] * 3, rng)
        share = _uniform(rng, 0.75, 1.0) * sheet.sheet(np.float32(_uniform(rng, 0.6, 1.25))) * reach
    scene.turn(("meniscus",), share)


def _muscle_oedema(scene: Scene, rng) -> None:
    centre = scene.place(scene.amount("muscle") ** 2 * (scene.depth_mm > 8), rng)
    wide = _uniform(rng, 8, 16)
    field = scene.blob(centre, [wide, _uniform(rng, 15, 35), wide * _uniform(rng, 0.7, 1.1)], rng, 0.3, soft_mm=5.0)
    streaks = smooth_noise(rng, scene.shape, np.array((1.5, 8.0, 1.5)) / scene.spacing_mm)
    share = _uniform(rng, 0.15, 0.45) * field * np.clip(1 + 0.4 * streaks, 0.2, 1.8)
    scene.turn(("muscle",), np.clip(share, 0, 0.9))


# --- cysts and tunnels ---


def _cyst(scene: Scene, rng) -> None:
    bony = scene.amount("cortical_bone", *MARROW) > 0.5
    from_bone = scene.away_from(bony)
    soft = scene.amount("muscle", *FAT)
    if rng.random() < 0.6:  # behind the joint, to one side of the vessels
        x, y, z = (p - np.float32(c) for p, c in zip(scene.points, scene.joint_mm, strict=True))
        likely = soft * (scene.depth_mm > 9) * (from_bone > 4) * (from_bone < 16)
        likely = likely * ((z < -20) & (np.abs(y) < 25) & (np.abs(x) > 7) & (np.abs(x) < 30))
        radii = np.array([_uniform(rng, 5, 10), _uniform(rng, 9, 18), _uniform(rng, 5, 8)])
    else:  # a ganglion: in the fat beside ligaments and menisci
        near = scene.away_from(scene.amount("acl", "pcl", "meniscus") > 0.4)
        likely = scene.amount(*FAT) * (near < 8) * (scene.depth_mm > 9)
        radii = np.array([_uniform(rng, 3, 6) for _ in range(3)])
    centre = scene.place(likely, rng)
    lobes = [scene.blob(centre, radii, rng, 0.15)]
    for _ in range(int(rng.integers(1, 4))):
        beside = centre + rng.normal(0, 0.6, 3) * radii
        lobes.append(scene.blob(beside, radii * rng.uniform(0.4, 0.8, 3), rng, 0.15))
    share = np.max(lobes, axis=0) * ramp(from_bone, 0.5, 2.0) * ramp(scene.depth_mm, 3, 5)
    scene.turn((*FAT, "muscle", "fascia"), share)


def _ends(scene: Scene, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a ligament begins and ends (mm): the means of its lowest and of its highest tenth."""
    index = np.argwhere(scene.amount(name) > 0.5)
    if len(index) < 5:
        raise NowhereError
    places = (index - (np.array(scene.shape) - 1) / 2) * scene.spacing_mm
    low, high = np.percentile(places[:, 1], (10, 90))
    return places[places[:, 1] <= low].mean(axis=0), places[places[:, 1] >= high].mean(axis=0)


def _acl_tunnel(scene: Scene, rng) -> None:
    """As after a replacement of the ligament: it is a graft now, fixed in tunnels through both bones."""
    low, high = _ends(scene, "acl")
    radius, graft = _uniform(rng, 4.0, 5.0), _uniform(rng, 0.5, 0.85)
    side = np.sign(high[0] - low[0]) or 1.0
    mixture = {"quadriceps_tendon": graft, "fluid": 1 - graft}
    for name, start, direction, length in (
        # down to the front and inner side of the tibia; up to the outer side of the femur
        ("tibia", low, (-0.3 * side, -1.0, 0.35), _uniform(rng, 38, 48)),
        ("femur", high, (0.75 * side, 0.8, -0.1), _uniform(rng, 26, 34)),
    ):
        bone = ndimage.binary_dilation(scene.bone(name), iterations=2)
        way = np.array(direction) + rng.normal(0, 0.08, 3)
        end = start + length * way / np.linalg.norm(way)
        field = tube(scene.points, [start - 2 * way, end], [radius, radius]) + np.float32(0.3) * scene.rough(rng)
        bore = realise(scene.everything, field.astype(np.float32), scene.spacing_mm)
        inside, wall = bore.cover() * bone, bore.sheet(np.float32(0.5), np.float32(0.5)) * bone
        scene.turn(MARROW, wall, {"cortical_bone": 1.0})
        scene.turn((*MARROW, "cortical_bone"), inside, mixture)
        scene.wet_marrow = scene.wet_marrow * (1 - inside)
    scene.turn(("acl",), np.full(scene.shape, _uniform(rng, 0.6, 0.9), np.float32), {"quadriceps_tendon": 1.0})


KINDS = {
    "cartilage_defect": _cartilage_defect,
    "cartilage_thinning": _cartilage_thinning,
    "effusion": _effusion,
    "oedema_femur": functools.partial(_oedema, "femur"),
    "oedema_tibia": functools.partial(_oedema, "tibia"),
    "acl_tear": functools.partial(_ligament_tear, "acl"),
    "pcl_tear": functools.partial(_ligament_tear, "pcl"),
    "meniscus_tear": _meniscus_tear,
    "muscle_oedema": _muscle_oedema,
    "cyst": _cyst,
    "acl_tunnel": _acl_tunnel,
}
