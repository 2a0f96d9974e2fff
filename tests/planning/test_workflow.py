"""The command on a small digital knee with X-rays, with the knee's own CT in the place of a network's."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import SimpleITK

from cyclescan import plan
from cyclescan.common.errors import InputError
from cyclescan.inference.translator import Translator
from cyclescan.planning import NOTICE, trajectories, workflow
from cyclescan.scans.volume import Volume, read, write
from data_prep.phantom import make_subject, xray

SHAPE, PIXEL_MM = (32, 64, 64), 1.6


@dataclasses.dataclass(frozen=True)
class Origin:
    model: str = "the knee's own CT"
    version: str = "0"
    sha256: str = "0" * 64


class Known:
    """Gives the true CT; finds fault with what it is told to."""

    origin, source_name = Origin(), "ciss"

    def __init__(self, ct, findings=()):
        self.ct, self.findings = ct, list(findings)

    def prepare(self, scan):
        return scan.array, []

    def outside(self, scan, records):
        return self.findings

    def translate_array(self, array):
        return array

    def restore(self, array, records):
        return self.ct


@pytest.fixture(scope="module")
def knee(tmp_path_factory):
    """Files of one knee on a coarse detector, and its true CT."""
    folder = tmp_path_factory.mktemp("knee")
    device = xray.Device(128, PIXEL_MM, (2.0, 1.5, 1.5), (5.0, 5.0, 5.0), 1.5)
    xray.write_xrays(folder, ["sub-0001"], SHAPE, None, 3, device=device)
    subject = make_subject(3, SHAPE)
    write(Volume(subject.ciss, subject.affine), folder / "ciss.nii.gz")
    write(Volume(subject.labels, subject.affine), folder / "labels.nii.gz", dtype=np.uint8)
    return folder, Volume(subject.ct, subject.affine)


def task(folder, **changes):
    own = folder / "xray" / "sub-0001"
    given = {
        "mr": folder / "ciss.nii.gz",
        "plan": own / "plan.mrk.json",
        "bone": own / "femur.nii.gz",
        "xrays": (own / "ap.dcm", own / "lateral.dcm"),
        "landmarks": own / "landmarks-femur.json",
        "starts": 4,
    }
    return workflow.Task(**{**given, **changes})


@pytest.fixture(scope="module")
def done(knee, tmp_path_factory):
    folder, ct = knee
    out = tmp_path_factory.mktemp("out")
    return (
        out,
        workflow.carry_over(task(folder), Known(ct), out),
        json.loads((folder / "xray/sub-0001/truth.json").read_text()),
    )


def test_the_lines_lie_where_the_truth_has_them(done):
    """Within a voxel of the scan, which are 3 x 2.2 x 2.2 mm here; a pixel is 1.1 mm at the isocentre."""
    _, report, truth = done
    for view, right in zip(report["views"], truth["views"], strict=True):
        ends = {line["name"]: np.array(line["points_px"]) for line in right["lines"]}
        assert view["xray"] == right["xray"]
        assert [line["name"] for line in view["lines"]] == ["femoral tunnel", "core decompression"]
        for line in view["lines"]:
            misses = np.linalg.norm(np.array(line["points_px"]) - ends[line["name"]], axis=1)
            assert misses.max() < 3.0 / 1.12
            assert np.linalg.norm(np.array(line["before_px"]) - ends[line["name"]]) > misses.max()
            np.testing.assert_allclose(line["points_mm"], np.array(line["points_px"]) * PIXEL_MM)
    assert report["lines_of_other_bones"] == ["tibial tunnel"]


def test_the_pose_and_the_files_say_the_same(done):
    out, report, truth = done
    pose = np.array(report["views"][0]["pose_lps"])
    right = np.array(truth["pose_lps"]["femur"])
    angle = np.rad2deg(np.arccos((np.trace(pose[:3, :3] @ right[:3, :3].T) - 1) / 2))
    assert angle < 4
    # as ITK and Slicer take it, the transform leads from the room back to the scan
    transform = SimpleITK.ReadTransform(str(out / "pose.tfm"))
    point = np.array([3.0, -4, 5])
    there = pose[:3, :3] @ point + pose[:3, 3]
    np.testing.assert_allclose(transform.TransformPoint(there.tolist()), point, atol=1e-9)
    lines = trajectories.read(out / "lines.mrk.json").lines
    assert [line.name for line in lines] == ["femoral tunnel", "tibial tunnel", "core decompression"]
    written = json.loads((out / "plan.json").read_text())
    assert written["accepted"] is True and written["why"] is None
    assert written["views"] == json.loads(json.dumps(report["views"]))


def test_pictures_and_page_say_what_they_are(done):
    out, *_ = done
    for name in ("ap.png", "lateral.png"):
        data = (out / name).read_bytes()
        assert NOTICE.encode() in data[:4096]
    page = (out / "plan.html").read_text()
    assert page.lower().count(NOTICE) >= 3 and "http" not in page.replace("http-equiv", "")
    assert "femoral tunnel" in page and "Accepted" in page


def test_labels_of_the_digital_knee_hold_both_bones(knee):
    folder, _ = knee
    scan = read(folder / "ciss.nii.gz")
    for which in ("femur", "tibia"):
        own = read(folder / f"xray/sub-0001/{which}.nii.gz").array > 0
        ours = workflow.bones.read(folder / "labels.nii.gz", scan, which)
        assert 2 * (ours & own).sum() / (ours.sum() + own.sum()) > 0.85


def changed_plan(folder, tmp_path, shift):
    document = json.loads((folder / "xray/sub-0001/plan.mrk.json").read_text())
    for markup in document["markups"]:
        for point in markup["controlPoints"]:
            point["position"][0] += shift
    (tmp_path / "plan.mrk.json").write_text(json.dumps(document))
    return tmp_path / "plan.mrk.json"


def empty_mask(folder, tmp_path):
    mask = read(folder / "xray/sub-0001/femur.nii.gz")
    array = np.zeros(mask.shape)
    array[0, 0, 0] = 1
    write(Volume(array, mask.affine), tmp_path / "empty.nii.gz", dtype=np.uint8)
    return tmp_path / "empty.nii.gz"


def other_grid(folder, tmp_path):
    mask = read(folder / "xray/sub-0001/femur.nii.gz")
    write(Volume(mask.array[1:], mask.affine), tmp_path / "grid.nii.gz", dtype=np.uint8)
    return tmp_path / "grid.nii.gz"


def sizes(folder, tmp_path):
    ap = folder / "xray/sub-0001/ap.dcm"
    import pydicom

    data = pydicom.dcmread(ap)
    data.PixelData, data.Rows = data.pixel_array[:48].tobytes(), 48
    data.save_as(tmp_path / "cut.dcm")
    return (ap, tmp_path / "cut.dcm")


def without_geometry(folder, tmp_path):
    import pydicom

    data = pydicom.dcmread(folder / "xray/sub-0001/ap.dcm")
    del data.DistanceSourceToDetector
    data.save_as(tmp_path / "bare.dcm")
    return (tmp_path / "bare.dcm",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda *given: {"bone": empty_mask(*given)}, "There is no bone"),
        (lambda *given: {"bone": other_grid(*given)}, "on another grid"),
        (lambda *given: {"bone": given[0] / "ciss.nii.gz"}, "0 and one other"),
        (lambda *given: {"plan": changed_plan(*given, 90.0)}, "outside the volume"),
        (
            lambda *given: {"plan": changed_plan(*given, 0.0), "bone": given[0] / "xray/sub-0001/patella.nii.gz"},
            "exist",
        ),
        (lambda *given: {"xrays": without_geometry(*given)}, "without geometry: sid_mm"),
        (lambda *given: {"xrays": sizes(*given)}, "different sizes"),
        (lambda *given: {"xrays": (given[0] / "xray/sub-0001/ap.dcm",) * 2}, "names must differ"),
    ],
)
def test_bad_input_is_one_sentence(knee, tmp_path, changes, words):
    folder, ct = knee
    with pytest.raises(InputError, match=words):
        workflow.carry_over(task(folder, **changes(folder, tmp_path)), Known(ct), tmp_path / "out")


def test_another_contrast_is_refused_and_another_grid_is_not(knee, tmp_path, caplog):
    folder, ct = knee
    likeness = {"measure": "likeness", "value": 0.9, "low": None, "high": 0.5}
    spacing = {"measure": "spacing_depth_mm", "value": 1.5, "low": 2.5, "high": 3.6}
    with pytest.raises(InputError, match=r"unlike the ciss scans.*CT would mean nothing"):
        workflow.carry_over(task(folder), Known(ct, [likeness, spacing]), tmp_path / "out")
    scan = read(folder / "ciss.nii.gz")
    assert workflow._translated(Known(ct, [spacing]), scan, folder) is ct
    assert "spacing along depth" in caplog.text


def test_the_shipped_model_is_not_given_dess(tmp_path):
    """A plan on the wrong sequence of the right knee: nothing in its header says so."""
    subject = make_subject(3, (32, 64, 64))
    model = Translator.load("digital-knee-ct", "a2b")
    with pytest.raises(InputError, match=r"unlike the ciss scans.*distance from the usual contrast .* SD"):
        workflow._translated(model, Volume(subject.dess, subject.affine), tmp_path / "dess.nii.gz")


def test_what_is_not_ours_stays(knee, tmp_path):
    folder, ct = knee
    (tmp_path / "plan.json").write_text('{"mine": true}')
    with pytest.raises(InputError, match="not replaced"):
        workflow.carry_over(task(folder), Known(ct), tmp_path)
    assert (tmp_path / "plan.json").read_text() == '{"mine": true}'


def test_exit_codes_and_one_sentence(knee, tmp_path, monkeypatch, capsys):
    folder, ct = knee
    own = folder / "xray" / "sub-0001"
    monkeypatch.setattr(Translator, "load", lambda *_: Known(ct))
    given = ["--model", "m", "--mr", str(folder / "ciss.nii.gz"), "--plan", str(own / "plan.mrk.json")]
    given += ["--xray", str(own / "ap.dcm"), "--workers", "1", "--starts", "2", str(tmp_path / "out")]
    assert plan.main([*given, "--bone", str(folder / "none.nii.gz")]) == 2
    assert capsys.readouterr().err.count("error:") == 1
    refusal = {"accepted": False, "why": "The starts disagree.", "depth": None, "spread_mm": 9.0}
    monkeypatch.setattr(workflow, "carry_over", lambda *_: refusal)
    assert plan.main([*given, "--bone", str(own / "femur.nii.gz")]) == 1
    monkeypatch.setattr(workflow, "carry_over", lambda *_: refusal | {"accepted": True})
    assert plan.main([*given, "--bone", str(own / "femur.nii.gz")]) == 0
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
