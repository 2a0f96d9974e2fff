"""`translate` on files: grids, headers, the JSON beside the result, and every refusal."""

import functools
import gzip
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import nibabel as nib
import nilearn
import numpy as np
import pytest

from cyclescan import NOTICE, __version__, preprocessing, translate
from cyclescan.common.files import read_json, sha256
from cyclescan.export import export
from cyclescan.inference import batch
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import guard
from cyclescan.scans import volume
from cyclescan.scans.volume import Volume
from data_prep.phantom import make_subject
from tests.data_prep.scan_files import save_forms, save_mha
from tests.inference import tiny

OBLIQUE = np.array([[0.3, -7.9, 0.2, 60.0], [-8.0, -0.3, 0.1, 40.0], [0.1, 0.2, 9.0, -50.0], [0, 0, 0, 1]])
HEAD = next((Path(nilearn.__file__).parent / "datasets" / "data").glob("mni_icbm152_t1_*.nii.gz"))
MAX_VOXELS = 5000  # that the exported model takes
SERIES = Path(nib.__file__).parent / "tests" / "data" / "example4d.nii.gz"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("translate") / "run", steps=(5, 10))


@pytest.fixture(scope="module")
def exported(run):
    return export(run.path, run.path.parent / "model", version=4, max_voxels=MAX_VOXELS)


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scans" / "sub-0001.nii.gz")


def write_scan(path, seed=0, shape=(15, 14, 11)):
    path.parent.mkdir(parents=True, exist_ok=True)
    volume.write(Volume(tiny.head(shape, seed), OBLIQUE), path)
    return path


@pytest.fixture
def call(run, capsys):
    """Run the command in this process; returns the exit code and what it said on stderr."""

    def call(*arguments, model=run.path, direction="a2b"):
        given = ["--model", model, "--direction", direction, *arguments]
        code = translate.main([str(a) for a in given])
        return code, capsys.readouterr().err

    return call


def refused(result, sentence):
    """Exit code 2 and exactly one sentence."""
    code, said = result
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2, said
    assert len(errors) == 1, said
    assert re.search(sentence, errors[0]), said
    assert "Traceback" not in said


def test_the_command_line_on_one_file(run, scan, tmp_path):
    """As a user types it, in a process of its own."""
    out = tmp_path / "out" / "fake_ct.nii.gz"
    command = [sys.executable, "-m", "cyclescan.translate", "--model", run.path, "--direction", "a2b", scan, out]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    before, after = nib.load(scan), nib.load(out)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    for form in ("get_sform", "get_qform"):
        np.testing.assert_allclose(getattr(after, form)(), getattr(before, form)(), atol=1e-4)
    assert after.header["sform_code"] == after.header["qform_code"] == 1
    assert after.get_data_dtype() == np.float32
    assert after.header["descrip"].item().decode() == volume.synthetic_descrip(f"v{__version__}")
    assert b"synthetic" in after.header["descrip"].item()
    expected = Translator.load(run.path, "a2b").translate_volume(volume.read(scan)).array
    np.testing.assert_allclose(after.get_fdata(), expected, atol=1e-4 * 2500)
    assert sorted(p.name for p in out.parent.iterdir()) == ["fake_ct.json", "fake_ct.nii.gz"]


def test_the_json_beside_the_result(run, scan, call, tmp_path):
    code, _ = call(scan, tmp_path / "x.nii", "--window", 8, 12, 16, "--overlap", 0.25, "--mirror", "--weights", 5)
    assert code == 0
    card = read_json(tmp_path / "x.json")
    expected = {
        "notice": NOTICE,
        "model": run.path.name,
        "model_kind": "run",
        "version": "step-00000005",
        "weights": "5",
        "step": 5,
        "preset": "demo",
        "direction": "a2b",
        "source": "ciss",
        "target": "ct",
        "input_sha256": sha256(scan),
        "guard": None,  # a model older than the guard
        "settings": {"window": [8, 12, 16], "overlap": 0.25, "mirror": True},
        "working_spacing_mm": [8.0, 8.0, 8.0],
        "cyclescan_version": __version__,
    }
    assert {key: card[key] for key in expected} == expected
    assert not {"sub-0001", str(tmp_path)} & {str(value) for value in card.values()}
    assert card["model_sha256"] == Translator.load(run.path, "a2b", 5).origin.sha256
    assert card["spacing_mm"] == pytest.approx(volume.spacing_of(OBLIQUE))
    assert datetime.fromisoformat(card["date"]).utcoffset().total_seconds() == 0
    assert [r["step"] for r in card["preprocessing"]] == ["canonical", "resample", "intensity"]
    # the record is enough to walk the way again
    prepared, _ = preprocessing.prepare(volume.read(scan), tiny.MR, tiny.SPACING_MM)
    again = preprocessing.restore(prepared.array, card["preprocessing"])
    assert again.shape == (15, 14, 11)
    np.testing.assert_array_equal(again.affine, volume.read(scan).affine)


def test_the_result_lies_where_the_scan_does_and_a_doubt_of_it_is_said(call, tmp_path, caplog):
    forms = {"mirrored": (OBLIQUE @ np.diag([-1, 1, 1, 1]), (1, 4)), "nowhere": (OBLIQUE, (0, 0))}
    for name, (qform, codes) in forms.items():
        save_forms(tmp_path / f"scans/{name}.nii.gz", qform, OBLIQUE, codes, tiny.head((15, 14, 11)))
    write_scan(tmp_path / "scans/plain.nii.gz")
    assert call(tmp_path / "scans", tmp_path / "out", "--doubt")[0] == 0
    for name in (*forms, "plain"):
        before = nib.load(tmp_path / f"scans/{name}.nii.gz").header
        for result in (name, f"{name}_doubt"):
            after = nib.load(tmp_path / f"out/{result}.nii.gz").header
            for form in ("qform", "sform"):
                assert after[f"{form}_code"] == before[f"{form}_code"]
                np.testing.assert_allclose(getattr(after, f"get_{form}")(), getattr(before, f"get_{form}")(), atol=1e-4)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 2
    assert "mirrored.nii.gz lies at two places: its sform (code 4)" in warned[0]
    assert "nowhere.nii.gz does not say where it lies" in warned[1]


def test_an_exported_model_writes_the_same(exported, scan, call, tmp_path):
    assert call(scan, tmp_path / "run.nii.gz")[0] == 0
    assert call(scan, tmp_path / "model.nii.gz", model=exported)[0] == 0
    first, second = (nib.load(tmp_path / f"{n}.nii.gz").get_fdata() for n in ("run", "model"))
    np.testing.assert_allclose(first, second, atol=1e-4 * 2500)
    card = read_json(tmp_path / "model.json")
    assert (card["model_kind"], card["version"], card["step"]) == ("saved_model", "4", 10)
    refused(call(scan, tmp_path / "x.nii.gz", "--weights", "best", model=exported), "is for training runs")


def test_a_folder_goes_into_a_folder_with_its_sub_folders(call, tmp_path):
    """More files than are in flight at once, each with its own content."""
    source, out = tmp_path / "scans", tmp_path / "out"
    names = ["a.nii.gz", "b.nii", "site1/a.nii.gz", "site1/deep/c.nii.gz", "site2/d.nii.gz"]
    for seed, name in enumerate(names):
        write_scan(source / name, seed, (9, 8, 7 + seed))
    (source / "notes.txt").write_text("not a scan")
    assert call(source, out)[0] == 0
    written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    stems = ["a", "b", "site1/a", "site1/deep/c", "site2/d"]
    assert written == sorted(f"{s}{e}" for s in stems for e in (".nii.gz", ".json"))
    for seed, (name, stem) in enumerate(zip(names, stems, strict=True)):
        assert nib.load(out / f"{stem}.nii.gz").shape == (9, 8, 7 + seed)
        assert read_json(out / f"{stem}.json")["input_sha256"] == sha256(source / name)
    alone = tmp_path / "alone.nii.gz"
    assert call(source / "site1/a.nii.gz", alone)[0] == 0
    np.testing.assert_array_equal(nib.load(alone).get_fdata(), nib.load(out / "site1/a.nii.gz").get_fdata())


def test_failed_files_of_a_batch_are_listed_and_the_rest_are_done(call, tmp_path, caplog):
    caplog.set_level("INFO", "cyclescan")
    source, out = tmp_path / "scans", tmp_path / "out"
    write_scan(source / "a_good.nii.gz")
    write_scan(source / "z_good.nii.gz", 1)
    (source / "broken.nii.gz").write_bytes((source / "a_good.nii.gz").read_bytes()[:400])
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), 3.0), np.eye(4)), source / "constant.nii.gz")
    (source / "text.nii").write_text("hello")
    code, said = call(source, out)
    assert code == 1
    failed = {line.split(": ")[1].rsplit("/", 1)[1]: line for line in said.splitlines() if line.startswith("failed: ")}
    assert set(failed) == {"broken.nii.gz", "constant.nii.gz", "text.nii"}
    assert "is constant" in failed["constant.nii.gz"]
    assert "2 of 5 files are translated" in caplog.text
    assert sorted(p.name for p in out.iterdir()) == ["a_good.json", "a_good.nii.gz", "z_good.json", "z_good.nii.gz"]


@pytest.mark.parametrize("stage", ["read", "translated", "written"])
@pytest.mark.parametrize("kind", [KeyError, MemoryError, RuntimeError])
def test_a_failure_that_nobody_foresaw_is_listed_too(call, tmp_path, monkeypatch, stage, kind):
    """Whatever its class, and wherever it happens: the others are done, and its own words stay out of what is said."""
    source, out = tmp_path / "scans", tmp_path / "out"
    for number, name in enumerate(("a", "b", "c")):
        write_scan(source / f"{name}.nii.gz", number)

    def failing(real, *arguments):
        failing.count += 1
        if failing.count == 2:
            raise kind("Doe^Jane")
        return real(*arguments)

    failing.count = 0
    place, name = {"read": (Translator, "prepare"), "translated": (Translator, "translate_array"),
                   "written": (batch.volumes, "write")}[stage]  # fmt: skip
    real = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *a, **k: failing(functools.partial(real, **k), *a))
    code, said = call(source, out)
    assert code == 1
    (failed,) = [line for line in said.splitlines() if line.startswith("failed: ")]
    word = "needs more memory than there is" if kind is MemoryError else rf"not foreseen \({kind.__name__}, "
    assert re.search(rf"failed: \S+/b.nii.gz: \S+/b.nii.gz .*{word}", failed)
    assert "Doe" not in said and "Traceback" not in said
    assert sorted(p.name for p in out.glob("*.json")) == ["a.json", "c.json"]


def test_a_batch_in_which_all_fail_is_wrong_input(call, tmp_path):
    (tmp_path / "scans").mkdir()
    for name in ("a.nii", "b.nii"):
        (tmp_path / "scans" / name).write_text("hello")
    code, said = call(tmp_path / "scans", tmp_path / "out")
    assert said.count("failed: ") == 2
    refused((code, said), "None of the 2 files")


def test_a_real_head(call, tmp_path):
    """The averaged T1 head of the ICBM atlas: 197 x 233 x 189 voxels of 1 mm, in L- or R-A-S axes."""
    out = tmp_path / "head_ct.nii.gz"
    assert call(HEAD, out)[0] == 0
    before, after = nib.load(HEAD), nib.load(out)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    array = np.asarray(after.dataobj)
    assert np.isfinite(array).all()
    assert -1000 <= array.min() < array.max() <= 1500
    assert array.std() > 50


def test_a_series_needs_the_choice_of_a_volume(call, tmp_path):
    refused(call(SERIES, tmp_path / "x.nii.gz"), r"is 4-D \(128x96x24x2\).*--volume 0 to 1")
    refused(call(SERIES, tmp_path / "x.nii.gz", "--volume", 2), "no volume 2; allowed are 0 to 1")
    assert not (tmp_path / "x.nii.gz").exists()
    assert call(SERIES, tmp_path / "x.nii.gz", "--volume", 1)[0] == 0
    assert nib.load(tmp_path / "x.nii.gz").shape == (128, 96, 24)
    np.testing.assert_array_equal(nib.load(tmp_path / "x.nii.gz").affine, nib.load(SERIES).affine)
    assert read_json(tmp_path / "x.json")["input_volume"] == 1


def test_one_file_into_a_folder(scan, call, tmp_path):
    assert call(scan, tmp_path / "new_folder")[0] == 0
    assert (tmp_path / "new_folder" / "sub-0001.nii.gz").exists()
    assert (tmp_path / "new_folder" / "sub-0001.json").exists()


def test_bad_input(call, scan, tmp_path):
    out = tmp_path / "x.nii.gz"
    (tmp_path / "empty").mkdir()
    refused(call(tmp_path / "none.nii.gz", out), "none.nii.gz does not exist")
    refused(call(tmp_path / "empty", tmp_path / "out"), "There is no NIfTI file")
    (tmp_path / "text.txt").write_text("hello")
    refused(call(tmp_path / "text.txt", out), "is not a NIfTI file")
    truncated = tmp_path / "truncated.nii.gz"
    truncated.write_bytes(scan.read_bytes()[:2000])
    refused(call(truncated, out), "truncated")
    image = nib.load(scan)
    array = image.get_fdata()
    array[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), tmp_path / "nan.nii.gz")
    refused(call(tmp_path / "nan.nii.gz", out), "1 voxels that are NaN or infinite")
    flat = np.zeros((15, 14, 11))
    flat[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(flat, np.diag([8.0, 8, 8, 1])), tmp_path / "flat.nii.gz")
    refused(call(tmp_path / "flat.nii.gz", out), "too little contrast")
    assert not out.exists()
    assert not (tmp_path / "x.json").exists()


def test_bad_models_and_settings(run, call, scan, tmp_path):
    out = tmp_path / "x.nii.gz"
    empty = tiny.write_run(tmp_path / "empty_run", steps=())
    refused(call(scan, out, model=tmp_path / "none"), "There is no model at .*none")
    refused(call(scan, out, model=tmp_path), "neither a training run .* nor an exported model")
    refused(call(scan, out, model=empty.path), "no complete checkpoint")
    refused(call(scan, out, direction="ciss2ct"), "direction is 'ciss2ct'; allowed is a2b or b2a")
    refused(call(scan, out, "--weights", 7), "allowed are last, best and the steps 5, 10")
    refused(call(scan, out, "--weights", "best"), "no validation scores")
    refused(call(scan, out, "--window", 8, 15, 16), "window is 8 15 16; .* positive multiple of 4 ")
    for overlap in (-0.5, 1, "nan"):
        refused(call(scan, out, "--overlap", overlap), "at least 0 and less than 1")
    text = (run.path / "config.json").read_text()
    other = tiny.write_run(tmp_path / "other")
    (other.path / "config.json").write_text(text.replace('"generator_filters": 4', '"generator_filters": 8'))
    refused(call(scan, out, model=other.path), "another config: generator_filters")
    (other.path / "config.json").write_text(text[:50])
    refused(call(scan, out, model=other.path), "not valid JSON")
    assert not out.exists()


def test_bad_outputs(call, scan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(call(scan, tmp_path / "file" / "x.nii.gz"), "cannot be written")
    refused(call(scan.parent, tmp_path / "file"), "must be a folder too")
    refused(call(scan.parent, tmp_path / "x.nii.gz"), "must be a folder too")
    (tmp_path / "x.json").mkdir()
    refused(call(scan, tmp_path / "x.nii.gz"), "x.json is a folder")
    write_scan(tmp_path / "twins" / "a.nii")
    write_scan(tmp_path / "twins" / "a.nii.gz")
    refused(call(tmp_path / "twins", tmp_path / "out"), "would both be written to")


def test_an_input_is_never_replaced(call, scan, tmp_path):
    before = scan.read_bytes()
    refused(call(scan, scan), "is the input itself")
    refused(call(scan, scan.parent), "is the input itself")
    link = tmp_path / "link.nii.gz"
    os.link(scan, link)
    refused(call(scan, link), "is the input itself")
    plain = scan.with_name("sub-0001.nii")
    refused(call(scan, plain), "whose JSON file it would replace")
    code, said = call(scan.parent, scan.parent)
    assert "is the input itself" in said
    assert code == 2
    assert scan.read_bytes() == before


def test_the_header_of_a_scan_with_scaled_integers(call, tmp_path):
    """A 16-bit file with slope and intercept: real values go in, the result is float32 without a slope."""
    path = tmp_path / "scaled.nii.gz"
    array = tiny.head((15, 14, 11))
    image = nib.Nifti1Image(array, OBLIQUE)
    image.set_data_dtype(np.int16)
    nib.save(image, path)
    write_scan(tmp_path / "float.nii.gz")
    assert call(path, tmp_path / "x.nii.gz")[0] == 0
    assert call(tmp_path / "float.nii.gz", tmp_path / "y.nii.gz")[0] == 0
    first, second = (np.asarray(nib.load(tmp_path / n).dataobj) for n in ("x.nii.gz", "y.nii.gz"))
    assert np.abs(first - second).max() < 0.02 * 2500  # the file's own rounding, one part in 65536
    raw = gzip.decompress((tmp_path / "x.nii.gz").read_bytes())
    header = nib.Nifti1Header(raw[:348])
    assert header.get_data_dtype() == np.float32
    assert header["scl_slope"] in (0, 1) or np.isnan(header["scl_slope"])


@pytest.fixture(scope="module")
def knees():
    return [make_subject(11, (16, 32, 32), index=i) for i in range(12)]


def run_of_knees(folder, knees, **preprocessing):
    """A run that says of its domains what `data_prep build` would have said of the first ten knees."""
    cohorts = {}
    for name in ("ciss", "dess"):
        scans = [Volume(getattr(knee, name), knee.affine, {"side": "left"}) for knee in knees[:10]]
        steps = [preprocessing_of(scan, **preprocessing) for scan in scans]
        cohorts[name] = [guard.measure(*each) for each in zip(scans, steps, strict=True)]
    about = {"preprocessing": preprocessing} if preprocessing else {}
    domains = [
        tiny.domain(own, tiny.MR, 0.0, 1000.0) | about | {"guard": guard.limits_of(cohorts[own], cohorts[other])}
        for own, other in (("ciss", "dess"), ("dess", "ciss"))
    ]
    return tiny.write_run(folder, spacing_mm=(6.0, 4.375, 4.375), a=domains[0], b=domains[1])


def preprocessing_of(scan, **options):
    return preprocessing.prepare(scan, tiny.MR, (6.0, 4.375, 4.375), options=preprocessing.Options(**options))[1]


def test_a_scan_unlike_the_training_is_named_and_translated(call, knees, tmp_path, caplog):
    """A healthy new knee raises nothing; a DESS scan given as CISS does, on one line and in the JSON file; code 0."""
    run = run_of_knees(tmp_path / "run", knees)
    for name in ("ciss", "dess"):
        volume.write(Volume(getattr(knees[11], name), knees[11].affine), tmp_path / "scans" / f"{name}.nii.gz")
    assert call(tmp_path / "scans", tmp_path / "out", model=run.path)[0] == 0
    warnings = [message for message in caplog.messages if message.startswith("warning: ")]
    assert len(warnings) == 1
    start = f"warning: {tmp_path}/scans/dess.nii.gz is unlike the scans that the model was trained on: "
    assert warnings[0].startswith(start)
    assert re.search(r"likeness to the other domain of the model [\d.]+ \(at most 0.5\)", warnings[0])
    assert read_json(tmp_path / "out/ciss.json")["guard"] == []
    found = read_json(tmp_path / "out/dess.json")["guard"]
    assert found[0]["measure"] == "likeness" and found[0]["high"] == 0.5 < found[0]["value"]
    caplog.clear()
    assert call(tmp_path / "scans/ciss.nii.gz", tmp_path / "x.nii.gz", model=run.path, direction="b2a")[0] == 0
    assert f"{tmp_path}/scans/ciss.nii.gz is unlike" in caplog.text


def test_a_model_of_one_side(call, knees, tmp_path):
    """A knee of the other side is mirrored, translated and mirrored back: the mirror image of the translation."""
    run = run_of_knees(tmp_path / "run", knees, side="left", crop_body_mm=10.0)
    left, right = tmp_path / "left.nii.gz", tmp_path / "sub-1_hemi-R.nii.gz"
    volume.write(Volume(knees[0].ciss, knees[0].affine), left)
    volume.write(Volume(knees[0].ciss[::-1], knees[0].affine), right)
    refused(call(left, tmp_path / "x.nii.gz", model=run.path), "It is not known which side the scan shows")
    assert call(left, tmp_path / "l.nii.gz", "--side", "left", model=run.path)[0] == 0
    assert call(right, tmp_path / "r.nii.gz", model=run.path)[0] == 0
    one, other = (nib.load(tmp_path / name) for name in ("l.nii.gz", "r.nii.gz"))
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)
    np.testing.assert_allclose(one.get_fdata(), other.get_fdata()[::-1], atol=1e-3 * 1000)
    assert np.ptp(one.get_fdata()) > 100
    steps = [[s["step"] for s in read_json(tmp_path / f"{n}.json")["preprocessing"]] for n in "lr"]
    assert steps == [
        ["canonical", "crop_or_pad", "resample", "intensity"],
        ["canonical", "mirror", "crop_or_pad", "resample", "intensity"],
    ]


def test_an_exported_model_has_the_guard_and_says_what_its_graph_cannot_do(call, caplog, knees, tmp_path):
    run = run_of_knees(tmp_path / "run", knees, side="left", crop_body_mm=10.0)
    card = read_json(export(run.path, tmp_path / "model") / "card.json")
    for direction in ("a2b", "b2a"):
        assert card["signatures"]["serving_default"]["inputs"]["volume"]["prepared_so_that_it"][direction] == [
            "shows a left side, or is the mirror image of the other one",
            "is cropped to the body and 10 mm around it",
        ]
    assert card["data"]["domains"]["a"]["guard"] == run.data["domains"]["a"]["guard"]
    path = tmp_path / "dess.nii.gz"
    volume.write(Volume(knees[11].dess, knees[11].affine), path)
    assert call(path, tmp_path / "x.nii", "--side", "left", model=tmp_path / "model")[0] == 0
    assert caplog.text.count("warning: ") == 1 and f"warning: {path} is unlike the scans" in caplog.text


def test_doubt_is_written_beside_the_result(call, run, scan, tmp_path):
    code, _ = call(scan, tmp_path / "out" / "ct.nii.gz", "--doubt", "--window", 8, 16, 16)
    assert code == 0
    image, result = nib.load(tmp_path / "out" / "ct_doubt.nii.gz"), nib.load(tmp_path / "out" / "ct.nii.gz")
    assert image.shape == result.shape and np.allclose(image.affine, result.affine)
    assert NOTICE in image.header["descrip"].item().decode()
    doubts = image.get_fdata()
    assert doubts.min() >= 0 and 0 < doubts.max() <= 2500  # the width of the target's window in HU
    about = read_json(tmp_path / "out" / "ct.json")["doubt"]
    assert about["file"] == "ct_doubt.nii.gz"
    # the translation itself is the same with and without
    assert call(scan, tmp_path / "plain.nii.gz", "--window", 8, 16, 16)[0] == 0
    assert np.array_equal(nib.load(tmp_path / "plain.nii.gz").get_fdata(), result.get_fdata())
    assert read_json(tmp_path / "plain.json")["doubt"] is None


def test_doubt_never_replaces_the_scan(call, tmp_path):
    scan = write_scan(tmp_path / "scan_doubt.nii.gz")
    refused(call(scan, tmp_path / "scan.nii.gz", "--doubt"), f"The output {scan} is the input itself")


def test_doubt_of_an_earlier_result_goes_with_it(call, scan, tmp_path):
    for more, left in (("--doubt",), ["ct.json", "ct.nii.gz", "ct_doubt.nii.gz"]), ((), ["ct.json", "ct.nii.gz"]):
        assert call(scan, tmp_path / "out" / "ct.nii.gz", *more)[0] == 0
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == left


def test_maps_of_doubt_are_no_scans(call, scan, tmp_path):
    assert call(scan.parent, tmp_path / "ct", "--doubt")[0] == 0
    assert call(tmp_path / "ct", tmp_path / "back", direction="b2a")[0] == 0
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["sub-0001.json", "sub-0001.nii.gz"]


def test_a_scan_is_never_overwritten(call, scan, tmp_path):
    real = write_scan(tmp_path / "real" / "sub-0001.nii.gz", seed=7)
    before = real.read_bytes()
    refused(call(scan, real), f"{real} exists and is no result of a translation")
    code, said = call(scan.parent, real.parent)
    assert code == 2 and "exists and is no result of a translation" in said
    assert real.read_bytes() == before
    # the JSON file of a scan that is elsewhere
    (tmp_path / "bids.json").write_text('{"EchoTime": 0.005}')
    refused(call(scan, tmp_path / "bids.nii.gz"), "bids.json exists and is not of a translation")
    # an earlier result is replaced
    assert [call(scan, tmp_path / "ct.nii.gz")[0] for _ in range(2)] == [0, 0]


def test_a_name_alone_makes_no_map_of_doubt(call, scan, tmp_path):
    """Translations and scans may be named so."""
    other = tmp_path / "out" / "ct_doubt.nii.gz"
    assert call(scan, other)[0] == 0
    before = other.read_bytes()
    assert call(scan, tmp_path / "out" / "ct.nii.gz")[0] == 0
    refused(call(scan, tmp_path / "out" / "ct.nii.gz", "--doubt"), f"{other} exists and is no result of a translation")
    refused(call(other, tmp_path / "out" / "ct.nii.gz", direction="b2a"), f"The output {other} is the input itself")
    assert other.read_bytes() == before
    assert not volume.is_doubt_map(tmp_path / "_doubt.nii.gz")


def test_the_output_within_the_input_is_not_searched(call, scan, caplog):
    caplog.set_level("INFO")
    for _ in range(2):
        assert call(scan.parent, scan.parent / "out")[0] == 0
    assert f"Scans in the output {scan.parent / 'out'} that are passed over: 1." in caplog.text
    assert sorted(p.name for p in scan.parent.rglob("*.nii.gz")) == ["sub-0001.nii.gz"] * 2


def test_doubt_needs_both_ways(call, exported, scan, tmp_path):
    refused(
        call(scan, tmp_path / "x.nii.gz", "--doubt", model=exported / "a2b"), "--doubt. needs the way back, b2a, too: "
    )


def test_an_exported_model_says_what_it_takes(call, exported, tmp_path):
    scan = write_scan(tmp_path / "large.nii.gz", shape=(27, 26, 25))
    result = call(scan, tmp_path / "x.nii.gz", model=exported)
    refused(result, rf"of \d+ voxels is larger .* takes, which are {MAX_VOXELS}")


def test_metaimages_and_volumes_of_series_in_one_batch(call, tmp_path):
    """--volume is about the 4-D files of a folder; the 3-D files beside them are translated as they are."""
    source, out = tmp_path / "in", tmp_path / "out"
    save_mha(source / "deep/a.mha", tiny.head((9, 8, 7), 1), OBLIQUE)
    write_scan(source / "b.nii.gz", 2, (9, 8, 7))
    series = np.stack([tiny.head((9, 8, 7), seed) for seed in (3, 4)], -1)
    nib.save(nib.Nifti1Image(series, OBLIQUE), source / "c.nii.gz")
    assert call(source, out, "--volume", 1)[0] == 0
    assert {n: read_json(out / f"{n}.json")["input_volume"] for n in ("deep/a", "b", "c")} == {
        "deep/a": None,
        "b": None,
        "c": 1,
    }
    np.testing.assert_allclose(nib.load(out / "deep/a.nii.gz").affine, OBLIQUE, atol=1e-5)
    nib.save(nib.Nifti1Image(series[..., 1], OBLIQUE), tmp_path / "alone.nii.gz")
    assert call(tmp_path / "alone.nii.gz", tmp_path / "alone_ct.nii.gz")[0] == 0
    np.testing.assert_allclose(
        nib.load(tmp_path / "alone_ct.nii.gz").dataobj, nib.load(out / "c.nii.gz").dataobj, atol=0.5
    )
    assert call(source / "deep/a.mha", tmp_path / "single.nii.gz")[0] == 0
    refused(call(source / "b.nii.gz", tmp_path / "x.nii.gz", "--volume", 2), "is 3-D and has no volume 2")


def test_overlap_is_said_to_change_nothing(call, scan, tmp_path, caplog):
    assert call(scan, tmp_path / "plain.nii.gz")[0] == 0
    assert "--overlap" not in caplog.text
    assert call(scan, tmp_path / "overlapped.nii.gz", "--overlap", 0.5)[0] == 0
    assert "--overlap 0.5 takes longer and changes nothing" in caplog.text
    plain, overlapped = (nib.load(tmp_path / f"{n}.nii.gz").get_fdata() for n in ("plain", "overlapped"))
    np.testing.assert_allclose(overlapped, plain, atol=1e-4 * 2500)


def test_an_empty_path_is_not_this_folder(call, scan, tmp_path):
    refused(call("", tmp_path / "x.nii.gz"), "The argument input is empty")
    refused(call(scan, ""), "The argument output is empty")


def _known(name="dess", snr=10.0):
    limits = {"snr": {"low": 1.0, "median": snr, "high": 99.0, "scans": 9}}
    limits["body_50"] = {"low": -1.0, "median": 0.0, "high": 1.0, "scans": 9}
    return tiny.domain(name, tiny.MR, 5.0, 905.0) | {"guard": {"scans": 9, "limits": limits, "likeness": None}}


def test_noise_is_the_targets_and_each_scan_has_its_own(scan, call, tmp_path):
    """`mean` stays the default and is what noise is added to; the JSON file says what was added."""
    known = tiny.write_run(tmp_path / "known", b=_known(snr=1.0))  # more than the network, which knows nothing, makes
    write_scan(scan.parent / "sub-0002.nii.gz")  # the same voxels as the first, and other bytes
    other = nib.load(scan.parent / "sub-0002.nii.gz")
    other.header["descrip"] = b"another"
    nib.save(other, scan.parent / "sub-0002.nii.gz")
    for out, options in {
        "mean": (),
        "one": ("--noise",),
        "same": ("--noise", "--seed", 0),
        "two": ("--noise", "--seed", 7),
    }.items():
        code, said = call(scan.parent, tmp_path / out, *options, model=known.path)
        assert code == 0, said
    mean, one, same, two = (
        [nib.load(tmp_path / out / f"sub-000{i}.nii.gz").get_fdata() for i in (1, 2)]
        for out in ("mean", "one", "same", "two")
    )
    np.testing.assert_array_equal(mean[0], mean[1])
    np.testing.assert_array_equal(one, same)
    assert min(np.abs(one[0] - one[1]).max(), np.abs(one[0] - two[0]).max()) > 0
    facts = read_json(tmp_path / "one" / "sub-0001.json")["noise"]
    assert (facts["kind"], facts["seed"], facts["sd_of_target"]) == ("rician", 0, pytest.approx(450))
    assert facts["sd_of_translation"] > 0
    assert facts["sd_added"] ** 2 == pytest.approx(max(facts["sd_of_target"] ** 2 - facts["sd_of_translation"] ** 2, 0))
    assert read_json(tmp_path / "mean" / "sub-0001.json")["noise"] is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--noise",), "does not know the noise of ct: it was built before .* or on fewer than 4 training scans"),
        (("--seed", 3), "--seed 3 is of --noise, which is not given"),
        (("--noise", "--seed", -1), "--seed is -1; whole numbers from 0 are allowed"),
    ],
)
def test_noise_that_cannot_be_added(scan, call, tmp_path, options, sentence):
    refused(call(scan, tmp_path / "out" / "x.nii", *options), sentence)
    assert not (tmp_path / "out").exists()
