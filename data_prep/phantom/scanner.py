"""From tissue fractions to scans: field maps, coil, slice profile, noise, and the numbers a file would hold."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from data_prep.phantom import signals
from data_prep.phantom.anatomy import Tissues
from data_prep.phantom.fields import smooth_field
from data_prep.phantom.signals import CISS, DESS, Ciss, Dess, Tissue


@dataclasses.dataclass(frozen=True)
class Scanner:
    """What one examination adds to the tissues.

    Attributes:
        df_sd_hz: SD of the smooth off-resonance; clipped to +-100 Hz.
        b1_range: (lowest, highest) of the smooth transmit field.
        bias_sd: SD of the logarithm of the coil's sensitivity, one for each contrast.
        sigma_ciss, sigma_dess: noise of each real channel, in units of the proton density of water.
        thickness_mm: of the slices of CISS and DESS; it blurs where it exceeds the slice spacing.
        gain: file intensity of the fluid-like signal 0.2 of each contrast.
        hu_sd, ct_psf_mm: noise and point spread (FWHM) of the CT.
    """

    df_sd_hz: float = 25.0
    b1_range: tuple[float, float] = (0.88, 1.12)
    bias_sd: tuple[float, float] = (0.2, 0.2)
    sigma_ciss: float = 0.0018
    sigma_dess: float = 0.003
    thickness_mm: tuple[float | None, float | None] = (1.5, 0.7)
    gain: tuple[float, float] = (4000.0, 6000.0)
    hu_sd: float = 18.0
    ct_psf_mm: float = 0.7


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Between which values the examinations of one make vary; (lowest, highest) each, units as in `Scanner`.

    Attributes:
        b1: (lowest, highest) of the lowest B1, then of the highest.
        gain: a factor of `typical_gain`, drawn for each contrast; relaxation_sd: SD of the logarithm of T1, T2 and PD
            between subjects.
    """

    df_sd_hz: tuple[float, float] = (20, 30)
    b1: tuple[tuple[float, float], tuple[float, float]] = ((0.85, 0.92), (1.08, 1.15))
    bias_sd: tuple[float, float] = (0.12, 0.25)
    sigma_ciss: tuple[float, float] = (0.0012, 0.0025)
    sigma_dess: tuple[float, float] = (0.002, 0.004)
    gain: tuple[float, float] = (0.75, 1.3)
    typical_gain: tuple[float, float] = (4000.0, 6000.0)
    hu_sd: tuple[float, float] = (15, 25)
    thickness_mm: tuple[float | None, float | None] = (1.5, 0.7)
    relaxation_sd: tuple[float, float, float] = (0.06, 0.10, 0.03)


def draw(rng: np.random.Generator, ranges: Ranges | None = None) -> Scanner:
    """Return a random examination: noise, coil, shim and gain of each scan."""
    ranges = ranges or Ranges()
    return Scanner(
        df_sd_hz=float(rng.uniform(*ranges.df_sd_hz)),
        b1_range=(float(rng.uniform(*ranges.b1[0])), float(rng.uniform(*ranges.b1[1]))),
        bias_sd=tuple(float(v) for v in rng.uniform(*ranges.bias_sd, 2)),
        sigma_ciss=float(rng.uniform(*ranges.sigma_ciss)),
        sigma_dess=float(rng.uniform(*ranges.sigma_dess)),
        gain=tuple(float(v) for v in np.array(ranges.typical_gain) * rng.uniform(*ranges.gain, 2)),
        hu_sd=float(rng.uniform(*ranges.hu_sd)),
        thickness_mm=ranges.thickness_mm,
    )


def draw_tissues(
    rng: np.random.Generator, table: dict[str, Tissue] = signals.TISSUES, ranges: Ranges | None = None
) -> dict[str, Tissue]:
    """Return one subject's tissues around those of the make: log-normal T1 (6 % for A), T2 (10 %) and PD (3 %), normal
    HU.
    """
    spreads = (ranges or Ranges()).relaxation_sd
    result = {}
    for name, t in table.items():
        t1, t2, pd = (float(np.exp(rng.normal(0, sd))) for sd in spreads)
        result[name] = dataclasses.replace(
            t,
            pd_water=t.pd_water * pd,
            pd_fat=t.pd_fat * pd,
            t1_ms=t.t1_ms * t1,
            t2_ms=t.t2_ms * t2,
            hu=t.hu + 0.5 * t.hu_sd * float(rng.normal()),
        )
    # both layers of the cartilage belong to one subject
    deep, top = result["cartilage_deep"], table["cartilage_superficial"]
    ratio = deep.t2_ms / table["cartilage_deep"].t2_ms
    result["cartilage_superficial"] = dataclasses.replace(deep, t2_ms=top.t2_ms * ratio, diffusion_s1=top.diffusion_s1)
    return result


def field_maps(scanner: Scanner, air: np.ndarray, spacing_mm, rng: np.random.Generator):
    """Draw smooth random off-resonance (Hz, clipped to +-100) and transmit field B1 (1 is nominal), float32.

    Off-resonance is larger near the skin, where susceptibility changes.

    Args:
        scanner: amplitudes.
        air: fraction of air in each voxel (depth, height, width).
        spacing_mm: of its axes.
        rng: of both fields.
    """
    df = scanner.df_sd_hz * smooth_field(rng, air.shape, spacing_mm, (5, 6, 6))
    near = ndimage.uniform_filter(air, [max(1, round(8 / s)) for s in spacing_mm]) - air
    df = df + 45 * near * smooth_field(rng, air.shape, spacing_mm, (4, 4, 4))
    low, high = scanner.b1_range
    b1 = (low + high) / 2 + 0.3 * (high - low) * smooth_field(rng, air.shape, spacing_mm, (4, 4, 4))
    return np.clip(df, -100, 100).astype(np.float32), np.clip(b1, low, high).astype(np.float32)


def acquire(
    tissues: Tissues,
    table: dict[str, Tissue],
    scanner: Scanner,
    spacing_mm,
    rng: np.random.Generator,
    ciss: Ciss = CISS,
    dess: Dess = DESS,
    ct: bool = True,
) -> dict[str, np.ndarray]:
    """Scan one knee three times.

    Args:
        tissues: from `anatomy.build`.
        table: tissue parameters of the subject.
        scanner: of the examination.
        spacing_mm: (depth, height, width).
        rng: of field maps, noise and blood flow.
        ciss, dess: the protocols.
        ct: whether to scan by CT, too; it is the last, so the others are the same without.

    Returns:
        "ciss", "dess" (file intensities, not negative) and "ct" (HU), float32 (depth, height, width).
    """
    shape = tissues.bone_volume.shape
    for_fields, for_coil, for_noise = rng.spawn(3)
    df, b1 = field_maps(scanner, tissues.fractions["air"], spacing_mm, for_fields)
    flow = float(for_fields.uniform(0.3, 1))
    scans = {}
    for i, (name, protocol, sigma) in enumerate(
        (("ciss", ciss, scanner.sigma_ciss), ("dess", dess, scanner.sigma_dess))
    ):
        sensitivity = np.exp(scanner.bias_sd[i] * smooth_field(for_coil, shape, spacing_mm, (3, 3, 3)))
        parts = (part * sensitivity for part in _mix(tissues, table, df, b1, protocol, flow))
        parts = (slice_profile(part, spacing_mm[0], scanner.thickness_mm[i]) for part in parts)
        noisy = [add_noise(part, sigma, for_noise) for part in parts]
        if name == "ciss":
            magnitude = signals.combine(*noisy, ciss.combination)
        else:
            weighted = (echo * np.float32(w) for echo, w in zip(noisy, dess.echo_weights, strict=True))
            magnitude = signals.combine(*weighted, "rss")
        scans[name] = (magnitude * np.float32(scanner.gain[i] / 0.2)).astype(np.float32)
    if ct:
        scans["ct"] = _ct(tissues, table, scanner, spacing_mm, for_noise)
    return scans


def add_noise(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add complex Gaussian noise of SD `sigma` on each real channel, before any magnitude is taken."""
    noise = rng.standard_normal((*signal.shape, 2), np.float32).view(np.complex64)[..., 0]
    return signal.astype(np.complex64) + np.float32(sigma) * noise


def slice_profile(signal: np.ndarray, spacing_mm: float, thickness_mm: float | None) -> np.ndarray:
    """Return what a slice thicker than the slice spacing adds to the blur of the voxel itself.

    Tissue fractions are means over the voxel, so a slice as thick as the spacing, or thinner, adds nothing. A thicker
    one (overlapping slices) is a Gaussian whose variance is the difference of the two box profiles'.

    Args:
        signal: complex (depth, height, width).
        spacing_mm: distance between slices.
        thickness_mm: of the slice; None for the spacing.
    """
    extra = (thickness_mm or spacing_mm) ** 2 - spacing_mm**2
    if extra <= 0:
        return signal
    sigma = np.sqrt(extra / 12) / spacing_mm
    real, imaginary = (
        ndimage.gaussian_filter1d(part, sigma, axis=0, mode="nearest") for part in (signal.real, signal.imag)
    )
    return real + 1j * imaginary


def _mix(tissues: Tissues, table: dict[str, Tissue], df, b1, protocol, flow: float) -> tuple[np.ndarray, np.ndarray]:
    """Complex signals of the two cycles or echoes; a voxel is the sum of its tissues."""
    is_ciss = isinstance(protocol, Ciss)
    function = signals.tissue_cycles if is_ciss else signals.tissue_echoes
    result = [np.zeros(df.shape, np.complex64) for _ in range(2)]
    for name, fraction in tissues.fractions.items():
        tissue = table[name]
        where = np.nonzero(fraction.ravel() > 1e-3)[0]
        if not where.size or not (tissue.pd_water or tissue.pd_fat):
            continue
        f, b = df.ravel()[where], b1.ravel()[where]
        parts = Lookup(lambda d, b, t=tissue: function(t, d, b, protocol))(f, b)
        weight = fraction.ravel()[where]
        if name == "marrow_epiphysis":
            bone = tissues.bone_volume.ravel()[where]
            # trabeculae displace marrow and broaden its resonance, 30 to 90 1/s over the usual range of BV/TV
            r2_prime = np.clip(60 + 375 * (bone - 0.18), 30, 90)
            time = protocol.tr_ms / 2 if is_ciss else protocol.te1_ms
            weight = weight * (1 - bone) * np.exp(-(r2_prime - tissue.r2_prime) * time * 1e-3)
        for i, part in enumerate(parts):
            scale = 1.0 if name != "vessel" else (flow if is_ciss or i == 0 else 0.1)
            result[i].ravel()[where] += (part * weight * scale).astype(np.complex64)
    return tuple(result)


class Lookup:
    """A pair of complex signals tabulated over off-resonance and B1, interpolated linearly.

    Steps of 1 Hz and 0.04 keep the error below 0.5 % of the tissue's largest signal (tested).
    """

    LIMIT_HZ, B1 = 101, (0.84, 1.16)

    def __init__(self, function):
        self.df = np.arange(-self.LIMIT_HZ, self.LIMIT_HZ + 1.0)
        self.b1 = np.linspace(*self.B1, 9)
        self.table = [np.asarray(part, np.complex64) for part in function(self.df[:, None], self.b1[None, :])]

    def __call__(self, df, b1):
        row = np.asarray(df, np.float32) + np.float32(self.LIMIT_HZ)
        column = (np.asarray(b1, np.float32) - np.float32(self.B1[0])) * np.float32(8 / (self.B1[1] - self.B1[0]))
        i, j = row.astype(np.int32), np.minimum(column.astype(np.int32), 7)
        u, v = row - i, column - j
        index = i * 9 + j
        results = []
        for table in self.table:
            flat = table.ravel()
            low = flat[index] * (1 - v) + flat[index + 1] * v
            high = flat[index + 9] * (1 - v) + flat[index + 10] * v
            results.append(low * (1 - u) + high * u)
        return tuple(results)


def _ct(tissues: Tissues, table, scanner: Scanner, spacing_mm, rng) -> np.ndarray:
    hu = np.zeros(tissues.bone_volume.shape, np.float32)
    for name, fraction in tissues.fractions.items():
        hu += fraction * np.float32(table[name].hu)
    hu += tissues.fractions["marrow_epiphysis"] * signals.TRABECULAR_HU * tissues.bone_volume
    if tissues.wet_marrow is not None:
        hu += tissues.wet_marrow * signals.TRABECULAR_HU * tissues.bone_volume
    sigma = [scanner.ct_psf_mm / 2.355 / s for s in spacing_mm]
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), 0.5)
    return ndimage.gaussian_filter(hu, sigma) + np.float32(scanner.hu_sd) * noise / noise.std()
