"""Steady-state MR signals of tissues: CISS, DESS with water excitation; and CT numbers.

Equations, tissue table and protocols are those of docs/explanation/physics.md, which names the primary sources:
Haenicke and Vogel 2003 and Gyngell 1988 for the two DESS echoes, the elliptical model for balanced SSFP, Gold et al.
2004 for relaxation times at 3 T. Times are in ms, off-resonance in Hz (water 0, fat negative), flip angles in degrees,
R2' in 1/s, diffusion in mm^2/s; signals are in units of the proton density of water. All functions accept NumPy
arrays that broadcast.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

F0_MHZ = 123.2
FAT_PPM = np.array([-3.80, -3.40, -3.11, -2.70, -2.45, -1.93, -0.50, 0.61])
FAT_AMPLITUDE = np.array([0.087, 0.568, 0.058, 0.092, 0.058, 0.027, 0.038, 0.073]) / 1.001
WATER_EXCITATION_TAU_MS = 1e3 / (2 * 3.4 * F0_MHZ)  # spacing of the binomial sub-pulses: water and fat in opposition
SPOILER_RAD_PER_MM = 2 * np.pi / (140 / 384)  # one cycle per readout pixel of 140 mm / 384


@dataclasses.dataclass(frozen=True)
class Ciss:
    """Constructive interference in steady state; the BEAR trial's sagittal protocol at 3 T."""

    tr_ms: float = 12.78
    te_ms: float = 6.39
    flip_deg: float = 35.0
    combination: str = "max"  # of the magnitudes of the two cycles; "rss" is the root of the sum of squares
    fat_saturation: float = 0.0  # the share of fat's signal that a preparation takes away


@dataclasses.dataclass(frozen=True)
class Dess:
    """Double echo in steady state with water excitation; the OAI's "SAG 3D DESS WE" at 3 T."""

    tr_ms: float = 16.3
    te1_ms: float = 4.7
    flip_deg: float = 25.0
    water_excitation: int = 1  # order n of the binomial pulse; 0 for none
    diffusion: bool = True
    fat_saturation: float = 0.0
    echo_weights: tuple[float, float] = (1.0, 1.0)  # of the two echoes' magnitudes in the root of the sum of squares

    @property
    def te2_ms(self) -> float:
        return self.tr_ms - self.te1_ms


CISS, DESS = Ciss(), Dess()


@dataclasses.dataclass(frozen=True)
class Tissue:
    """One row of the tissue table at 3 T.

    Attributes:
        pd_water, t1_ms, t2_ms: of the water; pd_fat, t1_fat_ms, t2_fat_ms: of the fat.
        r2_prime: reversible broadening (1/s), of both.
        diffusion_s1, diffusion_s2: what diffusion leaves of the two DESS echoes of the water (`diffusion_factors`).
        hu, hu_sd: CT number and its SD between subjects.
    """

    pd_water: float
    t1_ms: float
    t2_ms: float
    r2_prime: float
    diffusion_mm2_s: float
    diffusion_s1: float
    diffusion_s2: float
    pd_fat: float
    t1_fat_ms: float
    t2_fat_ms: float
    hu: float
    hu_sd: float


# one parameter for each column of the table of tissues
def tissue(pd, t1, t2, r2p, d, s1, s2, fat, hu, hu_sd, fat_t1=371.0, fat_t2=133.0) -> Tissue:
    """Return a row of a table as it is written down: diffusion in 1e-3 mm^2/s, the rest in the units of `Tissue`."""
    return Tissue(pd, t1, t2, r2p, d * 1e-3, s1, s2, fat, fat_t1, fat_t2, hu, hu_sd)


# The diffusion factors are `diffusion_factors` of each row (a test recomputes them): they take a second to compute and
# change little between subjects.
TISSUES: dict[str, Tissue] = {
    "air": tissue(0.0, 1000, 100, 0, 0.0, 1, 1, 0.0, -1000, 0),
    "fluid": tissue(1.00, 3620, 767, 2, 2.5, 0.6436, 0.5810, 0.0, 10, 5),
    "cartilage_deep": tissue(0.75, 1240, 28.0, 12, 1.4, 0.9842, 0.9255, 0.0, 90, 15),
    "cartilage_superficial": tissue(0.75, 1240, 45.0, 12, 1.4, 0.9724, 0.9163, 0.0, 90, 15),
    "meniscus": tissue(0.65, 850, 13, 40, 1.2, 0.9975, 0.9465, 0.0, 100, 15),
    "acl": tissue(0.65, 870, 22, 35, 1.2, 0.9925, 0.9428, 0.0, 85, 15),
    "pcl": tissue(0.65, 830, 14, 40, 1.2, 0.9971, 0.9463, 0.0, 95, 15),
    "quadriceps_tendon": tissue(0.60, 800, 8, 60, 1.0, 0.9996, 0.9566, 0.0, 100, 15),
    "patellar_tendon": tissue(0.60, 660, 6, 60, 1.0, 0.9999, 0.9581, 0.0, 105, 15),
    "muscle": tissue(0.78, 1420, 31.7, 8, 1.6, 0.9773, 0.9108, 0.02, 55, 8),
    "subcutaneous_fat": tissue(0.05, 1400, 35, 10, 1.6, 0.9745, 0.9088, 0.85, -100, 10),
    "hoffa_fat": tissue(0.10, 1400, 35, 12, 1.6, 0.9745, 0.9088, 0.80, -85, 12),
    "marrow_shaft": tissue(0.06, 1400, 35, 15, 1.0, 0.9835, 0.9411, 0.85, -60, 20, 365, 133),
    "marrow_epiphysis": tissue(0.10, 1400, 35, 60, 1.0, 0.9835, 0.9411, 0.70, -80, 12, 365, 133),
    "cortical_bone": tissue(0.20, 223, 0.4, 0, 0.0, 1, 1, 0.0, 1200, 200),
    "vessel": tissue(0.85, 1930, 150, 5, 0.0, 1, 1, 0.0, 45, 5),
    # fascia, joint capsule and collateral ligaments: not measured, taken as the quadriceps tendon
    "fascia": tissue(0.60, 800, 8, 60, 1.0, 0.9996, 0.9566, 0.0, 80, 15),
    "skin": tissue(0.70, 900, 25, 25, 1.0, 0.9921, 0.9505, 0.0, 55, 15),
}
CARTILAGE = tissue(0.75, 1240, 36.9, 12, 1.4, 0.9777, 0.9205, 0.0, 90, 15)  # its mean over the depth
TRABECULAR_HU = 1400.0  # added per bone volume fraction


def bssfp(t1_ms, t2_ms, df_hz, tr_ms, te_ms, flip_deg, phase_increment_rad=np.pi, r2_prime=0.0):
    """Return the complex signal of balanced SSFP at the echo time, per unit of proton density (elliptical model).

    R2' multiplies by exp(-R2' TR/2): both main modes of the off-resonance profile decay by half a TR.
    """
    alpha = np.deg2rad(flip_deg)
    e1, e2 = np.exp(-tr_ms / t1_ms), np.exp(-tr_ms / t2_ms)
    recovered = -np.expm1(-tr_ms / t1_ms)  # 1 - E1 without cancellation
    less = 2 * np.sin(alpha / 2) ** 2  # 1 - cos(alpha), likewise
    denominator = recovered + e1 * less - e2**2 * (less - recovered)
    magnitude = recovered * np.sin(alpha) / denominator
    b = e2 * recovered * (2 - less) / denominator
    theta = 2 * np.pi * df_hz * tr_ms * 1e-3
    beta = theta - phase_increment_rad
    profile = (1 - e2 * np.exp(-1j * beta)) / (1 - b * np.cos(beta))
    decay = np.exp(-te_ms / t2_ms - r2_prime * tr_ms * 0.5e-3)
    return -1j * magnitude * decay * profile * np.exp(1j * theta * te_ms / tr_ms)


def dess_echoes(t1_ms, t2_ms, df_hz, tr_ms, te1_ms, flip_deg, r2_prime=0.0):
    """Return the complex signals of the two DESS echoes, per unit of proton density (the form that cannot overflow).

    Returns:
        S1 (FISP) at TE1 and S2 (PSIF) at TE2 = TR - TE1.
    """
    te2_ms = tr_ms - te1_ms
    alpha = np.deg2rad(flip_deg)
    e1, e2 = np.exp(-tr_ms / t1_ms), np.exp(-tr_ms / t2_ms)
    recovered = -np.expm1(-tr_ms / t1_ms)
    less = 2 * np.sin(alpha / 2) ** 2
    p = recovered + e1 * less
    q = less - recovered  # E1 - cos(alpha)
    r = np.sqrt(-np.expm1(-2 * tr_ms / t2_ms) / (p**2 - (e2 * q) ** 2))
    half = np.tan(alpha / 2)
    phase = 2j * np.pi * df_hz * 1e-3
    first = half * (1 - q * r) * np.exp(-te1_ms / t2_ms - r2_prime * te1_ms * 1e-3 + phase * te1_ms)
    # (1 - E1^2) sin^2 / ((p^2 - E2^2 q^2)(1 + p r)) is 1 - p r without the cancellation
    rest = -np.expm1(-2 * tr_ms / t1_ms) * np.sin(alpha) ** 2 / ((p**2 - (e2 * q) ** 2) * (1 + p * r))
    later = tr_ms - te2_ms
    decay = np.exp(-(tr_ms + te2_ms) / t2_ms - r2_prime * later * 1e-3 - phase * later)
    return first, half * rest * decay


def dess_limits(t1_ms, t2_ms, tr_ms, flip_deg):
    """Return S+ just after and S- just before the pulse, per unit of proton density."""
    alpha = np.deg2rad(flip_deg)
    e1, e2 = np.exp(-tr_ms / t1_ms), np.exp(-tr_ms / t2_ms)
    p, q = 1 - e1 * np.cos(alpha), e1 - np.cos(alpha)
    r = np.sqrt((1 - e2**2) / (p**2 - e2**2 * q**2))
    return np.tan(alpha / 2) * (1 - q * r), np.tan(alpha / 2) * (1 - p * r)


def water_excitation(df_hz, order: int = 1, tau_ms: float = WATER_EXCITATION_TAU_MS):
    """Return the signed factor cos(pi df tau)^n on the flip angle of a binomial pulse; 1 for order 0."""
    return np.cos(np.pi * np.asarray(df_hz) * tau_ms * 1e-3) ** order


def exact_flip_deg(flip_deg, df_hz, tau_ms: float = WATER_EXCITATION_TAU_MS):
    """Return the effective flip of a 1-1 pulse: sin(beta/2) = sin(alpha/2) |cos(pi df tau)|."""
    factor = np.abs(water_excitation(df_hz, 1, tau_ms))
    return 2 * np.rad2deg(np.arcsin(np.sin(np.deg2rad(flip_deg) / 2) * factor))


def ciss_cycles(t1_ms, t2_ms, df_hz, protocol: Ciss, b1=1.0, r2_prime=0.0):
    """Return the two balanced acquisitions, RF alternating and constant, complex."""
    flip = protocol.flip_deg * b1
    return tuple(
        bssfp(t1_ms, t2_ms, df_hz, protocol.tr_ms, protocol.te_ms, flip, increment, r2_prime)
        for increment in (np.pi, 0.0)
    )


def combine(first, second, combination: str = "max"):
    """Return one image from two complex ones: "max" of the magnitudes, or "rss", the root of the sum of their squares.

    CISS takes either (its two cycles), DESS the root of the sum of squares (its two echoes).

    Raises:
        ValueError: the combination is neither.
    """
    a, b = np.abs(first), np.abs(second)
    if combination == "max":
        return np.maximum(a, b)
    if combination == "rss":
        return np.hypot(a, b)
    raise ValueError(f"The combination is {combination!r}; allowed are 'max' and 'rss'.")


def dess_excited(t1_ms, t2_ms, df_hz, protocol: Dess, b1=1.0, r2_prime=0.0):
    """Return the two DESS echoes after water excitation, complex; a flip of negative sign turns the phase by pi."""
    factor = water_excitation(df_hz, protocol.water_excitation)
    flip = protocol.flip_deg * b1 * np.abs(factor)
    first, second = dess_echoes(t1_ms, t2_ms, df_hz, protocol.tr_ms, protocol.te1_ms, flip, r2_prime)
    sign = np.where(factor < 0, -1.0, 1.0)
    return first * sign, second * sign


def fat_ciss_cycles(t1_ms, t2_ms, df_hz, protocol: Ciss, b1=1.0, r2_prime=0.0):
    """Do as `ciss_cycles`, for the eight peaks of fat; one peak alone would make fat brighter than fluid."""
    shifts = np.asarray(df_hz)[..., None] + FAT_PPM * F0_MHZ
    cycles = ciss_cycles(t1_ms, t2_ms, shifts, protocol, np.asarray(b1)[..., None], r2_prime)
    return tuple((cycle * FAT_AMPLITUDE).sum(-1) for cycle in cycles)


def fat_dess_excited(t1_ms, t2_ms, df_hz, protocol: Dess, b1=1.0, r2_prime=0.0):
    """Do as `dess_excited`, for the eight peaks of fat."""
    shifts = np.asarray(df_hz)[..., None] + FAT_PPM * F0_MHZ
    echoes = dess_excited(t1_ms, t2_ms, shifts, protocol, np.asarray(b1)[..., None], r2_prime)
    return tuple((echo * FAT_AMPLITUDE).sum(-1) for echo in echoes)


def tissue_cycles(tissue: Tissue, df_hz, b1, protocol: Ciss):
    """Return the two CISS cycles of a tissue, water and fat together, complex."""
    water = ciss_cycles(tissue.t1_ms, tissue.t2_ms, df_hz, protocol, b1, tissue.r2_prime)
    fat = _fat(fat_ciss_cycles, tissue, df_hz, b1, protocol)
    return tuple(tissue.pd_water * w + f for w, f in zip(water, fat, strict=True))


def tissue_echoes(tissue: Tissue, df_hz, b1, protocol: Dess):
    """Return the two DESS echoes of a tissue, water and fat together, complex."""
    first, second = dess_excited(tissue.t1_ms, tissue.t2_ms, df_hz, protocol, b1, tissue.r2_prime)
    if protocol.diffusion:
        first, second = first * tissue.diffusion_s1, second * tissue.diffusion_s2
    fat = _fat(fat_dess_excited, tissue, df_hz, b1, protocol)
    return tissue.pd_water * first + fat[0], tissue.pd_water * second + fat[1]


def _fat(function, tissue: Tissue, df_hz, b1, protocol):
    if not tissue.pd_fat or protocol.fat_saturation >= 1:
        return 0.0, 0.0
    signals = function(tissue.t1_fat_ms, tissue.t2_fat_ms, df_hz, protocol, b1, tissue.r2_prime)
    left = tissue.pd_fat * (1 - protocol.fat_saturation)
    return tuple(left * signal for signal in signals)


@functools.lru_cache(maxsize=64)
def diffusion_factors(t1_ms: float, t2_ms: float, diffusion_mm2_s: float, protocol: Dess = DESS) -> tuple:
    """Return S(D)/S(0) of the two DESS echoes by extended phase graphs with diffusion (Weigel 2015).

    The readout between the two echoes leaves one cycle of dephasing per pixel (SPOILER_RAD_PER_MM) in each TR; a
    state of order n that becomes m loses D times the integral of k^2: n^2 before TE1, m^2 after TE2 and the mean
    (n^2 + n m + m^2)/3 in between.
    """
    attenuated = _phase_graph(t1_ms, t2_ms, diffusion_mm2_s, protocol)
    free = _phase_graph(t1_ms, t2_ms, 0.0, protocol)
    return attenuated[0] / free[0], attenuated[1] / free[1]


def _phase_graph(t1_ms, t2_ms, diffusion, protocol):
    order = np.arange(96.0)
    tr, te1 = protocol.tr_ms, protocol.te1_ms
    alpha = np.deg2rad(protocol.flip_deg)
    cos2, sin2, sine, cosine = (np.cos(alpha / 2) ** 2, np.sin(alpha / 2) ** 2, np.sin(alpha), np.cos(alpha))
    rate = diffusion * SPOILER_RAD_PER_MM**2 * 1e-3

    def loss(n, m):
        return np.exp(-rate * ((n**2 + m**2) * te1 + (tr - 2 * te1) * (n**2 + n * m + m**2) / 3))

    keep_plus = np.exp(-tr / t2_ms) * loss(order, order + 1)
    keep_minus = np.exp(-tr / t2_ms) * loss(-order, 1 - order)
    keep_z = np.exp(-tr / t1_ms) * np.exp(-rate * order**2 * tr)
    plus, minus, z = (np.zeros(order.size, complex) for _ in range(3))
    z[0] = 1.0
    first = second = 0.0
    for _ in range(int(10 * t1_ms / tr)):
        excited_plus = cos2 * plus + sin2 * minus - 1j * sine * z
        excited_minus = sin2 * plus + cos2 * minus + 1j * sine * z
        z = (-0.5j * sine * plus + 0.5j * sine * minus + cosine * z) * keep_z
        z[0] -= np.expm1(-tr / t1_ms)
        first = abs(excited_plus[0])
        plus = np.roll(excited_plus * keep_plus, 1)
        minus = np.append((excited_minus * keep_minus)[1:], 0)
        plus[0] = np.conj(minus[0])
        second = abs(minus[0])
    return first, second
