"""MetaImage (.mha) files, as SynthRAD2025 comes in; read by SimpleITK, which is imported when one is read.

`volume` takes them as it takes NIfTI files, and checks their voxels.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cyclescan.common.errors import InputError

SUFFIX = ".mha"
_HEADER_BYTES = 4096
_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8}


def is_metaimage(path: str | os.PathLike) -> bool:
    return str(path).lower().endswith(SUFFIX)


def read_header(path: str | os.PathLike) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return shape and affine (RAS+ mm) of the axes (x, y, z) of the file, without reading its voxels.

    Raises:
        InputError: the file is missing or no MetaImage, its voxels lie in another file, it is not 3-D with one value a
            voxel, or it claims too many voxels.
    """
    return _grid(path, _reader(Path(path)))


def _grid(path: str | os.PathLike, reader: Any) -> tuple[tuple[int, int, int], np.ndarray]:
    x, y, z = (int(n) for n in reader.GetSize())
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS+
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path} has the spacing {reader.GetSpacing()} mm; every value must be positive.")
    return (x, y, z), affine


def read(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels, float32 with the axes (x, y, z) of the file, and the affine.

    Raises:
        InputError: see `read_header`; or the voxels are cut off.
    """
    import SimpleITK as sitk  # noqa: N813 - its own habit

    path = Path(path)
    _, affine = _grid(path, _reader(path, whole=True))
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32)).transpose(2, 1, 0)
    except RuntimeError as error:
        raise InputError(f"{path} is truncated or damaged: its voxels cannot be read.") from error
    return np.ascontiguousarray(array), affine


def _reader(path: Path, whole: bool = False) -> Any:
    """SimpleITK's reader of a file whose header is sound; `whole`: and whose voxels are all there."""
    import SimpleITK as sitk  # noqa: N813

    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    with open(path, "rb") as stream:
        head = stream.read(_HEADER_BYTES)
    place = re.search(rb"^ElementDataFile\s*=\s*(.*?)\s*$", head, re.MULTILINE)
    if not place or place.group(1) != b"LOCAL":
        # a header may name any file of the machine as its voxels
        raise InputError(f"{path} is not a MetaImage file with its voxels inside (ElementDataFile = LOCAL).")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("MetaImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} is not a MetaImage file.") from error
    size = reader.GetSize()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or min(size) < 1:
        raise InputError(
            f"{path} has the shape {'x'.join(map(str, size))} with {reader.GetNumberOfComponents()} values a voxel; a "
            "3-D volume of one is needed."
        )
    needed = int(np.prod(size)) * _bytes_per_voxel(head)
    if re.search(rb"^CompressedData\s*=\s*True", head, re.MULTILINE):
        there = _unpacked(path, place.end() + 1, needed) if whole else needed
    else:
        there = path.stat().st_size - place.end() - 1
    if there < needed:
        raise InputError(f"{path} is truncated: its voxels need {needed} bytes, {there} are there.")
    return reader


def _unpacked(path: Path, offset: int, needed: int) -> int:
    """How many bytes of voxels the file gives: SimpleITK leaves what is missing as it was in memory."""
    unpacker, there = zlib.decompressobj(), 0
    with open(path, "rb") as stream:
        stream.seek(offset)
        try:
            while there < needed and (block := stream.read(1 << 20)):
                there += len(unpacker.decompress(block))
        except zlib.error as error:
            raise InputError(f"{path} is damaged: its compressed voxels cannot be read.") from error
    return there


def _bytes_per_voxel(head: bytes) -> int:
    kind = re.search(rb"^ElementType\s*=\s*MET_(\w+)", head, re.MULTILINE)
    return _BYTES.get(kind.group(1).decode(), 1) if kind else 1
