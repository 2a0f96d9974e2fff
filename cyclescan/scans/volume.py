"""Volumes in and out, and THE statement of axes, orientation and units.

An array has the axes (depth, height, width). A volume read from a file has the file's own axes; the *canonical*
volume of this product points to the patient's Right along depth, Superior along height and Anterior along width
(axis codes R, S, A): every axis runs in its positive RAS+ direction, in the order sagittal slice, height, width.
Affines map voxel indices to RAS+ millimetres, as in NIfTI. Spacings are in mm in the order of the array's axes.
MR intensities have the arbitrary unit of the scanner, CT intensities are Hounsfield units.

A NIfTI header places its voxels twice. One rule says which counts: the sform where its code is not 0, else the qform
where its code is not 0, else the voxel size alone, centred at the origin with the first axis to the patient's left, as
nibabel reads it. Other programs have other rules (ITK takes some qforms first), so a result carries both forms and
their codes as its scan has them, see `Placement`.

This module does not import TensorFlow.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib

from cyclescan import NOTICE
from cyclescan.common.errors import InputError
from cyclescan.common.files import replacing, walk
from cyclescan.scans import acquisition, metaimage

log = logging.getLogger(__name__)

CANONICAL_AXES = ("R", "S", "A")
SIDES = ("left", "right")
SUFFIXES = (".nii", ".nii.gz")
KINDS = (nib.Nifti1Image, nib.Nifti2Image)
GZIP = b"\x1f\x8b"  # the first bytes of every gzip file
MAX_VOXELS = 2**31  # 8 GiB as float32: a larger claim is a broken header, and is refused before it is allocated
MM = {1: 1000.0, 3: 0.001}  # of a metre and a micrometre, NIfTI's codes of units; all else is taken for mm
UNITS = {1: "metres", 3: "micrometres"}
LEAST_MM, LARGEST_MM = 0.01, 100.0  # a voxel of other sizes makes one doubt that a header means its unit
DOUBT, DOUBT_MAP = "_doubt", "doubt"  # ends the name of a map of doubt, without its suffix; stands in its header
IN_DOUBT = 0.5  # voxels between sform and qform from which on the user is told
FORM_FIELDS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")  # of a header, without unit
FORM_FIELDS_MM = ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
BLOCK = 2**22  # bytes that are read at once
DEFLATE_RATIO = 1032  # no deflate stream holds more bytes for each of its own (RFC 1951: 258 bytes in 2 bits)
DAMAGED: Any = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
    isal_zlib.error,
    nib.spatialimages.HeaderDataError,
    nib.filebasedimages.ImageFileError,
)  # what nibabel and the readers of gzip raise for bytes that are not as they should be


@dataclass(frozen=True)
class Volume:
    """A scan: `array` float32 (depth, height, width), `affine` float64 (4, 4) in RAS+ mm, `meta` free facts.

    Facts that others rely on: "side", `SIDES` or absent, and "acquisition", see `acquisition.parameters`.
    """

    array: np.ndarray
    affine: np.ndarray
    meta: dict = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        depth, height, width = (int(n) for n in self.array.shape)
        return depth, height, width

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_of(self.affine)

    @property
    def axes(self) -> tuple[str, str, str]:
        """Return the direction in which each axis grows, for instance ("L", "P", "S")."""
        return nib.aff2axcodes(self.affine)


@dataclass(frozen=True)
class Placement:
    """Where a NIfTI header says that its voxels lie, once as sform and once as qform.

    Attributes:
        fields: what the header has of both: codes, quaternion, offsets and rows, and pixdim; lengths in mm.
        affine: (4, 4) voxels to RAS+ mm, of the form that counts.
        doubt: the end of a sentence about the scan where its place is in doubt: the two forms differ by more than half
            a voxel at a corner of the volume, neither counts, or the unit makes voxels of an unheard-of size. None
            where it is not.
    """

    fields: dict[str, np.ndarray]
    affine: np.ndarray
    doubt: str | None


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel size in mm along the three array axes of a (4, 4) affine."""
    depth, height, width = (float(s) for s in np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0)))
    return depth, height, width


def plane(array: np.ndarray, axis: int) -> np.ndarray:
    """Return the middle plane across `axis` as it is displayed; the array points to R, S, A.

    As radiologists do: superior up; anterior to the left in sagittal and up in axial planes; the patient's right on
    the left.
    """
    middle = np.take(array, array.shape[axis] // 2, axis)
    flipped = middle[::-1, ::-1]
    # sagittal (S, A): rows are height already; coronal (R, S) and axial (R, A) have it as their second axis
    return flipped if axis == 0 else flipped.T


def is_nifti(path: str | os.PathLike) -> bool:
    """Return whether the name ends as a NIfTI file's does."""
    return str(path).lower().endswith(SUFFIXES)


def is_scan(path: str | os.PathLike) -> bool:
    """Return whether the name ends as that of a file that `read` takes a volume from: NIfTI, or MetaImage (.mha)."""
    return is_nifti(path) or metaimage.is_metaimage(path)


def files_below(folder: str | os.PathLike) -> list[Path]:
    """Return the files below a folder from which `read` takes scans, in a fixed order; maps of doubt are no scans."""
    files = sorted((p for p in walk(folder) if is_scan(p)), key=lambda p: p.relative_to(folder).as_posix())
    scans = [path for path in files if not is_doubt_map(path)]
    if len(scans) < len(files):
        log.info("Maps of doubt in %s that are passed over: %d.", folder, len(files) - len(scans))
    return scans


def stem(path: str | os.PathLike) -> str:
    """Return the file's name without `.nii`, `.nii.gz` or `.mha`."""
    name = Path(path).name
    for suffix in reversed(SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(path).stem


def is_doubt_map(path: str | os.PathLike) -> bool:
    """Return whether name and header of a NIfTI file say that it is the map of doubt of a translation."""
    return stem(path).endswith(DOUBT) and descrip_of(path) == synthetic_descrip(DOUBT_MAP)


def is_synthetic(path: str | os.PathLike) -> bool:
    """Return whether the header of a NIfTI file says that it is a synthetic image, as `synthetic_descrip` has it."""
    return descrip_of(path).startswith(NOTICE.split(",")[0])


def descrip_of(path: str | os.PathLike) -> str:
    """Return what stands in a file's header; "" where it has none."""
    try:
        with _opened(Path(path)) as image:
            return image.header["descrip"].item().decode("ascii", "replace")
    except InputError:
        return ""


def read_header(path: str | os.PathLike, index: int | None = None) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the (depth, height, width) shape and affine of a scan's file, checked, without reading its voxels.

    Raises:
        InputError: see `read`.
    """
    path = Path(path)
    if metaimage.is_metaimage(path):
        return _metaimage_header(path, index)
    with _opened(path) as image:
        x, y, z = _checked_shape(path, image, index)[:3]
        return (x, y, z), _affine_mm(image)


def placement(path: str | os.PathLike) -> Placement | None:
    """Return both forms of a NIfTI file's header, for `write` and for a word where they leave its place in doubt.

    Returns:
        None for a MetaImage, which says its place once.

    Raises:
        InputError: see `read`.
    """
    if metaimage.is_metaimage(path):
        return None
    with _opened(Path(path)) as image:
        header, millimetres = image.header, _millimetres(image)
        fields = {key: np.array(header[key]) for key in FORM_FIELDS}
        fields |= {key: np.array(header[key]) * millimetres for key in FORM_FIELDS_MM}
        fields["pixdim"] = np.array(header["pixdim"][:4]) * [1.0, *[millimetres] * 3]  # the first is the qform's hand
        return Placement(fields, _affine_mm(image), _doubt_of_place(image))


def count(path: str | os.PathLike) -> int:
    """Return how many volumes a scan's file holds: 1, or the length of its 4-D series; from the header alone.

    Raises:
        InputError: see `read`.
    """
    if metaimage.is_metaimage(path):
        return 1
    with _opened(Path(path)) as image:
        return int(np.prod(image.shape[3:], dtype=np.int64))


def read(path: str | os.PathLike, index: int | None = None) -> Volume:
    """Read one 3-D volume from a file.

    Args:
        path: a `.nii` or `.nii.gz` file, or a `.mha` file with its voxels inside.
        index: which volume of a 4-D series to take (from 0); None accepts 3-D files only.

    Raises:
        InputError: the file is missing, truncated or of another kind; it is 4-D and no `index` was given; it has voxels
            that are not finite, or one constant value, or that are no real numbers; its spacing is not positive or its
            affine is singular.
    """
    path = Path(path)
    meta = {"path": str(path), **acquisition.beside(path, stem(path))}
    if metaimage.is_metaimage(path):
        _metaimage_header(path, index)
        return checked(Volume(*metaimage.read(path), meta), str(path))
    with _opened(path) as image:
        shape = _checked_shape(path, image, index)
        affine = _affine_mm(image)
        try:
            if len(shape) == 4:
                rest = (0,) * (len(image.shape) - 4)  # axes of length 1
                array = np.asarray(image.dataobj[(..., index, *rest)], np.float32)
            else:
                array = np.asarray(image.dataobj, np.float32)
            # to the end of a gzip stream, where its checksum is compared: of a 4-D file other volumes lie between
            while image.dataobj.file_like.read(BLOCK):  # type: ignore[attr-defined]
                pass
        except DAMAGED as error:
            raise InputError(f"{path} is truncated or damaged: {_damage(error)}.") from error
    array = array.reshape(shape[:3])
    return checked(Volume(array, affine, meta), str(path))


def checked(volume: Volume, name: str) -> Volume:
    """Return `volume` when its voxels are finite and not all the same; `InputError` naming `name` otherwise."""
    array = volume.array
    if not np.isfinite(array).all():
        count = int(np.size(array) - np.isfinite(array).sum())
        raise InputError(f"{name} has {count} voxels that are NaN or infinite; every voxel must be a finite number.")
    if array.min() == array.max():
        raise InputError(f"{name} is constant (every voxel is {float(array.min()):g}); a scan must vary.")
    return volume


def write(
    volume: Volume,
    path: str | os.PathLike,
    descrip: str = "",
    dtype: npt.DTypeLike = np.float32,
    placement: Placement | None = None,
) -> None:
    """Write a volume as NIfTI under a temporary name, then rename it.

    Args:
        volume: array and affine; integers are rounded and clipped to the range of `dtype`.
        path: must end in `.nii` or `.nii.gz`.
        descrip: what stands in the header, at most 79 characters; say there when an image is synthetic.
        dtype: type of the stored voxels.
        placement: of the scan on whose grid the volume lies; None: sform and qform are both `volume.affine`, of code 1.
    """
    if not is_nifti(path):
        raise InputError(f"{path} is not a NIfTI name; it must end in .nii or .nii.gz.")
    array = np.asarray(volume.array)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    image = nib.Nifti1Image(array.astype(dtype), volume.affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = descrip.encode("ascii", "replace")[:79]
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    if placement:
        if not np.allclose(placement.affine, volume.affine):
            raise ValueError(f"the volume lies at {volume.affine.tolist()}, its scan at {placement.affine.tolist()}")
        for key, value in placement.fields.items():
            if key == "pixdim":
                image.header[key][: len(value)] = value
            else:
                image.header[key] = value
    with replacing(path) as temporary:
        image.to_filename(temporary)


def synthetic_descrip(what: str) -> str:
    """Return the header text of every synthetic image: the notice comes first, since a header holds 79 characters."""
    return f"{NOTICE}, {what}"[:79]


def _metaimage_header(path: Path, index: int | None) -> tuple[tuple[int, int, int], np.ndarray]:
    shape, affine = metaimage.read_header(path)
    _check_size(path, shape)
    _check_index(path, index)
    return shape, affine


def _damage(error: Exception) -> str:
    """What is wrong with a file whose voxels cannot be read."""
    said = str(error)
    if "CRC" in said or "checksum" in said.lower() or "length check" in said:
        return "its content does not agree with its checksum (CRC)"
    if "Not a gzipped file" in said:
        return "something else follows its compressed content"
    return "it cannot be read to its end"


def _affine_mm(image: nib.Nifti1Image) -> np.ndarray:
    """The affine in mm, whatever unit the header has."""
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _millimetres(image)
    return affine


def _millimetres(image: nib.Nifti1Image) -> float:
    """How many of them the unit of a header's lengths has."""
    return MM.get(int(image.header["xyzt_units"]) & 7, 1.0)


def _doubt_of_place(image: nib.Nifti1Image) -> str | None:
    """See `Placement.doubt`."""
    header = image.header
    unit, spacing_mm = int(header["xyzt_units"]) & 7, np.asarray(image.header.get_zooms()[:3]) * _millimetres(image)
    if unit in UNITS and not (LEAST_MM <= spacing_mm.min() and spacing_mm.max() <= LARGEST_MM):
        return (
            f"says that its lengths are in {UNITS[unit]}, which makes voxels of {_numbers(spacing_mm)} mm; if "
            "millimetres are meant, its xyzt_units must be 2"
        )
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if not sform_code and not qform_code:
        return (
            "does not say where it lies (sform and qform have the code 0): its first axis is taken to grow to the "
            "patient's left, so left and right may be exchanged"
        )
    if not sform_code or not qform_code:
        return None
    try:
        sform, qform = header.get_sform(), header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return f"has a qform (code {qform_code}) that is no rotation; its sform (code {sform_code}) counts"
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in image.shape[:3]))])
    apart = (corners @ (qform - sform).T)[:, :3]
    voxels = np.abs(apart @ np.linalg.inv(sform[:3, :3]).T).max(axis=1)
    worst = int(np.argmax(voxels))
    if not voxels[worst] > IN_DOUBT:
        return None
    distance_mm = np.linalg.norm(apart[worst]) * _millimetres(image)
    return (
        f"lies at two places: its sform (code {sform_code}) and its qform (code {qform_code}) put a corner "
        f"{distance_mm:.3g} mm ({voxels[worst]:.3g} voxels) apart; the sform counts here, and other programs may take "
        "the qform"
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[nib.Nifti1Image]:
    """A NIfTI image whose header is sound and whose file is open; its voxels are not read yet."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder; a NIfTI file (.nii or .nii.gz) is needed.")
    if not is_nifti(path):
        raise InputError(f"{path} is not a NIfTI file; its name must end in .nii or .nii.gz.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file; a NIfTI file (.nii or .nii.gz) is needed.")
    compressed = path.suffix.lower() == ".gz"
    _check_suffix(path, compressed)
    try:
        # isal reads gzip two to three times faster than the standard library, and checks its checksums as well
        stream = igzip.open(path, "rb") if compressed else open(path, "rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    with stream:
        image = _image(path, stream)
        _check_size(path, image.shape)
        _check_bytes(path, image, status.st_size, compressed)
        yield image


def _check_suffix(path: Path, compressed: bool) -> None:
    """Refuse a file that is compressed, or not, against what its name says."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(nib.Nifti2Header.sizeof_hdr)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if head.startswith(GZIP) and not compressed:
        raise InputError(f"{path} is compressed, which its name does not say; rename it to .nii.gz.")
    if compressed and any(kind.header_class.may_contain_header(head) for kind in KINDS):
        raise InputError(f"{path} is not compressed, as its name says; rename it to .nii.")
    if compressed and head and not head.startswith(GZIP):
        raise InputError(f"{path} is no compressed NIfTI file: its first bytes are not those of a gzip file.")


def _image(path: Path, stream: Any) -> nib.Nifti1Image:
    try:
        head = stream.read(nib.Nifti2Header.sizeof_hdr)
    except DAMAGED as error:
        raise InputError(f"{path} is truncated or damaged: {_damage(error)}.") from error
    if len(head) < nib.Nifti1Header.sizeof_hdr:
        raise InputError(f"{path} is truncated: it holds {len(head)} bytes and a NIfTI header has 348.")
    try:
        for kind in KINDS:
            if kind.header_class.may_contain_header(head):
                _check_scale(path, kind.header_class(head[: kind.header_class.sizeof_hdr], check=False))
                image = kind.from_file_map({"image": nib.FileHolder(fileobj=stream)})
                break
        else:
            raise InputError(f"{path} is not a NIfTI file: its first bytes are not those of a NIfTI header.")
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path} is not a NIfTI file that can be read: its header is damaged.") from error
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(f"{path} has voxels of the type {dtype}; allowed are whole and real numbers.")
    # as the file has it: nibabel mends the header that it keeps
    raw = image.header_class(head[: image.header.sizeof_hdr], check=False)
    zooms = np.asarray(raw["pixdim"][1:4], np.float64)
    if not (np.isfinite(zooms) & (zooms > 0)).all():
        unit = UNITS.get(int(raw["xyzt_units"]) & 7, "mm")
        raise InputError(f"{path} has the spacing {_numbers(zooms)} {unit}; every value must be positive.")
    affine = np.asarray(image.affine, np.float64)
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)) if np.isfinite(affine).all() else np.zeros(3)
    if lengths.min() <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-4 * lengths.prod():
        raise InputError(
            f"{path} has a singular affine {np.round(affine[:3, :3], 4).tolist()}; "
            "its three axes must be independent and finite."
        )
    return image


def _check_scale(path: Path, header: nib.Nifti1Header) -> None:
    slope, intercept = (float(header[key]) for key in ("scl_slope", "scl_inter"))
    in_use = np.isfinite(slope) and slope != 0  # else voxels are as they are stored (NIfTI-1, "data scaling")
    if np.isinf(slope) or np.isinf(intercept) or (in_use and np.isnan(intercept)):
        raise InputError(
            f"{path} has the slope {slope:g} and the intercept {intercept:g}; both must be finite numbers."
        )


def _check_size(path: Path, shape: Sequence[int]) -> None:
    """Refuse a header that claims more voxels than are allowed."""
    if np.prod([float(n) for n in shape[:3]]) > MAX_VOXELS:
        claimed = "x".join(map(str, shape))
        raise InputError(f"{path} claims {claimed} voxels; at most {MAX_VOXELS} in one volume are allowed.")


def _check_bytes(path: Path, image: nib.Nifti1Image, size: int, compressed: bool) -> None:
    """Refuse a header that claims more voxels than a file of `size` bytes can hold."""
    shape = "x".join(map(str, image.shape))
    offset, itemsize = float(image.dataobj.offset), image.get_data_dtype().itemsize  # type: ignore[attr-defined]
    claimed = offset + itemsize * np.prod([float(n) for n in image.shape])
    if not claimed <= size * (DEFLATE_RATIO if compressed else 1):
        raise InputError(
            f"{path} is truncated or damaged: its header claims {shape} voxels of {itemsize} bytes from byte "
            f"{offset:g} on, and the file has {size} bytes."
        )


def _checked_shape(path: Path, image: nib.Nifti1Image, index: int | None) -> tuple[int, ...]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4 or len(shape) < 3 or min(shape) < 1:
        raise InputError(f"{path} has the shape {'x'.join(map(str, shape))}; a 3-D volume is needed.")
    if len(shape) == 4:
        if index is None:
            raise InputError(
                f"{path} is 4-D ({'x'.join(map(str, shape))}); choose one of its {shape[3]} volumes with "
                f"--volume 0 to {shape[3] - 1}."
            )
        if not 0 <= index < shape[3]:
            raise InputError(f"{path} has no volume {index}; allowed are 0 to {shape[3] - 1}.")
    else:
        _check_index(path, index)
    return shape


def _check_index(path: Path, index: int | None) -> None:
    """Refuse any but the first volume of a 3-D file."""
    if index not in (None, 0):
        raise InputError(f"{path} is 3-D and has no volume {index}; leave --volume out.")


def _numbers(values: Iterable[float]) -> str:
    return " x ".join(f"{float(v):g}" for v in values)
