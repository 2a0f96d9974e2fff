"""DICOM that cannot be used: each kind its sentence and exit code, and the rest of the batch is done."""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless, RLELossless

from cyclescan.common.files import read_json
from data_prep.__main__ import main
from data_prep.verify import verify
from tests.data_prep.scan_files import save as save_nifti
from tests.scans.dicom.dicom_files import knee, multi_frame, save, slices, uid, write_knee


@pytest.fixture(autouse=True)
def key_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path / "keys" / "key"))


def build(a, out, *more):
    """The real command line; domain b is one sound NIfTI file."""
    b = save_nifti(out.parent / "b" / "sub-b.nii.gz")
    arguments = ["build", "--a", f"ciss={a}", "--b", f"dess={b}", "--out", out, "--workers", 1, "--split", 1, 0, 0]
    return main([str(argument) for argument in [*arguments, *more]])


def _slices(folder, **tags):
    return slices(*knee(), subject=folder.name, **tags)


def _write(change):
    """A series whose datasets are changed by `change(datasets)`; it may return others."""

    def write(folder):
        datasets = _slices(folder)
        save(change(datasets) or datasets, folder, [f"{n:02d}.dcm" for n in range(len(datasets))][: len(datasets)])

    return write


def _tags(number=slice(None), **values):
    """A sound series but for these values in these slices; None removes a tag."""

    def change(datasets):
        for ds in datasets[number] if isinstance(number, slice) else [datasets[number]]:
            for keyword, value in values.items():
                if value is None:
                    del ds[keyword]
                else:
                    setattr(ds, keyword, value)

    return _write(change)


def _raw(number, **values):
    """As `_tags`, with text that pydicom itself would not write."""

    def write(folder):
        save(_slices(folder), folder, [f"{n:02d}.dcm" for n in range(10)])
        path = folder / f"{number:02d}.dcm"
        data = path.read_bytes()
        for old, new in values.values():
            assert data.count(old) == 1
            data = data.replace(old, new)
        path.write_bytes(data)

    return write


def _nan_position(folder):
    save(_slices(folder), folder, [f"{n:02d}.dcm" for n in range(10)])
    path = folder / "04.dcm"
    first = str(pydicom.dcmread(path).ImagePositionPatient[0]).encode()
    path.write_bytes(path.read_bytes().replace(first, b"nan".ljust(len(first))))


def _move(shift):
    """Positions moved by shift(number, total) times a step along a row, along a column and along the normal, in mm."""

    def change(datasets):
        for number, ds in enumerate(datasets):
            orientation = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
            axes = np.vstack([orientation, np.cross(*orientation)])
            ds.ImagePositionPatient = list(np.round(np.add(ds.ImagePositionPatient, shift(number) @ axes), 6))

    return _write(change)


def _cut(share):
    def write(folder):
        save(_slices(folder), folder, [f"{n:02d}.dcm" for n in range(10)])
        path = folder / "04.dcm"
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return write


def _file(content):
    def write(folder):
        folder.mkdir()
        (folder / "image.dcm").write_bytes(content)

    return write


def _link(folder):
    folder.mkdir()
    (folder / "image.dcm").symlink_to(folder / "gone")


def _frames(change):
    def write(folder):
        ds = multi_frame(_slices(folder))
        change(ds)
        save([ds], folder, ["whole.dcm"])

    return write


def _no_groups(ds):
    del ds.PerFrameFunctionalGroupsSequence, ds.SharedFunctionalGroupsSequence


def _half_described(ds):
    del ds.PerFrameFunctionalGroupsSequence[5:]


def _two_volumes(ds):
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        echo = pydicom.Dataset()
        echo.EffectiveEchoTime = 5.0 + number % 2
        frame.MREchoSequence = [echo]
        plane = ds.PerFrameFunctionalGroupsSequence[number // 2 * 2].PlanePositionSequence[0]
        frame.PlanePositionSequence = [plane]


def _coloured(datasets):
    for ds in datasets:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0


def _at_one_place(datasets):
    datasets[5].ImagePositionPatient = datasets[4].ImagePositionPatient


def _one_uid(datasets):
    datasets[5].SOPInstanceUID = datasets[4].SOPInstanceUID
    datasets[5].ImagePositionPatient = datasets[4].ImagePositionPatient


def _damaged_jpeg(datasets):
    for ds in datasets:
        ds.PixelRepresentation = 0
        ds.compress(JPEGLSLossless)
    half = len(datasets[4].PixelData) // 2
    datasets[4].PixelData = datasets[4].PixelData[:half] + bytes(half)


def _truncated_rle(folder):
    datasets = _slices(folder)
    for ds in datasets:
        ds.compress(RLELossless)
    save(datasets, folder, [f"{n:02d}.dcm" for n in range(10)])
    data = (folder / "04.dcm").read_bytes()
    (folder / "04.dcm").write_bytes(data[:-300])


def _wrong_order(folder):
    """Little-endian bytes under the name of the big-endian transfer syntax."""
    save(_slices(folder), folder, [f"{n:02d}.dcm" for n in range(10)])
    for path in folder.iterdir():
        data = path.read_bytes()
        path.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0"))


# kind: (writes the series into a folder, what the sentence says)
BROKEN = {
    "a missing slice": (
        _write(lambda d: d[:4] + d[5:]),
        r"03.dcm and \S+04.dcm are 6 mm apart and the other slices 3 mm: 1 slice is missing between them\.",
    ),
    "missing slices": (
        _write(lambda d: d[:2] + d[3:5] + d[7:]),
        r"are 6 mm apart .*: 1 slice is missing between them, 3 in the whole series",
    ),
    "gantry tilt": (_move(lambda n: np.array([0, 0.8 * n, 0])), r"with a gantry tilt of 14\.9 degrees"),
    "changing distance": (
        _move(lambda n: np.array([0, 0, 0.7 * max(0, n - 6)])),
        r"are 3\.7 mm apart and the other slices 3 mm; the distance must not change inside a series",
    ),
    "a slice out of line": (_move(lambda n: np.array([2.0 * (n == 5), 0, 0])), "05.dcm lies 2 mm beside the other"),
    "changing pixels": (
        _tags(7, PixelSpacing=[1.3, 1.5]),
        r"07.dcm has pixels of 1\.3 x 1\.5 mm and the first .* 1\.25 x 1\.5 mm; the spacing must not change",
    ),
    "changing matrix": (
        _tags(7, Rows=20, Columns=24),
        "07.dcm has 24x20 pixels and the first slice of its series 20x24; all must be the same",
    ),
    "truncated pixels": (_cut(0.9), r"04.dcm is truncated: 20x24x1 pixels need 960 bytes, \d+ are there"),
    "truncated header": (_cut(0.4), r"04.dcm has the Rows \(none\)"),
    "no pixels": (_tags(4, PixelData=None), "04.dcm has no pixel data"),
    "no position": (_tags(4, ImagePositionPatient=None), "04.dcm has no ImagePositionPatient; without it nobody knows"),
    "no orientation": (_tags(ImageOrientationPatient=None), "has no ImageOrientationPatient; .*9 more of its files"),
    "no spacing": (_tags(PixelSpacing=None), "has no PixelSpacing"),
    "zero spacing": (
        _tags(4, PixelSpacing=[0, 1.5]),
        r"has the PixelSpacing \[0.0, 1.5\]; both values must be positive",
    ),
    "three spacings": (_tags(4, PixelSpacing=[1, 1, 1]), r"has the PixelSpacing \[1.0, 1.0, 1.0\]; 2 numbers"),
    "words for numbers": (
        _raw(4, spacing=(b"1.25\\1.5", b"1.2x\\1.5")),
        r"04.dcm has the PixelSpacing \(no numbers\); 2 numbers",
    ),
    "a position that is NaN": (_nan_position, r"04.dcm has the ImagePositionPatient \[nan, .*\]; 3 numbers are needed"),
    "axes not perpendicular": (
        _tags(4, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        "two perpendicular directions of length 1 are needed",
    ),
    "colour": (_write(_coloured), r"holds RGB; images of one grey value a pixel \(MONOCHROME2\) are needed"),
    "inverted grey": (_tags(PhotometricInterpretation="MONOCHROME1"), "holds MONOCHROME1"),
    "gigantic": (
        _tags(4, Rows=65535, Columns=65535, NumberOfFrames=30000),
        "claims 65535x65535x30000 voxels; at most 2147483648",
    ),
    "no rows": (_tags(4, Rows=0), "has the Rows 0; a positive whole number is needed"),
    "odd bits": (_tags(4, BitsAllocated=64), "has 64 bits a pixel; 8, 16 and 32 are allowed"),
    "an unknown coding": (
        _raw(4, syntax=(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0")),
        r"is coded as 1\.2\.840\.10008\.1\.9\.9, which is not read; write it uncompressed first",
    ),
    "wrong byte order": (_wrong_order, "is a damaged DICOM file"),
    "damaged JPEG-LS": (_write(_damaged_jpeg), r"04.dcm is damaged: its pixels cannot be decoded"),
    "truncated RLE": (_truncated_rle, r"04.dcm is damaged: its pixels cannot be decoded"),
    "one slice": (_write(lambda d: d[:1]), "is a series of 1 slice; a volume needs at least 2"),
    "constant": (_tags(PixelData=b"\7\0" * 480), r"\d+.dcm is constant \(every voxel is 7\)"),
    "two at one place": (_write(_at_one_place), "lies where another slice of its series lies and shows something else"),
    "two of one UID": (_write(_one_uid), r"05.dcm and \S+04.dcm have the same SOPInstanceUID and differ"),
    "a mosaic": (_tags(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "is a Siemens mosaic"),
    "frames without a place": (_frames(_no_groups), "is a multi-frame image that does not say where its frames lie"),
    "frames half described": (_frames(_half_described), "claims 10 frames and describes 5"),
    "frames of two volumes": (_frames(_two_volumes), "is a multi-frame file of several volumes"),
    "an empty file": (_file(b""), "image.dcm has the name of a DICOM file but is none"),
    "text": (_file(b"no scan\n" * 99), "image.dcm has the name of a DICOM file but is none"),
    "only a preamble": (
        _file(bytes(128) + b"DICM"),
        "image.dcm is a damaged DICOM file: nothing in it says what it shows",
    ),
    "noise after a preamble": (
        _file(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(5000)),
        "image.dcm is a damaged DICOM file",
    ),
    "a broken link": (_link, "image.dcm is a broken link or no file"),
}


def _folder(tmp_path, kind):
    return tmp_path / "a" / re.sub(r"\W+", "-", kind)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_series_alone_is_refused(tmp_path, capsys, kind):
    write, sentence = BROKEN[kind]
    (tmp_path / "a").mkdir()
    write(_folder(tmp_path, kind))
    assert build(tmp_path / "a", tmp_path / "records") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(f"^error: .*({sentence})", said)
    assert not (tmp_path / "records").exists()


def test_broken_series_do_not_stop_the_others(tmp_path, caplog, monkeypatch):
    """All kinds in one tree, beside two sound series: exit code 1, each is listed, the others are done."""
    a = tmp_path / "a"
    write_knee(a / "one")
    write_knee(a / "two", index=1)
    for kind, (write, _) in BROKEN.items():
        write(_folder(tmp_path, kind))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert build(a, tmp_path / "records") == 1
    info = read_json(tmp_path / "records" / "dataset.json")
    assert len(info["splits"]["train"]["a"]) == 2
    assert verify(tmp_path / "records")["problems"] == []
    logged = [m for m in caplog.messages if m.startswith("failed: ")]
    # the slice with a cut header fails by itself, and its series for want of it
    assert len(info["failed"]) == len(logged) >= len(BROKEN)
    for kind, (_, sentence) in BROKEN.items():
        mine = [m for m in logged if f"/{_folder(tmp_path, kind).name}/" in m]
        assert any(re.search(sentence, m) for m in mine), (kind, mine)
    written = (tmp_path / "records" / "dataset.json").read_text()
    for word in ("/a/", ".dcm", str(tmp_path), "Doe", "CISS sag", *(f"/{_folder(tmp_path, k).name}" for k in BROKEN)):
        assert word not in written
    assert not list(temporary.iterdir())


def test_an_unreadable_file_is_listed(tmp_path, caplog, monkeypatch):
    """Root may read everything, so the refusal of the system is played."""
    write_knee(tmp_path / "a" / "good")
    write_knee(tmp_path / "a" / "bad", index=1)
    real = open

    def guarded(file, *args, **kwargs):
        if str(file).endswith("bad/IM0004.dcm"):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", guarded)
    assert build(tmp_path / "a", tmp_path / "records") == 1
    assert any(re.search("bad/IM0004.dcm cannot be read: Permission denied", m) for m in caplog.messages)


def test_mixed_series_need_a_rule(tmp_path, capsys):
    array, affine = knee()
    for number, name in enumerate(("CISS sag", "DESS sag")):
        save(slices(array, affine, name=name, SeriesDescription=name, SeriesNumber=number + 1), tmp_path / "a" / name)
    assert build(tmp_path / "a", tmp_path / "records") == 2
    said = capsys.readouterr().err
    assert (
        f"{tmp_path}/a holds 2 series of one subject: 1 CISS sag (10 slices, TE 2.7), 2 DESS sag (10 slices, TE 2.7); "
        f"choose by a rule, for instance {tmp_path}/a#SeriesDescription~REGEX." in said
    )
    assert build(f"{tmp_path}/a#SeriesDescription~ciss", tmp_path / "records") == 0


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            "SeriesDescription",
            "The rule 'SeriesDescription' is not understood; a rule is KEYWORD=VALUE or KEYWORD~REGEX",
        ),
        ("", "The rule '' is not understood"),
        ("Echotime=3", "DICOM has no keyword 'Echotime'; EchoTime is one"),
        ("SeriesDescription~(", r"The regular expression '\(' is not understood: "),
        ("EchoTime=9", r"The rule EchoTime=9 chooses none of the series of .*: 5 CISS sag \(10 slices, TE 2.7\)"),
        ("EchoTime=2.7&Modality=CT", "The rule EchoTime=2.7&Modality=CT chooses none"),
    ],
)
def test_rules_that_are_wrong(tmp_path, capsys, rule, sentence):
    write_knee(tmp_path / "a")
    assert build(f"{tmp_path}/a#{rule}", tmp_path / "records") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(sentence, said)


def test_a_rule_for_nifti_files_is_refused(tmp_path, capsys):
    save_nifti(tmp_path / "a" / "1.nii.gz")
    assert build(f"{tmp_path}/a#Modality=MR", tmp_path / "records") == 2
    assert "holds no DICOM series, which the rule after # is for" in capsys.readouterr().err


def test_a_series_of_nobody_needs_a_table(tmp_path, capsys):
    write_knee(tmp_path / "a", subject="")
    assert build(tmp_path / "a", tmp_path / "records") == 2
    assert "has no PatientID; state the subject with --subject or in a .csv or .tsv table" in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("subject,path,site\nanna,a#Modality=MR,north\n")
    assert build(tmp_path / "a.csv", tmp_path / "records") == 0


def test_a_table_whose_folder_holds_no_dicom(tmp_path, capsys, caplog):
    write_knee(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("subject,path\nanna,good\nben,empty\ncarl,gone\n")
    assert build(tmp_path / "a.csv", tmp_path / "records") == 1
    assert any(re.search(r"failed: \S+/empty is a folder without DICOM", m) for m in caplog.messages)
    assert any(re.search(r"failed: \S+/gone does not exist", m) for m in caplog.messages)


def test_hostile_values_reach_no_path(tmp_path):
    """UIDs, ids and descriptions are never part of a file's name."""
    array, affine = knee()
    datasets = slices(array, affine, SeriesDescription="../../evil", PatientID="../../../evil")
    save(datasets, tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        data = path.read_bytes()
        own = uid("series", "knee-1", "1").encode()
        path.write_bytes(data.replace(own, b"../../../evil".ljust(len(own), b"\0")))
    before = set(tmp_path.rglob("*"))
    assert build(tmp_path / "a", tmp_path / "records") == 0
    new = {p.relative_to(tmp_path).parts[0] for p in set(tmp_path.rglob("*")) - before}
    assert new == {"records", "keys", "b"}
    assert not list(Path(tmp_path).parent.glob("*evil*"))
