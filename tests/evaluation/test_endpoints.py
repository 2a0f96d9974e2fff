"""Signal, area and volume of regions of known size, and the command on files."""

import csv
import shutil
import subprocess

import numpy as np
import pytest

from cyclescan import endpoints as command
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.evaluation import endpoints
from cyclescan.evaluation.endpoints import Regions
from cyclescan.reporting import endpoints_page
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume

SPACING_MM = (1.0, 0.5, 0.5)
SHAPE = (40, 64, 64)
AFFINE = np.diag([*SPACING_MM, 1.0])
RADIUS_MM, LENGTH_MM = 4.0, 24.0


def rod(signal=300.0, radius=RADIUS_MM, noise=4.0, seed=0):
    """A scan of a rod in water along the second axis beside a block of bone, and its mask."""
    z, y, x = (np.arange(n) * s for n, s in zip(SHAPE, SPACING_MM, strict=True))
    z, y, x = np.meshgrid(z - 20, y - 16, x - 16, indexing="ij")
    inside = (np.hypot(z, x) < radius) & (np.abs(y) < LENGTH_MM / 2)
    bone = (z > 14) & (y < 0)
    array = 100.0 + (signal - 100.0) * inside - 50.0 * bone
    mask = np.where((np.hypot(z, x) < RADIUS_MM) & (np.abs(y) < LENGTH_MM / 2), 9, 0) + 4 * bone
    array += np.random.default_rng(seed).normal(0, noise, SHAPE)
    return Volume(array.astype(np.float32), AFFINE), mask.astype(np.int32)


REGIONS = Regions({9: "acl", 4: "bone"}, reference=4)


def test_a_rod_is_measured_as_it_is():
    scan, mask = rod()
    found = endpoints.measure(scan, mask, REGIONS)["acl"]
    assert found["signal"] == pytest.approx(300, abs=1)
    assert found["relative_signal"] == pytest.approx(300 / 50, rel=0.02)
    voxels_mm3 = (mask == 9).sum() * np.prod(SPACING_MM)  # of the rod as it is drawn; ideally it has 1206 mm3
    assert found["volume_mm3"] == pytest.approx(voxels_mm3, rel=0.01)
    assert found["area_mm2"] == pytest.approx(voxels_mm3 / LENGTH_MM, rel=0.04)
    assert found["cnr"] == pytest.approx(200 / 4, rel=0.1)


def test_the_volume_follows_the_image_and_not_the_mask():
    """A rod thinner than its mask is measured thinner; one that is as dark as its surroundings has no volume."""
    scan, mask = rod(radius=3.0)
    thin = endpoints.measure(scan, mask, REGIONS)["acl"]
    assert thin["volume_mm3"] == pytest.approx((scan.array > 200).sum() * np.prod(SPACING_MM), rel=0.01)
    assert thin["volume_mm3"] < 0.7 * (mask == 9).sum() * np.prod(SPACING_MM)
    gone = endpoints.measure(*rod(signal=100.0), REGIONS)["acl"]
    assert abs(gone["cnr"]) < 0.5


def test_axes_and_unit_do_not_change_what_is_in_millimetres():
    scan, mask = rod()
    turned = Volume(1000 * scan.array.transpose(2, 0, 1), AFFINE[:, [2, 0, 1, 3]])
    first = endpoints.measure(scan, mask, REGIONS)["acl"]
    second = endpoints.measure(turned, mask.transpose(2, 0, 1), REGIONS)["acl"]
    for key in ("relative_signal", "volume_mm3", "area_mm2"):
        assert second[key] == pytest.approx(first[key], rel=1e-4)
    assert second["signal"] == pytest.approx(1000 * first["signal"], rel=1e-5)


def test_a_coil_s_field_is_divided_out_on_the_grid_of_the_scan():
    """Two equal blocks, at one of which the coil is twice as sensitive, are equal again, in any orientation."""
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (16, 20, 20)), indexing="ij")
    ends = [(np.hypot(y, x) < 3) & (np.abs(z - end) < 2) for end in (-5, 5)]
    tissue = 100.0 * (np.hypot(y, x) < 8) + 50.0 * (ends[0] | ends[1]) + np.random.default_rng(0).normal(0, 1, z.shape)
    scan = Volume((np.abs(tissue) * np.exp(np.log(2) * z / 10)).astype(np.float32), np.diag([6.0, 6.0, 6.0, 1.0]))
    corrected = endpoints.bias_corrected(scan)
    before, after = (s.array[ends[1]].mean() / s.array[ends[0]].mean() for s in (scan, corrected))
    assert before == pytest.approx(2, rel=0.05)
    assert after == pytest.approx(1, abs=0.15)
    turned = Volume(scan.array.transpose(2, 0, 1)[::-1], scan.affine[:, [2, 0, 1, 3]] * [-1, 1, 1, 1])
    again = endpoints.bias_corrected(turned)
    np.testing.assert_array_equal(again.affine, turned.affine)
    np.testing.assert_allclose(again.array[::-1].transpose(1, 2, 0), corrected.array, rtol=1e-3, atol=1e-3)


def test_ct_has_no_field_of_a_coil():
    scan = Volume(np.where(np.arange(1000).reshape(10, 10, 10) < 500, -1000, 40).astype(np.float32), np.eye(4))
    with pytest.raises(InputError, match="50% of the voxels are negative, as in CT"):
        endpoints.bias_corrected(scan)


def test_agreement_is_of_each_site_and_of_all():
    rows = []
    for site, shift in (("x", 0.0), ("y", 8.0)):
        for i in range(6):
            values = {f"reference_{key}": float(i) for key in endpoints.MEASURES}
            values |= {f"predicted_{key}": i + shift + 0.1 * (-1) ** i for key in endpoints.MEASURES}
            rows.append({"subject": i, "site": site, "region": "acl", **values})
    found = {(r["measure"], r["site"]): r for r in endpoints.compare(rows, ["x", "y"])}
    assert found["signal", "x"]["bias"][0] == pytest.approx(0, abs=1e-9)
    assert found["signal", "y"]["bias"][0] == pytest.approx(8)
    assert found["signal", "all"]["bias"][0] == pytest.approx(4)
    assert found["signal", "x"]["icc"][0] > 0.99
    assert found["signal", "all"]["icc"][0] < 0.5


SUBJECTS = 5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    lines = ["subject\tsite"]
    for i in range(SUBJECTS):
        truth, mask = rod(signal=200 + 40 * i, seed=i)
        made, _ = rod(signal=205 + 38 * i, seed=50 + i)
        for name, array in (("true", truth.array), ("made", made.array), ("masks", mask), ("input", truth.array[::-1])):
            (folder / name).mkdir(exist_ok=True)
            # what would identify a person if it came through
            volume.write(Volume(array.astype(np.float32), AFFINE), folder / name / f"Mustermann_{i}.nii.gz")
        lines.append(f"Mustermann_{i}\t{'north' if i % 2 else 'south'}")
    (folder / "sites.tsv").write_text("\n".join(lines) + "\n")
    (folder / "regions.tsv").write_text("index\tname\n0\tair\n9\tacl\n4\tcortical bone\n")
    return folder


def call(cohort, out, *more, masks="masks"):
    given = ("--predicted", "made", "--reference", "true", "--masks", masks)
    paths = [word if word.startswith("--") else str(cohort / word) for word in map(str, given)]
    return command.main([*paths, *map(str, more), "--out", str(out)])


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    more = ("--source", cohort / "input", "--sites", cohort / "sites.tsv", "--regions", cohort / "regions.tsv")
    assert call(cohort, out, *more, "--reference-tissue", "cortical bone") == 0
    return out


def test_the_command_says_how_well_the_ligament_agrees(made):
    found = {
        (r["region"], r["measure"], r["site"], r["image"]): r for r in read_json(made / "endpoints.json")["agreement"]
    }
    icc, low, high = found["acl", "signal", "all", "predicted"]["icc"]
    assert icc > 0.98 and low < icc < high
    assert found["acl", "signal", "all", "predicted"]["n"] == SUBJECTS
    assert found["acl", "signal", "north", "predicted"]["n"] == 2  # too few for an interval
    assert found["acl", "signal", "north", "predicted"]["icc"] is None
    with open(made / "endpoints.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * SUBJECTS
    own = next(r for r in rows if r["subject"] == "2" and r["region"] == "acl")
    assert float(own["reference_signal"]) == pytest.approx(240, abs=1)
    assert float(own["reference_relative_signal"]) == pytest.approx(240 / 50, rel=0.02)
    assert sorted(p.name for p in (made / "figures").iterdir()) == [
        "acl.pdf",
        "acl.svg",
        "cortical-bone.pdf",
        "cortical-bone.svg",
    ]


def test_n4_corrects_every_image_alike_and_says_so(cohort, tmp_path, monkeypatch, capsys):
    def doubled(scan):
        return Volume(2 * scan.array, scan.affine)

    monkeypatch.setattr(endpoints, "bias_corrected", doubled)
    pages = []
    monkeypatch.setattr(endpoints_page, "write", lambda rows, compared, sites, out, n4: pages.append((rows, n4)))
    for more in ((), ("--n4",)):
        assert call(cohort, tmp_path / f"out{len(more)}", "--source", cohort / "input", *more) == 0
    (plain, said_before), (corrected, said_after) = pages
    for before, after in zip(plain, corrected, strict=True):
        for role in ("predicted", "reference", "source"):
            assert after[f"{role}_signal"] == pytest.approx(2 * before[f"{role}_signal"], rel=1e-6)
    assert (said_before, said_after) == (False, True)
    assert [read_json(tmp_path / out / "endpoints.json")["n4"] for out in ("out0", "out1")] == [False, True]

    def fails(scan):
        raise InputError("no scan of MR.")

    monkeypatch.setattr(endpoints, "bias_corrected", fails)
    assert call(cohort, tmp_path / "out", "--n4") == 2
    assert f"--n4 cannot correct {cohort / 'made' / 'Mustermann_0.nii.gz'}: no scan of MR." in capsys.readouterr().err


def test_nothing_that_identifies_is_in_what_is_handed_on(made):
    for path in made.rglob("*"):
        if path.is_file() and path.name != "subjects.tsv":
            assert b"Mustermann" not in path.read_bytes(), path
    assert "3\tMustermann_2" in (made / "subjects.tsv").read_text()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(made, tmp_path, width):
    browser = shutil.which("chromium")
    assert browser, "pages are tested in a browser: install chromium (apt-get install chromium)"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    page = (made / "endpoints.html").resolve().as_uri()
    options = [f"--user-data-dir={tmp_path}", f"--window-size={width},900", "--enable-logging=stderr", "--dump-dom"]
    result = subprocess.run([browser, *flags, *options, page], capture_output=True, text=True, check=True, timeout=120)
    assert "CONSOLE" not in result.stderr
    assert "acl: ICC" in result.stdout and "not for clinical use" in result.stdout
    assert result.stdout.count("<img") == 2


BAD = {
    "a mask on another grid": ("grid", "The mask volume has 40x64x63 voxels and its reference 40x64x64"),
    "labels that are not whole": ("halves", "has a voxel of 9.5; labels must be whole numbers"),
    "an empty region": ("names", "The region meniscus of"),
    "a tissue that is none": ("tissue", "--reference-tissue is 'liver'; the masks have region 4 (4), region 9 (9)"),
    "one subject": ("one", "1 of the 5 predicted volumes has a reference and a mask of its name; agreement needs"),
    "a site without subjects": ("site", "The site west of"),
    "a subject without a site": ("nowhere", "has no site for Mustermann_0"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_one_sentence(cohort, tmp_path, capsys, kind):
    key, sentence = BAD[kind]
    masks, more = tmp_path / "masks", []
    shutil.copytree(cohort / "masks", masks)
    first = masks / "Mustermann_0.nii.gz"
    array = volume.read(first).array
    if key == "grid":
        volume.write(Volume(array[:, :, :-1], AFFINE), first)
    elif key == "halves":
        volume.write(Volume(np.where(array == 9, 9.5, array).astype(np.float32), AFFINE), first)
    elif key == "one":
        for path in sorted(masks.iterdir())[1:]:
            path.unlink()
    elif key == "tissue":
        more = ["--reference-tissue", "liver"]
    else:
        table = tmp_path / "table.tsv"
        sites = (cohort / "sites.tsv").read_text()
        text = {
            "names": "index\tname\n9\tacl\n7\tmeniscus\n",
            "site": sites + "Nobody\twest\n",
            "nowhere": sites.replace("Mustermann_0", "Nobody"),
        }[key]
        table.write_text(text)
        more = ["--regions" if key == "names" else "--sites", table]
    out = tmp_path / "out"
    assert call(cohort, out, *more, masks=masks) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not (out / "endpoints.json").exists()


def test_what_is_not_ours_stays(cohort, tmp_path, capsys):
    (tmp_path / "endpoints.csv").write_text("mine\n1\n")
    assert call(cohort, tmp_path) == 2
    assert "is no result of `endpoints`" in capsys.readouterr().err
    assert (tmp_path / "endpoints.csv").read_text() == "mine\n1\n"
