"""Random knees of blended solids: the anatomy of every make but A.

No shape is shared with `anatomy.py`: bones are superquadrics (make B) or swept tubes (random makes) that are blended
into each other, muscles are bellies, the limb is a blend of ellipsoids, and cartilage, menisci, fluid and fat follow
from distances to the bones. Coordinates are those of `solids.Grid`: x to the lateral side, y up, z to the front, origin
in the middle of the joint; the condyles end at y = -10.

A `Plan` holds the proportions that all knees of one make share and how much they vary; `Plan.draw` draws one person's
`Knee`. Proportions follow common anatomical knowledge; they are engineering choices, not measurements.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_prep.phantom.anatomy import NAMES, Tissues
from data_prep.phantom.solids import (
    Canvas,
    Grid,
    Solid,
    ellipsoid,
    ramp,
    superquadric,
    tube,
    union,
    without,
)

JOINT_Y = -10.0  # where the bone of the condyles ends
FAR = 150.0  # beyond every field of view

# bellies of muscles: centre and radii (x, y, z); the thigh's, then the calf's
BELLIES = {
    "vastus medialis": ((-28, 66, 10), (20, 54, 25)),
    "vastus lateralis": ((29, 80, 10), (20, 54, 27)),
    "vastus intermedius": ((2, 94, 26), (27, 50, 10)),
    "rectus femoris": ((0, 112, 41), (22, 48, 9)),
    "semimembranosus": ((-21, 66, -42), (17, 72, 18)),
    "semitendinosus": ((-9, 76, -57), (14, 66, 11)),
    "biceps femoris": ((25, 68, -44), (16, 76, 19)),
    "short head": ((14, 84, -23), (14, 54, 15)),
    "sartorius": ((-42, 68, -20), (9, 84, 14)),
    "adductor": ((-14, 100, -20), (16, 56, 15)),
    "gracilis": ((-35, 60, -40), (8, 80, 10)),
    "medial head": ((-19, -44, -44), (18, 72, 18)),
    "lateral head": ((19, -42, -42), (17, 70, 17)),
    "popliteus": ((-4, -48, -25), (24, 24, 8)),
    "soleus": ((2, -90, -36), (30, 54, 17)),
    "tibialis anterior": ((23, -78, 8), (14, 54, 16)),
    "peroneus": ((40, -84, -8), (9, 56, 14)),
    "tibialis posterior": ((12, -86, -17), (16, 52, 11)),
}
# the limb: ellipsoids of thigh, knee, calf and shin
LIMB = (
    ((0, 118, -8), (64, 112, 66)),
    ((0, 8, -6), (51, 80, 54)),
    ((0, -78, -24), (50, 84, 48)),
    ((0, -100, -2), (42, 92, 30)),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Proportions of the knees of one make; lengths in mm. The defaults are those of make B.

    Attributes:
        form: of the bones, "superquadrics" or "sweeps".
        size: factors along x, y and z.
        condyle: distance of each condyle's middle from the midline, then its radii (x, y, z).
        squareness: exponent of the superquadrics; flare: width of the metaphyses, a factor.
        notch_mm: half the width of the intercondylar notch; blend_mm: how far bones round into each other.
        shaft: radii (x, z) of the femur's shaft; plateau: of the tibia's head; slope_deg: of it, falling to the back.
        patella: radii; patella_up_mm: above its usual place.
        cartilage_mm: femur, tibia, patella; cortex_mm: epiphysis, shaft.
        meniscus, ligament, muscle: factors of their thickness.
        effusion_mm, subcutaneous_mm: medians; skin_mm: 0 for none.
        flexion_deg: mean; warp_mm: SD of the smooth displacement.
        bone_volume: mean; trabeculae: SD and grain (mm) of its texture; streaks: fat in muscle.
        bellies: shifts and factors of the muscles, by name: (dx, dy, dz, factor); those that are missing are absent.
        limb: factors of the radii of the limb's ellipsoids.
        variation: between subjects, a factor.
    """

    form: str = "superquadrics"
    size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    condyle: tuple[float, float, float, float] = (21.0, 15.5, 22.5, 30.0)
    squareness: float = 2.4
    flare: float = 1.0
    notch_mm: float = 8.5
    blend_mm: float = 3.0
    shaft: tuple[float, float] = (14.5, 13.5)
    plateau: tuple[float, float] = (38.0, 26.0)
    slope_deg: float = 5.0
    patella: tuple[float, float, float] = (21.5, 20.0, 9.5)
    patella_up_mm: float = 0.0
    cartilage_mm: tuple[float, float, float] = (2.1, 2.3, 3.2)
    cortex_mm: tuple[float, float] = (1.1, 3.6)
    meniscus: float = 1.0
    ligament: float = 1.0
    muscle: float = 1.0
    effusion_mm: float = 1.6
    subcutaneous_mm: float = 5.5
    skin_mm: float = 0.0
    flexion_deg: float = 12.0
    warp_mm: float = 1.2
    bone_volume: float = 0.17
    trabeculae: tuple[float, float] = (0.02, 1.1)
    streaks: float = 0.05
    bellies: tuple[tuple[str, float, float, float, float], ...] = tuple((name, 0, 0, 0, 1.0) for name in BELLIES)
    limb: tuple[float, ...] = (1.0,) * len(LIMB)
    variation: float = 1.0

    def draw(self, rng: np.random.Generator) -> Knee:
        """Return one person: pose, and proportions around the plan's."""

        def ratio(spread, count=None):
            spread *= self.variation
            return np.exp(np.clip(rng.normal(0, spread / 2, count), -spread, spread))

        def around(spread, count=None):
            spread *= self.variation
            return np.clip(rng.normal(0, spread / 2, count), -spread, spread)

        def times(values, spread):
            return tuple(float(v) for v in np.asarray(values) * ratio(spread, len(values)))

        size = ratio(0.08)
        side = ("right", "left")[int(rng.integers(2))]
        person = dataclasses.replace(
            self,
            size=tuple(float(s * size) for s in times(self.size, 0.04)),
            condyle=times(self.condyle, 0.07),
            squareness=float(self.squareness * ratio(0.05)),
            flare=float(self.flare * ratio(0.08)),
            notch_mm=float(self.notch_mm * ratio(0.1)),
            shaft=times(self.shaft, 0.08),
            plateau=times(self.plateau, 0.05),
            slope_deg=float(self.slope_deg + around(3)),
            patella=times(self.patella, 0.09),
            patella_up_mm=float(self.patella_up_mm + around(4)),
            cartilage_mm=times(self.cartilage_mm, 0.2),
            cortex_mm=times(self.cortex_mm, 0.2),
            meniscus=float(self.meniscus * ratio(0.1)),
            ligament=float(self.ligament * ratio(0.1)),
            muscle=float(self.muscle * ratio(0.06)),
            effusion_mm=float(np.clip(self.effusion_mm * ratio(0.9), 0.3, 7)),
            subcutaneous_mm=float(np.clip(self.subcutaneous_mm * ratio(0.5), 2.5, 20)),
            flexion_deg=float(self.flexion_deg + around(7)),
            bone_volume=float(np.clip(self.bone_volume + around(0.05), 0.08, 0.3)),
            bellies=tuple(
                (name, *(float(v) for v in np.array([x, y, z]) + around(4, 3)), float(factor * ratio(0.1)))
                for name, x, y, z, factor in self.bellies
            ),
            limb=times(self.limb, 0.05),
        )
        rotation, translation = (tuple(float(v) for v in around(limit, 3)) for limit in (6.0, 5.0))
        return Knee(person, side, rotation, translation)


@dataclasses.dataclass(frozen=True)
class Knee:
    """One person's knee: their own proportions, and how they lie in the scanner (degrees, mm)."""

    plan: Plan
    side: str = "right"
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def describe(self) -> dict:
        """Return what a line of participants.tsv says, in the words of `anatomy.Anatomy.describe`."""
        plan = self.plan
        return {
            "side": self.side,
            "size": round(float(np.mean(plan.size)), 4),
            "flexion_deg": round(plan.flexion_deg, 2),
            "cartilage_mm": round(plan.cartilage_mm[0], 2),
            "effusion_mm": round(plan.effusion_mm, 2),
            "subcutaneous_fat_mm": round(plan.subcutaneous_mm, 1),
            "bone_volume_fraction": round(plan.bone_volume, 3),
        }


def build(knee: Knee, shape, spacing_mm, rng: np.random.Generator) -> Tissues:
    """Paint a knee, from the skin inwards; arguments as those of `anatomy.build`."""
    for_warp, for_texture = rng.spawn(2)
    plan = knee.plan
    grid = Grid(
        shape,
        spacing_mm,
        left=knee.side == "left",
        turn=_turn(knee.rotation_deg).T / np.asarray(plan.size)[:, None],
        shift_mm=knee.translation_mm,
        warp_mm=plan.warp_mm,
        rng=for_warp,
        flexion_deg=plan.flexion_deg,
    )
    canvas = Canvas(NAMES, shape)
    femur, tibia, patella = _femur(grid, plan), _tibia(grid, plan), _patella(grid, plan)
    _paint_limb(canvas, grid, plan, (femur, tibia, patella), for_texture)
    _paint_vessels(canvas, grid)
    _paint_pads_and_pouch(canvas, grid, plan, for_texture)
    _paint_tendons_and_straps(canvas, grid, plan)
    _paint_joint(canvas, grid, plan, femur, tibia, for_texture)
    _paint_bones(canvas, grid, plan, femur, tibia, patella)
    sd, grain_mm = plan.trabeculae
    texture = grid.noise(for_texture, grain_mm) + np.float32(0.4) * grid.noise(for_texture, 5 * grain_mm)
    bone_volume = np.clip(np.float32(plan.bone_volume) + np.float32(sd) * texture, 0.05, 0.4)
    return Tissues(canvas.fractions(), bone_volume)


def _turn(degrees) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


# --- bones ---


def _femur(grid: Grid, plan: Plan) -> Solid:
    box = grid.box((-44, -14, -46), (44, FAR, 40))
    p = grid.at(box)
    x, y, z = p
    away, rx, ry, rz = plan.condyle
    middle = JOINT_Y + ry
    a, c = plan.shaft
    blend = plan.blend_mm
    if plan.form == "superquadrics":
        parts = [superquadric(p, (side * away, middle, -6.5 + side), (rx, ry, rz), plan.squareness) for side in (-1, 1)]
        parts += [
            ellipsoid(p, (0, middle + 2, 8), (23, 19, 16)),
            ellipsoid(p, (0, 31, 0), (31 * plan.flare, 28, 18)),
            np.maximum(ellipsoid((x, np.float32(0), z), (0, 0, 4), (a, 1, c)), np.float32(30) - y),
        ]
    else:
        # each condyle is a tube bent round its middle, from the groove below to the far back; two limbs join the shaft
        thick = 0.55 * ry
        angles = np.deg2rad([-10, 35, 75, 110, 145, 180, 205])
        parts = []
        for side in (-1, 1):
            arc = [
                (side * (away - 5 * np.cos(t) ** 2 * (t < 1)), middle - (ry - thick) * np.sin(t),
                 -6.5 + side + (rz - thick) * np.cos(t))
                for t in angles
            ]  # fmt: skip
            parts.append(tube(p, arc, [thick * 0.9, *[thick] * 5, thick * 0.85], (rx / thick, 1, 1)))
            limb = [(side * away * 0.95, middle, -5), (side * 15 * plan.flare, 38, -1), (0, 66, 4), (0, FAR, 4)]
            parts.append(tube(p, limb, [0.75 * ry, 0.75 * ry, c, c], (a / c, 1, 1)))
        parts += [
            ellipsoid(p, (0, middle + 5, 5), (22, 18, 15)),
            ellipsoid(p, (0, 32, 0), (17 * plan.flare, 27, 13)),
        ]
    bone = union(parts, blend)
    # the groove that the patella glides in, and the notch between the condyles
    bone = without(bone, tube(p, [(0, 0, 39), (0, 24, 41), (0, 60, 46)], [16, 16.5, 17]), 2.0)
    notch = ellipsoid(p, (0, JOINT_Y + 2, -15), (plan.notch_mm, 21, 22))
    return grid.solid(box, without(bone, notch, 2.0))


def _plateau_y(plan: Plan) -> float:
    """Height of the tibia's bone where the cartilages touch."""
    return JOINT_Y - plan.cartilage_mm[0] - plan.cartilage_mm[1] - 0.2


def _tibia_top(x, z, plan: Plan):
    away = plan.condyle[0]
    dish = np.float32(1.2) * np.exp(-(((x + away) / 11) ** 2) - ((z + 5) / 15) ** 2)
    slope = np.float32(np.tan(np.deg2rad(plan.slope_deg)))
    return np.float32(_plateau_y(plan)) - dish + slope * (z + 6)


def _tibia(grid: Grid, plan: Plan) -> Solid:
    box = grid.box((-46, -FAR, -40), (46, 0, 34))
    p = grid.at(box)
    x, y, z = p
    top, (wide, deep) = _plateau_y(plan), plan.plateau
    if plan.form == "superquadrics":
        parts = [
            superquadric(p, (0, top - 10, -4), (wide, 14, deep), plan.squareness + 0.4),
            ellipsoid(p, (0, top - 22, -3), (27 * plan.flare, 30, 19)),
            np.maximum(superquadric((x, np.float32(0), z), (0, 0, -2), (14, 1, 14), plan.squareness), y - top + 30),
        ]
    else:
        parts = [tube(p, [(0, top - 44, -3), (0, -FAR, -3)], [13.5, 12.5])]
        for side in (-1, 1):
            head = [(side * (wide - 19), top - 8, -5), (side * 12 * plan.flare, top - 26, -4), (0, top - 58, -3)]
            parts.append(tube(p, head, [19, 16, 12], (1.0, 1.0, deep / 21)))
    parts.append(ellipsoid(p, (0, top - 27, 14), (9, 13, 8)))
    bone = np.maximum(union(parts, plan.blend_mm + 1), y - _tibia_top(x, z, plan))
    spines = [ellipsoid(p, (s * 5, top, -4 - 2 * s), (3.2, 7.5, 8)) for s in (-1, 1)]
    return grid.solid(box, union([bone, *spines], 1.2))


def _patella_centre(plan: Plan) -> tuple[float, float, float]:
    return (0.5, 23 + plan.patella_up_mm, 30.0 + plan.patella[2])


def _patella(grid: Grid, plan: Plan) -> Solid:
    centre, radii = _patella_centre(plan), plan.patella
    box = grid.box(*(tuple(c + s * (r + 3) for c, r in zip(centre, radii, strict=True)) for s in (-1, 1)))
    x, y, z = grid.at(box)
    # two facets meet in a ridge
    z = z - np.float32(0.28) * np.abs(x) * ramp(-(z - centre[2]), -3, 4)
    if plan.form == "superquadrics":
        field = superquadric((x, y, z), centre, radii, plan.squareness)
    else:
        spine = [(centre[0], centre[1] + t * radii[1] * 0.5, centre[2] - 1.5 * t) for t in (-1.1, 0.2, 0.9)]
        field = tube((x, y, z), spine, [radii[2] * 0.75, radii[2], radii[2] * 0.9], (radii[0] / radii[2], 1, 1))
    return grid.solid(box, field)


def _fibula(grid: Grid, plan: Plan) -> Solid:
    box = grid.box((18, -FAR, -36), (52, -14, 6))
    p = grid.at(box)
    top = _plateau_y(plan)
    points = [(33, top - 11, -19), (34, top - 18, -18), (34, top - 30, -17), (32, -FAR, -14)]
    return grid.solid(box, tube(p, points, [4.5, 8.5, 6.0, 6.0]))


def _paint_bones(canvas: Canvas, grid: Grid, plan: Plan, femur: Solid, tibia: Solid, patella: Solid) -> None:
    """Each with its cartilage as one body, so that shares of thin layers are exact."""
    for bone, scar_y, cartilage in (
        (_fibula(grid, plan), -44.0, None),
        (tibia, -36.0, _tibial_cartilage(grid, plan, tibia)),
        (patella, None, _patellar_cartilage(grid, plan, patella)),
        (femur, 30.0, _femoral_cartilage(grid, plan, femur)),
    ):
        if not bone.distance.size:
            continue
        y = grid.points[1][bone.box]
        thin, thick = plan.cortex_mm
        if scar_y is None:
            shaft, shell = np.float32(0), np.float32(thin * 1.2)
        else:
            up = np.float32(np.sign(scar_y)) * (y - np.float32(scar_y))
            shaft = ramp(up, 0, 30)
            shell = np.float32(thin) + np.float32(thick - thin) * ramp(up, 4, 42)
        bony = bone.cover()
        inside = np.minimum(bone.cover(-shell), bony)
        shares = {
            "marrow_shaft": inside * shaft,
            "marrow_epiphysis": inside * (1 - shaft),
            "cortical_bone": bony - inside,
        }
        if cartilage is not None:
            # T2 grows from the bone to the surface: the layers change over linearly
            layer = (bone.cover(cartilage) - bony) * (cartilage > 0.3)
            depth = np.clip(bone.distance / np.maximum(cartilage, np.float32(0.3)), 0, 1)
            shares |= {"cartilage_deep": layer * (1 - depth), "cartilage_superficial": layer * depth}
        canvas.paint(bone.box, shares)


# --- joint ---


def _femoral_cartilage(grid: Grid, plan: Plan, femur: Solid) -> np.ndarray:
    """Thickness in mm over the articular surface, 0 elsewhere."""
    x, y, z = grid.at(femur.box)
    middle = JOINT_Y + plan.condyle[2]
    angle = np.rad2deg(np.arctan2(z + 6.5, middle - y))  # 0 points down, 90 to the front
    along = ramp(angle, -118, -98) * (1 - ramp(angle, 112, 126))
    away = np.abs(x)
    inner = plan.notch_mm
    across = np.maximum(ramp(away, inner - 1, inner + 3), ramp(z, 9, 13)) * (1 - ramp(away, 30, 36))
    profile = 0.9 + 0.3 * ramp(angle, 50, 80) - 0.15 * ramp(-angle, 40, 100)
    return np.float32(plan.cartilage_mm[0]) * along * across * profile


def _rings(x, z, plan: Plan):
    """For each side its sign and the distance from the middle of its plateau, 1 at the rim of the meniscus."""
    away, half_x = plan.condyle[0], plan.plateau[0] - plan.condyle[0]
    for sign, length in ((-1, 0.92), (1, 0.83)):
        yield sign, np.hypot((x - sign * away) / np.float32(half_x), (z + 5) / np.float32(length * plan.plateau[1]))


def _tibial_cartilage(grid: Grid, plan: Plan, tibia: Solid) -> np.ndarray:
    x, y, z = grid.at(tibia.box)
    ring = np.minimum(*(r for _, r in _rings(x, z, plan)))
    upper = ramp(y - _tibia_top(x, z, plan), -3, -1)
    return np.float32(plan.cartilage_mm[1]) * (1 - ramp(ring, 0.85, 1.06)) * upper * ramp(np.abs(x), 6, 9)


def _patellar_cartilage(grid: Grid, plan: Plan, patella: Solid) -> np.ndarray:
    x, y, z = grid.at(patella.box)
    centre, (_, tall, thick) = _patella_centre(plan), plan.patella
    behind = 1 - ramp(z - 0.2 * np.abs(x), centre[2] - 0.6 * thick, centre[2] - 0.1 * thick)
    level = (y - centre[1]) / np.float32(tall)
    return np.float32(plan.cartilage_mm[2]) * behind * ramp(level, -0.75, -0.45) * (1 - ramp(level, 0.75, 0.95))


def _paint_joint(canvas: Canvas, grid: Grid, plan: Plan, femur: Solid, tibia: Solid, rng) -> None:
    """Fat and ligaments of the notch, fluid over the cartilage, menisci in the wedge between the bones."""
    wet = np.float32(plan.effusion_mm)
    notch = grid.box((-14, -32, -34), (14, 24, 24))
    q = grid.at(notch)
    inside = grid.solid(notch, ellipsoid(q, (0, -4, -8), (11, 22, 20))).cover()
    pools = np.float32(0.8) * np.clip(1.2 * (grid.noise(rng, 1.8, notch) - 1.7 + 0.1 * (wet - 2)), 0, 1)
    canvas.paint(notch, {"hoffa_fat": inside * (1 - pools), "fluid": inside * pools})

    box = femur.box
    if femur.distance.size:
        _, y, z = grid.at(box)
        cartilage = _femoral_cartilage(grid, plan, femur)
        uneven = np.clip(1 + np.float32(0.5) * grid.noise(rng, 5.0, box), 0, 2)
        recess = ramp(-z, 20, 28) * ramp(y, 0, 12) + np.float32(0.7) * ramp(z, 10, 18) * ramp(y, 16, 26)
        film = np.float32(0.1) + np.float32(0.06) * wet + np.float32(0.3) * wet * recess * uneven
        canvas.paint(box, {"fluid": femur.cover(cartilage + film) * (cartilage > 0.4)})
    thick = plan.ligament
    for name, points, radii in (
        ("acl", [(9, 14, -17), (6, 4, -9), (2, -7, 0), (-1, _plateau_y(plan) - 1, 8)], (4.2, 4.2, 4.6, 5.2)),
        ("pcl", [(-8, 1, 5), (-6.5, 5, -5), (-4.5, 1, -15), (-2, -9, -23), (0, -26, -28)], (3.6, 4.6, 4.7, 4.3, 3.6)),
    ):
        box = grid.box((-16, -36, -38), (18, 24, 18))
        canvas.paint(box, {name: grid.solid(box, tube(grid.at(box), points, [r * thick for r in radii])).cover()})
    _paint_menisci(canvas, grid, plan, tibia)


def _paint_menisci(canvas: Canvas, grid: Grid, plan: Plan, tibia: Solid) -> None:
    """Wedges on the tibia's cartilage, open towards the middle; the femur, painted later, presses into their tops."""
    x, y, z = grid.at(tibia.box)
    if not x.size:
        return
    above = y - _tibia_top(x, z, plan) - np.float32(0.9 * plan.cartilage_mm[1])
    for sign, ring in _rings(x, z, plan):
        inner = np.float32(0.58) - np.float32(0.06 if sign < 0 else 0) * ramp(-z, 6, 16)
        width = plan.plateau[0] - plan.condyle[0]
        rise = np.clip((ring - inner) / (1 - inner), 0, 1.1)
        tall = np.float32(8.5 * plan.meniscus) * (np.float32(0.35) + np.float32(0.65) * ramp(sign * x, 6, 15))
        outer = -union([(1 - ring) * width, tall * rise - above], 1.0)
        wedge = np.maximum((inner - ring) * width, outer)
        wedge = np.maximum(wedge, np.maximum(np.float32(-1.5) - above, np.float32(7) - sign * x))
        wet = np.maximum(np.maximum((ring - np.float32(0.92)) * width, above - np.float32(1.5)), -2 - above)
        wet = np.maximum(wet, np.float32(8) - sign * x)
        canvas.paint(tibia.box, {"fluid": np.float32(0.8) * grid.solid(tibia.box, wet).cover()})
        canvas.paint(tibia.box, {"meniscus": grid.solid(tibia.box, wedge).cover()})


# --- front of the knee ---


def _apex(plan: Plan) -> tuple[float, float, float]:
    centre = _patella_centre(plan)
    return (0.5, centre[1] - 0.92 * plan.patella[1], centre[2] + 2.5)


def _tuberosity(plan: Plan) -> tuple[float, float, float]:
    return (0.0, _plateau_y(plan) - 30.0, 22.5)


def _wrapped(p):
    """Coordinates in which what wraps around the front of the knee is flat."""
    x, y, z = p
    return x, y, z + np.float32(0.012) * x * x


def _paint_pads_and_pouch(canvas: Canvas, grid: Grid, plan: Plan, rng) -> None:
    box = grid.box((-36, -46, -4), (36, 22, 46))
    p = _wrapped(grid.at(box))
    front = tube(p, [_apex(plan), _tuberosity(plan)], [40, 40])
    pad = union([ellipsoid(p, (0, -8, 19), (33, 27, 20)), ellipsoid(p, (0, -26, 17), (24, 14, 10))], 3)
    share = grid.solid(box, np.maximum(pad, front - 40)).cover()
    septa = np.float32(0.15) * np.clip(grid.noise(rng, 1.3, box) - 1, 0, 1)
    canvas.paint(box, {"hoffa_fat": share * (1 - septa), "fascia": share * septa})
    # the fat in front of the femur, and the pouch between it and the tendon
    up, wet = plan.patella_up_mm, np.float32(plan.effusion_mm)
    box = grid.box((-30, 22 + up, 12), (30, 88, 42))
    p = _wrapped(grid.at(box))
    reach = 58 + 5 * plan.effusion_mm
    half = (np.float32(0.28) * wet + np.float32(0.1)) * np.clip(1 - (p[0] / 28) ** 2, 0, 1)
    half = half * (1 - ramp(p[1], reach - 14, reach + 2)) * ramp(p[1], 26 + up, 36 + up)
    sheet = p[2] - (np.float32(29) - np.float32(0.09) * (p[1] - 36))
    canvas.paint(box, {"fluid": grid.solid(box, sheet).sheet(half)})


def _paint_tendons_and_straps(canvas: Canvas, grid: Grid, plan: Plan) -> None:
    thick = plan.ligament
    centre, (_, tall, deep) = _patella_centre(plan), plan.patella
    top, front = (0.5, centre[1] + 0.9 * tall, centre[2] + 1.0), (0.5, centre[1], centre[2] + deep)
    for name, points, half, wide in (
        ("patellar_tendon", [_apex(plan), _tuberosity(plan)], 2.4 * thick, 13.0),
        ("quadriceps_tendon", [top, (0, 80, 36), (0, FAR, 36)], 3.0 * thick, 17.0),
        ("quadriceps_tendon", [_apex(plan), front, top], 1.2, 14.0),
    ):
        box = grid.box((-22, min(q[1] for q in points) - 4, 10), (22, max(q[1] for q in points) + 4, 60))
        p = _wrapped(grid.at(box))
        band = tube((p[0] * np.float32(half / wide), p[1], p[2]), points, [half] * len(points))
        canvas.paint(box, {name: grid.solid(box, band).cover() * canvas.limb(box)})
    top = _plateau_y(plan)
    for points, half, wide in (
        ([(-39, 14, -6), (-41, -6, -5), (-37, top - 22, -2)], 1.3, 7.0),
        ([(38, 14, -8), (41, -6, -13), (36, top - 12, -18)], 1.8, 3.0),
        ([(52, FAR, 2), (45, 44, 3), (39, 8, 8), (33, top - 12, 14)], 1.1, 9.0),
    ):
        box = grid.box((min(q[0] for q in points) - 3, top - 26, -30), (max(q[0] for q in points) + 3, FAR, 26))
        strap = tube(grid.at(box), points, [half] * len(points), (1, 1, wide / half))
        canvas.paint(box, {"fascia": grid.solid(box, strap).cover() * canvas.limb(box)})


# --- limb ---


def _paint_limb(canvas: Canvas, grid: Grid, plan: Plan, bones, rng) -> None:
    """Skin (or none), fat, and muscles that share the room within the fascia; the limb bulges over its bones."""
    everything, p = grid.everything, grid.points
    extra = 0.6 * (plan.subcutaneous_mm - 8)
    limb = [
        ellipsoid(p, centre, tuple(r * factor + extra for r in radii))
        for (centre, radii), factor in zip(LIMB, plan.limb, strict=True)
    ]
    surface = union(limb, 7.0)
    over_bone = np.float32(plan.skin_mm + 2.5)  # less than the margin of the bones' boxes
    for bone in bones:
        if bone.distance.size:
            surface[bone.box] = np.minimum(surface[bone.box], bone.distance - over_bone)
    skin = grid.solid(everything, surface)
    whole = skin.cover()
    inner = skin.cover(-np.float32(plan.skin_mm)) if plan.skin_mm else whole
    septa = np.float32(0.12) * np.clip(grid.noise(rng, (3.0, 3.0, 1.0)) - np.float32(1.1), 0, 1)
    canvas.paint(everything, {"skin": whole - inner, "subcutaneous_fat": inner * (1 - septa), "fascia": inner * septa})
    cushion = np.float32(0.5) + np.float32(0.6) * ramp(-p[2], -40, 20)
    fascia = skin.distance + np.float32(plan.subcutaneous_mm + plan.skin_mm) * cushion
    within = Solid(everything, fascia, skin.width)

    nearest = np.full(grid.shape, 50, np.float32)
    second = nearest.copy()
    for name, dx, dy, dz, factor in plan.bellies:
        (cx, cy, cz), radii = BELLIES[name]
        centre = (cx + dx, cy + dy, cz + dz)
        rx, ry, rz = (radii[0] * plan.muscle * factor, radii[1], radii[2] * plan.muscle * factor)
        box = grid.box(*(tuple(c + s * r for c, r in zip(centre, (rx, ry, rz), strict=True)) for s in (-1, 1)))
        d = ellipsoid(grid.at(box), centre, (rx, ry, rz))
        second[box] = np.minimum(second[box], np.maximum(d, nearest[box]))
        nearest[box] = np.minimum(nearest[box], d)
    planes = np.float32(0.7) * np.exp(-(((second - nearest) / np.float32(1.4)) ** 2))
    streaks = grid.noise(rng, (1.2, 7.0, 1.2))
    fat = np.clip(planes + np.float32(plan.streaks) * (np.float32(0.6) + np.maximum(streaks, 0)), 0, 0.95)
    bellies = grid.solid(everything, np.maximum(nearest, fascia + np.float32(0.6)))
    share = bellies.cover()
    canvas.paint(everything, {"muscle": share * (1 - fat), "subcutaneous_fat": share * fat})
    canvas.paint(everything, {"fascia": within.sheet(np.float32(0.3))})


def _paint_vessels(canvas: Canvas, grid: Grid) -> None:
    for points, radius in (
        ([(-2, FAR, -18), (0, 50, -28), (2, 10, -36), (3, -30, -37), (4, -FAR, -26)], 3.1),
        ([(3, FAR, -25), (4, 50, -36), (4, 10, -44), (3, -30, -44), (1, -FAR, -33)], 4.0),
        ([(-46, FAR, -30), (-45, 0, -34), (-46, -FAR, -30)], 1.6),
    ):
        box = grid.box((min(q[0] for q in points) - 5, -FAR, -52), (max(q[0] for q in points) + 5, FAR, -10))
        lumen = grid.solid(box, tube(grid.at(box), points, [radius] * len(points))).cover()
        canvas.paint(box, {"vessel": lumen * canvas.limb(box)})
