"""Makes of digital knees: whose anatomy, tissues, protocols and scanner a cohort has.

| | A | B | random |
|---|---|---|---|
| shapes | outlines and sections (`anatomy`) | blended superquadrics (`blended`) | swept tubes, proportions drawn |
| tissues | 3 T (docs/explanation/physics.md) | 1.5 T, less PD of cartilage | A's times drawn factors |
| CISS | TR 12.78, TE 6.39 ms, 35 deg, larger of two cycles | TR 8.6, TE 4.3 ms, 50 deg, root of squares | drawn |
| DESS | TR 16.3, TE 4.7 ms, 25 deg, echoes alike | TR 20.6, TE 6 ms, 32 deg, second echo at 0.6 | drawn |
| fat suppression | water excitation in DESS | saturation leaves a quarter of it in DESS | none to full, in either |
| noise | as in the BEAR and OAI trials, about | a fifth of A's | a tenth to twice A's |
| coil, B1, shim | 12 to 25 %, 0.85 to 1.15, 20 to 30 Hz | 2 to 6 %, 0.95 to 1.05, 6 to 12 Hz | drawn |
| skin | 1.6 mm | none | none, or 0.8 to 2.5 mm |
| field of view | 96 x 140 x 140 mm | 88 x 156 x 132 mm | drawn |

A is what the project's own settings were chosen on. `random(seed)` draws a make from the ranges in `PLAN`, `SEQUENCES`,
`TISSUE_FACTORS` and `EXAMINATIONS`: within it, subjects vary as usual; another seed is another make. No random make has
the solids of A or of B, so both stay makes that nothing trained on `random` has seen.

Signals come from `signals` for every make: only parameters and geometry differ. Saturation is a share of fat's signal
that is taken away, not a simulated pulse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from cyclescan.common.errors import InputError
from data_prep.phantom import anatomy, blended, scanner, signals
from data_prep.phantom.signals import CISS, DESS, Ciss, Dess, Tissue

NAMES = ("A", "B", "random")


@dataclasses.dataclass(frozen=True)
class Make:
    """What all knees of one cohort have in common.

    Attributes:
        name: "A", "B" or "random".
        draw_knee: a person's anatomy from a generator; it has `describe()`.
        build_knee: `anatomy.build` or `blended.build`: tissues of that anatomy on a grid.
        tissues: the table that subjects vary around.
        ciss, dess: the protocols.
        examinations: ranges of noise, coil, shim and gain.
        field_of_view_mm: (depth, height, width) where no spacing is asked for.
    """

    name: str
    draw_knee: Callable[[np.random.Generator], object]
    build_knee: Callable[..., anatomy.Tissues]
    tissues: dict[str, Tissue]
    ciss: Ciss
    dess: Dess
    examinations: scanner.Ranges
    field_of_view_mm: tuple[float, float, float]


A = Make(
    "A",
    anatomy.draw,
    anatomy.build,
    signals.TISSUES,
    CISS,
    DESS,
    scanner.Ranges(),
    field_of_view_mm=(96.0, 140.0, 140.0),
)

B_DESS = Dess(tr_ms=20.6, te1_ms=6.0, flip_deg=32.0, water_excitation=0, fat_saturation=0.75, echo_weights=(1.0, 0.6))
# PD of water, T1, T2 (ms), R2' (1/s), D (1e-3 mm^2/s), what diffusion leaves of the two echoes of B_DESS (a test
# recomputes it), PD of fat, HU and its SD, T1 and T2 of fat. Relaxation times are those of 1.5 T.
B_TISSUES: dict[str, Tissue] = {
    name: signals.tissue(*row)
    for name, row in {
        "air": (0.0, 1000, 100, 0, 0.0, 1, 1, 0.0, -1000, 0),
        "fluid": (1.00, 2850, 1210, 1, 2.5, 0.6541, 0.5992, 0.0, 12, 5),
        "cartilage_deep": (0.66, 1060, 32, 8, 1.3, 0.9889, 0.9433, 0.0, 95, 15),
        "cartilage_superficial": (0.66, 1060, 52, 8, 1.3, 0.9792, 0.9353, 0.0, 95, 15),
        "meniscus": (0.58, 700, 15, 25, 1.2, 0.9983, 0.9562, 0.0, 105, 15),
        "acl": (0.60, 720, 24, 22, 1.2, 0.9950, 0.9536, 0.0, 80, 15),
        "pcl": (0.60, 700, 15, 25, 1.2, 0.9983, 0.9562, 0.0, 90, 15),
        "quadriceps_tendon": (0.52, 680, 9, 40, 1.0, 0.9998, 0.9643, 0.0, 100, 15),
        "patellar_tendon": (0.52, 560, 7, 40, 1.0, 1.0, 0.9654, 0.0, 105, 15),
        "muscle": (0.80, 1130, 35.3, 5, 1.5, 0.9848, 0.9327, 0.03, 60, 8),
        "subcutaneous_fat": (0.04, 1200, 38, 6, 1.5, 0.9827, 0.9306, 0.92, -105, 10, 288, 165),
        "hoffa_fat": (0.09, 1200, 38, 8, 1.5, 0.9827, 0.9306, 0.86, -90, 12, 288, 165),
        "marrow_shaft": (0.05, 1200, 38, 10, 1.0, 0.9882, 0.9528, 0.88, -65, 20, 288, 165),
        "marrow_epiphysis": (0.14, 1200, 38, 45, 1.0, 0.9882, 0.9528, 0.66, -80, 12, 288, 165),
        "cortical_bone": (0.18, 200, 0.4, 0, 0.0, 1, 1, 0.0, 1250, 200),
        "vessel": (0.85, 1450, 200, 4, 0.0, 1, 1, 0.0, 45, 5),
        "fascia": (0.52, 680, 9, 40, 1.0, 0.9998, 0.9643, 0.0, 80, 15),
        "skin": (0.66, 800, 28, 18, 1.0, 0.9941, 0.9592, 0.0, 55, 15),
    }.items()
}
B = Make(
    "B",
    blended.Plan().draw,
    blended.build,
    B_TISSUES,
    Ciss(tr_ms=8.6, te_ms=4.3, flip_deg=50.0, combination="rss"),
    B_DESS,
    scanner.Ranges(
        df_sd_hz=(6, 12),
        b1=((0.95, 0.98), (1.02, 1.05)),
        bias_sd=(0.02, 0.06),
        sigma_ciss=(0.0003, 0.0005),
        sigma_dess=(0.0004, 0.0008),
        typical_gain=(900.0, 1400.0),
        hu_sd=(6, 10),
        thickness_mm=(None, None),
        relaxation_sd=(0.05, 0.08, 0.03),
    ),
    field_of_view_mm=(88.0, 156.0, 132.0),
)

# --- what random makes are drawn from: (lowest, highest), uniform; of a quantity in LOGARITHMIC, its logarithm is ---

PLAN = {
    "size": ((0.90, 1.10), (0.90, 1.10), (0.90, 1.10)),
    "condyle": ((18.5, 24.0), (13.0, 18.0), (19.0, 26.0), (26.0, 33.0)),
    "flare": (0.8, 1.2),
    "notch_mm": (6.5, 11.0),
    "blend_mm": (2.0, 5.0),
    "shaft": ((12.5, 18.0), (11.5, 16.0)),
    "plateau": ((35.0, 41.0), (23.0, 29.0)),
    "slope_deg": (0.0, 11.0),
    "patella": ((18.0, 25.0), (17.0, 24.0), (8.0, 12.0)),
    "patella_up_mm": (-5.0, 8.0),
    "cartilage_mm": ((1.6, 3.2), (1.6, 3.4), (2.2, 4.4)),
    "cortex_mm": ((0.6, 1.8), (2.2, 5.0)),
    "meniscus": (0.75, 1.35),
    "ligament": (0.75, 1.35),
    "muscle": (0.85, 1.2),
    "effusion_mm": (0.6, 4.5),
    "subcutaneous_mm": (3.5, 18.0),
    "flexion_deg": (0.0, 20.0),
    "warp_mm": (0.8, 2.8),
    "bone_volume": (0.11, 0.26),
    "trabeculae": ((0.005, 0.06), (0.5, 2.0)),
    "streaks": (0.0, 0.14),
    "limb": tuple((0.88, 1.12) for _ in blended.LIMB),
    "variation": (0.6, 1.3),
}
SKIN_MM, WITHOUT_SKIN = (0.8, 2.5), 0.35  # thickness, and the share of makes that have none
BELLY_MM, BELLY_FACTOR, WITHOUT_BELLY = (
    (-6.0, 6.0),
    (0.8, 1.2),
    0.06,
)  # shifts and factor of muscles, share of absent ones
SEQUENCES = {
    "ciss": {"tr_ms": (6.0, 15.0), "flip_deg": (22.0, 70.0)},
    "dess": {"tr_ms": (13.0, 26.0), "flip_deg": (14.0, 45.0)},
    "te_share": (0.18, 0.42),  # of DESS: its first echo over TR; CISS has its echo in the middle
    "second_echo": (0.0, 1.8),  # its weight over the first one's
    "fat_saturation": (0.3, 1.0),
    "spoiling": (0.0, 1.2),  # exponent of what diffusion leaves: how strong the gradients between the echoes are
}
TISSUE_FACTORS = {
    "pd": (0.85, 1.15),
    "t1": (0.75, 1.3),
    "t2": (0.7, 1.4),
    "r2_prime": (0.4, 1.6),
    "hu_shift": (-15, 15),
}
EXAMINATIONS = {
    "df_sd_hz": (3.0, 45.0),
    "b1_half_width": (0.02, 0.15),
    "bias_sd": (0.01, 0.35),
    "sigma_ciss": (0.00012, 0.0045),
    "sigma_dess": (0.0002, 0.007),
    "typical_gain": (400.0, 3500.0),
    "hu_sd": (4.0, 30.0),
    "thickness_mm": (0.6, 3.6),
}
FIELD_OF_VIEW_MM = ((80.0, 112.0), (118.0, 178.0), (118.0, 170.0))
LOGARITHMIC = {
    "effusion_mm", "subcutaneous_mm", "bias_sd", "sigma_ciss", "sigma_dess", "typical_gain",
    "pd", "t1", "t2", "r2_prime",
}  # fmt: skip
WITHIN = 0.25  # examinations of one make lie this far around its own noise, coil and shim


def named(name: str, seed: int = 0) -> Make:
    """Return the make that a command line names; `seed` is the cohort's and matters for "random" alone.

    Raises:
        InputError: there is no such make.
    """
    if name == "random":
        return random(seed)
    if name not in NAMES:
        raise InputError(f"--make is {name}; allowed are {', '.join(NAMES)}.")
    return {"A": A, "B": B}[name]


def random(seed: int) -> Make:
    """Return the random make of a cohort's seed."""
    # apart from the seeds of subjects, which are (seed, index)
    return draw(np.random.default_rng(np.random.SeedSequence([seed], spawn_key=(1, 1))))


def draw(rng: np.random.Generator) -> Make:
    """Return a make within the ranges above."""
    plan = blended.Plan(form="sweeps", skin_mm=_skin(rng), bellies=_bellies(rng), **_all(rng, PLAN))
    exponent = _one(rng, "spoiling", SEQUENCES["spoiling"])
    return Make(
        "random",
        plan.draw,
        blended.build,
        _tissues(rng, exponent),
        _ciss(rng),
        _dess(rng),
        _examinations(rng),
        tuple(_one(rng, "", limits) for limits in FIELD_OF_VIEW_MM),
    )


def _one(rng, name: str, limits):
    """A value for a pair of limits; a tuple of them for a tuple of pairs."""
    if isinstance(limits[0], tuple):
        return tuple(_one(rng, name, pair) for pair in limits)
    if name in LOGARITHMIC:
        return float(np.exp(rng.uniform(*np.log(limits))))
    return float(rng.uniform(*limits))


def _all(rng, table: dict) -> dict:
    return {name: _one(rng, name, limits) for name, limits in table.items()}


def _skin(rng) -> float:
    return 0.0 if rng.random() < WITHOUT_SKIN else float(rng.uniform(*SKIN_MM))


def _bellies(rng) -> tuple:
    drawn = [(name, *(float(v) for v in rng.uniform(*BELLY_MM, 3)), float(rng.uniform(*BELLY_FACTOR)))
             for name in blended.BELLIES]  # fmt: skip
    return tuple(belly for belly in drawn if rng.random() >= WITHOUT_BELLY)


def _saturation(rng) -> float:
    return _one(rng, "", SEQUENCES["fat_saturation"])


def _ciss(rng) -> Ciss:
    drawn = _all(rng, SEQUENCES["ciss"])
    suppressed = rng.random() < 0.35
    return Ciss(
        te_ms=drawn["tr_ms"] / 2,
        combination=("max", "rss")[int(rng.integers(2))],
        fat_saturation=_saturation(rng) if suppressed else 0.0,
        **drawn,
    )


def _dess(rng) -> Dess:
    """Fat is excited with the water, or left out by a binomial pulse of order 1 or 2, or saturated."""
    drawn = _all(rng, SEQUENCES["dess"])
    way = int(rng.integers(4))
    return Dess(
        te1_ms=drawn["tr_ms"] * _one(rng, "", SEQUENCES["te_share"]),
        water_excitation=way if way < 3 else 0,
        fat_saturation=_saturation(rng) if way == 3 else 0.0,
        echo_weights=(1.0, _one(rng, "", SEQUENCES["second_echo"])),
        **drawn,
    )


def _tissues(rng, exponent: float) -> dict[str, Tissue]:
    """A's table times a factor for each entry of each tissue; both layers of cartilage have the same ones."""
    result, factors = {}, {}
    for name, t in signals.TISSUES.items():
        if name == "air":
            result[name] = t
            continue
        if name != "cartilage_superficial":
            factors = _all(rng, TISSUE_FACTORS)
        t1 = t.t1_ms * factors["t1"]
        result[name] = dataclasses.replace(
            t,
            pd_water=t.pd_water * factors["pd"],
            pd_fat=t.pd_fat * factors["pd"],
            t1_ms=t1,
            t2_ms=min(t.t2_ms * factors["t2"], 0.9 * t1),
            r2_prime=t.r2_prime * factors["r2_prime"],
            diffusion_s1=t.diffusion_s1**exponent,
            diffusion_s2=t.diffusion_s2**exponent,
            hu=t.hu + factors["hu_shift"],
        )
    return result


def _examinations(rng) -> scanner.Ranges:
    drawn = _all(rng, EXAMINATIONS)
    half = drawn["b1_half_width"]

    def around(name):
        return (drawn[name] * (1 - WITHIN), drawn[name] * (1 + WITHIN))

    # two in three makes have slices as thick as they lie apart
    thick = [drawn["thickness_mm"] if rng.random() < 1 / 3 else None for _ in range(2)]
    return scanner.Ranges(
        df_sd_hz=around("df_sd_hz"),
        b1=((1 - half, 1 - half * 0.7), (1 + half * 0.7, 1 + half)),
        bias_sd=around("bias_sd"),
        sigma_ciss=around("sigma_ciss"),
        sigma_dess=around("sigma_dess"),
        typical_gain=(drawn["typical_gain"], _one(rng, "typical_gain", EXAMINATIONS["typical_gain"])),
        hu_sd=around("hu_sd"),
        thickness_mm=tuple(thick),
    )
