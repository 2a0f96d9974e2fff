"""The report in a headless browser: whole, self-contained, and safe with any name."""

import base64
import csv
import io
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cyclescan import NOTICE, report
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, write_json
from cyclescan.evaluation.paired import Case, evaluate_on_records
from cyclescan.reporting import figures, run_page
from cyclescan.scans import volume
from cyclescan.training.terms import Group
from tests import conftest
from tests.browser import Page, asked, chromium, self_contained
from tests.inference import tiny

SECTIONS = ["Measures", "Pictures", "Intensity histograms", "Losses", "Settings", "Data", "How it was made"]


def write_run(folder, a="ciss", b="dess", rows=None):
    """A run that fits the fixture's records, with a history whose warm-up ends at step 20."""
    run = tiny.write_run(
        folder,
        spacing_mm=conftest.SPACING_MM,
        steps=(5, 10),
        a=tiny.domain(a, tiny.MR, 0.0, 1000.0),
        b=tiny.domain(b, tiny.MR, 0.0, 500.0),
        scores={5: 1.5, 10: 1.2},
    )
    columns = ["step", "seconds", "pair_a2b", "pair_b2a", "adversarial_a2b", "cycle_aba", "discriminator_a"]
    rows = rows or [[s, s / 10, 1 / s, 2 / s, *([] if s <= 20 else [0.5, 0.3, 0.4])] for s in (10, 20, 30, 40)]
    with open(folder / "history.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([columns, *([*row, *[""] * (len(columns) - len(row))] for row in rows)])
    return run


class Model:
    stride = 4

    def __init__(self, function):
        self.function = function

    def translate_array(self, array, *, window=None):
        return self.function(array)


MODELS = {"a2b": Model(lambda x: 0.9 - 1.8 * np.abs(x)), "b2a": Model(lambda x: 0.5 * x)}


@pytest.fixture(scope="module")
def whole(tiny_records, tmp_path_factory):
    """The run, and the page that the command line made of it with its own networks."""
    folder = tmp_path_factory.mktemp("report")
    run = write_run(folder / "run")
    assert report.main(["--run", str(run.path), "--data", str(tiny_records)]) == 0
    return run, run.path / "report.html"


# of a page: itself, whether it runs over the right margin, the pictures that the browser decoded, and a click
QUESTION = """(window, document) => {
  const found = { dom: document.documentElement.outerHTML };
  found.over = document.documentElement.scrollWidth - window.innerWidth;
  found.images = [...document.images].map((image) => image.naturalWidth);
  found.values = document.querySelector('[data-control="values"]').textContent;
  const canvas = document.querySelector("#viewer canvas");
  found.drawn = [canvas.width, canvas.height, new Set(canvas.toDataURL()).size];
  return found;
}"""


def test_the_page_in_a_browser(whole, tmp_path):
    """On a phone and on a desk: whole, readable, and its viewer at work."""
    _, path = whole
    answers, console = asked(path.read_text(), tmp_path, QUESTION, (390, 1200))
    assert console == []
    for width, found in answers.items():
        page = self_contained(found["dom"])
        assert page.headings == SECTIONS
        assert page.tags.count("title") == page.tags.count("h1") == 1
        assert page.tags.count("table") >= 6
        assert len(page.images) == 7  # two volumes and a histogram for each direction, and the losses
        assert all(image["alt"].strip() for image in page.images)
        assert NOTICE in page.words and "CISS → DESS" in page.words
        assert found["over"] <= 0 and min(found["images"]) > 300
        assert found["drawn"][0] > width / 4 and found["drawn"][1] > 100
        for name in ("CISS", "DESS, synthetic", "DESS, true", "error", "uncertainty"):
            assert name in found["values"]
    assert path.stat().st_size < 8e6


def test_every_picture_decodes(whole):
    for image in Page(whole[1].read_text()).images:
        kind, data = re.fullmatch(r"data:image/(png|svg\+xml);base64,(.+)", image["src"]).groups()
        data = base64.b64decode(data, validate=True)
        if kind == "png":
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert min(pixels.shape[:2]) > 300 and pixels.std() > 20
        else:
            assert ElementTree.fromstring(data).tag.endswith("svg")
            assert b"<script" not in data


def test_the_viewer_has_the_first_volume_of_each_direction_first(tiny_records, monkeypatch):
    _, cases, _ = evaluate_on_records(MODELS, tiny_records)
    studies = run_page.studies(cases, {"a": "CISS", "b": "DESS"})
    assert [study.title for study in studies] == [
        "CISS to DESS, subject s5",
        "DESS to CISS, subject s5",
        "CISS to DESS, subject s6",
        "DESS to CISS, subject s6",
    ]
    assert [len(study.layers) for study in studies] == [4, 4, 3, 3]  # the first ones with their uncertainty
    np.testing.assert_array_equal(studies[1].layers[1].array, cases[2].translated)
    # pictures that take much of the page leave less to the viewer, which has the first ones in any case
    names = {"a": "CISS", "b": "DESS"}
    monkeypatch.setattr(run_page, "LEAST_ROOM", 10_000)
    assert [run_page._viewer(cases, names, taken).shown for taken in (0, run_page.ROOM)] == [4, 2]
    assert len(run_page._viewer(cases, names, run_page.ROOM).html) < len(run_page._viewer(cases, names, 0).html) - 5000


def test_numbers_are_those_of_the_evaluation(tiny_records, tmp_path):
    run = write_run(tmp_path / "run")
    evaluated = evaluate_on_records(MODELS, tiny_records)
    page = Page(report.write(run.path, tiny_records, tmp_path / "page.html", evaluated=evaluated).read_text())
    for direction, title in (("a2b", "CISS to DESS"), ("b2a", "DESS to CISS")):
        metrics = evaluated[0][direction]
        own, identity, matching = (metrics[m]["psnr"] for m in ("translated", "identity", "histogram_matching"))
        gains = [f"{abs(own - x):.1f} dB {'above' if own >= x else 'below'}" for x in (identity, matching)]
        sentence = f"{title}: {own:.1f} dB PSNR, {gains[0]} identity, {gains[1]} histogram matching;"
        assert sentence in page.words
        for method in ("translated", "identity", "histogram_matching"):
            mean, sd = metrics[method]["psnr"], metrics[method]["sd"]["psnr"]
            assert f"{mean:.2f} ± {sd:.2f}" in page.words
        kl = evaluated[2][direction]["kl"]
        assert f"KL(input ‖ generated) {kl['input_generated']:.3f} nats" in page.words
        of_body = [r["real_after"] for r in evaluated[2][direction]["subjects"]["values"] if r["region"] == "body"]
        assert f"{title}, histogram: {np.median(of_body):.2f} nats KL over the body," in page.words
    assert page.words.index("KL over the body") < page.words.index("dB PSNR")  # the report leads with it
    with open(tmp_path / "page-histograms.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 2 * 3  # directions, subjects, regions, measures
    assert {row["definition"].split(":")[0] for row in rows} > {"KL(real || after)"}
    assert all((tmp_path / f"page-histograms-{d}.{kind}").exists() for d in ("a2b", "b2a") for kind in ("svg", "pdf"))
    table = tmp_path / "sites.tsv"
    table.write_text("subject\tsite\ns5\tnorth\ns6\tsouth\n")
    path = report.write(run.path, tiny_records, tmp_path / "page.html", evaluated=evaluated, sites=table)
    words = Page(path.read_text()).words
    assert "body all 2 " in words and "body north 1 " in words and "everything south 1 " in words
    assert "128 bins over [−1, 1], ε = 1e-06" in page.words
    assert "s5" in page.words and "8 × 16 × 16 voxels of 3 × 2 × 2 mm" in page.words


def test_settings_and_facts(whole):
    run, path = whole
    words = Page(path.read_text()).words
    changed = words[words.index("What differs from the preset demo") : words.index("other settings")]
    assert "patch_shape 8 × 16 × 16 32 × 64 × 64" in changed
    assert "learning_rate 0.0002 0.001" in changed
    assert "beta_1" not in changed  # as in the preset
    assert "test volumes 2 ciss, 2 dess; 2 subjects in both domains" in words
    assert "train volumes 4 ciss, 4 dess; 0 subjects in both domains" in words
    assert f"last: step 10 of {run.config.steps}" in words
    assert str(run.path.parent) not in words  # folders may carry what identifies a patient


def test_without_records(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    run.data["domains"]["a"]["preprocessing"] = {"n4": True, "crop_body_mm": 8.0}
    run.write()
    assert report.main(["--run", str(run.path), "--out", str(tmp_path / "page.html")]) == 0
    dom, console = chromium(tmp_path / "page.html", tmp_path, "--dump-dom")
    page = self_contained(dom)
    assert console == [] and page.headings == SECTIONS[3:]
    assert len(page.images) == 1
    assert "were not at hand" in page.words
    said = "further steps of ciss each scan is bias-corrected (N4), is cropped to the body and 8 mm around it"
    assert said in page.words and "further steps of dess" not in page.words


def test_the_runs_own_records_are_the_default(tiny_records, tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    values = read_json(run.path / "config.json")
    write_json(run.path / "config.json", {**values, "records": str(tiny_records)})
    given = []
    monkeypatch.setattr(
        run_page,
        "_evaluate",
        lambda run, records, *rest: given.append(str(records)) or evaluate_on_records(MODELS, records),
    )
    assert report.main(["--run", str(run.path)]) == 0
    assert given == [str(tiny_records)]


def test_without_truth(tiny_records, tmp_path):
    import dataclasses

    from cyclescan import records

    folder = tmp_path / "records"
    shutil.copytree(tiny_records, folder)
    for shard in records.shards(folder / "test", "b"):
        strangers = [dataclasses.replace(r, subject=f"x{r.subject}") for r in records.read_shard(shard)]
        records.write_shard(shard, strangers)
    run = write_run(tmp_path / "run")
    evaluated = evaluate_on_records(MODELS, folder)
    path = report.write(run.path, folder, evaluated=evaluated)
    dom, console = chromium(path, tmp_path, "--dump-dom")
    page = self_contained(dom)
    assert console == [] and page.headings == SECTIONS and len(page.images) == 7
    kl = evaluated[2]["a2b"]["kl"]["target_generated"]
    assert f"CISS to DESS: {kl:.2f} nats KL from real DESS" in page.words
    assert "PSNR" not in page.words[: page.words.index("Definitions")]
    assert "true DESS" not in page.images[0]["alt"] and "error of the cycle" in page.images[0]["alt"]


def test_names_are_text_and_never_markup(tiny_records, tmp_path):
    """In the page, in its title and in the pictures, where a dollar sign would begin a formula."""
    folder, a, b = tmp_path / "records", "<b>x</b>", '"><img src=x onerror=alert(1)>$\\frac{$'
    shutil.copytree(tiny_records, folder)
    info = read_json(folder / "dataset.json")
    info["domains"]["a"]["name"], info["domains"]["b"]["name"] = a, b
    write_json(folder / "dataset.json", info)
    run = write_run(tmp_path / "run", a, b)
    path = report.write(run.path, folder, evaluated=evaluate_on_records(MODELS, folder))
    dom, console = chromium(path, tmp_path, "--dump-dom")
    page = self_contained(dom)
    assert console == []
    assert a in page.words and b in page.words
    assert "b" not in page.tags and len(page.images) == 7
    assert f"generated {b}" in page.images[4]["alt"]


def test_validation_volumes_are_named_as_such(tiny_records, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(tiny_records, folder)
    shutil.rmtree(folder / "test")
    run = write_run(tmp_path / "run")
    words = Page(report.write(run.path, folder, evaluated=evaluate_on_records(MODELS, folder)).read_text()).words
    assert "The data set has no test volumes" in words
    assert "over 1 validation subject " in words and "± –" in words


def test_a_run_that_has_only_begun(tiny_records, tmp_path):
    run = write_run(tmp_path / "run")
    shutil.rmtree(run.path / "checkpoints")
    (run.path / "history.csv").unlink()
    page = Page(report.write(run.path, tiny_records).read_text())
    assert "no checkpoint yet" in page.words and "no history yet" in page.words
    assert page.images == []


def test_refusals(tiny_records, tmp_path, capsys):
    run = write_run(tmp_path / "run")
    cases = {
        "is not a training run": ["--run", tmp_path],
        "is not a data set": ["--run", run.path, "--data", tmp_path],
        "is a folder": ["--run", run.path, "--data", tiny_records, "--out", tmp_path],
        "no checkpoint 'soon'": ["--run", run.path, "--data", tiny_records, "--weights", "soon"],
    }
    for sentence, arguments in cases.items():
        assert report.main([str(a) for a in arguments]) == 2
        assert sentence in capsys.readouterr().err
    other = write_run(tmp_path / "other", a="t1")
    with pytest.raises(InputError, match="not the kind of data"):
        report.write(other.path, tiny_records)
    assert not list(tmp_path.glob("**/*.html"))


def test_planes_are_shown_as_radiologists_do():
    """A bright voxel that is superior, anterior and right: at the top, and at the left or top as the plane has it."""
    array = np.zeros((4, 6, 8))
    array[3, 5, 7] = 1  # the last of every axis: right, superior, anterior
    for axis, expected in ((0, (0, 0)), (2, (0, 0)), (1, (0, 0))):
        middle = array.max(axis, keepdims=True).repeat(array.shape[axis], axis)
        shown = volume.plane(middle, axis)
        assert np.argwhere(shown).tolist() == [list(expected)]
    assert volume.plane(array, 0).shape == (6, 8)  # superior down, anterior to posterior across
    assert volume.plane(array, 2).shape == (6, 4)
    assert volume.plane(array, 1).shape == (8, 4)


def test_the_colours_of_the_error_span_what_is_there():
    def case(error):
        zeros = np.zeros((4, 4, 4))
        return Case("a2b", "x", "y", "s", np.eye(4), zeros, zeros + error, zeros, None, None)

    assert figures.error_limit([case(0.31), case(-0.1)]) == pytest.approx(0.4)
    assert figures.error_limit([case(0.3)]) == pytest.approx(0.3)
    assert figures.error_limit([case(0.0)]) == pytest.approx(0.1)


def test_the_warm_up_ends_where_other_terms_begin(tmp_path):
    run = write_run(tmp_path / "run")
    history = run_page.read_history(run.path / "history.csv")
    assert figures.warmup_end(history) == 20
    np.testing.assert_allclose(history["pair_a2b"], [0.1, 0.05, 1 / 30, 1 / 40])
    assert np.isnan(history["cycle_aba"][:2]).all()
    # back-translation belongs to the warm-up, and is drawn
    later = {**history, "back_aba": np.array([np.nan, 0.4, 0.3, 0.2])}
    assert figures.warmup_end(later) == 20
    labels = [part.term.label for part, _ in figures._curves(later, Group.SIMILARITY)]
    assert labels.count("back-translation") == 1
    without = {k: v for k, v in history.items() if not k.startswith("pair")}
    assert figures.warmup_end(without) is None


def test_the_terms_of_detail_and_texture_have_scales_of_their_own(tmp_path):
    history = run_page.read_history(write_run(tmp_path / "run").path / "history.csv")
    names = {"a": "ciss", "b": "dess"}
    without, with_it = (
        base64.b64decode(figures.loss_curves({**history, **more}, {}, names).partition(",")[2]).decode()
        for more in ({}, {name: np.array([np.nan, 2.0, 1.5, 1.0]) for name in ("detail_a2b", "texture_b2a")})
    )
    for text in ("amount ciss→dess", "Fine detail", "amplitude dess→ciss", "Texture carried over"):
        assert text in with_it and text not in without


def test_a_history_that_was_cut_off(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,seconds,cycle_aba\n10,1.0,0.5\n20,2.0,0.4\n30,3")
    history = run_page.read_history(path)
    assert history["step"].tolist() == [10, 20, 30]
    assert np.isnan(history["cycle_aba"][2])
    path.write_text("step,seconds\n")
    assert run_page.read_history(path) == {}


@pytest.mark.parametrize(
    ("name", "shown"), [("ciss", "CISS"), ("t1", "T1"), ("Flair", "Flair"), ("siemens-ciss", "siemens-ciss")]
)
def test_names_that_are_abbreviations(name, shown):
    assert run_page.display_name(name) == shown


def test_numbers_as_they_are_printed():
    assert [run_page.number(x, 2) for x in (-0.125, float("nan"), float("inf"), None, -0.001)] == [
        "−0.12",
        "–",
        "∞",
        "–",
        "0.00",
    ]
    assert [run_page.duration(s) for s in (42.4, 185, 7380)] == ["42 s", "3 min 5 s", "2 h 3 min"]
