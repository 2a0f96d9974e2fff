"""Steady-state MR signals of tissues: CISS, DESS with water excitation; and CT numbers.

Equations, tissue table and protocols are those of the project's physics notes (shared/physics.md, sections 2 to 6), which
name the primary sources: Haenicke and Vogel 2003 and Gyngell 1988 for the two DESS echoes, the elliptical model for
balanced SSFP, Gold et al. 2004 for relaxation times at 3 T. Times are in ms, off-resonance in Hz (water 0, fat
negative), flip angles in degrees, R2' in 1/s, diffusion in mm^2/s; signals are in units of the proton density of water.
All functions accept NumPy arrays that broadcast.
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


@dataclasses.dataclass(frozen=True)
class Dess:
    """Double echo in steady state with water excitation; the OAI's "SAG 3D DESS WE" at 3 T."""

    tr_ms: float = 16.3
    te1_ms: float = 4.7
    flip_deg: float = 25.0
    water_excitation: int = 1  # order n of the binomial pulse; 0 for none
    diffusion: bool = True

    @property
    def te2_ms(self) -> float:
        return self.tr_ms - self.te1_ms


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


def _tissue(pd, t1, t2, r2p, d, s1, s2, fat, hu, hu_sd, fat_t1=371.0, fat_t2=133.0) -> Tissue:
    return Tissue(pd, t1, t2, r2p, d * 1e-3, s1, s2, fat, fat_t1, fat_t2, hu, hu_sd)


# The diffusion factors are `diffusion_factors` of each row (a test recomputes them): they take a second to compute and
# change little between subjects.
TISSUES: dict[str, Tissue] = {
    "air": _tissue(0.0, 1000, 100, 0, 0.0, 1, 1, 0.0, -1000, 0),
    "fluid": _tissue(1.00, 3620, 767, 2, 2.5, 1, 1, 0.0, 10, 5),
    "cartilage_deep": _tissue(0.75, 1240, 28.0, 12, 1.4, 1, 1, 0.0, 90, 15),
    "cartilage_superficial": _tissue(0.75, 1240, 45.0, 12, 1.4, 1, 1, 0.0, 90, 15),
    "meniscus": _tissue(0.65, 850, 13, 40, 1.2, 1, 1, 0.0, 100, 15),
    "acl": _tissue(0.65, 870, 22, 35, 1.2, 1, 1, 0.0, 85, 15),
    "pcl": _tissue(0.65, 830, 14, 40, 1.2, 1, 1, 0.0, 95, 15),
    "quadriceps_tendon": _tissue(0.60, 800, 8, 60, 1.0, 1, 1, 0.0, 100, 15),
    "patellar_tendon": _tissue(0.60, 660, 6, 60, 1.0, 1, 1, 0.0, 105, 15),
    "muscle": _tissue(0.78, 1420, 31.7, 8, 1.6, 1, 1, 0.02, 55, 8),
    "subcutaneous_fat": _tissue(0.05, 1400, 35, 10, 1.6, 1, 1, 0.85, -100, 10),
    "hoffa_fat": _tissue(0.10, 1400, 35, 12, 1.6, 1, 1, 0.80, -85, 12),
    "marrow_shaft": _tissue(0.06, 1400, 35, 15, 1.0, 1, 1, 0.85, -60, 20, 365, 133),
    "marrow_epiphysis": _tissue(0.10, 1400, 35, 60, 1.0, 1, 1, 0.70, -80, 12, 365, 133),
    "cortical_bone": _tissue(0.20, 223, 0.4, 0, 0.0, 1, 1, 0.0, 1200, 200),
    "vessel": _tissue(0.85, 1930, 150, 5, 0.0, 1, 1, 0.0, 45, 5),
    "skin": _tissue(0.70, 900, 25, 25, 1.0, 1, 1, 0.0, 55, 15),
}
CARTILAGE = _tissue(0.75, 1240, 36.9, 12, 1.4, 1, 1, 0.0, 90, 15)  # its mean over the depth
TRABECULAR_HU = 1400.0  # added per bone volume fraction


def bssfp(t1_ms, t2_ms, df_hz, tr_ms, te_ms, flip_deg, phase_increment_rad=np.pi, r2_prime=0.0):
    """Complex signal of balanced SSFP at the echo time, per unit of proton density (elliptical model).

    R2' multiplies by exp(-R2' TR/2): both main modes of the profile decay by half a TR (physics.md, section 2).
    """
    dtype = np.result_type(np.float32, np.asarray(df_hz).dtype, np.asarray(flip_deg).dtype)
    t1_ms, t2_ms = np.asarray(t1_ms, dtype), np.asarray(t2_ms, dtype)
    alpha = np.deg2rad(np.asarray(flip_deg, dtype))
    e1, e2 = np.exp(-tr_ms / t1_ms), np.exp(-tr_ms / t2_ms)
    lost = -np.expm1(-tr_ms / t1_ms)  # 1 - E1 without cancellation
    c, s = np.cos(alpha), np.sin(alpha)
    theta = 2 * np.pi * np.asarray(df_hz) * tr_ms * 1e-3
    beta = theta - phase_increment_rad
    # 1 - E1 c - E2^2 (E1 - c), rearranged so that nothing small is a difference of large numbers
    denominator = lost * (1 + c * e2**2) + (1 - c) * e1 - e2**2 * (1 - c) + 0 * theta
    denominator = (1 - e1 * c) - e2**2 * (e1 - c) if denominator is None else denominator
    m = lost * s / ((1 - e1 * c) - e2**2 * (e1 - c))
    b = e2 * lost * (1 + c) / ((1 - e1 * c) - e2**2 * (e1 - c))
    profile = (1 - e2 * np.exp(-1j * beta)) / (1 - b * np.cos(beta))
    decay = np.exp(-te_ms / t2_ms - np.asarray(r2_prime) * tr_ms * 0.5e-3)
    return -1j * m * decay * profile * np.exp(1j * theta * te_ms / tr_ms)
