"""The digital knee's scanner by value: field maps, lookup tables, partial volume, slice profile, noise and CT."""

import dataclasses

import numpy as np
import pytest

from data_prep.phantom import anatomy, make_subject, scanner
from data_prep.phantom import signals as sig
from data_prep.phantom.anatomy import NAMES, Tissues

SPACING_MM = (1.5, 1.1, 1.1)
QUIET = scanner.Scanner(
    df_sd_hz=0.0, b1_range=(1.0, 1.0), bias_sd=(0.0, 0.0), sigma_ciss=0.0, sigma_dess=0.0, gain=(0.2, 0.2), hu_sd=0.0
)


def phantom(shape, bone_volume=0.18, **fractions):
    """A block with constant fractions; what is left is air."""
    parts = {name: np.full(shape, fractions.get(name, 0.0), np.float32) for name in NAMES}
    parts["air"] += 1 - sum(fractions.values())
    return Tissues(parts, np.full(shape, bone_volume, np.float32))


def scan(tissues, examination=QUIET, seed=0, spacing_mm=SPACING_MM, **protocols):
    rng = np.random.default_rng(seed)
    return scanner.acquire(tissues, sig.TISSUES, examination, spacing_mm, rng, **protocols)


@pytest.mark.parametrize("name", [n for n, t in sig.TISSUES.items() if t.pd_water or t.pd_fat])
@pytest.mark.parametrize(
    "protocol", [sig.CISS, sig.DESS, sig.Dess(water_excitation=2)], ids=["ciss", "dess", "dess121"]
)
def test_lookup_agrees_with_the_direct_formula(name, protocol):
    rng = np.random.default_rng(0)
    df, b1 = rng.uniform(-100, 100, 4000), rng.uniform(0.85, 1.15, 4000)
    function = sig.tissue_cycles if isinstance(protocol, sig.Ciss) else sig.tissue_echoes
    exact = function(sig.TISSUES[name], df, b1, protocol)
    table = scanner.Lookup(lambda d, b: function(sig.TISSUES[name], d, b, protocol))(df, b1)
    for approximate, truth in zip(table, exact, strict=True):
        assert np.abs(approximate - truth).max() < 5e-3 * np.abs(truth).max()


def test_noise_of_empty_scans_has_the_golden_means():
    """Section 7: background means of 1.62040 sigma (largest of two) and 1.87997 sigma (root of the sum of squares)."""
    examination = dataclasses.replace(QUIET, sigma_ciss=0.002, sigma_dess=0.003, gain=(4000.0, 6000.0))
    scans = scan(phantom((60, 120, 120)), examination)
    # 864,000 voxels: 5 standard errors are 0.3 %
    assert scans["ciss"].mean() == pytest.approx(1.6204013 * 0.002 * 4000 / 0.2, rel=3e-3)
    assert scans["dess"].mean() == pytest.approx(1.8799712 * 0.003 * 6000 / 0.2, rel=3e-3)
    rss = scan(phantom((60, 120, 120)), examination, ciss=sig.Ciss(combination="rss"))["ciss"]
    assert rss.mean() == pytest.approx(1.8799712 * 0.002 * 4000 / 0.2, rel=3e-3)


@pytest.mark.parametrize("name", ["fluid", "cartilage_deep", "muscle", "subcutaneous_fat", "patellar_tendon"])
def test_a_quiet_scan_is_the_signal(name):
    """No noise, no field errors, unit gain: the physics of docs/explanation/physics.md and nothing else."""
    scans = scan(phantom((3, 4, 5), **{name: 1.0}))
    tissue = sig.TISSUES[name]
    expected = sig.combine(*sig.tissue_cycles(tissue, 0.0, 1.0, sig.CISS))
    assert scans["ciss"] == pytest.approx(float(expected), rel=2e-3)
    expected = sig.combine(*sig.tissue_echoes(tissue, 0.0, 1.0, sig.DESS), "rss")
    assert scans["dess"] == pytest.approx(float(expected), rel=2e-3)
    assert scans["ct"] == pytest.approx(tissue.hu, abs=1e-3)


def test_partial_volume_adds_complex_signals():
    """Water and fat in one voxel cancel in part, which a mean of magnitudes would not show."""
    halves = scan(phantom((3, 4, 5), muscle=0.5, subcutaneous_fat=0.5))["ciss"].mean()
    parts = [sig.tissue_cycles(sig.TISSUES[n], 0.0, 1.0, sig.CISS) for n in ("muscle", "subcutaneous_fat")]
    mixed = sig.combine(*((a + b) / 2 for a, b in zip(*parts, strict=True)))
    magnitudes = np.mean([sig.combine(*p) for p in parts])
    assert halves == pytest.approx(float(mixed), rel=3e-3)
    assert abs(halves - magnitudes) > 0.1 * magnitudes


def test_trabeculae_darken_mr_and_brighten_ct():
    """Epiphyseal marrow at BV/TV 0.12 and 0.24: PD (1 - BV/TV), R2' 37.5 and 82.5 1/s, HU -80 + 1400 BV/TV."""
    thin, dense = (scan(phantom((3, 4, 5), bone_volume=v, marrow_epiphysis=1.0)) for v in (0.12, 0.24))
    expected = (0.76 / 0.88) * np.exp(-(82.5 - 37.5) * 6.39e-3)
    assert dense["ciss"].mean() / thin["ciss"].mean() == pytest.approx(expected, rel=1e-3)
    expected = (0.76 / 0.88) * np.exp(-(82.5 - 37.5) * 4.7e-3)
    assert dense["dess"].mean() / thin["dess"].mean() == pytest.approx(expected, rel=1e-3)
    assert thin["ct"].mean() == pytest.approx(-80 + 1400 * 0.12, abs=0.1)
    assert dense["ct"].mean() == pytest.approx(-80 + 1400 * 0.24, abs=0.1)


def test_blood_flow_takes_signal_away():
    """Section 3: the second DESS echo x 0.1, the first and CISS x U(0.3, 1)."""
    vessel = sig.TISSUES["vessel"]
    still = sig.combine(*sig.tissue_cycles(vessel, 0.0, 1.0, sig.CISS))
    first, second = np.abs(sig.tissue_echoes(vessel, 0.0, 1.0, sig.DESS))
    flows = []
    for seed in range(8):
        scans = scan(phantom((2, 3, 3), vessel=1.0), seed=seed)
        flows.append(scans["ciss"].mean() / still)
        assert scans["dess"].mean() == pytest.approx(np.hypot(flows[-1] * first, 0.1 * second), rel=5e-3)
    assert min(flows) > 0.295 and max(flows) < 1.005 and np.ptp(flows) > 0.2


def test_protocol_options_reach_the_picture():
    fat, fluid = phantom((2, 3, 3), subcutaneous_fat=1.0), phantom((2, 3, 3), fluid=1.0)
    by_order = [scan(fat, dess=sig.Dess(water_excitation=n))["dess"].mean() for n in (0, 1, 2)]
    assert by_order[0] > 4 * by_order[1] > 4 * by_order[2]
    on, off = (scan(fluid, dess=sig.Dess(diffusion=d))["dess"].mean() for d in (True, False))
    assert off / on == pytest.approx(0.17739 / 0.10902, rel=0.02)
    largest, rss = (scan(fluid, ciss=sig.Ciss(combination=c))["ciss"].mean() for c in ("max", "rss"))
    cycles = np.abs(sig.tissue_cycles(sig.TISSUES["fluid"], 0.0, 1.0, sig.CISS))
    assert rss / largest == pytest.approx(np.hypot(*cycles) / cycles.max(), rel=2e-3)
    with pytest.raises(ValueError, match="'mean'; allowed are 'max' and 'rss'"):
        scan(fluid, ciss=sig.Ciss(combination="mean"))


def test_field_maps_are_smooth_and_within_limits():
    rng = np.random.default_rng(3)
    air = np.zeros((32, 64, 64), np.float32)
    air[:, :, 50:] = 1
    spacing_mm = (3.0, 140 / 64, 140 / 64)
    spread = []
    for _ in range(20):
        df, b1 = scanner.field_maps(scanner.Scanner(b1_range=(0.85, 1.15)), air, spacing_mm, rng)
        assert np.abs(df).max() <= 100 and b1.min() >= 0.85 and b1.max() <= 1.15
        spread.append(df[:, :, :40].std())
        assert np.abs(np.diff(df[:, :, :40], axis=1)).max() < 10 and np.abs(np.diff(b1, axis=1)).max() < 0.05
    assert 15 < np.mean(spread) < 32


def test_slice_profile():
    """Nothing for slices no thicker than their spacing; else the variance of two boxes and no change of the mean."""
    impulse = np.zeros((41, 2, 2), np.complex64)
    impulse[20] = 1 + 2j
    assert scanner.slice_profile(impulse, 1.5, 0.7) is impulse
    assert scanner.slice_profile(impulse, 1.5, None) is impulse
    blurred = scanner.slice_profile(impulse, 0.7, 1.5)[:, 0, 0]
    assert blurred.sum() == pytest.approx(1 + 2j, rel=1e-5)
    weight = blurred.real / blurred.real.sum()
    variance_mm2 = (weight * ((np.arange(41) - 20) * 0.7) ** 2).sum()
    assert variance_mm2 == pytest.approx((1.5**2 - 0.7**2) / 12, rel=0.08)  # a sampled Gaussian


def test_thin_slices_of_ciss_are_blurrier_than_of_dess():
    """Both on 0.7 mm: the CISS protocol has slices of 1.5 mm and mixes neighbours, the DESS protocol does not."""
    tissues = phantom((20, 3, 3))
    for name, part in (("air", slice(None, 10)), ("muscle", slice(10, None))):
        for other in ("air", "muscle"):
            tissues.fractions[other][part] = float(other == name)
    scans = scan(tissues, spacing_mm=(0.7, 1.1, 1.1))
    assert scans["dess"][9, 1, 1] == 0
    assert 0.05 < scans["ciss"][9, 1, 1] / scans["ciss"][-1, 1, 1] < 0.5


def test_ct_noise_and_resolution():
    tissues = phantom((40, 60, 60), muscle=1.0)
    noisy = scan(tissues, dataclasses.replace(QUIET, hu_sd=20.0))["ct"]
    assert noisy.mean() == pytest.approx(55, abs=1) and noisy.std() == pytest.approx(20, rel=0.01)
    tissues.fractions["muscle"][:, :, 30:], tissues.fractions["cortical_bone"][:, :, 30:] = 0, 1
    edge = scan(tissues, spacing_mm=(1.0, 0.3, 0.3))["ct"][20, 30]
    spread = np.diff(edge) / np.diff(edge).sum()
    places = (np.arange(59) - 29) * 0.3
    fwhm_mm = 2.355 * np.sqrt((spread * places**2).sum())
    assert fwhm_mm == pytest.approx(0.7, rel=0.1)


def test_coil_bias_is_smooth_and_not_shared_by_the_contrasts():
    tissues = phantom((24, 48, 48), fluid=1.0)
    spacing_mm = (4.0, 140 / 48, 140 / 48)
    scans = scan(tissues, dataclasses.replace(QUIET, bias_sd=(0.25, 0.25)), spacing_mm=spacing_mm)
    logs = {name: np.log(scans[name]) for name in ("ciss", "dess")}
    for log in logs.values():
        assert 0.05 < log.std() < 0.6 and np.abs(np.diff(log, axis=1)).max() < 0.1
    assert abs(np.corrcoef(logs["ciss"].ravel(), logs["dess"].ravel())[0, 1]) < 0.95


@pytest.fixture(scope="module")
def subject():
    return make_subject(11, (32, 80, 80))


def test_contrast_of_a_whole_knee(subject):
    """The orderings of docs/explanation/physics.md as they look in the pictures, in voxels that hold little else."""
    interior = {}
    tissues_of_interest = (
        "fluid",
        "marrow_epiphysis",
        "subcutaneous_fat",
        "muscle",
        "cartilage_superficial",
        "cortical_bone",
    )
    for name in tissues_of_interest:
        where = subject.labels == NAMES.index(name)
        interior[name] = {s: float(np.median(getattr(subject, s)[where])) for s in ("ciss", "dess", "ct")}
    ciss, dess, ct = ({n: v[s] for n, v in interior.items()} for s in ("ciss", "dess", "ct"))
    assert ciss["fluid"] > ciss["subcutaneous_fat"] > ciss["muscle"]
    assert ciss["marrow_epiphysis"] > ciss["muscle"]
    assert dess["fluid"] > dess["muscle"] > dess["subcutaneous_fat"]
    assert dess["cartilage_superficial"] > dess["muscle"] > dess["marrow_epiphysis"]
    assert ct["cortical_bone"] > 500 > ct["marrow_epiphysis"] > ct["muscle"] > 0 > ct["subcutaneous_fat"] > -160


def test_intensities_fit_their_files(subject):
    for name in ("ciss", "dess"):
        picture = getattr(subject, name)
        assert picture.dtype == np.float32 and picture.min() >= 0
        assert 1000 < np.percentile(picture, 99.5) and picture.max() < 32767
    assert subject.ct.dtype == np.float32 and -1200 < subject.ct.min() < -900 and 700 < subject.ct.max() < 3000


def test_tissue_parameters_vary_as_suggested():
    """Section 5: log-normal, T1 6 %, T2 10 %, PD 3 %; one patient's cartilage has one T1 and PD."""
    tables = [scanner.draw_tissues(np.random.default_rng(seed)) for seed in range(1500)]
    for field, sd in (("t1_ms", 0.06), ("t2_ms", 0.10), ("pd_water", 0.03)):
        logs = np.log([getattr(t["muscle"], field) / getattr(sig.TISSUES["muscle"], field) for t in tables])
        assert logs.std() == pytest.approx(sd, rel=0.08) and abs(logs.mean()) < 4 * sd / np.sqrt(1500)
    for table in tables[:50]:
        deep, top = table["cartilage_deep"], table["cartilage_superficial"]
        assert (deep.t1_ms, deep.pd_water, deep.hu) == (top.t1_ms, top.pd_water, top.hu)
        assert top.t2_ms / deep.t2_ms == pytest.approx(45 / 28)


def test_drawn_examinations_stay_in_range():
    for seed in range(200):
        s = scanner.draw(np.random.default_rng(seed))
        assert 20 <= s.df_sd_hz <= 30 and 0.85 <= s.b1_range[0] < s.b1_range[1] <= 1.15
        assert 0.0012 <= s.sigma_ciss <= 0.0025 and 0.002 <= s.sigma_dess <= 0.004 and 15 <= s.hu_sd <= 25


def test_labels_name_the_prevailing_tissue():
    tissues = phantom((2, 3, 4), muscle=0.6, fluid=0.3)
    assert (tissues.labels() == anatomy.NAMES.index("muscle")).all() and tissues.labels().dtype == np.uint8
