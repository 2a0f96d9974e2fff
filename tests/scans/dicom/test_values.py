"""What stored numbers mean: the modality transform of each slice, tables, and real-world values where they are all."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom import convert, series
from cyclescan.scans.dicom.tags import lenient
from tests.scans.dicom.dicom_files import knee, multi_frame, raw, same_voxels, save, slices


def read(folder):
    (found,) = series.find(folder)
    return convert.read(found)


def item(**tags):
    ds = Dataset()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return ds


def table(values, first, signed=False, bits=16, order="<", claimed=None):
    ds = Dataset()
    ds.add_new("LUTDescriptor", "SS" if signed else "US", [len(values) if claimed is None else claimed, first, bits])
    data = np.asarray(values).astype(f"{order}u2" if bits == 16 else "u1").tobytes()
    ds.add_new("LUTData", "OW", data + b"\0" * (len(data) % 2))
    ds.ModalityLUTType = "US"
    return ds


def real_world(slope=0.5, intercept=-3.0, first=0, last=65535):
    ds = item(RealWorldValueSlope=slope, RealWorldValueIntercept=intercept, LUTLabel="T2", LUTExplanation="T2 in ms")
    ds.add_new("RealWorldValueFirstValueMapped", "US", first)
    ds.add_new("RealWorldValueLastValueMapped", "US", last)
    return ds


@pytest.mark.parametrize("enhanced", [False, True])
def test_slopes_that_nearly_agree_are_each_slices_own(tmp_path, enhanced):
    """As in parameter maps: to less than a millionth, which float32 still tells apart."""
    array, affine = knee()
    datasets = slices(array, affine)
    slopes = [3 + 9e-7 * k for k in range(len(datasets))]
    for ds, slope in zip(datasets, slopes, strict=True):
        ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.9f}", "0"
    if enhanced:
        whole = multi_frame(datasets)
        del whole.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        for frame, slope in zip(whole.PerFrameFunctionalGroupsSequence, slopes, strict=True):
            transform = item(RescaleSlope=f"{slope:.9f}", RescaleIntercept="0", RescaleType="US")
            frame.PixelValueTransformationSequence = [transform]
        datasets = [whole]
    save(datasets, tmp_path)
    scan = read(tmp_path)
    for k, slope in enumerate(slopes):
        expected = (array[:, ::-1, k] * float(f"{slope:.9f}")).astype(np.float32)
        np.testing.assert_array_equal(scan.array[:, :, k], expected)


def test_the_frames_own_transform_counts_before_the_shared_and_the_images(tmp_path):
    array, affine = knee()
    ds = multi_frame(slices(array, affine, slope=7, intercept=1), RescaleSlope="11", RescaleIntercept="0")
    for frame in ds.PerFrameFunctionalGroupsSequence[3:]:
        frame.PixelValueTransformationSequence = [item(RescaleSlope="2", RescaleIntercept="-5", RescaleType="US")]
    save([ds], tmp_path)
    same_voxels(read(tmp_path), np.where(np.arange(10) < 3, array * 7.0 + 1, array * 2.0 - 5), affine)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_modality_table(tmp_path, signed, order):
    """Numbers below and above the table have its first and last value (PS3.3 C.11.1.1)."""
    array, affine = knee()
    stored = array.astype(np.int16) - (700 if signed else 0)
    values = np.random.default_rng(3).integers(0, 2**16, 500)
    first = -650 if signed else 40
    dtype = np.int16 if signed else np.uint16
    datasets = slices(stored, affine, dtype=dtype, ModalityLUTSequence=[table(values, first, signed, order=order)])
    if order == ">":
        for ds in datasets:
            ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), values[np.clip(stored.astype(int) - first, 0, 499)], affine)


def test_a_table_of_bytes(tmp_path):
    array, affine = knee()
    stored = (array // 10 % 256).astype(np.uint8)
    values = np.random.default_rng(4).integers(0, 256, 255)
    save(slices(stored, affine, dtype=np.uint8, ModalityLUTSequence=[table(values, 0, bits=8)]), tmp_path)
    same_voxels(read(tmp_path), values[np.clip(stored, 0, 254)], affine)


def test_the_widest_reach_of_signed_numbers(tmp_path):
    """65536 values, which the descriptor calls 0, from -32768 on: differences do not fit the pixels' own type."""
    array, affine = knee()
    stored = np.where(array % 2, -30000 + array, 32767 - array).astype(np.int16)
    mapping = table(np.arange(65535, -1, -1), -32768, signed=True, claimed=0)
    save(slices(stored, affine, ModalityLUTSequence=[mapping]), tmp_path)
    same_voxels(read(tmp_path), 65535 - (stored.astype(int) + 32768), affine)


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "has the RescaleSlope 0; it must be another number"),
        ({"RescaleIntercept": "minus ten"}, "has a RescaleIntercept that is no finite number"),
        ({"RescaleSlope": "1,5"}, "has a RescaleSlope that is no finite number"),
        ({"RescaleSlope": "nan"}, "has a RescaleSlope that is no finite number"),
        (
            {"ModalityLUTSequence": [table([1, 2, 3], 0, claimed=9)]},
            "has a ModalityLUTSequence of 3 values that",
        ),
        ({"ModalityLUTSequence": [item(ModalityLUTType="US")]}, "has a ModalityLUTSequence that is damaged"),
        ({"RealWorldValueMappingSequence": [item(LUTLabel="x")]}, "a Real World Value Mapping without slope"),
    ],
)
def test_values_that_nobody_knows(tmp_path, tags, sentence):
    """They decide over every voxel: a scan is refused rather than taken without them."""
    array, affine = knee()
    datasets = slices(array, affine)
    with lenient():
        for keyword, value in tags.items():
            if isinstance(value, str):
                raw(datasets[6], keyword, value)
            else:
                setattr(datasets[6], keyword, value)
        save(datasets, tmp_path)
    with pytest.raises(InputError, match=sentence):
        read(tmp_path)


def test_a_slope_without_intercept(tmp_path):
    array, affine = knee()
    datasets = slices(array, affine)
    for ds in datasets:
        ds.RescaleSlope, ds.RescaleIntercept = "4", ""
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array * 4.0, affine)


@pytest.mark.parametrize("identity", [{}, {"slope": 1, "intercept": 0}])
def test_real_world_values_where_they_are_all_that_is_stated(tmp_path, identity):
    array, affine = knee()
    save(slices(array, affine, dtype=np.uint16, RealWorldValueMappingSequence=[real_world()], **identity), tmp_path)
    same_voxels(read(tmp_path), array * 0.5 - 3, affine)


@pytest.mark.parametrize(("ct", "slope"), [(True, 1), (False, 2)])
def test_the_modality_transform_comes_first(tmp_path, ct, slope):
    array, affine = knee()
    mapping = {"RealWorldValueMappingSequence": [real_world()]}
    save(slices(array, affine, ct=ct, dtype=np.uint16, slope=slope, intercept=0, **mapping), tmp_path)
    same_voxels(read(tmp_path), array * float(slope), affine)


def test_a_table_of_real_world_values(tmp_path):
    array, affine = knee()
    values = np.linspace(1.5, 99.25, 5000) ** 2
    mapping = item(RealWorldValueLUTData=list(values), LUTLabel="x", LUTExplanation="y")
    mapping.add_new("RealWorldValueFirstValueMapped", "US", 0)
    mapping.add_new("RealWorldValueLastValueMapped", "US", 4999)
    save(slices(array, affine, dtype=np.uint16, RealWorldValueMappingSequence=[mapping]), tmp_path)
    same_voxels(read(tmp_path), values[array], affine)


def test_numbers_that_a_mapping_gives_no_value(tmp_path):
    array, affine = knee()
    narrow = real_world(last=int(array.max()) - 1)
    save(slices(array, affine, dtype=np.uint16, RealWorldValueMappingSequence=[narrow]), tmp_path)
    with pytest.raises(InputError, match=rf"has stored pixels from \d+ to {array.max()}, and its Real World Value"):
        read(tmp_path)


def test_some_slices_without_a_meaning(tmp_path):
    array, affine = knee()
    datasets = slices(array, affine, dtype=np.uint16, RealWorldValueMappingSequence=[real_world()])
    del datasets[2].RealWorldValueMappingSequence
    save(datasets, tmp_path)
    with pytest.raises(InputError, match="of which 1 of 10 slices have no Real World Value Mapping"):
        read(tmp_path)
