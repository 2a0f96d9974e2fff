"""Trees of the shapes of public data sets, made here, and `build` on them as they are unpacked."""

import pytest

from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from data_prep import layouts, scans
from data_prep.__main__ import main
from tests.data_prep.scan_files import save, save_mha, voxels
from tests.scans.dicom.dicom_files import knee, same_voxels, slices, uid
from tests.scans.dicom.dicom_files import save as save_dicom


@pytest.fixture(autouse=True)
def key_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path / "keys" / "key"))


def tree(folder, *names):
    """Sound scans of these names: MetaImage by its suffix, NIfTI by its own, anything else some text."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".mha"):
            save_mha(path, voxels(number))
        elif ".nii" in name:
            save(path, voxels(number))
        else:
            path.write_text("x")
    return folder


def found(layout, domain, folder):
    return {s.path.relative_to(folder).as_posix(): (s.subject, s.site) for s in layouts.find(layout, domain, folder)}


BIDS = (
    "dataset_description.json",
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_acq-mprage_run-1_T1w.nii",
    "sub-02/anat/sub-02_T1w.nii.gz",
    "sub-02/anat/sub-02_FLAIR.nii.gz",
    "sub-02/func/sub-02_task-rest_bold.nii.gz",
    "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
    "sourcedata/sub-02/sub-02_T1w.nii.gz",
)


def test_bids(tmp_path):
    tree(tmp_path, *BIDS)
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsite\nsub-01\t30\tbasel\nsub-02\t40\tn/a\n")
    assert (
        found("bids", "t1", tmp_path)
        == found("bids", "T1w", tmp_path)
        == {
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz": ("sub-01", "basel"),
            "sub-01/ses-2/anat/sub-01_ses-2_acq-mprage_run-1_T1w.nii": ("sub-01", "basel"),
            "sub-02/anat/sub-02_T1w.nii.gz": ("sub-02", None),
        }
    )
    assert set(found("bids", "flair", tmp_path)) == {"sub-02/anat/sub-02_FLAIR.nii.gz"}
    assert set(found("bids", "t2", tmp_path)) == {"sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz"}
    with pytest.raises(
        InputError, match=r"no scan for the domain ciss in the layout bids, .* there are FLAIR \(1\), T1w"
    ):
        layouts.find("bids", "ciss", tmp_path)


ACQUISITIONS = [f"sub-{n}/anat/sub-{n}_ses-1_acq-{acq}_run-1_T2w.nii.gz" for n in "12" for acq in ("ciss", "DESS")]


def test_acquisitions_of_one_suffix_can_be_chosen(tmp_path, caplog):
    tree(tmp_path, *ACQUISITIONS, "sub-1/anat/sub-1_ses-1_acq-ciss_PDw.nii.gz", "sub-1/anat/sub-1_T1w.nii.gz")
    assert set(found("bids", "dess", tmp_path)) == {name for name in ACQUISITIONS if "DESS" in name}
    for name in ("acq-ciss_T2w", "ACQ-CISS_t2"):
        assert set(found("bids", name, tmp_path)) == {name for name in ACQUISITIONS if "ciss" in name}
    assert not caplog.records
    with pytest.raises(InputError, match=r"several kinds in .*; name the domain acq-ciss_PDw or acq-ciss_T2w"):
        found("bids", "ciss", tmp_path)
    assert set(found("bids", "t2", tmp_path)) == set(ACQUISITIONS)
    assert "t2 is of several acquisitions, acq-DESS_T2w (2), acq-ciss_T2w (2)" in caplog.text
    with pytest.raises(InputError, match=r"there are T1w \(1\), acq-DESS_T2w \(2\), acq-ciss_PDw \(1\), acq-ciss_T2w"):
        found("bids", "space", tmp_path)


def test_ixi(tmp_path):
    """As the four tar files unpack: a folder for each contrast, all names in one."""
    tree(
        tmp_path,
        "IXI-T1/IXI002-Guys-0828-T1.nii.gz",
        "IXI-T1/IXI012-HH-1211-T1.nii.gz",
        "IXI-T2/IXI002-Guys-0828-T2.nii.gz",
        "IXI-T2/IXI035-IOP-0873-T2.nii.gz",
        "IXI-DTI/IXI002-Guys-0828-DTI-00.nii.gz",
        "IXI.xls",
    )
    assert found("ixi", "t1", tmp_path) == {
        "IXI-T1/IXI002-Guys-0828-T1.nii.gz": ("IXI002", "Guys"),
        "IXI-T1/IXI012-HH-1211-T1.nii.gz": ("IXI012", "HH"),
    }
    assert found("ixi", "T2", tmp_path / "IXI-T2") == {
        "IXI002-Guys-0828-T2.nii.gz": ("IXI002", "Guys"),
        "IXI035-IOP-0873-T2.nii.gz": ("IXI035", "IOP"),
    }


def test_synthrad2023(tmp_path):
    tree(
        tmp_path,
        *(
            f"Task1/{r}/{p}/{k}.nii.gz"
            for r, p in (("brain", "1BA001"), ("pelvis", "1PC039"))
            for k in ("mr", "ct", "mask")
        ),
        "Task1/brain/overview/1BA001_train.png",
        "Task2/brain/2BB014/cbct.nii.gz",
        "Task2/brain/2BB014/ct.nii.gz",
    )
    assert found("synthrad2023", "mr", tmp_path) == {
        "Task1/brain/1BA001/mr.nii.gz": ("1BA001", "A"),
        "Task1/pelvis/1PC039/mr.nii.gz": ("1PC039", "C"),
    }
    assert {s for s, _ in found("synthrad2023", "ct", tmp_path).values()} == {"1BA001", "1PC039", "2BB014"}
    assert found("synthrad2023", "cbct", tmp_path) == {"Task2/brain/2BB014/cbct.nii.gz": ("2BB014", "B")}


def test_synthrad2025(tmp_path):
    tree(
        tmp_path,
        *(
            f"synthRAD2025_Task1_Train/Task1/{p[1:3]}/{p}/{k}.mha"
            for p in ("1HNA001", "1ABB027", "1THC090")
            for k in ("mr", "ct", "mask")
        ),
        "synthRAD2025_Task1_Train/Task1/HN/overviews/1HNA001_overview.png",
    )
    base = "synthRAD2025_Task1_Train/Task1"
    assert found("synthrad2025", "mr", tmp_path) == {
        f"{base}/AB/1ABB027/mr.mha": ("1ABB027", "B"),
        f"{base}/HN/1HNA001/mr.mha": ("1HNA001", "A"),
        f"{base}/TH/1THC090/mr.mha": ("1THC090", "C"),
    }


@pytest.mark.parametrize(
    ("names", "subject", "site"),
    [
        ("Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_{}.nii.gz t1 t1ce t2 flair", "Brats18_CBICA_AAB_1", "CBICA"),
        ("HGG/BraTS19_2013_0_1/BraTS19_2013_0_1_{}.nii.gz t1 t1ce t2 flair", "BraTS19_2013_0_1", "2013"),
        ("BraTS20_Training_001/BraTS20_Training_001_{}.nii t1 t1ce t2 flair", "BraTS20_Training_001", None),
        ("BraTS2021_00495/BraTS2021_00495_{}.nii.gz t1 t1ce t2 flair", "BraTS2021_00495", None),
        ("BraTS-GLI-00005-001/BraTS-GLI-00005-001-{}.nii.gz t1n t1c t2w t2f", "BraTS-GLI-00005", None),
        ("BraTS-MET-00002-000/BraTS-MET-00002-000-{}.nii.gz t1n t1c t2w t2f", "BraTS-MET-00002", None),
    ],
)
def test_brats(tmp_path, names, subject, site):
    name, *kinds = names.split()
    tree(tmp_path, *(name.format(kind) for kind in (*kinds, "seg")))
    (tmp_path / "name_mapping.csv").write_text("x")
    for domain, kind in zip(("t1", "t1ce", "t2", "flair"), kinds, strict=True):
        assert found("brats", domain, tmp_path) == {name.format(kind): (subject, site)}


def test_brats_visits_are_one_subject(tmp_path):
    tree(tmp_path, *(f"BraTS-GLI-00005-00{v}/BraTS-GLI-00005-00{v}-t1n.nii.gz" for v in (0, 1)))
    assert {s for s, _ in found("brats", "t1", tmp_path).values()} == {"BraTS-GLI-00005"}


def oai(folder):
    """Two participants, both knees, a second visit, other series, as NDA's archives unpack; slices are 001, 002 ..."""
    array, affine = knee()
    for number, (visit, participant, date, barcode, text) in enumerate(
        (
            ("00m/0.C.2", "9000099", "20050131", "10249503", "SAG_3D_DESS_RIGHT"),
            ("00m/0.C.2", "9000099", "20050131", "10249504", "SAG_3D_DESS_LEFT"),
            ("00m/0.C.2", "9000099", "20050131", "10249505", "SAG_T2_MAP_RIGHT"),
            ("12m/1.C.2", "9000099", "20060201", "10693717", "SAG_3D_DESS_RIGHT"),
            ("00m/0.E.1", "9000296", "20040909", "10693718", "SAG_3D_DESS_RIGHT"),
            ("00m/0.E.1", "9000296", "20040909", "10693719", "SAG_IW_TSE_RIGHT"),
        )
    ):
        datasets = slices(array + number, affine, name=barcode, subject=participant, SeriesDescription=text)
        for ds in datasets:
            ds.StudyInstanceUID = uid(participant, date)
        save_dicom(datasets, folder / visit / participant / date / barcode, [f"{n + 1:03d}" for n in range(10)])
    return folder


def test_oai(tmp_path):
    oai(tmp_path)
    listed = layouts.find("oai", "dess", tmp_path)
    assert sorted((s.path.parent.name, s.subject) for s in listed) == [
        ("10249503", "9000099"),
        ("10249504", "9000099"),
        ("10693717", "9000099"),
        ("10693718", "9000296"),
    ]
    right = layouts.find("oai", "dess", f"{tmp_path}/00m#SeriesDescription~right")
    assert sorted(s.path.parent.name for s in right) == ["10249503", "10693718"]
    assert [s.path.parent.name for s in layouts.find("oai", "iw", tmp_path)] == ["10693719"]
    same_voxels(scans.read(listed[0]), *knee())


# layout: (domain a, domain b, writes its tree)
BUILDS = {
    "bids": ("t1", "t2", lambda folder: tree(folder, *BIDS)),
    "ixi": ("t1", "pd", lambda folder: _both(folder, "IXI-{k}/IXI00{i}-HH-01{i}2-{k}.nii.gz", "T1", "PD")),
    "synthrad2023": ("mr", "ct", lambda folder: _both(folder, "Task1/brain/1BA00{i}/{k}.nii.gz", "mr", "ct")),
    "synthrad2025": ("mr", "ct", lambda folder: _both(folder, "Task1/HN/1HNA00{i}/{k}.mha", "mr", "ct")),
    "brats": (
        "t1",
        "flair",
        lambda folder: _both(folder, "BraTS2021_0000{i}/BraTS2021_0000{i}_{k}.nii.gz", "t1", "flair"),
    ),
    "oai": ("dess", "iw", oai),
}


def _both(folder, name, *kinds):
    return tree(folder, *(name.format(i=i, k=k) for k in kinds for i in (2, 3)))


@pytest.mark.parametrize("layout", BUILDS)
def test_build_takes_the_download_as_it_is(tmp_path, layout):
    a, b, write = BUILDS[layout]
    folder = write(tmp_path / "download")
    arguments = ["--a", f"{a}={folder}", "--b", f"{b}={folder}", "--layout", layout, "--workers", "1"]
    assert main(["build", *arguments, "--out", str(tmp_path / "records"), "--split", "1", "0", "0"]) == 0
    info = read_json(tmp_path / "records" / "dataset.json")
    assert info["failed"] == []
    for domain, name in (("a", a), ("b", b)):
        listed = layouts.find(layout, name, folder)
        counts = [s["records"] for path, s in info["shards"].items() if path.startswith(f"train/{domain}")]
        assert sum(counts) == len(listed)
        assert len(info["splits"]["train"][domain]) == len({s.subject for s in listed})
    # a person is the same in both domains
    assert set(info["splits"]["train"]["b"]) <= set(info["splits"]["train"]["a"])


def test_without_a_layout_its_name_is_suggested(tmp_path, caplog):
    """T1 and T2 of one person would otherwise be two subjects, and might stand in two splits."""
    folder = tree(tmp_path / "d", "IXI-T1/IXI002-Guys-0828-T1.nii.gz", "IXI-T2/IXI002-Guys-0828-T2.nii.gz")
    arguments = ["--a", f"t1={folder}/IXI-T1", "--b", f"t2={folder}/IXI-T2", "--out", str(tmp_path / "r")]
    assert main(["build", *arguments, "--workers", "1", "--split", "2", "0", "0"]) == 0
    assert f"{folder}/IXI-T1 looks like ixi; --layout ixi knows its subjects and sites." in caplog.messages


@pytest.mark.parametrize(
    ("layout", "path", "sentence"),
    [
        ("ixi", "none", "is no folder; the layout ixi needs the folder of an unpacked download"),
        ("ixi", "", "which looks for t1; there are none of this layout"),
        ("ixi", "#Modality=MR", "The layout ixi is of NIfTI files; a rule after # is for DICOM"),
        ("oai", "", "which looks for t1; there are none of this layout"),
        ("mnist", "", "There is no layout 'mnist'; allowed are bids, brats, ixi, oai, synthrad2023, synthrad2025"),
    ],
)
def test_layouts_that_do_not_fit(tmp_path, layout, path, sentence):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=sentence):
        layouts.find(layout, "t1", f"{tmp_path}/data{path}" if path != "none" else tmp_path / path)
