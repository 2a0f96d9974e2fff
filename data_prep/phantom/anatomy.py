"""Random sagittal knees as fractional tissue maps.

Knee coordinates are millimetres: x lateral, y superior, z anterior, with the origin in the middle of the joint. Every
structure is a signed distance (negative inside), so that a boundary is anti-aliased by clipping the distance to the
width of a sub-voxel. In the plane of the slices the distances are evaluated at twice the resolution of the scan and
averaged; through the plane the width of the clip follows the slope of the distance, so that fractions are means over
voxels. Structures are painted from the innermost outwards and each takes only what is still free, so the fractions add
up to one: marrow is painted before the bone that encloses it, and what is left of the bone is its cortical shell.

Femoral condyles and patella are outlines in the sagittal plane that taper sideways as superellipses; shafts are rounded
sections over the height; muscles are rods that share the room between them. The thigh (femur, patella, quadriceps,
hamstrings) turns with flexion about the centre of the condyles.

Proportions follow common anatomical knowledge (bicondylar width about 75 mm, condyles of 20 to 25 mm radius, cartilage
of 2 to 3 mm, patella 41 mm tall and 20 mm thick); they are engineering choices, not measurements.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

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
    notch_mm: float = 9.0
    plateau: float = 1.0
    slope_deg: float = 6.0  # of the plateau, falling to the back
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

    def describe(self) -> dict:
        """Return what a line of participants.tsv says."""
        return {
            "side": self.side,
            "size": round(float(np.mean(self.scale)), 4),
            "flexion_deg": round(self.flexion_deg, 2),
            "cartilage_mm": round(self.cartilage_mm[0], 2),
            "effusion_mm": round(self.effusion_mm, 2),
            "subcutaneous_fat_mm": round(self.subcutaneous_mm, 1),
            "bone_volume_fraction": round(self.bone_volume, 3),
        }


def draw(rng: np.random.Generator, variation: float = 1.0) -> Anatomy:
    """Return a random knee: size +-8 %, rotation +-6 and flexion +-8 degrees, translation +-5 mm, shapes +-10 %.

    `variation` is a factor of all of these.
    """

    def ratio(spread=0.10, count=None):
        spread *= variation
        return _plain(np.exp(np.clip(rng.normal(0, spread / 2, count), -spread, spread)))

    def around(spread, count=None):
        spread *= variation
        return _plain(np.clip(rng.normal(0, spread / 2, count), -spread, spread))

    size = ratio(0.08)
    return Anatomy(
        side=("right", "left")[int(rng.integers(2))],
        scale=tuple(size * r for r in ratio(0.03, 3)),
        rotation_deg=around(6.0, 3),
        translation_mm=around(5.0, 3),
        flexion_deg=8.0 + around(8.0),
        condyle=ratio(0.10, 2),
        notch_mm=9.0 * ratio(),
        plateau=ratio(0.06),
        slope_deg=6.0 + around(3.0),
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
    """Fractions of each tissue and the bone volume fraction of the spongy bone, float32 (depth, height, width).

    `wet_marrow` is how much of each voxel's fluid took the place of marrow between trabeculae that are still there.
    """

    fractions: dict[str, np.ndarray]
    bone_volume: np.ndarray
    wet_marrow: np.ndarray | None = None

    def labels(self) -> np.ndarray:
        """Return the prevailing tissue of each voxel as its position in NAMES, uint8; 0 is air."""
        return np.argmax(np.stack([self.fractions[name] for name in NAMES]), axis=0).astype(np.uint8)


def build(anatomy: Anatomy, shape, spacing_mm, rng: np.random.Generator) -> Tissues:
    """Paint a knee.

    The shapes depend on `anatomy` and on the generator alone and not on the grid; the fine textures (spongy bone,
    streaks in muscle and fat) are drawn voxel by voxel.

    Args:
        anatomy: its parameters.
        shape: (sagittal slices, height, width) of the scan; axes grow to the right, up and to the front.
        spacing_mm: of the scan, in the same order.
        rng: of the smooth warp and the textures.
    """
    for_warp, for_bulge, for_texture = rng.spawn(3)
    space = _Space(anatomy, shape, spacing_mm, for_warp)
    painter = _Painter(space)
    femur, tibia, patella = (_femur(space, anatomy), _tibia(space, anatomy), _patella(space, anatomy))
    texture = space.noise(for_texture, 0.7)
    coarse_texture = space.noise(for_texture, 3.5)
    bone_volume = np.clip(anatomy.bone_volume + 0.035 * texture + 0.015 * coarse_texture, 0.05, 0.4)

    _paint_bones(painter, space, anatomy, _parts(space, femur, tibia, patella).values())
    _paint_cartilage(painter, space, anatomy, femur, patella)
    _paint_ligaments(painter, space, anatomy)
    _paint_menisci(painter, space, anatomy)
    _paint_extensor(painter, space, anatomy)
    _paint_fluid_and_pads(painter, space, anatomy, femur, for_texture)
    _paint_limb(painter, space, anatomy, for_bulge, for_texture)
    return Tissues(painter.finish(), _average(bone_volume))


def build_bones(anatomy: Anatomy, shape, spacing_mm, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Return fractions as in `Tissues`, each bone for itself with air around it: "femur", "tibia", "fibula" and
    "patella".

    The shapes are those of `build` with a generator in the same state, also where the grid is finer or reaches further.
    """
    space = _Space(anatomy, shape, spacing_mm, rng.spawn(3)[0])
    parts = _parts(space, _femur(space, anatomy), _tibia(space, anatomy), _patella(space, anatomy))
    bones = {}
    for name, part in parts.items():
        painter = _Painter(space)
        _paint_bones(painter, space, anatomy, [part])
        bones[name] = {tissue: fraction for tissue, fraction in painter.finish().items() if fraction.any()}
    return bones


def positions_mm(anatomy: Anatomy, points, thigh: bool = False) -> np.ndarray:
    """Return points (..., 3) of the knee's coordinates in mm to the right, up and to the front of the volume's centre.

    The smooth warp, which moves shapes by a millimetre or two, is left out.

    Args:
        anatomy: the knee.
        points: lateral, superior, anterior.
        thigh: they are on the thigh, which turns with flexion.
    """
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    if thigh:
        y, z = _on_shin(anatomy.flexion_deg, y, z)
    scaled = np.stack([x, y, z], -1) * anatomy.scale
    # the affine map of `_Space`, inverted; there the volume of a left knee is mirrored first
    result = scaled @ _rotation(anatomy.rotation_deg).T + anatomy.translation_mm
    return result * (-1 if anatomy.side == "left" else 1, 1, 1)


def _on_shin(flexion_deg: float, y, z):
    cosine, sine = np.cos(np.deg2rad(flexion_deg)), np.sin(np.deg2rad(flexion_deg))
    y, z = y - 12, z + 8
    return 12 + cosine * y + sine * z, -8 - sine * y + cosine * z


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
            + np.float32(anatomy.warp_mm) * smooth_field(rng, self.shape, self.spacing_mm, (4, 5, 5))
            for i in range(3)
        )
        self.flexion_deg = anatomy.flexion_deg
        flexion = np.deg2rad(anatomy.flexion_deg)
        y, z = self.y - 12, self.z + 8
        # the thigh leans back in a flexed knee; its own axes turn with it, about the centre of the condyles
        cosine, sine = np.float32(np.cos(flexion)), np.float32(np.sin(flexion))
        self.femur_y = 12 + cosine * y - sine * z
        self.femur_z = -8 + sine * y + cosine * z

    def noise(self, rng, sigma_mm, box: Box | None = None) -> np.ndarray:
        """Draw smooth noise of unit SD on the grid or a box of it; `sigma_mm` is a number or one for each axis."""
        shape = self.shape if box is None else self.x[box].shape
        return smooth_noise(rng, shape, np.asarray(sigma_mm) / np.asarray(self.spacing_mm))

    def on_shin(self, y: float, z: float) -> tuple[float, float]:
        """Return where a point (y, z) of the thigh lies for the shin."""
        return _on_shin(self.flexion_deg, y, z)

    def box(self, x, y, z, femur=False) -> Box:
        """Return index ranges (even in the plane) that enclose ranges of knee coordinates."""
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
        self.slice_mm = space.spacing_mm[0]
        self.free = np.ones(space.shape, np.float32)
        coarse = (space.shape[0], space.shape[1] // FINE, space.shape[2] // FINE)
        self.fractions = {name: np.zeros(coarse, np.float32) for name in NAMES}

    def cover(self, distance):
        """Return the part of a sub-voxel that lies inside.

        A flat boundary crosses a cuboid over a length that grows with the slope of the distance along the long axis of
        the cuboid, through the slices: without it, surfaces that face sideways would be stairs of whole slices.
        """
        slope = np.zeros(distance.shape, np.float32)
        if distance.shape[0] > 1:
            step = np.abs(np.diff(distance, axis=0))
            slope[:-1] = step
            np.maximum(slope[1:], step, out=slope[1:])
        np.minimum(slope, np.float32(self.slice_mm), out=slope)
        slope += np.float32(self.edge_mm)
        return np.clip(np.float32(0.5) - distance / slope, 0, 1)

    def sheet(self, distance, half_thickness):
        """Do as `cover`, for the inside of a sheet that may be thinner than a sub-voxel."""
        return np.maximum(self.cover(distance) - self.cover(distance + 2 * half_thickness), 0)

    def paint(self, box: Box, shares: dict[str, np.ndarray], nested: bool = False) -> None:
        """Take `shares` (which add up to at most 1) of what is free in the box.

        With `nested` the shares are those of a body that encloses what was painted there before, as bone encloses its
        marrow: it takes what they exceed the occupied part by.
        """
        if not all(s.stop > s.start for s in box):
            return
        free = self.free[box]
        coarse = (box[0], *(slice(s.start // FINE, s.stop // FINE) for s in box[1:]))
        total = sum(shares.values())
        if nested:
            left = np.minimum(free, 1 - total)
            taken = (free - left) / np.maximum(total, np.float32(1e-6))
        else:
            taken, left = free, free * (1 - total)
        for name, share in shares.items():
            self.fractions[name][coarse] += _average(share * taken)
        self.free[box] = left

    def finish(self) -> dict[str, np.ndarray]:
        self.fractions["air"] += _average(self.free)
        return self.fractions


def _average(fine: np.ndarray) -> np.ndarray:
    """Mean of the FINE x FINE sub-voxels of each voxel; sums of strided views are four times faster than `mean`."""
    rows = sum(fine[:, i::FINE] for i in range(FINE))
    return sum(rows[:, :, i::FINE] for i in range(FINE)) * np.float32(1 / FINE**2)


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


def _true(distance, spacing_mm):
    """A first-order distance divided by its slope, so that shells and cartilage have their thickness everywhere."""
    if min(distance.shape) < 2:
        return distance
    square = np.zeros_like(distance)
    for axis, step in enumerate(spacing_mm):
        d, target = np.moveaxis(distance, axis, 0), np.moveaxis(square, axis, 0)
        target[1:-1] += ((d[2:] - d[:-2]) * np.float32(0.5 / step)) ** 2
        target[0] += ((d[1] - d[0]) * np.float32(1 / step)) ** 2
        target[-1] += ((d[-1] - d[-2]) * np.float32(1 / step)) ** 2
    return distance / np.clip(np.sqrt(square), np.float32(0.7), np.float32(1.6))


def _step(value, low, high):
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


class _Curve:
    """A smooth curve through points, read from a table at steps of 0.1."""

    def __init__(self, places, values):
        self.low = float(places[0])
        fine = np.arange(self.low, places[-1] + 0.1, 0.1)
        self.table = PchipInterpolator(places, values)(np.minimum(fine, places[-1])).astype(np.float32)

    def __call__(self, at):
        index = (at - np.float32(self.low)) * np.float32(10) + np.float32(0.5)
        return self.table[np.clip(index, 0, self.table.size - 1).astype(np.int32)]


class _Outline:
    """A closed smooth outline in the sagittal plane, as a radius over the angle about a centre inside it."""

    SIZE = 2048

    def __init__(self, centre, z, y):
        self.z0, self.y0 = centre
        z, y = np.array(z) - self.z0, np.array(y) - self.y0
        angle, radius = np.arctan2(y, z), np.hypot(y, z)
        order = np.argsort(angle)
        angle, radius = angle[order], radius[order]
        curve = CubicSpline(np.append(angle, angle[0] + 2 * np.pi), np.append(radius, radius[0]), bc_type="periodic")
        fine = np.linspace(-np.pi, np.pi, self.SIZE, endpoint=False)
        radius, slope = curve(fine), curve(fine, 1)
        self.radius = radius.astype(np.float32)
        # a radial step crosses the outline at an angle: the scale that makes radial differences distances
        self.scale = (radius * radius / np.hypot(radius, slope)).astype(np.float32)

    def solid(self, p, middle, half_width):
        """Return the outline as a lens around the plane x = middle: distance, first order near the surface.

        Its section shrinks away from that plane as a superellipse of power 2.5.
        """
        x, y, z = p
        dy, dz = y - np.float32(self.y0), z - np.float32(self.z0)
        index = ((np.arctan2(dy, dz) + np.float32(np.pi)) * np.float32(self.SIZE / (2 * np.pi))).astype(np.int32)
        index = np.minimum(index, self.SIZE - 1)
        u = np.abs(x - np.float32(middle)) * np.float32(1 / half_width)
        v = np.sqrt(dy * dy + dz * dz) / self.radius[index]
        return _superellipse(u, v, np.float32(half_width), self.scale[index])


def _superellipse(u, v, scale_u, scale_v):
    """Distance to u^2.5 + v^2.5 = 1 where u and v are lengths over `scale_u` and `scale_v`."""
    size = (u * u * np.sqrt(u) + v * v * np.sqrt(v)) ** np.float32(0.4) + np.float32(1e-6)
    u, v = u / size, v / size
    gradient = (u**3) / scale_u**2 + (v**3) / scale_v**2
    return (size - 1) / np.sqrt(gradient + np.float32(1e-9))


def _section(x, z, half_x, front, back):
    """Distance in the transverse plane to a rounded section between `back` and `front`, `half_x` to each side."""
    half_z = (front - back) * np.float32(0.5)
    return _superellipse(np.abs(x) / half_x, np.abs(z - (front + back) * np.float32(0.5)) / half_z, half_x, half_z)


# --- bones ---

# outlines of bone in the sagittal plane through the middle of each part: centre, z (to the front) and y (up) in mm
MEDIAL_CONDYLE = _Outline(
    (-6, 12),
    (-15, -6, 4, 12, 18.5, 22, 23, 21, 16, 4, -12, -24.5, -31.5, -34.5, -33, -28.5, -22),
    (-9.8, -10.4, -9.4, -6, 0, 8, 16, 25, 32, 35, 34, 29, 21, 11.5, 3, -4, -8),
)
LATERAL_CONDYLE = _Outline(
    (-6, 12),
    (-14, -6, 3, 9, 13, 19.5, 24.5, 26.5, 24.5, 17, 4, -11, -23, -30, -33, -31.5, -27, -21),
    (-9.6, -10.2, -9.6, -8, -5.6, -0.5, 7, 16, 26, 33, 35, 33, 27.5, 20.5, 11.5, 3, -3.5, -7.4),
)
TROCHLEA = _Outline((4, 16), (13, 17, 19.5, 20, 19.5, 16, 4, -8, -12, -8, 4), (-4, 1, 8, 16, 25, 33, 36, 32, 20, 6, -4))
PATELLA = _Outline(
    (0, 0),
    (9.4, 8.8, 6.5, 0, -6.5, -10.2, -11.4, -9.6, -5, 0.5, 4, 6.8, 8.6),
    (3, 12, 18, 20.6, 18.8, 12, 3, -6, -12.5, -18, -21, -17.5, -8),
)
PATELLA_Z = 37.5
# shaft and flare of the femur: half width, front and back over the height
FEMUR_HALF = _Curve((-10, 0, 12, 25, 35, 45, 55, 70, 90, 140), (26, 32, 36, 36, 33, 28.5, 24, 19, 16, 15))
FEMUR_FRONT = _Curve((-10, 0, 12, 30, 45, 70, 140), (6, 12, 16, 20, 20, 19.5, 19.5))
FEMUR_BACK = _Curve((-10, 0, 12, 25, 35, 45, 60, 140), (-8, -14, -17, -17, -15, -12.5, -10.5, -9.5))
# flare of the tibia over the depth below its plateau
TIBIA_HALF = _Curve((0, 4, 10, 20, 30, 45, 60, 90, 130), (36.5, 37.5, 37, 33, 27, 20, 16, 13, 12.5))
TIBIA_FRONT = _Curve((0, 4, 12, 22, 32, 45, 60, 90, 130), (19.5, 21, 20.5, 19, 19, 17, 14.5, 11, 10))
TIBIA_BACK = _Curve((0, 4, 10, 20, 32, 45, 60, 130), (-28, -29.5, -28.5, -22.5, -18, -15.5, -14, -13.5))


def _femur(space: _Space, a: Anatomy) -> tuple[Box, np.ndarray]:
    box = space.box((-44, 44), (-14, 140), (-45, 45), femur=True)
    x, y, z = space.femur_at(box)
    length, height = (np.float32(1 / v) for v in a.condyle)
    # the length of the condyles is scaled behind the front of the shaft, their height above the joint line
    cz, cy = 8 + (z - 8) * length, -10 + (y + 10) * height
    bone = _section(x, z - np.float32(0), FEMUR_HALF(y), FEMUR_FRONT(y), FEMUR_BACK(y))
    bone = np.maximum(bone, np.float32(-4) - y)
    p = (x, cy, cz)
    condyles = _join(MEDIAL_CONDYLE.solid(p, -21.5, 16.5), LATERAL_CONDYLE.solid(p, 21.5, 16.0), 4)
    condyles = _join(condyles, TROCHLEA.solid(p, 0, 17), 5)
    bone = _join(bone, condyles, 5)
    for side in (-1, 1):
        bone = _join(bone, _ellipsoid((x, y, z), (side * 35, 15, -9), (5, 10, 10)), 5)
    # the intercondylar notch: below a line that rises to the back, between walls that part to the back
    roof = (z - 13) * np.float32(0.74) + (y + 0.5) * np.float32(0.67)
    roof = -_join(-roof, 8 - z, 6)
    walls = np.abs(x) - np.float32(a.notch_mm) + z * np.float32(0.03) + np.float32(0.13) * np.maximum(y + 4, 0)
    notch = -_join(-roof, -walls, 6)
    return box, _true(_cut(bone, notch, 8), space.spacing_mm)


def _base(a: Anatomy) -> float:
    """Height of the bone of the plateau: the cartilages of femur and tibia just touch."""
    return -9.95 - 0.85 * a.cartilage_mm[0] - a.cartilage_mm[1]


def _plateau_height(x, z, a: Anatomy) -> np.ndarray:
    """Height of the bone's upper surface at the tibia above each point (x, z)."""
    away = np.abs(x)
    spines = 7.5 * np.exp(-(((x + 4.5) / 3.2) ** 2) - ((z + 3) / 9) ** 2)
    spines += 6.0 * np.exp(-(((x - 5) / 3.2) ** 2) - ((z + 5) / 8) ** 2)
    dish = -1.1 * np.exp(-(((x + 22) / 11) ** 2) - ((z + 4) / 16) ** 2)
    dome = 0.3 * np.exp(-(((x - 22) / 11) ** 2) - ((z + 4) / 12) ** 2)
    between = -2.0 * np.exp(-((away / 8) ** 2)) * _step(np.abs(z + 3), 8, 16)
    slope = np.float32(np.tan(np.deg2rad(a.slope_deg)))
    return (np.float32(_base(a)) + spines + dish + dome + between + slope * (z + 6)).astype(np.float32)


def _tibia(space: _Space, a: Anatomy) -> tuple[Box, np.ndarray]:
    box = space.box((-44, 44), (-140, -4), (-36, 38))
    x, y, z = space.at(box)
    depth = np.float32(_base(a)) - y
    wide = np.float32(1 / a.plateau)
    back = TIBIA_BACK(depth) + np.float32(5.5) * np.exp(-((x / 8) ** 2)) * (1 - _step(depth, 8, 20))
    bone = _section(x * wide, z * wide, TIBIA_HALF(depth), TIBIA_FRONT(depth), back)
    bone = -_join(-bone, _plateau_height(x, z, a) - y, 2.5)
    bump = _ellipsoid((x, y, z), (1, -45, 15.5), (9, 14, 7.5 * a.tuberosity))
    return box, _true(_join(bone, bump, 8), space.spacing_mm)


def _patella(space: _Space, a: Anatomy) -> tuple[Box, np.ndarray]:
    up = a.patella_up_mm
    box = space.box((-28, 28), (-4 + up, 54 + up), (22, 54), femur=True)
    x, y, z = space.femur_at(box)
    tall, thick = a.patella
    # two facets meet in a ridge that fits the groove of the femur
    z = (z - np.float32(PATELLA_Z)) * np.float32(1 / thick)
    z = z - np.float32(0.26) * np.abs(x + 2) * _step(-z, -4, 4) + np.float32(0.004) * x * x * _step(z, 0, 6)
    p = (x, (y - np.float32(24 + up)) * np.float32(1 / tall), z)
    return box, _true(PATELLA.solid(p, 0.0, 22.5), space.spacing_mm)


def _fibula(space: _Space) -> tuple[Box, np.ndarray]:
    box = space.box((20, 50), (-140, -14), (-34, 4))
    p = space.at(box)
    head = _ellipsoid(p, (34, -32, -17), (8, 9.5, 9.5))
    head = _join(head, _ellipsoid(p, (35, -25, -19), (4.5, 6, 5)), 4)
    return box, _join(head, _cone(p, (34.5, -38, -16), (33, -130, -14), 6.0, 6.0), 5)


def _parts(space: _Space, femur, tibia, patella) -> dict[str, tuple]:
    """Each bone: its box and distance, the height along its shaft, and where on it the scar of growth lies."""
    return {
        "femur": (femur, space.femur_y, 30.0),
        "tibia": (tibia, -space.y, 32.0),
        "fibula": (_fibula(space), -space.y, 42.0),
        "patella": (patella, None, None),
    }


def _paint_bones(painter: _Painter, space: _Space, a: Anatomy, parts) -> None:
    thin, thick = a.cortex_mm
    for (box, distance), along, scar in parts:
        if along is None:
            shell, shaft, plate = np.float32(thin * 1.2), np.float32(0), np.float32(0)
        else:
            height = along[box]
            # marrow turns from red and spongy to yellow over the metaphysis; its cortex grows towards the shaft
            shaft = _step(height, scar + 2, scar + 34)
            shell = np.float32(thin) + np.float32(thick - thin) * _step(height, scar + 4, scar + 46)
            x = space.x[box]
            wavy = height - np.float32(scar) + 1.8 * np.sin(x * np.float32(0.16)) + np.float32(0.004) * x * x
            plate = np.float32(0.3) * np.exp(-((wavy / np.float32(0.8)) ** 2))
        inside = painter.cover(distance + shell) * (1 - plate)
        painter.paint(box, {"marrow_shaft": inside * shaft, "marrow_epiphysis": inside * (1 - shaft)})
        painter.paint(box, {"cortical_bone": painter.cover(distance)}, nested=True)


# --- joint ---


def _femoral_cartilage(space: _Space, box: Box, a: Anatomy) -> np.ndarray:
    """Thickness in mm over the articular surface, 0 elsewhere."""
    x, y, z = space.femur_at(box)
    angle = np.rad2deg(np.arctan2(z + 6, 12 - y))  # 0 points down, 90 to the front
    along = _step(angle, -122, -100) * (1 - _step(angle, 108, 122))
    away = np.abs(x)
    # none on the roof of the notch, none on the outer sides of the condyles
    across = np.maximum(_step(away, a.notch_mm, a.notch_mm + 4), _step(z, 10, 14)) * (1 - _step(away, 30, 36))
    # thickest in the groove for the patella, thin at the far back
    profile = 0.85 + 0.35 * np.exp(-(((angle - 80) / 30) ** 2)) - 0.15 * _step(-angle, 40, 110)
    return np.float32(a.cartilage_mm[0]) * along * across * profile.astype(np.float32)


def _layers(painter: _Painter, distance, thickness) -> dict[str, np.ndarray]:
    """Deep and superficial shares of a cartilage of `thickness` on the surface at `distance`; T2 grows linearly."""
    inside = painter.cover(distance - thickness) * (thickness > 0.3)
    depth = np.clip(distance / np.maximum(thickness, np.float32(0.3)), 0, 1)
    return {"cartilage_deep": inside * (1 - depth), "cartilage_superficial": inside * depth}


def _rings(x, z, a: Anatomy):
    """For each side its sign and the distance from the centre of its plateau, 1 at the outer edge of the meniscus."""
    for sign, length in ((-1, 24.0), (1, 21.5)):
        yield (sign, np.hypot((x - sign * 20.5) / (17.0 * a.plateau), (z + 4.5) / (length * a.plateau)))


def _paint_cartilage(painter: _Painter, space: _Space, a: Anatomy, femur, patella) -> None:
    box, distance = femur
    painter.paint(box, _layers(painter, distance, _femoral_cartilage(space, box, a)), nested=True)
    box = space.box((-40, 40), (-26, 0), (-32, 26))
    x, y, z = space.at(box)
    radial = np.minimum(*(ring for _, ring in _rings(x, z, a)))
    thickness = np.float32(a.cartilage_mm[1]) * (1 - _step(radial, 0.82, 1.04))
    height = y - _plateau_height(x, z, a)
    painter.paint(box, _layers(painter, np.maximum(height, np.float32(-1) - height), thickness))
    box, distance = patella
    x, y, z = space.femur_at(box)
    up, tall = a.patella_up_mm, a.patella[0]
    facing = 1 - _step(z + 0.12 * np.abs(x), PATELLA_Z - 5, PATELLA_Z - 1)
    facing = facing * _step(y, 24 + up - 13 * tall, 24 + up - 8 * tall) * (1 - _step(y, 24 + up + 14 * tall, 43 + up))
    painter.paint(box, _layers(painter, distance, np.float32(a.cartilage_mm[2]) * facing), nested=True)


ACL = [(8.5, 13, -17), (6.5, 5, -9.5), (3, -4, -1), (-0.5, -14, 8)]
PCL = [(-7, 0, 4), (-6.5, 3.5, -2), (-5.5, 4, -9), (-4, 0.5, -16), (-2.5, -6, -21.5), (-1, -15, -25), (0, -26, -27)]


def _paint_ligaments(painter: _Painter, space: _Space, a: Anatomy) -> None:
    box = space.box((-18, 20), (-34, 24), (-36, 20))
    p = space.at(box)
    thick = a.ligament
    # bundles: the tissue between the fibres is a little brighter
    anterior = _chain(p, ACL, [4.2 * thick, 4.2 * thick, 4.6 * thick, 5.4 * thick])
    posterior = _chain(p, PCL, [v * thick for v in (3.4, 4.2, 4.6, 4.6, 4.3, 4.0, 3.6)])
    painter.paint(box, {"acl": painter.cover(anterior)})
    painter.paint(box, {"pcl": painter.cover(posterior)})


def _paint_menisci(painter: _Painter, space: _Space, a: Anatomy) -> None:
    """Rings with a wedge-shaped section: triangles in the sagittal plane, bow-ties near the edge of the joint."""
    for index, sign in enumerate((-1, 1)):
        box = space.box((5, 42) if sign > 0 else (-42, -5), (-26, 4), (-36, 28))
        x, y, z = space.at(box)
        ring = list(_rings(x, z, a))[index][1]
        rim = 1 - _step(ring, 0.82, 1.04)
        above = y - _plateau_height(x, z, a) - np.float32(0.95 * a.cartilage_mm[1]) * rim
        # the back horn of the medial meniscus is the broadest; both horns thin out towards their roots
        inner = 0.57 - (0.07 if sign < 0 else 0.0) * _step(-z, 5, 16)
        wide = np.float32(18.0)
        tall = np.float32(9.0 * a.meniscus) * (np.float32(0.35) + np.float32(0.65) * _step(sign * x, 6, 15))
        top = np.float32(0.15) + tall * np.clip((ring - inner) / (1.02 - inner), 0, 1.1)
        outer = -_join((1.02 - ring) * wide, top - above, np.float32(1.2))
        wedge = np.maximum(np.maximum((inner - ring) * wide, outer), np.float32(-0.4) - above)
        wedge = np.maximum(wedge, np.float32(7) - sign * x)
        painter.paint(box, {"meniscus": painter.cover(wedge)})
        # a little fluid between the cartilages and on the slopes of the meniscus
        between = np.maximum(np.maximum(above - np.float32(1.6), (ring - 0.9) * wide), np.float32(-0.5) - above)
        between = np.maximum(between, np.float32(8) - sign * x)
        painter.paint(box, {"fluid": np.float32(0.8) * painter.cover(between)})


def _patellar_tendon(space: _Space, a: Anatomy):
    """Its ends (y, z) in the frame of the shin: apex of the patella and tuberosity."""
    apex = space.on_shin(24 + a.patella_up_mm - 19.0 * a.patella[0], PATELLA_Z + 4.5)
    return apex, (-47.0, 22.5)


def _wrap(x, z):
    """The tendons and the fat behind them wrap around the front of the knee."""
    return z + np.float32(0.012) * x * x


def _paint_extensor(painter: _Painter, space: _Space, a: Anatomy) -> None:
    """The quadriceps tendon, its fibres over the patella, and the patellar tendon: one continuous band."""
    up, thick = a.patella_up_mm, a.ligament
    box = space.box((-24, 24), (-64, 22 + up), (8, 58))
    x, y, z = space.at(box)
    tendon = _band((x, y, _wrap(x, z)), *_patellar_tendon(space, a), 2.5 * thick, 13.5)
    painter.paint(box, {"patellar_tendon": painter.cover(tendon)})
    box = space.box((-24, 24), (-2 + up, 140), (14, 60), femur=True)
    x, y, z = space.femur_at(box)
    p = (x, y, _wrap(x, z))
    apex, base = 24 + up - 19 * a.patella[0], 24 + up + 18.5 * a.patella[0]
    quadriceps = np.minimum(
        _band(p, (base, PATELLA_Z + 2.0), (80, 34), np.float32(3.3 * thick), 18),
        _band(p, (80, 34), (140, 34), np.float32(2.0 * thick), 14),
    )
    # three layers with a little fat between them
    fat = np.float32(0.22) * (np.cos((p[2] - 34 - (80 - y) * 0.14) * np.float32(2.4)) > 0.86)
    share = painter.cover(quadriceps)
    painter.paint(box, {"quadriceps_tendon": share * (1 - fat), "hoffa_fat": share * fat})
    front = PATELLA_Z + 9.2 * a.patella[1]
    over = np.minimum(
        _band(p, (apex, PATELLA_Z + 5), (24 + up, front + 0.6), 1.0, 15),
        _band(p, (24 + up, front + 0.6), (base, PATELLA_Z + 5), 1.0, 16),
    )
    painter.paint(box, {"quadriceps_tendon": painter.cover(over)})


def _paint_fluid_and_pads(painter: _Painter, space: _Space, a: Anatomy, femur, rng) -> None:
    up, wet = a.patella_up_mm, np.float32(a.effusion_mm)
    box, distance = femur
    x, y, z = space.femur_at(box)
    cartilage = _femoral_cartilage(space, box, a)
    # a film over the cartilage, thicker behind the condyles and above the groove, where the joint has recesses
    uneven = np.clip(1 + 0.5 * space.noise(rng, 5.0, box), 0, 2)
    pools = _step(-z, 22, 30) * _step(y, 2, 12) + 0.7 * _step(z, 12, 20) * _step(y, 20, 28)
    film = np.float32(0.15) + np.float32(0.05) * wet + np.float32(0.30) * wet * pools * uneven
    painter.paint(box, {"fluid": painter.cover(distance - cartilage - film) * (cartilage > 0.4)}, nested=True)
    # suprapatellar pouch: a sheet between the fat in front of the femur and the fat behind the quadriceps tendon
    pouch = space.box((-32, 32), (26 + up, 92), (14, 44), femur=True)
    x, y, z = space.femur_at(pouch)
    reach = 60 + 5 * a.effusion_mm
    thin = np.clip(1 - (x / 29) ** 2, 0, 1) * (1 - _step(y, reach - 14, reach + 2))
    half = (np.float32(0.30) * wet + np.float32(0.1)) * thin
    p = (x, y, _wrap(x, z))
    bend = (46.0, 28.5)
    sheet = np.minimum(_band(p, (36 + up, 29.5), bend, half, 27), _band(p, bend, (reach, 26.0), half, 24))
    painter.paint(pouch, {"fluid": painter.sheet(sheet, half)})
    notch = space.box((-14, 14), (-24, 26), (-32, 20))
    q = space.at(notch)
    streaks = space.noise(rng, 1.6, notch)
    inside = np.maximum(_ellipsoid(q, (0, 0, -9), (11, 18, 20)), np.abs(q[0]) - np.float32(a.notch_mm))
    share = painter.cover(inside)
    fluid = 0.8 * np.clip(1.2 * (streaks - 1.7 + 0.1 * (wet - 2)), 0, 1)  # small pools in the fat of the notch
    painter.paint(notch, {"fluid": share * fluid, "hoffa_fat": share * (1 - fluid)})
    hoffa = space.box((-36, 36), (-46, 24), (0, 46))
    q = space.at(hoffa)
    apex, tuberosity = _patellar_tendon(space, a)
    limit = _in_front((q[0], q[1], _wrap(q[0], q[2])), apex, tuberosity)
    pad = np.maximum(np.maximum(_ellipsoid(q, (0, -8, 24), (33, 30, 24)), limit), q[1] - np.float32(apex[0] + 8))
    # fibrous septa cross the pad
    texture = space.noise(rng, 1.2, hoffa)
    septa = np.float32(0.15) * np.clip(texture - 1.0, 0, 1)
    share = painter.cover(pad)
    painter.paint(hoffa, {"hoffa_fat": share * (1 - septa), "fascia": share * septa})


def _in_front(p, start, end):
    """Distance to the front of the line through two points (y, z) of the sagittal plane."""
    _, y, z = p
    by, bz = end[0] - start[0], end[1] - start[1]
    length = np.hypot(by, bz)
    return ((z - np.float32(start[1])) * np.float32(-by) + (y - np.float32(start[0])) * np.float32(bz)) / length


def _chain(p, points, radius, widen=1.0):
    """Rods from point to point with a radius at each."""
    distance = None
    for (start, first), (end, last) in itertools.pairwise(zip(points, radius, strict=True)):
        part = _cone(p, start, end, first, last, widen)
        distance = part if distance is None else np.minimum(distance, part)
    return distance


# --- limb ---


@dataclasses.dataclass(frozen=True)
class _Muscle:
    points: tuple  # (x, y, z, radius) from end to end
    thigh: bool = False  # whether it turns with the femur
    widen: float = 1.0  # of its section along x


MUSCLES = (
    _Muscle(((-25, 14, 29, 3), (-31, 32, 22, 13), (-30, 62, 14, 24), (-27, 120, 12, 31)), True),  # vastus medialis
    _Muscle(((30, 28, 27, 3), (32, 46, 19, 12), (31, 72, 13, 24), (28, 120, 10, 31)), True),  # vastus lateralis
    _Muscle(((0, 48, 24, 1.0), (0, 58, 24.5, 3.5), (0, 75, 25, 6), (0, 120, 25, 9)), True, 3.4),  # vastus intermedius
    _Muscle(((0, 72, 39, 1.5), (0, 84, 41, 4.5), (0, 120, 45, 11)), True, 2.2),  # rectus femoris
    _Muscle(
        ((-24, -10, -46, 2.5), (-23, 12, -49, 8), (-20, 40, -44, 17), (-17, 120, -40, 26)), True
    ),  # semimembranosus
    _Muscle(((-31, -8, -44, 1.8), (-27, 24, -57, 4), (-16, 60, -60, 10), (-8, 120, -60, 14)), True),  # semitendinosus
    _Muscle(((36, -22, -22, 2), (35, 6, -36, 7), (29, 36, -44, 16), (20, 120, -44, 26)), True),  # biceps femoris
    _Muscle(((21, 34, -20, 2), (16, 56, -22, 9), (10, 120, -18, 13)), True),  # its short head
    _Muscle(((-38, -8, -24, 3), (-41, 24, -26, 8), (-39, 120, -14, 15)), True),  # sartorius
    _Muscle(((-36, 0, -34, 2.0), (-34, 60, -32, 8), (-30, 120, -30, 13)), True),  # gracilis and adductor
    _Muscle(((-18, 31, -27, 2.5), (-19, 14, -38, 7), (-21, -18, -45, 15), (-21, -58, -47, 21), (-21, -120, -46, 25))),
    _Muscle(((19, 29, -27, 2.5), (20, 14, -37, 7), (20, -18, -44, 14), (20, -58, -47, 20), (20, -120, -46, 22))),
    _Muscle(((28, -6, -27, 2), (16, -20, -31, 6), (0, -36, -27, 10), (-14, -60, -20, 7)), False, 1.5),  # popliteus
    _Muscle(((28, -32, -24, 5), (12, -50, -32, 13), (4, -80, -31, 19), (2, -120, -30, 21)), False, 1.5),  # soleus
    _Muscle(((27, -28, 10, 5), (24, -48, 10, 11), (22, -80, 6, 14), (21, -120, 4, 15))),  # tibialis anterior
    _Muscle(((34, -28, 1, 4), (37, -48, 2, 9), (37, -120, -1, 12))),  # long extensors
    _Muscle(((40, -34, -12, 4), (42, -54, -12, 10), (40, -120, -13, 12))),  # peroneus longus
    _Muscle(((20, -44, -13, 6), (19, -72, -12, 11), (17, -120, -12, 12))),  # tibialis posterior
    _Muscle(((-10, -54, -16, 5), (-12, -80, -15, 9), (-12, -120, -15, 10))),  # long flexor of the toes
    _Muscle(((14, 14, -42, 2.0), (8, -30, -55, 2.5)), False, 1.5),  # plantaris
)
# the skin's front and back and half its width, at heights from below to above (mm)
HEIGHTS = (-120, -90, -60, -42, -20, 0, 22, 38, 52, 70, 120)
FRONT = _Curve(HEIGHTS, (19, 21, 26, 33, 41.5, 48, 52.5, 52.5, 51, 53, 62))
BACK = _Curve(HEIGHTS, (-80, -80, -75, -69, -62, -59, -61, -64, -68, -73, -82))
HALF_WIDTH = _Curve(HEIGHTS, (54, 57, 57, 54, 52, 53, 55, 56, 59, 63, 74))
# ligaments and sheets of fibrous tissue at the sides: (x, y, z) from end to end, half thickness, half width
STRAPS = (
    (((-40.5, 16, -6), (-40.5, -8, -5), (-38.5, -30, -2)), 1.1, 6),  # medial collateral ligament
    (((40, 15, -8), (40.5, -5, -14), (37.5, -26, -18)), 1.5, 2.5),  # lateral collateral ligament
    (((56, 120, 0), (46, 50, 2), (41.5, 15, 6), (35, -22, 13)), 0.9, 9),  # iliotibial band
)


def _paint_limb(painter: _Painter, space: _Space, a: Anatomy, for_bulge, for_texture) -> None:
    everything = (slice(0, space.shape[0]), slice(0, space.shape[1]), slice(0, space.shape[2]))
    skin = _skin(space, a)
    _paint_vessels(painter, space)
    straps = space.box((-46, 46), (-64, 140), (-26, 24))
    x, y, z = space.at(straps)
    for points, thickness, width in STRAPS:
        painter.paint(straps, {"fascia": painter.cover(_strap((x, y, z), points, thickness, width))})

    nearest = np.full(space.shape, 50, np.float32)
    second = nearest.copy()
    # muscles bulge: without it their borders would be the straight lines of the rods
    bulge = np.float32(1.6) * smooth_field(for_bulge, space.shape, space.spacing_mm, (6, 8, 8))
    for muscle in MUSCLES:
        ends = np.array(muscle.points)
        reach = (ends[:, 3] * a.muscle + 3)[:, None] * (max(muscle.widen, 1), 1, 1)
        low, high = (ends[:, :3] - reach).min(axis=0), (ends[:, :3] + reach).max(axis=0)
        box = space.box(*zip(low, high, strict=True), femur=muscle.thigh)
        if not all(s.stop > s.start for s in box):
            continue
        p = space.femur_at(box) if muscle.thigh else space.at(box)
        d = _chain(p, ends[:, :3], ends[:, 3] * a.muscle, muscle.widen)
        d += bulge[box]
        second[box] = np.minimum(second[box], np.maximum(d, nearest[box]))
        nearest[box] = np.minimum(nearest[box], d)
    # fat and fascia remain where two muscles touch, and streak along their fibres
    planes = np.float32(0.75) * np.exp(-(((second - nearest) / np.float32(1.3)) ** 2))
    streaks = space.noise(for_texture, (1.2, 7.0, 1.2))
    fat = np.clip(planes + np.float32(0.04) + np.float32(0.07) * np.maximum(streaks, 0), 0, 0.95)
    fascia = skin + np.float32(a.subcutaneous_mm) * _cushion(space)
    inside = painter.cover(np.maximum(nearest, fascia + np.float32(0.6)))
    painter.paint(everything, {"muscle": inside * (1 - fat)})
    # the fascia of the limb and the sheath of each muscle
    sheath = painter.sheet(np.abs(nearest) - np.float32(0.15), np.float32(0.15)) * (fascia < 0)
    outer = painter.sheet(np.abs(fascia) - np.float32(0.3), np.float32(0.3))
    painter.paint(everything, {"fascia": np.maximum(outer, np.float32(0.7) * sheath)})
    # subcutaneous fat is crossed by septa that run with the skin; deep fat has few
    septa = space.noise(for_texture, (3.0, 3.0, 0.9))
    strands = np.float32(0.12) * np.clip(septa - np.float32(1.1), 0, 1)
    inner = painter.cover(skin + np.float32(1.6))
    painter.paint(everything, {"subcutaneous_fat": inner * (1 - strands), "fascia": inner * strands})
    painter.paint(everything, {"skin": painter.cover(skin)}, nested=True)


def _paint_vessels(painter: _Painter, space: _Space) -> None:
    vessels = space.box((-16, 16), (-140, 140), (-54, -16))
    p = space.at(vessels)
    artery = [(-3, 140, -20), (0, 50, -27), (2, 20, -34), (2, -20, -38), (3, -60, -34), (4, -130, -28)]
    vein = [(2, 140, -27), (4, 50, -35), (4, 20, -43), (3, -20, -45), (0, -60, -40), (0, -130, -34)]
    tubes = np.minimum(_chain(p, artery, [3.0] * 6), _chain(p, vein, [4.0] * 6))
    painter.paint(vessels, {"vessel": painter.cover(tubes)})
    # the tibial nerve runs behind them: fibrous tissue and fat
    nerve = _chain(p, [(5, 140, -36), (6, 40, -46), (5, -20, -51), (3, -130, -42)], [2.6] * 4)
    share = np.float32(0.5) * painter.cover(nerve)
    painter.paint(vessels, {"muscle": share})
    small = space.box((-50, 30), (-140, 140), (-84, -20))
    p = space.at(small)
    long, short = (((-47, -120, -34), (-48, 120, -36)), ((2, -120, -72), (1, -20, -58), (2, 6, -46)))
    veins = np.minimum(_chain(p, long, (1.6, 1.6)), _chain(p, short, (1.6, 1.5, 1.2)))
    painter.paint(small, {"vessel": painter.cover(veins)})


def _strap(p, points, half_thickness, half_width):
    """A flat strap that lies on the side of the knee: thin along x, wide along z."""
    x, y, z = p
    heights = [q[1] for q in points][::-1]
    middle, centre = (_Curve(heights, [q[i] for q in points][::-1])(y) for i in (0, 2))
    across = np.sqrt(((x - middle) / half_thickness) ** 2 + ((z - centre) / half_width) ** 2)
    ends = np.maximum(np.float32(heights[0]) - y, y - np.float32(heights[-1]))
    return np.maximum((across - 1) * np.float32(half_thickness), ends)


def _cushion(space: _Space):
    """Subcutaneous fat is thin in front of patella and tibia and thickest at the back of the thigh."""
    return np.float32(0.5) + np.float32(0.6) * _step(-space.z, -40, 20)


def _skin(space: _Space, a: Anatomy):
    """The thigh's part bends with the femur; the front is narrower than the back."""
    extra = np.float32(0.6 * (a.subcutaneous_mm - 8))
    y = space.y
    z = space.z + (space.femur_z - space.z) * _step(y, -8, 32)
    narrow = 1 + np.float32(0.16) * _step(z, 0, 45)
    return _section(space.x * narrow, z, HALF_WIDTH(y) + extra, FRONT(y) + np.float32(0.3) * extra, BACK(y) - extra)
