import os

import pytest

from cyclescan.common.errors import InputError
from data_prep import pseudonyms, scans
from tests.data_prep.scan_files import save, save_mha, voxels
from tests.scans.dicom.dicom_files import knee, slices, write_knee
from tests.scans.dicom.dicom_files import save as save_dicom


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(path):
    return [(s.path.relative_to(path).as_posix(), s.subject) for s in scans.find(path)]


def test_a_folder_is_searched_recursively_and_in_order(tmp_path):
    touch(tmp_path, "b/two.nii.gz", "one.NII", "a/three.nii", "a/notes.txt", ".hidden/four.nii", "a/._three.nii")
    assert found(tmp_path) == [("a/three.nii", "three"), ("b/two.nii.gz", "two"), ("one.NII", "one")]


def test_bids_subjects_from_names_and_folders(tmp_path):
    touch(
        tmp_path,
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-02/anat/scan.nii.gz",
        "misc/my_sub-03_x.nii.gz",
        "misc/nosub-04.nii.gz",
    )
    assert dict(found(tmp_path)) == {
        "misc/my_sub-03_x.nii.gz": "sub-03",
        "misc/nosub-04.nii.gz": "nosub-04",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz": "sub-01",
        "sub-02/anat/scan.nii.gz": "sub-02",
    }


def test_a_folder_above_the_one_given_names_nobody(tmp_path):
    touch(tmp_path, "sub-99/data/x.nii.gz")
    assert found(tmp_path / "sub-99") == [("data/x.nii.gz", "x")]


def test_files_of_the_same_name_belong_to_their_folders(tmp_path):
    """Otherwise all of them would be one subject."""
    touch(tmp_path, "P1/t1.nii.gz", "P2/t1.nii.gz", "P2/other.nii.gz")
    assert [subject for _, subject in found(tmp_path)] == ["P1", "other", "P2"]


def test_a_loop_of_links_ends(tmp_path):
    touch(tmp_path, "a/one.nii")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "dangling.nii").symlink_to(tmp_path / "nowhere.nii")
    assert found(tmp_path) == [("a/one.nii", "one"), ("dangling.nii", "dangling")]


def test_one_file(tmp_path):
    path = save(tmp_path / "sub-7_ciss.nii.gz")
    assert scans.find(path) == [scans.Scan(path, "sub-7")]


def test_names_that_are_not_ascii(tmp_path):
    touch(tmp_path, "Knie für Größe.nii.gz", "膝.nii", os.fsdecode(b"latin-\xe9.nii"))
    assert {s.subject for s in scans.find(tmp_path)} == {"Knie für Größe", "膝", os.fsdecode(b"latin-\xe9")}


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.TSV", "\t")])
def test_a_table_with_paths_relative_to_it(tmp_path, name, delimiter):
    rows = [
        ["path", "age", "subject", "split", "site"],
        ["x/1.nii", "30", "anna", "train", "north"],
        ["x/2.nii", "31", "ben", "test", ""],
    ]
    (tmp_path / name).write_text("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    assert scans.find(tmp_path / name) == [
        scans.Scan(tmp_path / "x/1.nii", "anna", "train", site="north"),
        scans.Scan(tmp_path / "x/2.nii", "ben", "test"),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"has the columns \(none\); path and subject must be among them"),
        ("subject,file\nanna,1.nii\n", "has the columns subject, file; path must be among them"),
        ("subject,path\n", "lists no scans"),
        ("subject,path\nanna,\n", "Line 2 of the table .* has no path"),
        ("subject,path\nanna,1.nii\n,2.nii\n", "Line 3 of the table .* has no subject"),
        ("subject,path,split\nanna,1.nii,dev\n", "has the split 'dev'; allowed are train, val, test"),
        ("subject,path\nanna,1.nii\nben,./1.nii\n", "Line 3 of the table .* lists ./1.nii a second time"),
        (b"subject,path\n\xff\xfe,1.nii\n", "is not understood"),
        ('subject,path\n"anna,1.nii\n', "is not understood"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, sentence):
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=sentence):
        scans.find(tmp_path / "t.csv")


def test_places_without_scans(tmp_path):
    touch(tmp_path, "full/notes.txt", "picture.png")
    (tmp_path / "empty").mkdir()
    for name, sentence in {
        "missing": "does not exist",
        "empty": "holds no NIfTI file",
        "full": "holds no NIfTI file",
        "picture.png": "is neither a folder, a .csv or .tsv table, a NIfTI file .*, nor DICOM",
    }.items():
        with pytest.raises(InputError, match=f"{name}.*{sentence}"):
            scans.find(tmp_path / name)


def test_files_and_dicom_of_one_folder_are_all_taken(tmp_path):
    write_knee(tmp_path / "series")
    assert [s.series is None for s in scans.find(tmp_path)] == [False]
    save(tmp_path / "anna.nii.gz")
    save_mha(tmp_path / "deep/ben.mha", voxels())
    assert [s.subject for s in scans.find(tmp_path)] == ["anna", "ben", "knee-1"]
    assert [s.subject for s in scans.find(f"{tmp_path}#Modality=MR")] == ["knee-1"]
    # a localizer beside files is no scan
    array, affine = knee()
    (tmp_path / "other").mkdir()
    localizer = slices(array[:, :, :1], affine, name="loc", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save_dicom(localizer, tmp_path / "other")
    save(tmp_path / "other/carl.nii")
    assert [s.subject for s in scans.find(tmp_path / "other")] == ["carl"]


def test_the_key_is_made_once_and_is_private(tmp_path):
    path = tmp_path / "new" / "pseudonym.key"
    key = pseudonyms.load_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["pseudonym.key"]
    assert pseudonyms.load_key(path) == key
    assert pseudonyms.load_key(tmp_path / "other.key") != key


def test_a_pseudonym_by_hand():
    """RFC 4231, test case 2: HMAC-SHA256 with the key "Jefe"."""
    assert pseudonyms.pseudonym(b"Jefe", "what do ya want for nothing?") == "s5bdcc146bf60"


def test_where_the_key_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(pseudonyms.KEY_VARIABLE, raising=False)
    assert pseudonyms.key_file() == tmp_path / ".cyclescan" / "pseudonym.key"
    monkeypatch.setenv(pseudonyms.KEY_VARIABLE, "/elsewhere/key")
    assert str(pseudonyms.key_file()) == "/elsewhere/key"
    assert str(pseudonyms.key_file("given")) == "given"


def test_keys_that_cannot_be_used(tmp_path):
    (tmp_path / "short").write_bytes(b"123")
    with pytest.raises(InputError, match="holds 3 bytes; a key has 32"):
        pseudonyms.load_key(tmp_path / "short")
    with pytest.raises(InputError, match="cannot be read"):
        pseudonyms.load_key(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        pseudonyms.load_key(tmp_path / "short" / "key")
