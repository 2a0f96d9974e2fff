"""Stored pixels in every coding: the same numbers to the last bit, and never a part of them for the whole."""

import base64
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom import convert, series
from tests.scans.dicom import jpeg_lossless
from tests.scans.dicom.dicom_files import compress, encapsulated, multi_frame, same_voxels, save, slices, uid
from tests.scans.dicom.random_series import SYNTAXES

REAL = Path(pydicom.__file__).parent / "data" / "test_files"
AFFINE = np.diag([-1.5, -1.5, 2.0, 1.0])
# 16 rows, 12 columns, x * 37 + y * y * 11 + (x * y) % 7 * 100; OpenJPH wrote it
HTJ2K = """
/0//UQApQAAAAAAMAAAAEAAAAAAAAAAAAAAADAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJ
CQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAWYAAf+TwAAmzfkFB3QAAMAAEsAAE0AAEoAkAgd0AFD4Awd0APQAx3QA
wAATwAAVUAAEwApR/gGLdAAd4EcGgOMBhrQAf88BC3QAwAAWrAABasAAFrDyOKyftMAigif7X1SAAqZcQQF+uACaVOJKrRo54iNp8yH1BWccAQ
D+uABu86ffE2D6ESsKAeTiodsHaEMAf5cAwAAvQIAAXo0AALtgVa0ICraKSGD6mIwYKwW5Xtm1oKsVVt6uWDFYxUrXBbuucF2SAa2VglYIRiyo
oIgZ/gBJxNInaGODjC0QQDhfAJVhm5sJECYb225Mu8KwjSmNRmsTAkiIjdEqYHK3cW4bIO7abHQHBBM+qWYACM7a8JNJS+0z6ABJEgKIGoFQFE
Q2EADWsAFddeWuDHYFg7ra1ZUMdqUrV3ZxBYN25QoGXcngXXfliquudt3VmAHPLrWobbn6u8o+GMCkUAH/2Q==
"""


def smooth(columns=40, rows=36, count=4, bits=12):
    x, y, z = np.meshgrid(np.arange(columns), np.arange(rows), np.arange(count), indexing="ij")
    wave = 0.5 + 0.4 * np.sin(x / 5 + z) * np.cos(y / 7) + 0.1 * (x * y % 5) / 5
    return np.rint(wave * (2**bits - 1)).clip(0, 2**bits - 1).astype(np.int64)


def coded(array, syntax, dtype=np.uint16, bits=12):
    """Slices of whole numbers in a transfer syntax."""
    datasets = slices(array, AFFINE, dtype=dtype, BitsStored=bits, HighBit=bits - 1)
    for ds, plane in zip(datasets, array.transpose(2, 1, 0), strict=True):
        if syntax.is_encapsulated:
            compress(ds, syntax, selection=1 if syntax == JPEGLosslessSV1 else 6)
        else:
            ds.file_meta.TransferSyntaxUID = syntax
            kind = np.dtype(dtype).newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
            ds.PixelData = plane.astype(kind).tobytes()
    return datasets


def read(folder):
    (found,) = series.find(folder)
    return convert.read(found)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
def test_every_lossless_coding_gives_the_same_numbers(tmp_path, syntax, signed):
    array = smooth() - (2048 if signed else 0)
    save(coded(array, syntax, np.int16 if signed else np.uint16), tmp_path)
    same_voxels(read(tmp_path), array, AFFINE)


def test_htj2k(tmp_path):
    y, x = np.mgrid[:16, :12]
    plane = x * 37 + y * y * 11 + (x * y) % 7 * 100
    array = np.repeat(plane.T[:, :, None], 3, axis=2)
    datasets = slices(array, AFFINE, dtype=np.uint16)
    for ds in datasets:
        encapsulated(ds, [base64.b64decode(HTJ2K)], UID("1.2.840.10008.1.2.4.201"))
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array, AFFINE)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit], ids=lambda s: s.name)
def test_lossy_jpeg_of_8_bits(tmp_path, syntax):
    """To within what two decoders may differ by."""
    array = smooth(bits=8)
    datasets = slices(array, AFFINE, dtype=np.uint8)
    decoded = np.empty(array.shape)
    for k, ds in enumerate(datasets):
        stream = io.BytesIO()
        Image.fromarray(array[:, :, k].T.astype(np.uint8)).save(stream, "JPEG", quality=90)
        decoded[:, :, k] = np.asarray(Image.open(stream)).T
        encapsulated(ds, [stream.getvalue()], syntax)
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), decoded, AFFINE, tolerance=2)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.97])
@pytest.mark.parametrize("syntax", [s for s in SYNTAXES if s.is_encapsulated], ids=lambda s: s.name)
def test_a_stream_that_is_cut_off_is_never_a_picture(tmp_path, syntax, share):
    datasets = coded(smooth(), syntax)
    (stream,) = generate_frames(datasets[2].PixelData, number_of_frames=1)
    encapsulated(datasets[2], [stream[: int(len(stream) * share)]], syntax)
    save(datasets, tmp_path, [f"{k}.dcm" for k in range(4)])
    with pytest.raises(InputError, match=r"/2.dcm is damaged: its pixels cannot be decoded\.$"):
        read(tmp_path)


def test_a_picture_of_another_size_is_refused(tmp_path):
    datasets = coded(smooth(), JPEGLosslessSV1)
    encapsulated(datasets[1], [jpeg_lossless.encode(smooth()[:20, :20, 1], 12)], JPEGLosslessSV1)
    save(datasets, tmp_path)
    with pytest.raises(InputError, match="its pixels cannot be decoded"):
        read(tmp_path)


@pytest.mark.parametrize("signed", [False, True])
def test_what_lies_in_unused_bits_is_no_pixel(tmp_path, signed):
    """Overlays were kept there."""
    array = smooth(bits=10) - (512 if signed else 0)
    datasets = coded(array, ExplicitVRLittleEndian, np.int16 if signed else np.uint16, bits=10)
    for ds in datasets:
        numbers = np.frombuffer(ds.PixelData, "<u2") & 0x3FF | np.arange(36 * 40, dtype=np.uint16) % 64 << 10
        ds.PixelData = numbers.astype("<u2").tobytes()
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array, AFFINE)


def test_the_few_tags_that_may_be_missing(tmp_path):
    array = smooth(bits=16)
    datasets = coded(array, ImplicitVRLittleEndian, bits=16)
    for ds in datasets:
        for keyword in ("BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation", "SamplesPerPixel"):
            del ds[keyword]
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array, AFFINE)


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({"HighBit": 15}, "has 12 of 16 bits a pixel in use, the highest of them 15; it must be 11"),
        ({"BitsStored": 17, "HighBit": 16}, "has 17 bits in use of 16 bits a pixel; 1 to 16 are allowed"),
    ],
)
def test_bits_that_make_no_sense(tmp_path, tags, sentence):
    datasets = coded(smooth(), ExplicitVRLittleEndian)
    for keyword, value in tags.items():
        setattr(datasets[0], keyword, value)
    save(datasets, tmp_path)
    with pytest.raises(InputError, match=sentence):
        read(tmp_path)


def test_jpeg_extended_of_12_bits(tmp_path):
    """A file of pydicom's, with the two values that its own tests know."""
    for number in range(3):
        ds = pydicom.dcmread(REAL / "JPEG-lossy.dcm")
        ds.SOPInstanceUID, ds.PixelSpacing = uid("lossy", number), [1, 1]
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * number]
        ds.save_as(tmp_path / f"{number}.dcm")
    array = read(tmp_path).array
    assert array.shape == (256, 1024, 3)
    assert {tuple(array[(140, 1023 - 420)]), tuple(array[(120, 1023 - 230)])} == {(244,) * 3, (95,) * 3}


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [(JPEGLSLossless, 16), (JPEG2000Lossless, 16), (JPEGLosslessSV1, 16), (JPEGLosslessSV1, 13)],
    ids=str,
)
def test_streams_of_more_bits_than_are_in_use_or_fewer_than_are_stated(tmp_path, syntax, bits):
    """Negative numbers of 13 bits, coded as 13 or as 16 bits without a sign, under a header of 13 or of 16."""
    array = smooth(bits=13) - 4096
    datasets = slices(array, AFFINE, BitsStored=13 if bits == 16 else 16, HighBit=12 if bits == 16 else 15)
    for ds in datasets:
        compress(ds, syntax, bits)
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array, AFFINE)


@pytest.mark.parametrize("double", [False, True])
def test_floating_point_pixels(tmp_path, double):
    array = np.random.default_rng(5).normal(0, 50, (6, 5, 3)).astype(np.float32)
    datasets = slices(np.zeros((6, 5, 3)), AFFINE)
    for k, ds in enumerate(datasets):
        for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            del ds[keyword]
        ds.BitsAllocated = 64 if double else 32
        data = array[:, :, k].T.astype("<f8" if double else "<f4").tobytes()
        setattr(ds, "DoubleFloatPixelData" if double else "FloatPixelData", data)
    save(datasets, tmp_path)
    same_voxels(read(tmp_path), array, AFFINE)


def test_frames_in_fragments_without_an_offset_table(tmp_path):
    array = smooth(bits=12)
    ds = multi_frame(slices(array, AFFINE, dtype=np.uint16, BitsStored=12, HighBit=11))
    frames = [jpeg_lossless.encode(plane, 12) for plane in array.transpose(2, 1, 0)]
    encapsulated(ds, frames, JPEGLosslessSV1, fragments_per_frame=3, has_bot=False)
    save([ds], tmp_path)
    same_voxels(read(tmp_path), array, AFFINE)


@pytest.mark.parametrize("change", ["another image", "another size"])
def test_a_file_that_changes_after_it_was_found(tmp_path, change):
    datasets = coded(smooth(), ExplicitVRLittleEndian)
    save(datasets, tmp_path, [f"{k}.dcm" for k in range(4)])
    (found,) = series.find(tmp_path)
    if change == "another image":
        datasets[1].SOPInstanceUID = pydicom.uid.generate_uid()
    else:
        datasets[1].Rows, datasets[1].Columns = datasets[1].Columns, datasets[1].Rows
    save(datasets[1:2], tmp_path, ["1.dcm"])
    with pytest.raises(InputError, match=r"/1.dcm has changed since its header was read; begin again"):
        convert.read(found)
