"""The golden values, orderings and noise means of docs/explanation/physics.md.

physics_golden.json holds closed forms in float64 that were checked against brute-force Bloch simulation and extended
phase graphs (each entry says with which error).
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.phantom import scanner
from data_prep.phantom import signals as sig

GOLDEN = json.loads((Path(__file__).parent / "physics_golden.json").read_text())["values"]


def magnitude(name: str, p: dict) -> float:
    """The value that a golden entry names, through the public functions."""
    flip, m0 = p["flip_deg"] * p.get("B1", 1.0), p.get("M0", 1.0)
    t1, t2, df = p["T1_ms"], p["T2_ms"], p.get("df_hz", 0.0)
    if "fat8" in name:
        if name.startswith("ciss"):
            return sig.combine(*sig.fat_ciss_cycles(t1, t2, df, sig.Ciss()))
        return np.hypot(*np.abs(sig.fat_dess_excited(t1, t2, df, sig.Dess())))
    if name.startswith("bssfp") or "onres" in name:
        increment = p.get("phase_inc_rad", np.pi)
        return m0 * np.abs(sig.bssfp(t1, t2, df, p["TR_ms"], p["TE_ms"], flip, increment))
    if name.startswith("ciss"):
        cycles = sig.ciss_cycles(t1, t2, df, sig.Ciss())
        return m0 * sig.combine(*cycles, "rss" if "rss" in name else "max")
    if "Splus" in name or "Sminus" in name:
        return sig.dess_limits(t1, t2, p["TR_ms"], flip)["Sminus" in name]
    if "diffusion" in name:
        return sig.diffusion_factors(t1, t2, p["D_mm2_s"])["S2" in name]
    if "exact" in name:
        flip = sig.exact_flip_deg(flip, df)
    echoes = np.abs(sig.dess_echoes(t1, t2, df, p["TR_ms"], p["TE1_ms"], flip, p.get("R2prime_per_s", 0.0)))
    return m0 * {"1": echoes[0], "2": echoes[1]}.get(name.rsplit("_S", maxsplit=1)[-1][0], np.hypot(*echoes))


def other(name: str, p: dict) -> float:
    """Golden entries that are no signal: the excitation pulse."""
    if name == "we_tau_ms":
        return sig.WATER_EXCITATION_TAU_MS
    if name.startswith("we_factor"):
        return abs(sig.water_excitation(p["df_hz"], p["n"]))
    return sig.exact_flip_deg(p["alpha_deg"], p["df_hz"])


@pytest.mark.parametrize("entry", [g for g in GOLDEN if not g["id"].startswith("noise")], ids=lambda g: g["id"])
def test_golden(entry):
    name, p = entry["id"], entry["params"]
    value = magnitude(name, p) if "T1_ms" in p else other(name, p)
    assert float(value) == pytest.approx(entry["value"], rel=1e-4 if "diffusion" in name else 1e-6)


@pytest.mark.parametrize("entry", [g for g in GOLDEN if "T1_ms" in g["params"]], ids=lambda g: g["id"])
def test_golden_in_float32(entry):
    name = entry["id"]
    p = {
        k: np.float32(v) if isinstance(v, float) and k not in ("TR_ms", "TE_ms", "TE1_ms") else v
        for k, v in entry["params"].items()
    }
    if "diffusion" not in name:
        assert float(magnitude(name, p)) == pytest.approx(entry["value"], rel=5e-5)


@pytest.mark.parametrize("entry", [g for g in GOLDEN if g["id"].startswith("noise")], ids=lambda g: g["id"])
def test_noise_only_means(entry):
    """Through the scanner's own noise, 1.6 million voxels: 4 standard errors are 0.2 %."""
    rng = np.random.default_rng(0)
    nothing = np.zeros((100, 160, 100), np.complex64)
    one, two = (scanner.add_noise(nothing, 1.0, rng) for _ in range(2))
    value = {
        "noise_rayleigh_mean_over_sigma": np.abs(one),
        "noise_rss2_background_mean_over_sigma": np.hypot(np.abs(one), np.abs(two)),
        "noise_max2_background_mean_over_sigma": sig.combine(one, two),
    }[entry["id"]]
    assert value.mean() == pytest.approx(entry["value"], rel=2e-3)


def test_noise_power_adds():
    """E|M|^2 = A^2 + 2 sigma^2."""
    noisy = scanner.add_noise(np.full((100, 100, 100), 3.0, np.complex64), 0.5, np.random.default_rng(1))
    assert (np.abs(noisy) ** 2).mean() == pytest.approx(9.5, rel=2e-3)


CISS_ORDER = [
    {"fluid"},
    {"subcutaneous_fat", "marrow_shaft", "hoffa_fat"},
    {"cartilage"},
    {"muscle"},
    {"acl"},
    {"pcl", "meniscus"},
    {"quadriceps_tendon", "patellar_tendon"},
]
DESS_ORDER = ["cartilage", "muscle", "acl", "pcl", "meniscus", "quadriceps_tendon", "marrow_epiphysis", "cortical_bone"]
TABLE = {**sig.TISSUES, "cartilage": sig.CARTILAGE}


def ciss(name, df):
    return sig.combine(*sig.tissue_cycles(TABLE[name], df, 1.0, sig.Ciss()))


def dess(name, df):
    return np.hypot(*np.abs(sig.tissue_echoes(TABLE[name], df, 1.0, sig.Dess())))


@pytest.mark.parametrize("df", [-40.0, -20.0, 0.0, 20.0, 40.0])
def test_ciss_ordering(df):
    for brighter, darker in itertools.pairwise(CISS_ORDER):
        assert min(ciss(n, df) for n in brighter) > max(ciss(n, df) for n in darker)
    assert min(ciss(n, df) for n in CISS_ORDER[-1]) > 0


def test_dess_ordering():
    frequencies = np.linspace(-40, 40, 81)
    for df in frequencies:
        assert dess("fluid", df) > 2 * dess("cartilage", df)
        soft = [dess(n, df) for n in DESS_ORDER[:6]]
        assert soft == sorted(soft, reverse=True)
    means = [dess(n, frequencies).mean() for n in DESS_ORDER]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 1e-4


@pytest.mark.parametrize(
    ("name", "expected_ciss", "expected_dess"),
    [
        ("fluid", 0.2184, 0.1080),
        ("cartilage", 0.0471, 0.0487),
        ("muscle", 0.0382, 0.0421),
        ("acl", 0.0306, 0.0376),
        ("meniscus", 0.0189, 0.0287),
        ("subcutaneous_fat", 0.1088, 0.0209),
        ("marrow_epiphysis", 0.0646, 0.0120),
    ],
)
def test_sanity_table(name, expected_ciss, expected_dess):
    """Section 8: means over an off-resonance of N(0, 25 Hz)."""
    df = np.linspace(-100, 100, 401)
    weight = np.exp(-0.5 * (df / 25) ** 2)
    assert np.average(ciss(name, df), weights=weight) == pytest.approx(expected_ciss, rel=0.02)
    assert np.average(dess(name, df), weights=weight) == pytest.approx(expected_dess, rel=0.02)


@pytest.mark.parametrize("name", [n for n, t in TABLE.items() if t.diffusion_mm2_s])
def test_diffusion_factors_of_the_table(name):
    t = TABLE[name]
    expected = sig.diffusion_factors(t.t1_ms, t.t2_ms, t.diffusion_mm2_s)
    assert (t.diffusion_s1, t.diffusion_s2) == pytest.approx(expected, abs=1e-4)


def test_mean_of_the_profile_is_the_unbalanced_signal():
    """Mean over theta of complex bSSFP(TE=0) is S+, of bSSFP(TE=TR) is S-."""
    tr = 16.3
    df = np.arange(400) / 400 * 1e3 / tr
    for te, which in ((0.0, 0), (tr, 1)):
        # the elliptical model decays with exp(-TE/T2) and turns by theta TE/TR
        mean = sig.bssfp(1240.0, 36.9, df, tr, te, 25.0, 0.0).mean()
        assert abs(mean) == pytest.approx(sig.dess_limits(1240.0, 36.9, tr, 25.0)[which], rel=1e-12)


def test_no_transverse_memory():
    """T2 -> 0: S- -> 0 and S+ -> Ernst's signal."""
    plus, minus = sig.dess_limits(800.0, 1e-2, 16.3, 25.0)
    e1 = np.exp(-16.3 / 800)
    ernst = np.sin(np.deg2rad(25)) * (1 - e1) / (1 - e1 * np.cos(np.deg2rad(25)))
    assert plus == pytest.approx(ernst, rel=1e-9)
    assert abs(minus) < 1e-12


def test_short_t2_does_not_overflow():
    first, second = sig.dess_echoes(np.float32(223), np.float32(0.4), np.float32(0), 16.3, 4.7, 25.0)
    assert np.isfinite([abs(first), abs(second)]).all() and abs(second) < 1e-12
