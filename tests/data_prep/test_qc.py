"""Building, looking at the page in a headless browser, leaving out what it shows."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from cyclescan import preprocessing, records
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, write_json
from cyclescan.preprocessing import guard
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume
from data_prep import qc
from data_prep.__main__ import main
from data_prep.build import build
from data_prep.phantom import write_cohort
from data_prep.verify import verify
from tests.browser import Page, asked, self_contained

SUBJECTS = 9


@pytest.fixture(autouse=True)
def key_file(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path_factory.getbasetemp() / "qc-key"))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Knees, of which one DESS lies where a CISS should be and one CISS has noise and a wrong voxel size."""
    folder = tmp_path_factory.mktemp("qc")
    write_cohort(folder, SUBJECTS, (16, 32, 32), seed=11)
    wrong = volume.read(folder / "dess/sub-0003.nii.gz")
    # another acquisition: `build` and `verify` themselves find the very same voxels in both domains
    noise = np.random.default_rng(1).normal(0, 0.01 * wrong.array.max(), wrong.shape)
    volume.write(Volume(np.abs(wrong.array + noise), wrong.affine), folder / "ciss/sub-0003.nii.gz")
    scan = volume.read(folder / "ciss/sub-0005.nii.gz")
    noise = np.random.default_rng(0).normal(0, 0.3 * scan.array.max(), scan.shape)
    volume.write(
        Volume(np.abs(scan.array + noise), scan.affine @ np.diag([2, 1, 1, 1])), folder / "ciss/sub-0005.nii.gz"
    )
    return folder


def command(scans, out, *more):
    arguments = ["--a", f"ciss={scans / 'ciss'}", "--b", f"dess={scans / 'dess'}", "--out", out, "--workers", 1]
    return main(["build", *map(str, [*arguments, "--split", SUBJECTS, 0, 0, *more])])


@pytest.fixture(scope="module")
def data(scans, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path_factory.getbasetemp() / "qc-key"))
        out = tmp_path_factory.mktemp("data") / "records"
        assert command(scans, out) == 0
    return out


def measured_in(folder):
    return qc._measured(folder, read_json(folder / "dataset.json"))


def test_the_measures_are_those_of_the_scans(scans, data):
    measured = measured_in(data)
    assert len({scan["id"] for scan in measured}) == len(measured) == 2 * SUBJECTS
    info = read_json(data / "dataset.json")
    for domain, name in (("a", "ciss"), ("b", "dess")):
        own = [scan for scan in measured if scan["domain"] == domain]
        assert {scan["id"].partition("-")[0] for scan in own} == set(info["splits"]["train"][domain])
        expected = []
        for path in sorted((scans / name).iterdir()):
            scan = volume.read(path)
            expected.append(
                guard.measure(scan, preprocessing.prepare(scan, "percentile:0.5,99.5", info["spacing_mm"])[1])
            )
        assert sorted(map(str, expected)) == sorted(str(scan["values"]) for scan in own)
        for scan in own:
            record = list(records.read_shard(data / scan["shard"]))[scan["record"]]
            assert record.subject == scan["id"].partition("-")[0]
    others = {d: [s["values"] for s in measured if s["domain"] == d] for d in "ab"}
    assert info["domains"]["a"]["guard"] == guard.limits_of(others["a"], others["b"])


def test_records_have_a_mask_of_the_body(data):
    for shard in records.shards(data / "train"):
        for record in records.read_shard(shard):
            np.testing.assert_array_equal(record.mask, preprocessing.body.mask(record.voxels))
            assert record.voxels[record.mask == 1].mean() > record.voxels[record.mask == 0].mean() + 0.3
    assert verify(data)["problems"] == []


QUESTION = """(window, document) => {
  const find = (name) => document.querySelector(`[data-control="${name}"]`);
  const found = { dom: document.documentElement.outerHTML };
  found.over = document.documentElement.scrollWidth - window.innerWidth;
  found.volumes = [...find("study").options].map((option) => option.text);
  const links = [...document.querySelectorAll("a[data-study]")];
  found.links = links.length;
  const third = links.find((link) => link.dataset.study === "2");
  third.addEventListener("click", (event) => event.preventDefault()); // in a frame it leads to the parent's page
  third.click();
  found.followed = [find("study").value, find("values").textContent.match(/mm: (\\w+) /)[1]];
  found.compared = Boolean(document.querySelector('[data-shown="compare"]').offsetParent);
  return found;
}"""


def test_the_page_in_a_browser(data, tmp_path):
    assert main(["qc", str(data), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    answers, console = asked(text, tmp_path, QUESTION, (390, 1280))
    assert console == []
    for found in answers.values():
        dom = found["dom"]
        page = self_contained(dom)
        assert page.headings == ["Outliers", "Slice by slice", "Limits", "ciss", "dess"]
        assert "ciss: 2 of 9 scans outside the limits of 9 training scans" in page.words
        ids = qc.read_ids(tmp_path / "page.txt")
        assert len(ids) == 2
        first = page.words[page.words.index("Outliers In brackets") : page.words.index("To build the data set without")]
        assert all(i in first for i in ids)
        assert "signal-to-noise ratio" in first and "spacing along depth 12 mm (5 to 7.2)" in first
        assert len(page.images) == 3 * 2 * SUBJECTS and all(image["alt"].strip() for image in page.images)
        assert found["over"] <= 0  # nothing runs over the right margin, on a phone either
        # all scans are in the viewer, outliers first, and a link leads to each
        assert len(found["volumes"]) == 2 * SUBJECTS and found["links"] == 2 * SUBJECTS
        assert [name.endswith(": outlier") for name in found["volumes"]] == [True] * 2 + [False] * (2 * SUBJECTS - 2)
        assert found["followed"] == ["2", found["volumes"][2].split(", ")[1]] and found["compared"] is False
    for image in page.images:
        pixels = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2], validate=True))).convert("L")
        assert np.asarray(pixels).std() > 10
    assert "sub-0003" not in dom and str(data.parent) not in dom


def test_thumbnails_have_the_shape_of_the_millimetres(data):
    scan = measured_in(data)[0]
    sizes = {
        p["name"]: (p["width"], p["height"]) for p in qc._thumbnails(qc._record(data, (scan["shard"], scan["record"])))
    }
    depth, height, width = (round(120 * mm / 140) for mm in (96, 140, 140))  # the phantom's field of view
    assert sizes == {"sagittal": (width, height), "coronal": (depth, height), "axial": (depth, width)}


def test_a_page_of_many_scans_stays_small(data, tmp_path, monkeypatch):
    """Thumbnails and slices of the first scans, outliers before the others, as many as there is room for."""
    scans = [{"place": (s["shard"], s["record"]), "planes": []} for s in measured_in(data)]
    qc._add_thumbnails(data, scans)
    sizes = [sum(len(plane["source"]) for plane in scan["planes"]) for scan in scans]
    monkeypatch.setattr(qc, "THUMBNAILS", sum(sizes[:3]) + 1)
    again = [{**scan, "planes": []} for scan in scans]
    qc._add_thumbnails(data, again)
    assert [bool(scan["planes"]) for scan in again] == [True] * 3 + [False] * (2 * SUBJECTS - 3)
    qc.write(data, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 8e6


def test_outliers_are_left_out_on_request(scans, data, tmp_path):
    qc.write(data, tmp_path / "page.html")
    assert command(scans, tmp_path / "records", "--exclude", tmp_path / "page.txt") == 0
    info, before = (read_json(folder / "dataset.json") for folder in (tmp_path / "records", data))
    assert info["excluded"] == qc.read_ids(tmp_path / "page.txt") and "excluded" not in before
    assert [info["domains"][d]["guard"]["scans"] for d in "ab"] == [SUBJECTS - 2, SUBJECTS]
    assert len(info["splits"]["train"]["a"]) == SUBJECTS - 2
    measured = {scan["id"] for scan in measured_in(tmp_path / "records")}
    assert measured == {scan["id"] for scan in measured_in(data)} - set(info["excluded"])
    assert qc.write(tmp_path / "records", tmp_path / "again.html") == 0
    words = Page((tmp_path / "again.html").read_text()).words
    assert "No scan lies outside the limits" in words and "2 that were excluded" in words
    assert (tmp_path / "again.txt").read_text() == ""


def test_pages_and_lists_of_others_stay(data, tmp_path):
    for name, text in (("page.html", "<!DOCTYPE html><title>mine</title>"), ("page.txt", "s0123 # a note of mine")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name} exists and is no .* it is not replaced"):
            qc.write(data, tmp_path / "page.html")
        assert (tmp_path / name).read_text() == text
        (tmp_path / name).unlink()
    for _ in range(2):
        qc.write(data, tmp_path / "page.html")


def test_wrong_lists_and_places(scans, data, tmp_path, capsys):
    ids = [scan["id"] for scan in measured_in(data) if scan["domain"] == "a"]
    (tmp_path / "unknown.txt").write_text(f"{ids[0]} # seen\n\ns0-1\n")
    (tmp_path / "all.txt").write_text("\n".join(ids))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    cases = {"unknown.txt": "names s0-1, which is no id of these scans", "all.txt": "leaves no scan of domain a; all 9"}
    for name, said in (cases | {"bytes.txt": "cannot be read", "none.txt": "cannot be read"}).items():
        assert command(scans, tmp_path / "records", "--exclude", tmp_path / name) == 2
        assert re.search(f"^error: .*{said}", capsys.readouterr().err)
    assert main(["qc", str(tmp_path)]) == 2
    assert main(["qc", str(data), "--out", str(tmp_path / "page.pdf")]) == 2
    assert "must end in .html" in capsys.readouterr().err
    older = read_json(data / "dataset.json")
    for facts in older["shards"].values():
        for about in facts["scans"]:
            del about["measures"]
    write_json(tmp_path / "dataset.json", older)
    with pytest.raises(InputError, match="has no measures of its scans: an older version built it"):
        qc.write(tmp_path, tmp_path / "page.html")


def test_the_options_reach_the_records(scans, tmp_path):
    """One side, cropped to the body; which side is in a table. What is stated is what `translate` will do."""
    rows = (scans / "participants.tsv").read_text().splitlines()[1:]
    sides = {row.split("\t")[0]: row.split("\t")[1] for row in rows}
    tables = {}
    for kind in ("ciss", "dess"):
        lines = [f"{name},{scans}/{kind}/{name}.nii.gz,{side[0].upper()}" for name, side in sides.items()]
        tables[kind] = tmp_path / f"{kind}.csv"
        tables[kind].write_text("\n".join(["subject,path,side", *lines, f"x,{scans}/ct/sub-0001.nii.gz,"]))
    asked = {"split": (1, 0, 0), "workers": 1, "crop_body_mm": 5.0, "side": "left"}
    info = build(("dess", tables["dess"]), ("ciss", tables["ciss"]), tmp_path / "records", **asked)
    assert len(info["failed"]) == 2 and "not known which side the scan shows" in info["failed"][0]["reason"]
    assert info["domains"]["a"]["preprocessing"] == {"side": "left", "crop_body_mm": 5.0}
    expected = sorted(side == "right" for side in sides.values())
    found = [r for shard in records.shards(tmp_path / "records/train", "a") for r in records.read_shard(shard)]
    assert sorted(any(s["step"] == "mirror" for s in r.preprocessing) for r in found) == expected
    for record in found:
        back = preprocessing.restore(record.voxels, record.preprocessing)
        assert back.shape == (16, 32, 32) and record.voxels.shape < (16, 32, 32)


def test_hounsfield_units_have_no_bias_field(scans, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text(f"subject,path\n1,{scans}/dess/sub-0001.nii.gz\n")
    other = tmp_path / "other.csv"
    other.write_text(f"subject,path\n1,{scans}/ct/sub-0001.nii.gz\n")
    info = build(("dess", few), ("ct", other), tmp_path / "records", workers=1, n4=True)
    assert info["domains"]["a"]["preprocessing"] == {"n4": True} and "preprocessing" not in info["domains"]["b"]
    (record,) = records.read_shard(tmp_path / "records/train/a-00000-of-00001.tfrecord")
    assert [step["step"] for step in record.preprocessing] == ["canonical", "bias_field", "resample", "intensity"]
