"""No output of any command holds what identifies a person: planted in every place an input has, searched in every byte.

Files that fail, and scans unlike the training's, are named on the terminal by their path: whoever runs the command has
to know which file is meant, and has the file before them. So a path may stand in lines of stderr that begin with
`failed: ` or `warning: `, and nothing of it in any file. Text from inside a scan stands nowhere at all. The names of
the files that `translate` writes for a folder are those of the folder, as the user asked; what is in them is not.
"""

import base64
import contextlib
import gzip
import io
import json
import logging
import re
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from cyclescan import export, records, report, train, translate
from data_prep.__main__ import main as data_prep
from data_prep.phantom import make_subject
from tests.conftest import SETTINGS
from tests.scans.dicom import dicom_files

SUBJECTS = 8
# what stands in the paths of the scans: folders, file names, subjects of a table
PATHS = {
    "institution folder": "Elsewhere_General",
    "ward folder": "Ward Kneeling7",
    "patient folder": "Quartermaine_Zebulon",
    "birth date in a folder": "1961-04-17",
    "file name": "scan-of-zebulonq",
    "subject of a table": "MRN00471133",
}
# what stands in the scans, beside them and in the table's other columns
CONTENTS = {
    "NIfTI descrip": "Quartermaine^Zebulon^Archibald",
    "NIfTI intent_name": "DOB 17041961",
    "NIfTI db_name": "ACC-77130-Q",
    "NIfTI aux_file": "StElsewhere Hospital",
    "NIfTI comment extension": "referred by Dr Ottoline Fenwick",
    "NIfTI AFNI extension": "operator Mortimer Grubb",
    "PatientName": "Quartermaine^Z",
    "PatientID": "PID-5589-ZQ",
    "PatientBirthDate": "19610417",
    "PatientAddress": "12 Larkspur Crescent",
    "AccessionNumber": "A900817263",
    "InstitutionName": "Saint Elsewhere Infirmary",
    "InstitutionAddress": "Nowhereville 99417",
    "ReferringPhysicianName": "Fenwick^Ottoline",
    "OperatorsName": "Grubb^Mortimer",
    "StationName": "MRC31415X",
    "DeviceSerialNumber": "SN-271828",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.4711",
    "AcquisitionDateTime": "2019-03-08T11:22:33",
    "column of the table": "seen for gonarthrosis",
}
assert len(PATHS) + len(CONTENTS) >= 20


def write_nifti(folder: Path, stem: str, array: np.ndarray, affine: np.ndarray) -> Path:
    """A scan with something planted in every text of its header, in extensions, and in the JSON file beside it."""
    image = nib.Nifti1Image(array, affine)
    for key in ("descrip", "intent_name", "db_name", "aux_file"):
        text = CONTENTS[f"NIfTI {key}"].encode()
        image.header[key] = text
        assert image.header[key].item() == text  # not cut off
    for code, key in ((6, "NIfTI comment extension"), (4, "NIfTI AFNI extension")):
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, CONTENTS[key].encode()))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.nii.gz"
    nib.save(image, path)
    facts = {key: text for key, text in CONTENTS.items() if re.fullmatch(r"[A-Z][A-Za-z]+", key)}
    (folder / f"{stem}.json").write_text(json.dumps(facts | {"RepetitionTime": 0.017, "EchoTime": 0.005}))
    return path


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """Every command on planted inputs: the folder with all outputs, and what was said on stdout, stderr and the log."""
    inputs, out = tmp_path_factory.mktemp("inputs"), tmp_path_factory.mktemp("outputs")
    home = inputs / PATHS["institution folder"] / PATHS["ward folder"]
    rows = ["subject,path,diagnosis"]
    for i in range(SUBJECTS):
        knee = make_subject(2, (8, 16, 16), index=i)
        folder = f"{PATHS['patient folder']}{i} {PATHS['birth date in a folder']}"
        scan = write_nifti(home / "a" / folder, f"{PATHS['file name']}{i}", knee.ciss, knee.affine)
        other = write_nifti(home / "b" / folder, f"{PATHS['file name']}{i}", knee.dess, knee.affine)
        rows.append(f"{PATHS['subject of a table']}{i},{other.relative_to(home)},{CONTENTS['column of the table']}")
    flat = np.ones((4, 4, 4), np.float32), np.eye(4)
    write_nifti(home / "a" / PATHS["patient folder"], f"{PATHS['file name']} flat", *flat)
    (home / "b.csv").write_text("\n".join(rows))
    write_nifti(home / "new" / PATHS["patient folder"], PATHS["file name"], knee.ciss, knee.affine)
    write_nifti(home / "new", f"{PATHS['file name']} flat", *flat)
    write_nifti(home / "new", f"{PATHS['file name']} odd", knee.ct + 2000, np.diag([3.0, 3, 3, 1]) @ knee.affine)
    data, run = out / "records", out / "run"
    work = [
        (data_prep, 1, ["build", "--a", f"ciss={home / 'a'}", "--b", f"dess={home / 'b.csv'}", "--out", data,
                        "--workers", 1, "--split", 12, 0, 4, "--crop-body", 50, "--key-file", inputs / "key"]),
        (data_prep, 0, ["verify", data]),
        (data_prep, 0, ["qc", data]),
        (data_prep, 0, ["pair", data, "--per-volume", 1, "--workers", 1]),
        (train.main, 0, ["--data", data, "--run", run, "--set", *SETTINGS, "steps=1"]),
        (report.main, 0, ["--run", run]),
        (export.main, 0, ["--run", run, "--out", out / "models"]),
        (translate.main, 0, ["--model", run, "--direction", "a2b", scan, out / "one.nii.gz"]),
        (translate.main, 1, ["--model", out / "models", "--direction", "a2b", home / "new", out / "translated"]),
    ]  # fmt: skip
    said = io.StringIO()
    handler, level = logging.StreamHandler(said), logging.root.level
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        logging.root.addHandler(handler)
        logging.root.setLevel(logging.INFO)
        try:
            codes = [command(list(map(str, arguments))) for command, _, arguments in work]
        finally:
            logging.root.removeHandler(handler)
            logging.root.setLevel(level)
    assert codes == [expected for _, expected, _ in work], said.getvalue()
    return out, said.getvalue()


def contents(name: str, data: bytes):
    """Everything that a file holds: its bytes, what is compressed in them, and the pictures of a page."""
    yield name, data
    if name.endswith(".gz"):
        yield from contents(name.removesuffix(".gz"), gzip.decompress(data))
    elif zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from contents(f"{name}!{member}", archive.read(member))
    elif name.endswith(".html"):
        for number, text in enumerate(re.findall(rb"base64,([A-Za-z0-9+/=]+)", data)):
            yield from contents(f"{name}!{number}", base64.b64decode(text))


def forms(text: str) -> set[bytes]:
    """A text as it may lie in a file, in small letters."""
    return {text.lower().encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-16-be", "latin-1")}


def found(planted: dict[str, str], data: bytes) -> list[str]:
    data = data.lower()
    return [kind for kind, text in planted.items() if any(form in data for form in forms(text))]


def test_no_byte_of_any_output_holds_what_was_planted(tour):
    out, _ = tour
    searched = 0
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not name.startswith("translated/"):
            assert found(PATHS | CONTENTS, name.encode()) == [], name
        for inner, data in contents(name, path.read_bytes()) if path.is_file() else ():
            searched += 1
            assert found(PATHS | CONTENTS, data) == [], inner
        if path.suffix == ".tfrecord":
            for record in records.read_shard(path):
                texts = (record.subject, *record.partner_subjects, record.domain_name, json.dumps(record.preprocessing))
                assert found(PATHS | CONTENTS, "\n".join(texts).encode()) == [], name
    assert searched > 40


def test_translations_have_an_empty_header(tour):
    out, _ = tour
    written = sorted(out.rglob("*.nii.gz"))
    assert len(written) == 3
    for path in written:
        header = nib.load(path).header
        assert len(header.extensions) == 0
        assert "synthetic" in header["descrip"].item().decode()
        assert [header[key].item() for key in ("intent_name", "db_name", "aux_file")] == [b""] * 3


def test_the_terminal_names_files_that_fail_or_are_unlike_and_nothing_more(tour):
    _, said = tour
    naming = [line for line in said.splitlines() if found(PATHS | CONTENTS, line.encode())]
    assert [line.partition(":")[0] for line in naming].count("failed") == 2  # one of build and one of translate
    assert [line.partition(":")[0] for line in naming].count("warning") == 1
    assert len(naming) == 3
    assert found(CONTENTS, said.encode()) == []


def test_everything_was_planted_and_would_be_found(tour, tmp_path):
    """The search itself: each text, in each place, is found in the inputs; and where it is compressed or in UTF-16."""
    inputs = next(p for p in tour[0].parent.glob("inputs*") if (p / "key").exists())
    seen = set()
    for path in inputs.rglob("*"):
        seen |= set(found(PATHS | CONTENTS, path.relative_to(inputs).as_posix().encode()))
        for _, data in contents(path.name, path.read_bytes()) if path.is_file() else ():
            seen |= set(found(PATHS | CONTENTS, data))
    assert seen == set(PATHS | CONTENTS)
    secret = CONTENTS["PatientName"]
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("inner.gz", gzip.compress(secret.encode("utf-16")))
    page = b'<img src="data:;base64,' + base64.b64encode((tmp_path / "x").read_bytes()) + b'">'
    assert [name for name, data in contents("p.html", page) if found({"name": secret}, data)] == ["p.html!0!inner"]


def test_dicom(tour, tmp_path):
    """Series with the same texts in their tags: no file of records, derived series or NIfTI holds one of them."""
    run, home, out = tour[0] / "run", tmp_path / PATHS["institution folder"], tmp_path / "out"
    tags = {key: text for key, text in CONTENTS.items() if key.isalnum() and key != "PatientID"}
    tags |= {
        "AcquisitionDateTime": "20190308112233",
        "PatientComments": "limps since the accident in Larkspur",
        "OtherPatientIDs": "OPI-660-ZQ",
        "PatientTelephoneNumbers": "+99 555 0177",
        "PerformingPhysicianName": "Okonkwo^Balthasar",
        "RequestingPhysician": "Fenwick^O",
        "StudyDescription": "MRI knee of Zebulon Q",
    }
    # a derived series refers to its source by UIDs, which name nobody outside the hospital's own archive
    planted = PATHS | {key: text for key, text in tags.items() if key != "StudyInstanceUID"}
    planted |= {"PatientID": CONTENTS["PatientID"], "in a sequence": CONTENTS["column of the table"]}
    tags["RequestAttributesSequence"] = [pydicom.Dataset()]
    tags["RequestAttributesSequence"][0].RequestedProcedureDescription = CONTENTS["column of the table"]
    for i in range(4):
        for contrast in ("ciss", "dess"):
            folder = home / contrast / f"{PATHS['patient folder']}{i}"
            subject = f"{CONTENTS['PatientID']}{i}"
            array, affine = dicom_files.knee(i, contrast)
            dicom_files.save(dicom_files.slices(array, affine, name=contrast, subject=subject, **tags), folder)
    seen = {key for p in home.rglob("*.dcm") for key in found(planted, p.read_bytes() + str(p).encode())}
    assert len(seen) >= 20
    domains = ["--a", f"ciss={home / 'ciss'}", "--b", f"dess={home / 'dess'}", "--workers", 1]
    work = [
        (data_prep, ["build", *domains, "--out", out / "records", "--key-file", tmp_path / "key"]),
        (data_prep, ["qc", out / "records"]),
        (translate.main, ["--model", run, "--direction", "a2b", home / "ciss", out / "series"]),
        (translate.main, ["--model", run, "--direction", "a2b", next((home / "ciss").iterdir()), out / "x.nii.gz"]),
    ]
    assert [command(list(map(str, arguments))) for command, arguments in work] == [0] * 4
    searched = [path for path in out.rglob("*") if path.is_file()]
    assert sum(path.suffix == ".dcm" for path in searched) > 20
    for path in searched:
        for inner, data in contents(path.name, path.read_bytes()):
            assert found(planted, data) == [], inner
