"""Random sagittal knees as fractional tissue maps.

Knee coordinates are millimetres: x lateral, y superior, z anterior, with the origin in the middle of the joint. Every
structure is a signed distance (negative inside), so that a boundary is anti-aliased by clipping the distance to the
width of a sub-voxel. In the plane of the slices the distances are evaluated at twice the resolution of the scan and
averaged; through the plane the scanner applies its own slice profile. Structures are painted from the innermost
outwards and each takes only what is still free, so the fractions add up to one: marrow is painted before the bone that
encloses it, and what is left of the bone is its cortical shell.

Proportions follow common anatomical knowledge (bicondylar width about 75 mm, condyles of 20 to 25 mm radius, cartilage
of 2 to 3 mm, patella 40 mm tall and 19 mm thick); they are engineering choices, not measurements.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep.phantom.fields import smooth_field, smooth_noise
from data_prep.phantom.signals import TISSUES

FINE = 2  # sub-voxels per voxel in the plane of the slices
NAMES = tuple(TISSUES)
Box = tuple[slice, slice, slice]


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Everything that makes one knee differ from another. Lengths in mm, angles in degrees, ratios around 1."""

    side: str = "right"
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flexion_deg: float = 8.0
    condyle: tuple[float, float] = (1.0, 1.0)  # sagittal length and height
    notch_mm: float = 10.0
    plateau: float = 1.0
    tuberosity: float = 1.0
    patella: tuple[float, float] = (1.0, 1.0)  # height and thickness
    patella_up_mm: float = 0.0
    cartilage_mm: tuple[float, float, float] = (2.4, 2.5, 3.0)  # femur, tibia, patella
    cortex_mm: tuple[float, float] = (0.9, 3.2)  # epiphysis, shaft
    meniscus: float = 1.0
    ligament: float = 1.0
    effusion_mm: float = 2.5
    muscle: float = 1.0
    subcutaneous_mm: float = 8.0
    warp_mm: float = 1.5
    bone_volume: float = 0.18


def draw(rng: np.random.Generator) -> Anatomy:
    """A random knee: size +-8 %, rotation +-6 and flexion +-8 degrees, translation +-5 mm, shapes +-10 %."""

    def ratio(spread=0.10, count=None):
        return _plain(np.exp(np.clip(rng.normal(0, spread / 2, count), -spread, spread)))

    def around(spread, count=None):
        return _plain(np.clip(rng.normal(0, spread / 2, count), -spread, spread))

    size = ratio(0.08)
    return Anatomy(
        side=("right", "left")[int(rng.integers(2))],
        scale=tuple(size * r for r in ratio(0.03, 3)),
        rotation_deg=around(6.0, 3),
        translation_mm=around(5.0, 3),
        flexion_deg=8.0 + around(8.0),
        condyle=ratio(0.10, 2),
        notch_mm=10.0 * ratio(),
        plateau=ratio(0.06),
        tuberosity=ratio(),
        patella=ratio(0.10, 2),
        patella_up_mm=around(4.0),
        cartilage_mm=tuple(t * r for t, r in zip((2.4, 2.5, 3.0), ratio(0.2, 3), strict=True)),
        cortex_mm=tuple(t * r for t, r in zip((0.9, 3.2), ratio(0.2, 2), strict=True)),
        meniscus=ratio(),
        ligament=ratio(),
        effusion_mm=float(np.clip(rng.lognormal(np.log(2.2), 0.4), 0.8, 6)),
        muscle=ratio(),
        subcutaneous_mm=float(np.clip(rng.lognormal(np.log(8), 0.3), 4.5, 15)),
        warp_mm=1.5,
        bone_volume=float(np.clip(rng.normal(0.18, 0.025), 0.12, 0.25)),
    )


def _plain(values):
    return float(values) if np.ndim(values) == 0 else tuple(float(v) for v in values)


@dataclasses.dataclass(frozen=True)
class Tissues:
    """Fractions of each tissue and the bone volume fraction of the spongy bone, float32 (depth, height, width)."""

    fractions: dict[str, np.ndarray]
    bone_volume: np.ndarray

    def labels(self) -> np.ndarray:
        """The prevailing tissue of each voxel as its position in NAMES, uint8; 0 is air."""
        return np.argmax(np.stack([self.fractions[name] for name in NAMES]), axis=0).astype(np.uint8)


def build(anatomy: Anatomy, shape, spacing_mm, rng: np.random.Generator) -> Tissues:
    """Paint a knee.

    Args:
        anatomy: its parameters.
        shape: (sagittal slices, height, width) of the scan; axes grow to the right, up and to the front.
        spacing_mm: of the scan.
        rng: of the smooth warp and the textures.
    """
    space = _Space(anatomy, shape, spacing_mm, rng)
    painter = _Painter(space)
    femur, tibia = _femur(space, anatomy), _tibia(space, anatomy)
    plateau = _plateau_height(space, anatomy)
    texture = smooth_noise(rng, space.shape, 0.9 / np.asarray(space.spacing_mm))
    coarse_texture = smooth_noise(rng, space.shape, 2.5 / np.asarray(space.spacing_mm))
    bone_volume = np.clip(anatomy.bone_volume + 0.045 * texture + 0.02 * coarse_texture, 0.05, 0.4)

    _paint_bones(painter, space, anatomy, femur, tibia)
    _paint_cartilage(painter, space, anatomy, femur, plateau)
    _paint_soft_joint(painter, space, anatomy, femur, plateau)
    _paint_limb(painter, space, anatomy, rng)
    return Tissues(painter.finish(), _average(bone_volume))


class _Space:
    """The sub-voxel grid in knee coordinates."""

    def __init__(self, anatomy: Anatomy, shape, spacing_mm, rng):
        self.shape = (shape[0], shape[1] * FINE, shape[2] * FINE)
        self.spacing_mm = (spacing_mm[0], spacing_mm[1] / FINE, spacing_mm[2] / FINE)
        self.edge_mm = float(self.spacing_mm[1])  # the width over which a boundary is blurred
        axes = [
            ((np.arange(n) - (n - 1) / 2) * s).astype(np.float32)
            for n, s in zip(self.shape, self.spacing_mm, strict=True)
        ]
        if anatomy.side == "left":
            axes[0] = -axes[0]
        turn = _rotation(anatomy.rotation_deg).T / np.asarray(anatomy.scale)[:, None]
        shift = np.asarray(anatomy.translation_mm)
        grid = [a.reshape([-1 if i == j else 1 for j in range(3)]) - np.float32(shift[i]) for i, a in enumerate(axes)]
        self.x, self.y, self.z = (
            sum(np.float32(turn[i, j]) * grid[j] for j in range(3))
            + np.float32(anatomy.warp_mm) * smooth_field(rng, self.shape, (4, 5, 5))
            for i in range(3)
        )
        flexion = np.deg2rad(anatomy.flexion_deg)
        y, z = self.y - 12, self.z + 8
        # the thigh leans back in a flexed knee; its own axes turn with it, about the centre of the condyles
        cosine, sine = np.float32(np.cos(flexion)), np.float32(np.sin(flexion))
        self.femur_y = 12 + cosine * y - sine * z
        self.femur_z = -8 + sine * y + cosine * z

    def box(self, x, y, z, femur=False) -> Box:
        """Index ranges (even in the plane) that enclose ranges of knee coordinates."""
        steps = (slice(None, None, 3), slice(None, None, 8), slice(None, None, 8))
        coordinates = (self.x, self.femur_y if femur else self.y, self.femur_z if femur else self.z)
        inside = np.ones(coordinates[0][steps].shape, bool)
        margins = (9.0 + 3 * self.spacing_mm[0], 5 + 8 * self.edge_mm, 5 + 8 * self.edge_mm)
        for values, limits, margin in zip(coordinates, (x, y, z), margins, strict=True):
            inside &= (values[steps] > limits[0] - margin) & (values[steps] < limits[1] + margin)
        slices = []
        for axis, step in enumerate((3, 8, 8)):
            hit = np.flatnonzero(inside.any(axis=tuple(i for i in range(3) if i != axis)))
            if not hit.size:
                return (slice(0, 0),) * 3
            slices.append(slice(int(hit[0]) * step, min((int(hit[-1]) + 1) * step, self.shape[axis])))
        return tuple(slices)

    def at(self, box: Box):
        return self.x[box], self.y[box], self.z[box]

    def femur_at(self, box: Box):
        return self.x[box], self.femur_y[box], self.femur_z[box]


class _Painter:
    """Gives each tissue its share of what the tissues before it left free."""

    def __init__(self, space: _Space):
        self.edge_mm = space.edge_mm
        self.free = np.ones(space.shape, np.float32)
        coarse = (space.shape[0], space.shape[1] // FINE, space.shape[2] // FINE)
        self.fractions = {name: np.zeros(coarse, np.float32) for name in NAMES}

    def cover(self, distance):
        """The part of a sub-voxel that lies inside."""
        return np.clip(0.5 - distance / np.float32(self.edge_mm), 0, 1)

    def paint(self, box: Box, shares: dict[str, np.ndarray]) -> None:
        """Take `shares` (which add up to at most 1) of what is free in the box."""
        if not all(s.stop > s.start for s in box):
            return
        free = self.free[box]
        coarse = (box[0], *(slice(s.start // FINE, s.stop // FINE) for s in box[1:]))
        total = np.float32(0)
        for name, share in shares.items():
            self.fractions[name][coarse] += _average(share * free)
            total = total + share
        self.free[box] = free * (1 - total)

    def finish(self) -> dict[str, np.ndarray]:
        self.fractions["air"] += _average(self.free)
        return self.fractions


def _average(fine: np.ndarray) -> np.ndarray:
    d, h, w = fine.shape
    return fine.reshape(d, h // FINE, FINE, w // FINE, FINE).mean(axis=(2, 4), dtype=np.float32)


# --- signed distances ---


def _rotation(degrees) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = c
        turn[i, j], turn[j, i] = -s, s
        result = turn @ result
    return result


def _ellipsoid(p, centre, radii):
    """Approximate distance, exact on the surface: the value of the quadric over its gradient."""
    value = gradient = np.float32(0)
    for v, c, r in zip(p, centre, radii, strict=True):
        q = (v - np.float32(c)) * np.float32(1 / r)
        q *= q
        value = value + q
        gradient = gradient + q * np.float32(1 / r**2)
    length = np.sqrt(value)
    return length * (length - 1) / np.sqrt(gradient + np.float32(1e-9))


def _cone(p, start, end, radius_start, radius_end, widen=1.0):
    """A rod whose radius changes along it; `widen` stretches its section along x."""
    (x, y, z), (ax, ay, az) = p, start
    bx, by, bz = (float(e - s) for e, s in zip(end, start, strict=True))
    x, y, z = x - np.float32(ax), y - np.float32(ay), z - np.float32(az)
    along = np.clip((x * np.float32(bx) + y * np.float32(by) + z * np.float32(bz)) / (bx**2 + by**2 + bz**2), 0, 1)
    dx = (x - along * np.float32(bx)) * np.float32(1 / widen)
    dy, dz = y - along * np.float32(by), z - along * np.float32(bz)
    return np.sqrt(dx * dx + dy * dy + dz * dz) - (radius_start + along * np.float32(radius_end - radius_start))


def _band(p, start, end, half_thickness, half_width):
    """A flat band in the sagittal plane from (y, z) to (y, z)."""
    x, y, z = p
    by, bz = end[0] - start[0], end[1] - start[1]
    y, z = y - np.float32(start[0]), z - np.float32(start[1])
    along = np.clip((y * np.float32(by) + z * np.float32(bz)) / (by**2 + bz**2), 0, 1)
    d = np.hypot(y - along * np.float32(by), z - along * np.float32(bz)) - np.float32(half_thickness)
    return np.maximum(d, np.abs(x) - np.float32(half_width))


def _join(a, b, blend):
    """Smooth union."""
    h = np.clip(0.5 + (b - a) * np.float32(0.5 / blend), 0, 1)
    return b + (a - b) * h - np.float32(blend) * h * (1 - h)


def _cut(a, b, blend):
    """a without b, smoothly."""
    return -_join(-a, b, blend)


def _step(value, low, high):
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


# --- bones ---


def _femur(space: _Space, a: Anatomy) -> tuple[Box, np.ndarray]:
    box = space.box((-44, 44), (-14, 140), (-45, 45), femur=True)
    p = space.femur_at(box)
    length, height = a.condyle
    shaft = _cone(p, (0, 120, 8), (0, 34, 3), 13.0, 17.0, widen=1.12)
    shaft = _join(shaft, _cone(p, (0, 48, 3), (0, 18, 2), 15.0, 19.0, widen=1.55), 12)
    bone = shaft
    for sign, longer in ((1, 1.0), (-1, 1.06)):
        front = _ellipsoid(p, (sign * 21, 11.5, -1), (15, 21.5 * height, 31 * length * longer))
        back = _ellipsoid(p, (sign * 23, 13, -15), (13, 21 * height, 19 * length * longer))
        bone = _join(bone, _join(front, back, 5), 7)
    bone = _join(bone, _ellipsoid(p, (0, 20, 13), (35, 23, 19)), 6)
    bone = _cut(bone, _cone(p, (0, 44, 43), (0, 2, 38), 12, 13), 6)
    bone = _cut(bone, _cone(p, (0, -8, -40), (0, 2, 4), a.notch_mm + 2, a.notch_mm - 2), 4)
    return box, bone


def _plateau_height(space: _Space, a: Anatomy) -> np.ndarray:
    """Height of the tibia's upper surface above each point of the transverse plane (evaluated everywhere)."""
    x, z = space.x, space.z
    away = np.abs(x)
    eminence = 6.5 * np.exp(-(((away - 4.5) / 4.0) ** 2) - ((z + 1) / 9) ** 2)
    medial = np.where(x < 0, -1.3 * np.exp(-(((x + 21) / 12) ** 2) - ((z + 3) / 16) ** 2), 0)
    slope = np.float32(0.10)  # the plateau falls about six degrees to the back
    return np.float32(-13.9) + eminence.astype(np.float32) + medial.astype(np.float32) + slope * (z + 3)


def _tibia(space: _Space, a: Anatomy) -> tuple[Box, np.ndarray]:
    box = space.box((-44, 44), (-140, -4), (-34, 38))
    x, y, z = space.at(box)
    top = _plateau_height_at(space, box, a)
    depth = np.maximum(top - y, 0)
    flare = np.exp(-((depth / 33) ** 1.7))
    half_x = (12.5 + 25.5 * flare) * np.float32(a.plateau)
    half_z = (13.0 + 11.5 * flare) * np.float32(a.plateau)
    centre = -3 + 3 * (1 - flare)
    # squarer than an ellipse at the plateau, round in the shaft
    power = 2 + flare
    section = (np.abs(x / half_x) ** power + np.abs((z - centre) / half_z) ** power) ** (1 / power)
    section = (section - 1) * np.minimum(half_x, half_z)
    bone = -_join(-section, top - y, 4)
    bump = _ellipsoid((x, y, z), (0, -41, 17), (11, 17, 9 * a.tuberosity))
    return box, _join(bone, bump, 9)


def _plateau_height_at(space: _Space, box: Box, a: Anatomy) -> np.ndarray:
    view = _View(space.x[box], space.z[box])
    return _plateau_height(view, a)


@dataclasses.dataclass
class _View:
    x: np.ndarray
    z: np.ndarray


def _patella(space: _Space, a: Anatomy) -> tuple[Box, np.ndarray]:
    up = a.patella_up_mm
    box = space.box((-26, 26), (-8 + up, 58 + up), (28, 58))
    x, y, z = space.at(box)
    tall, thick = a.patella
    centre = (0, 25 + up, 43.5)
    half = (10.5, 11.5 * tall, 1.2 * thick)
    # a rounded box whose back bulges into the groove of the femur
    bulge = 3.0 * np.exp(-((x / 10) ** 2)) * (z < centre[2])
    q = [
        np.abs(v - np.float32(c)) - np.float32(h)
        for v, c, h in zip((x, y, z + bulge), centre, half, strict=True)
    ]
    outside = np.sqrt(sum(np.maximum(v, 0) ** 2 for v in q))
    body = outside + np.minimum(np.maximum(np.maximum(q[0], q[1]), q[2]), 0) - 8.0
    apex = _cone((x, y, z), (0, 14 + up, 44), (0, 3 + up, 45), 7.0, 3.0, widen=1.4)
    return box, _join(body, apex, 5)


def _fibula(space: _Space) -> tuple[Box, np.ndarray]:
    box = space.box((20, 50), (-140, -14), (-34, 4))
    p = space.at(box)
    head = _ellipsoid(p, (35, -30, -16), (8.5, 10, 9.5))
    return box, _join(head, _cone(p, (34.5, -36, -15), (33, -130, -13), 6.0, 6.0), 6)


def _paint_bones(painter: _Painter, space: _Space, a: Anatomy, femur, tibia) -> None:
    thin, thick = a.cortex_mm
    for (box, distance), along, scar in (
        (femur, space.femur_y, 33.0),
        (tibia, -space.y, 31.0),
        (_fibula(space), -space.y, 40.0),
        (_patella(space, a), None, None),
    ):
        if along is None:
            shell, shaft, plate = np.float32(thin * 1.3), np.float32(0), np.float32(0)
        else:
            height = along[box]
            shaft = _step(height, scar + 2, scar + 30)
            shell = np.float32(thin) + np.float32(thick - thin) * _step(height, scar, scar + 36)
            wavy = height - np.float32(scar) + 1.5 * np.sin(space.x[box] * np.float32(0.16))
            plate = np.float32(0.45) * np.exp(-((wavy / np.float32(0.9)) ** 2))
        inside = painter.cover(distance + shell) * (1 - plate)
        painter.paint(box, {"marrow_shaft": inside * shaft, "marrow_epiphysis": inside * (1 - shaft)})
        painter.paint(box, {"cortical_bone": painter.cover(distance)})


# --- joint ---


def _femoral_cartilage(space: _Space, box: Box, a: Anatomy) -> np.ndarray:
    """Thickness in mm over the articular surface, 0 elsewhere."""
    x, y, z = space.femur_at(box)
    angle = np.rad2deg(np.arctan2(z + 4, 12 - y))  # 0 points down, 90 to the front
    along = _step(angle, -125, -105) * (1 - _step(angle, 112, 126))
    away = np.abs(x)
    # none on the roof of the notch, none on the outer sides of the condyles
    across = np.maximum(_step(away, 7, 10), _step(z, 4, 10)) * (1 - _step(away, 33, 37))
    return np.float32(a.cartilage_mm[0]) * along * across


def _layers(painter: _Painter, distance, thickness) -> dict[str, np.ndarray]:
    """Deep and superficial shares of a cartilage of `thickness` on the surface at `distance`; T2 grows linearly."""
    inside = painter.cover(distance - thickness) * (thickness > 0.3)
    depth = np.clip(distance / np.maximum(thickness, np.float32(0.3)), 0, 1)
    return {"cartilage_deep": inside * (1 - depth), "cartilage_superficial": inside * depth}


def _paint_cartilage(painter: _Painter, space: _Space, a: Anatomy, femur, plateau) -> None:
    box, distance = femur
    painter.paint(box, _layers(painter, distance, _femoral_cartilage(space, box, a)))
    box = space.box((-40, 40), (-24, 0), (-30, 26))
    x, y, z = space.at(box)
    radial = np.minimum(*(np.hypot((x - s * 20.5) / (15.5 * a.plateau), (z + 3) / (20 * a.plateau)) for s in (1, -1)))
    thickness = np.float32(a.cartilage_mm[1]) * (1 - _step(radial, 0.8, 1.02))
    height = y - plateau[box]
    painter.paint(box, _layers(painter, np.maximum(height, np.float32(-1) - height), thickness))
    box, distance = _patella(space, a)
    x, y, z = space.at(box)
    facing = (1 - _step(z, 39, 42)) * _step(y, 11 + a.patella_up_mm, 15 + a.patella_up_mm) * (1 - _step(y, 38, 43))
    painter.paint(box, _layers(painter, distance, np.float32(a.cartilage_mm[2]) * facing))


def _paint_soft_joint(painter: _Painter, space: _Space, a: Anatomy, femur, plateau) -> None:
    up, thick = a.patella_up_mm, a.ligament
    box = space.box((-16, 16), (-30, 26), (-34, 18))
    p = space.at(box)
    anterior = _cone(p, (8, 9, -15), (-1, -12, 8), 4.4 * thick, 3.8 * thick, widen=0.85)
    posterior = _chain(p, [(-7, 1, 5), (-6, 5, -5), (-4, 3, -15), (-2, -6, -22), (0, -24, -25)], 4.2 * thick)
    painter.paint(box, {"acl": painter.cover(anterior)})
    painter.paint(box, {"pcl": painter.cover(posterior)})
    around = np.minimum(anterior, posterior) - 1.1

    for sign in (1, -1):
        menisci = space.box((4, 42) if sign > 0 else (-42, -4), (-24, 4), (-32, 26))
        x, y, z = space.at(menisci)
        ring = np.hypot((x - sign * 20.5) / (16.5 * a.plateau), (z + 3) / (22 * a.plateau))
        above = y - plateau[menisci] - np.float32(a.cartilage_mm[1] * 0.8)
        inner, wide = 0.58, 16.5
        top = 0.3 + np.float32(6.8 * a.meniscus) * np.clip((ring - inner) / 0.45, 0, 1)
        wedge = np.maximum(np.maximum((inner - ring) * wide, (ring - 1.03) * wide), np.maximum(above - top, -4 - above))
        wedge = np.maximum(wedge, 7.5 - sign * x)
        painter.paint(menisci, {"meniscus": painter.cover(wedge)})
        # between the cartilages, inside the ring of the meniscus, there is fluid
        space_between = np.maximum(np.maximum((ring - 0.9) * wide, above - 7), -2 - above)
        painter.paint(menisci, {"fluid": painter.cover(space_between)})

    tendons = space.box((-22, 22), (-60, 140), (14, 60))
    q = space.at(tendons)
    patellar = _band(q, (10 + up, 46.5), (-42, 25), 2.6 * thick, 13)
    painter.paint(tendons, {"patellar_tendon": painter.cover(patellar)})
    # fibres of the quadriceps tendon pass over the front of the patella
    quadriceps = np.minimum(
        _band(q, (41 + up, 46), (140, 34), 3.2 * thick, 17), _band(q, (8 + up, 53.5), (42 + up, 52), 0.9, 15)
    )
    painter.paint(tendons, {"quadriceps_tendon": painter.cover(quadriceps)})

    film_box, distance = femur
    film = distance - _femoral_cartilage(space, film_box, a) - np.float32(0.7)
    wet = painter.cover(film) * (_femoral_cartilage(space, film_box, a) > 0.5)
    painter.paint(film_box, {"fluid": wet})
    pouch = space.box((-30, 30), (26, 82), (14, 44))
    q = space.at(pouch)
    sheet = _ellipsoid(q, (0, 55, 29), (23, 22, 1.2 + 0.7 * a.effusion_mm))
    painter.paint(pouch, {"fluid": painter.cover(sheet)})
    recess = space.box((-38, 38), (0, 36), (-48, -28))
    q = space.at(recess)
    behind = np.minimum(*(_ellipsoid(q, (s * 22, 16, -38), (11, 13, 0.8 + 0.4 * a.effusion_mm)) for s in (1, -1)))
    painter.paint(recess, {"fluid": painter.cover(behind)})
    painter.paint(box, {"fluid": 0.8 * painter.cover(around)})
    painter.paint(box, {"hoffa_fat": painter.cover(_ellipsoid(p, (0, -1, -12), (10, 17, 22)))})
    hoffa = space.box((-34, 34), (-40, 22), (2, 48))
    q = space.at(hoffa)
    pad = np.maximum(_ellipsoid(q, (0, -8, 26), (32, 27, 22)), _in_front(q, (10 + up, 46.5), (-42, 25)))
    painter.paint(hoffa, {"hoffa_fat": painter.cover(pad)})


def _in_front(p, start, end):
    """Distance to the front of the line through two points (y, z) of the sagittal plane."""
    _, y, z = p
    by, bz = end[0] - start[0], end[1] - start[1]
    length = np.hypot(by, bz)
    return ((z - np.float32(start[1])) * np.float32(-by) + (y - np.float32(start[0])) * np.float32(bz)) / length


def _chain(p, points, radius):
    distance = None
    for start, end in zip(points[:-1], points[1:], strict=True):
        part = _cone(p, start, end, radius, radius)
        distance = part if distance is None else np.minimum(distance, part)
    return distance


# --- limb ---

# rods: start, end, radius at each, and whether they belong to the thigh and turn with the femur
MUSCLES = (
    ((-29, 16, 15), (-25, 120, 16), 9, 29, True),  # vastus medialis
    ((32, 28, 12), (30, 120, 12), 10, 31, True),  # vastus lateralis
    ((0, 52, 25), (0, 120, 29), 5, 15, True),  # vastus intermedius
    ((0, 84, 44), (0, 130, 40), 3, 10, True),  # rectus femoris
    ((-23, 2, -40), (-22, 120, -40), 9, 25, True),  # semimembranosus
    ((-28, -4, -48), (-10, 120, -54), 3, 11, True),  # semitendinosus
    ((34, -6, -33), (26, 120, -42), 7, 24, True),  # biceps femoris
    ((-43, 0, -26), (-40, 120, -10), 5, 11, True),  # sartorius
    ((-20, 26, -38), (-24, -120, -50), 8, 27, False),  # gastrocnemius, medial head
    ((21, 24, -38), (22, -120, -48), 8, 25, False),  # gastrocnemius, lateral head
    ((17, -16, -29), (-12, -56, -20), 5, 8, False),  # popliteus
    ((16, -36, -31), (2, -120, -34), 6, 22, False),  # soleus
    ((28, -32, 10), (24, -120, 12), 7, 17, False),  # tibialis anterior
    ((42, -40, -2), (40, -120, -6), 6, 14, False),  # peroneus longus
    ((15, -42, -15), (12, -120, -14), 5, 12, False),  # tibialis posterior
)
# the skin's front and back and half its width, at heights from below to above (mm)
HEIGHTS = (-120, -90, -60, -42, -20, 0, 22, 45, 70, 120)
FRONT = (28, 33, 38, 42, 48, 53, 59.5, 58, 60, 66)
BACK = (-72, -74, -70, -65, -58, -55, -57, -62, -68, -78)
HALF_WIDTH = (50, 54, 55, 54, 54, 55, 57, 60, 64, 72)


def _paint_limb(painter: _Painter, space: _Space, a: Anatomy, rng) -> None:
    everything = (slice(0, space.shape[0]), slice(0, space.shape[1]), slice(0, space.shape[2]))
    skin = _skin(space, a)
    vessels = space.box((-14, 14), (-140, 140), (-50, -18))
    p = space.at(vessels)
    artery = _chain(p, [(2, 140, -22), (1, 30, -33), (2, -20, -34), (4, -130, -26)], 3.0)
    vein = _chain(p, [(-4, 140, -28), (-4, 30, -40), (-4, -20, -40), (0, -130, -32)], 4.0)
    painter.paint(vessels, {"vessel": painter.cover(np.minimum(artery, vein))})
    small = space.box((-50, 30), (-140, 140), (-80, -20))
    p = space.at(small)
    veins = np.minimum(_cone(p, (-44, -120, -34), (-45, 120, -34), 1.5, 1.5), _cone(p, (2, -120, -66), (0, 2, -50), 1.6, 1.2))
    painter.paint(small, {"vessel": painter.cover(veins)})

    nearest = np.full(space.shape, 50, np.float32)
    second = nearest.copy()
    # muscles bulge: without it their borders would be the straight lines of the rods
    bulge = np.float32(2.5) * smooth_field(rng, space.shape, (6, 8, 8))
    for start, end, first, last, thigh in MUSCLES:
        reach = max(first, last) * a.muscle
        limits = [(min(s, e) - reach, max(s, e) + reach) for s, e in zip(start, end, strict=True)]
        box = space.box(*limits, femur=thigh)
        if not all(s.stop > s.start for s in box):
            continue
        p = space.femur_at(box) if thigh else space.at(box)
        d = _cone(p, start, end, first * a.muscle, last * a.muscle) + bulge[box]
        second[box] = np.minimum(second[box], np.maximum(d, nearest[box]))
        nearest[box] = np.minimum(nearest[box], d)
    # fat and fascia remain where two muscles touch, and streak along their fibres
    planes = np.float32(0.75) * np.exp(-(((second - nearest) / np.float32(1.3)) ** 2))
    streaks = smooth_noise(rng, space.shape, (1.2 / space.spacing_mm[0], 7 / space.spacing_mm[1], 1.2 / space.spacing_mm[2]))
    fat = np.clip(planes + np.float32(0.05) + np.float32(0.09) * np.maximum(streaks, 0), 0, 0.95)
    fascia = skin + np.float32(a.subcutaneous_mm) * _cushion(space)
    muscle = painter.cover(np.maximum(nearest, fascia))
    painter.paint(everything, {"muscle": muscle * (1 - fat)})
    # a thin dark fascia between muscles and subcutaneous fat
    painter.paint(everything, {"skin": np.float32(0.5) * painter.cover(np.abs(fascia) - np.float32(0.4))})
    septa = smooth_noise(rng, space.shape, (3 / space.spacing_mm[0], 1.0 / space.spacing_mm[1], 2.5 / space.spacing_mm[2]))
    strands = np.float32(0.10) * np.maximum(septa - np.float32(0.8), 0)
    inner = painter.cover(skin + np.float32(1.7))
    painter.paint(everything, {"subcutaneous_fat": inner * (1 - strands), "skin": inner * strands})
    painter.paint(everything, {"skin": painter.cover(skin)})


def _cushion(space: _Space):
    """Subcutaneous fat is thin in front of patella and tibia and thickest at the back of the thigh."""
    return np.float32(0.45) + np.float32(0.75) * _step(-space.z, -40, 20)


def _skin(space: _Space, a: Anatomy):
    extra = 0.6 * (a.subcutaneous_mm - 8)
    y = space.y
    front, back, half = (np.interp(y, HEIGHTS, v).astype(np.float32) for v in (FRONT, BACK, HALF_WIDTH))
    # linear interpolation leaves corners of a degree or two, which partial volume hides
    back = back - np.float32(extra)
    half = half + np.float32(extra)
    middle, deep = (front + back) / 2, (front - back) / 2
    section = np.sqrt(np.abs(space.x / half) ** np.float32(2.5) + np.abs((space.z - middle) / deep) ** np.float32(2.5))
    section = section ** np.float32(0.8)
    return (section - 1) * np.minimum(half, deep)
