"""How long a DICOM series takes to be read, against dcm2niix and nibabel on the same files, in one run.

    python -m benchmarks.dicom [--slices 100] [--size 512] [--repeats 3]

dcm2niix was the reader of earlier versions; `pip install dcm2niix` brings it back for this comparison. Both read the
same files in turn; the best of the repeats is taken, and the ratio is what a busy machine leaves comparable.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from cyclescan.scans.dicom import convert, series

CODINGS = {
    "classic": (ExplicitVRLittleEndian, False),
    "enhanced": (ExplicitVRLittleEndian, True),
    "RLE": (RLELossless, False),
    "JPEG": (JPEGLossless, False),
    "JPEG-LS": (JPEGLSLossless, False),
    "JPEG 2000": (JPEG2000Lossless, False),
}
ENCODERS = {
    JPEGLossless: lambda plane: imagecodecs.ljpeg_encode(plane, bitspersample=16),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda plane: imagecodecs.jpeg2k_encode(plane, level=0, codecformat="J2K", reversible=True),
}
# as earlier versions called it
OPTIONS = "-g i -b n -z n -p y -x i -l o -m y -f volume".split()


def write(folder: Path, slices: int, size: int, coding: str) -> None:
    """A limb in air, 12 bits, with a slope that every slice has."""
    syntax, enhanced = CODINGS[coding]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    rng = np.random.default_rng(0)
    planes = []
    for k in range(slices):
        inside = np.hypot(x, y) < 0.7 + 0.1 * np.sin(k / 9)
        planes.append(
            np.where(inside, 1500 + 700 * np.sin(9 * x + k / 5) * np.cos(7 * y) + rng.normal(0, 25, x.shape), 0)
        )
    stored = np.clip(planes, 0, 4095).astype("<u2")
    common = Dataset()
    common.file_meta = FileMetaDataset()
    common.StudyInstanceUID, common.SeriesInstanceUID, common.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    common.Modality, common.Manufacturer, common.PatientID, common.SeriesNumber = "MR", "SIEMENS", "p", 1
    common.ImageType, common.SamplesPerPixel, common.PhotometricInterpretation = (
        ["ORIGINAL", "PRIMARY", "M"],
        1,
        "MONOCHROME2",
    )
    common.Rows = common.Columns = size
    common.BitsAllocated, common.BitsStored, common.HighBit, common.PixelRepresentation = 16, 12, 11, 0
    datasets = (
        [_enhanced(common, stored)] if enhanced else [_classic(common, plane, k) for k, plane in enumerate(stored)]
    )
    for number, ds in enumerate(datasets):
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if syntax == RLELossless:
            ds.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
        elif syntax in ENCODERS:
            ds.file_meta.TransferSyntaxUID = syntax
            ds.PixelData = encapsulate([ENCODERS[syntax](stored[number])])
            ds["PixelData"].is_undefined_length, ds["PixelData"].VR = True, "OB"
        pydicom.dcmwrite(folder / f"{number:04d}.dcm", ds, enforce_file_format=True)


def _classic(common: Dataset, plane: np.ndarray, number: int) -> Dataset:
    ds = copy.deepcopy(common)
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.InstanceNumber = MRImageStorage, generate_uid(), number + 1
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, float(number)]
    ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [0.4, 0.4], 1, "1.5", "0"
    ds.PixelData = plane.tobytes()
    return ds


def _enhanced(common: Dataset, stored: np.ndarray) -> Dataset:
    ds = copy.deepcopy(common)
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.NumberOfFrames = EnhancedMRImageStorage, generate_uid(), len(stored)

    def item(**tags: object) -> list[Dataset]:
        made = Dataset()
        for keyword, value in tags.items():
            setattr(made, keyword, value)
        return [made]

    (shared,) = item(PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.4, 0.4], SliceThickness=1)
    shared.PixelValueTransformationSequence = item(RescaleSlope="1.5", RescaleIntercept="0", RescaleType="US")
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=item(ImagePositionPatient=[0, 0, float(k)]),
            FrameContentSequence=item(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1]),
        )[0]
        for k in range(len(stored))
    ]
    ds.PixelData = stored.tobytes()
    return ds


def ours(folder: Path) -> np.ndarray:
    (found,) = series.find(folder)
    return convert.read(found).array


def theirs(folder: Path) -> np.ndarray:
    """What earlier versions did: the headers by pydicom, the voxels by the program, its file by nibabel."""
    import dcm2niix

    series.find(folder)
    with tempfile.TemporaryDirectory() as out:
        command = [str(dcm2niix.bin), *OPTIONS, "-o", out, str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return np.asarray(nib.load(Path(out, "volume.nii")).dataobj, np.float32)


def seconds(read: Callable[[Path], np.ndarray], folder: Path) -> tuple[float, np.ndarray]:
    begin = time.perf_counter()
    array = read(folder)
    return time.perf_counter() - begin, array


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    readers = [ours, theirs] if importlib.util.find_spec("dcm2niix") else [ours]
    sys.stdout.write(f"{given.slices} slices of {given.size} x {given.size}, best of {given.repeats}, seconds\n")
    for coding in CODINGS:
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), given.slices, given.size, coding)
            best, arrays = [float("inf")] * len(readers), [np.empty(0)] * len(readers)
            for _ in range(given.repeats):
                for i, read in enumerate(readers):
                    took, arrays[i] = seconds(read, Path(name))
                    best[i] = min(best[i], took)
        line = f"{coding:10} {best[0]:6.2f}"
        if len(readers) > 1:
            same = "the same voxels" if np.array_equal(*arrays) else "OTHER voxels"
            line += f", by dcm2niix {best[1]:6.2f}: {best[0] / best[1]:.2f} of it; {same}"
        sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
