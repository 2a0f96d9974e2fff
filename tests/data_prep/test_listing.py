"""`data_prep scans`: everything that a folder holds, and where."""

import numpy as np

from data_prep import listing, scans
from data_prep.__main__ import main
from tests.data_prep.scan_files import AFFINE, save, save_forms, save_mha, voxels
from tests.scans.dicom.dicom_files import knee, slices, write_knee
from tests.scans.dicom.dicom_files import save as save_dicom


def rows(path):
    """The cells of the table by column; columns are two blanks apart."""
    head, *lines = listing.table(str(path)).splitlines()
    columns = head.split("  ")
    starts = [head.index(name) for name in filter(None, columns)]
    cells = list(zip(starts, [*starts[1:], None], strict=True))
    return [{head[a:b].strip(): line[a:b].strip() for a, b in cells} for line in lines]


def test_files_and_series_are_listed_with_their_paths(tmp_path):
    write_knee(tmp_path / "anna" / "mr")
    save(tmp_path / "ben/t1.nii.gz")
    save_mha(tmp_path / "carl/ct.mha", voxels())
    array, affine = knee()
    save_dicom(
        slices(array[:, :, :1], affine, name="loc", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "loc"
    )
    listed = rows(tmp_path)
    assert [row["path"] for row in listed] == ["ben/t1.nii.gz", "carl/ct.mha", "anna/mr", "loc/IM0000.dcm"]
    assert listed[3]["note"].endswith("is a series of 1 slice; a volume needs at least 2.")
    assert listed[1]["voxels"] == "10x12x14"
    # what `build` takes is listed, and nothing else is but the localizer
    taken = {scan.path.relative_to(tmp_path).parts[0] for scan in scans.find(tmp_path)}
    assert taken == {"anna", "ben", "carl"}
    assert [row["path"] for row in rows(f"{tmp_path}#PatientID=knee-1")] == ["anna/mr", "loc/IM0000.dcm"]


def test_a_place_in_doubt_is_noted(tmp_path):
    save_forms(tmp_path / "x.nii", np.diag([1, -1, 1, 1]) @ AFFINE, AFFINE, (1, 1))
    (row,) = rows(tmp_path)
    assert row["note"].startswith("lies at two places")
    assert rows(tmp_path / "x.nii")[0]["path"] == "x.nii"


def test_an_empty_path_is_not_this_folder(capsys):
    assert main(["scans", ""]) == 2
    assert "error: The argument path is empty" in capsys.readouterr().err
    assert main(["build", "--a", "x=y", "--b", "z=y", "--out", ""]) == 2
    assert "error: The argument out is empty" in capsys.readouterr().err
