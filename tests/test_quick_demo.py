"""`cyclescan demo --quick` through its command line, and its page in a browser."""

import re

import nibabel
import numpy as np
import pytest

from cyclescan import NOTICE, demo
from cyclescan.common.files import read_json
from cyclescan.demo import quick
from cyclescan.scans import volume
from tests.browser import asked, self_contained
from tests.inference import tiny

SHAPE = ("16", "32", "32")
SECTIONS = ["What came out", "How good it is", "How far to trust it", "What went in", "What next"]
QUESTION = """(window, document) => {
  const find = (name) => document.querySelector(`[data-control="${name}"]`);
  const found = { dom: document.documentElement.outerHTML, volumes: [...find("study").options].map((o) => o.text) };
  found.over = document.documentElement.scrollWidth - window.innerWidth;
  find("study").value = "2";
  find("study").dispatchEvent(new window.Event("change"));
  found.images = [...document.images].map((image) => image.naturalWidth);
  found.values = find("values").textContent;
  found.outlined = find("outline-name").textContent;
  return found;
}"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """What the command leaves, by a model that was made in no time."""
    folder = tmp_path_factory.mktemp("quick")
    domains = {"a": tiny.domain("ciss", tiny.MR, 0, 2600.0), "b": tiny.domain("dess", tiny.MR, 0, 900.0)}
    tiny.write_run(folder / "run", spacing_mm=(6.0, 4.375, 4.375), **domains)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick, "MODEL", str(folder / "run"))
        assert demo.main(["--quick", "--out", str(folder / "out"), "--shape", *SHAPE, "--seed", "3"]) == 0
    return folder / "out"


def test_files(out):
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.nii.gz")) == [
        *(f"scans/knee-{number}_{contrast}.nii.gz" for number in (1, 2) for contrast in ("ciss", "dess")),
        *(f"translated/knee-{number}_{contrast}.nii.gz" for number in (1, 2) for contrast in ("ciss", "dess")),
    ]
    for path in (out / "translated").glob("*.nii.gz"):
        assert nibabel.load(path).shape == (16, 32, 32) and volume.is_synthetic(path)
    # the ill knee is another one, and both are new: none of those that models were trained on
    healthy, ill = (volume.read(out / f"scans/knee-{number}_ciss.nii.gz").array for number in (1, 2))
    assert np.corrcoef(healthy.ravel(), ill.ravel())[0, 1] < 0.99
    metrics = read_json(out / "metrics.json")
    for direction in ("a2b", "b2a"):
        for method in ("translated", "identity", "histogram_matching"):
            assert {"psnr", "ssim", "mae"} <= metrics[direction][method].keys()
        assert metrics[direction]["lesion"]["contrast"] > 0.1  # fluid is bright in both
        assert metrics[direction]["lesion"]["surviving"] is not None
    quick._refuse_foreign(out)  # nothing of its own stands in the way of another run
    assert metrics["seed"] == 3 and metrics["seconds"]["total"] > 0 and metrics["notice"] == NOTICE


def test_the_page_in_a_browser(out, tmp_path):
    answers, console = asked((out / "demo.html").read_text(), tmp_path, QUESTION, (390, 1280))
    assert console == []
    metrics = read_json(out / "metrics.json")
    for found in answers.values():
        page = self_contained(found["dom"])
        assert page.headings == SECTIONS and found["over"] <= 0
        assert NOTICE in page.words and "DESS made of CISS, and back" in page.words
        for direction, title in (("a2b", "CISS to DESS"), ("b2a", "DESS to CISS")):
            own = metrics[direction]["translated"]["psnr"]
            gains = [own - metrics[direction][method]["psnr"] for method in ("identity", "histogram_matching")]
            said = f"{title}: {own:.1f} dB PSNR {gains[0]:.1f} dB more than doing nothing, {gains[1]:.1f} more than"
            assert said.replace("-", "−") in page.words
            percent = f"{100 * metrics[direction]['lesion']['surviving']:.0f} %".replace("-", "−")
            assert f"{percent} of its contrast of" in page.words
        assert "torn cruciate ligament" in page.words and "is no finding" in page.words
        assert len(page.images) == 8 and all(image["alt"].strip() for image in page.images)
        assert min(found["images"]) >= 8  # every one was decoded
        assert found["volumes"] == [
            f"{name}: {way}" for name in quick.NAMES for way in ("CISS to DESS", "DESS to CISS")
        ]
        for name in ("CISS", "DESS, synthetic", "DESS, true", "error", "uncertainty"):
            assert name in found["values"]
        assert found["outlined"] == "where the torn cruciate ligament was put"
    assert (out / "demo.html").stat().st_size < 8e6


def test_nothing_of_others_is_overwritten(tmp_path, capsys):
    for name in ("demo.html", "metrics.json", "scans/knee-2_dess.nii.gz", "translated/knee-1_dess.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        assert demo.main(["--quick", "--out", str(tmp_path), "--shape", *SHAPE]) == 2
        assert re.search(rf"^error: .*{name} .*", capsys.readouterr().err)
        assert path.read_text() == "mine"
        path.unlink()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_refusals(tmp_path, capsys):
    cases = {
        "--quick trains nothing": ["--minutes", "1"],
        "--seed is -1": ["--seed", "-1"],
        "--shape is 4 4 4": ["--shape", "4", "4", "4"],
    }
    for sentence, arguments in cases.items():
        assert demo.main(["--quick", "--out", str(tmp_path / "out"), *arguments]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_page_is_opened_where_somebody_sits(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(quick.webbrowser, "open", lambda address: opened.append(address) or True)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for display, terminal in (("", True), (":0", False), (":0", True)):
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.setattr(quick.sys.stdout, "isatty", lambda terminal=terminal: terminal, raising=False)
        assert quick.open_page(tmp_path / "page.html") is bool(display and terminal)
    assert opened == [(tmp_path / "page.html").as_uri()]


@pytest.mark.slow
def test_the_model_that_comes_with_cyclescan(tmp_path):
    """In half a minute each time the figures of the card, to within what two knees differ."""
    found = []
    for _ in range(2):  # the second time over what the first one left
        assert demo.main(["--quick", "--out", str(tmp_path / "out")]) == 0
        found.append({**read_json(tmp_path / "out/metrics.json"), "seconds": None})
    metrics = found[0]
    assert found[1] == metrics
    for direction, psnr in (("a2b", 17.4), ("b2a", 18.4)):
        assert metrics[direction]["translated"]["psnr"] == pytest.approx(psnr, abs=2)
        assert metrics[direction]["translated"]["psnr"] > metrics[direction]["histogram_matching"]["psnr"] + 4
        assert abs(metrics[direction]["lesion"]["surviving"]) < 0.4  # lesions are lost, as the card says
