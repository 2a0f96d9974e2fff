"""Small scans for tests: sound ones, and one of each kind of broken file with the sentence it deserves."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own habit
from scipy import ndimage

SHAPE = (10, 12, 14)
AFFINE = np.array([[3.0, 0, 0, -15], [0, 0, 1.5, -10], [0, 2.0, 0, -12], [0, 0, 0, 1]])  # axes R, S, A


def voxels(seed: int = 0, shape=SHAPE) -> np.ndarray:
    """A smooth random scan of int16 around 1000."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (field / field.std() * 200 + 1000).astype(np.int16)


def save(path, array=None, affine=AFFINE) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels() if array is None else array, affine), path)
    return path


def save_domain(folder, subjects, gain=1, shape=SHAPE) -> Path:
    """A folder with `sub-<name>.nii.gz` for each name; the anatomy is the subject's, the contrast the gain's."""
    for subject in subjects:
        array = voxels(int.from_bytes(subject.encode(), "big") % 2**32, shape)
        # no multiple of the other contrast: scaled to [-1, 1] it would be the same scan
        save(Path(folder) / f"sub-{subject}.nii.gz", array * gain + (gain - 1) * (array // 100) ** 2)
    return Path(folder)


def save_domains(folder, subjects):
    """Both contrasts of the same subjects, as `build` takes them."""
    folder = Path(folder)
    return ("ciss", save_domain(folder / "ciss", subjects)), ("dess", save_domain(folder / "dess", subjects, gain=3))


def _with(value):
    def write(path):
        array = voxels().astype(np.float32)
        array[2, 3, 4] = value
        save(path, array)

    return write


def _header(change):
    """A sound file whose 348 bytes of header are changed by `change(header)`."""

    def write(path):
        data = save(path).read_bytes()
        raw = bytearray(gzip.decompress(data))
        header = np.frombuffer(raw, nib.nifti1.header_dtype, 1)
        change(header[0])
        Path(path).write_bytes(gzip.compress(bytes(raw)))

    return write


def _set(key, index, value):
    def change(header):
        header[key][index] = value

    return _header(change)


def _no_affine_axis(header):
    header["srow_z"] = 0
    header["sform_code"] = 1


def _nan_affine(header):
    header["srow_x"][0] = np.nan
    header["sform_code"] = 1


def _gigantic(header):
    header["dim"][1:4] = 32767


def _unknown_type(header):
    header["datatype"] = 9999


def _truncated(path):
    data = save(path, voxels(shape=(32, 32, 32))).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


def _short_data(path):
    data = gzip.decompress(save(path).read_bytes())
    Path(path).write_bytes(gzip.compress(data[:-100]))


def _lies(**changes):
    """A sound file with fields of its header set to the given values."""

    def change(header):
        for key, value in changes.items():
            header[key] = value

    return _header(change)


def _flip_last_bytes(path):
    """The checksum at the end of the gzip stream is wrong."""
    data = bytearray(save(path).read_bytes())
    data[-8] ^= 1
    Path(path).write_bytes(data)


def _flip_middle(path):
    data = bytearray(save(path, voxels(shape=(24, 24, 24))).read_bytes())
    data[len(data) // 2] ^= 255
    Path(path).write_bytes(data)


def _garbage_after(path):
    Path(path).write_bytes(save(path).read_bytes() + b"and then some more")


def _of_type(dtype):
    def write(path):
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), AFFINE), path)

    return write


# kind: (writes the file, what the sentence says)
BROKEN = {
    "truncated": (_truncated, "truncated or damaged"),
    "truncated inside gzip": (_short_data, "truncated or damaged"),
    "empty file": (lambda path: path.write_bytes(b""), "truncated: it holds 0 bytes"),
    "only a header's start": (lambda path: path.write_bytes(gzip.compress(b"\0" * 100)), "truncated: it holds 100"),
    "text": (lambda path: path.write_text("this is no scan\n" * 50), "its first bytes are not those of a gzip file"),
    "compressed text": (lambda path: path.write_bytes(gzip.compress(b"no scan " * 100)), "is not a NIfTI file"),
    "a PNG": (
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(600)),
        "its first bytes are not those of a gzip file",
    ),
    "4-D": (lambda path: save(path, np.stack([voxels(0), voxels(1)], -1)), "4-D .*its 2 volumes.*--volume 0 to 1"),
    "2-D": (lambda path: save(path, voxels()[0]), "a 3-D volume is needed"),
    "NaN": (_with(np.nan), "1 voxels that are NaN or infinite"),
    "infinite": (_with(np.inf), "1 voxels that are NaN or infinite"),
    "constant": (lambda path: save(path, np.full(SHAPE, 7, np.int16)), r"constant \(every voxel is 7\)"),
    "zero spacing": (_set("pixdim", 2, 0), "spacing 3 x 0 x 1.5 mm; every value must be positive"),
    "negative spacing": (_set("pixdim", 2, -2), "spacing 3 x -2 x 1.5 mm; every value must be positive"),
    "NaN spacing": (_set("pixdim", 2, np.nan), "spacing 3 x nan x 1.5 mm; every value must be positive"),
    "singular affine": (_header(_no_affine_axis), "singular affine"),
    "NaN affine": (_header(_nan_affine), "singular affine"),
    "gigantic": (_header(_gigantic), "claims 32767x32767x32767 voxels; at most"),
    "negative dimension": (_set("dim", 1, -5), "(NIfTI|3-D volume is needed)"),
    "unknown data type": (_header(_unknown_type), "is not a NIfTI file"),
    "wrong magic": (_lies(magic=b"xyz"), "is not a NIfTI file: its first bytes"),
    "header size": (_lies(sizeof_hdr=999, magic=b"abc"), "is not a NIfTI file"),
    "5-D": (_lies(dim=[5, 5, 12, 7, 2, 2, 1, 1]), "has the shape 5x12x7x2x2; a 3-D volume is needed"),
    "an axis of nothing": (_lies(dim=[3, 10, 0, 14, 1, 1, 1, 1]), "has the shape 10x0x14; a 3-D volume is needed"),
    "more dimensions than there are": (_lies(dim=[9, 10, 12, 14, 1, 1, 1, 1]), "is not a NIfTI file"),
    "voxels beyond the file": (_lies(vox_offset=1e6), "truncated or damaged"),
    "voxels far beyond the file": (_lies(vox_offset=1e30), "truncated or damaged: its header claims 10x12x14 voxels"),
    "an offset that is no number": (_lies(vox_offset=np.nan), "(truncated or damaged|is not a NIfTI file)"),
    "2 GB in 3 kB": (_lies(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1]), "claims 1000x1000x1000 voxels of 2 bytes"),
    "wrong checksum": (_flip_last_bytes, "truncated or damaged: .* its checksum .CRC"),
    "a damaged stream": (
        _flip_middle,
        "truncated or damaged: (it cannot be read|its content does not)",
    ),
    "not compressed": (
        lambda path: path.write_bytes(gzip.decompress(save(path).read_bytes())),
        "rename it to .nii",
    ),
    "garbage behind the stream": (
        _garbage_after,
        "damaged: something else follows its compressed content",
    ),
    "complex": (_of_type(np.complex64), "voxels of the type complex64; allowed are whole and real numbers"),
    "colours": (_of_type([("R", "u1"), ("G", "u1"), ("B", "u1")]), "voxels of the type .*; allowed are whole and real"),
    "a slope beyond float32": (_lies(scl_slope=3e38), "NaN or infinite"),
    "an infinite slope": (_lies(scl_slope=np.inf), "slope inf and the intercept .*; both must be finite"),
}


def save_forms(path, qform, sform, codes, array=None, unit="mm") -> Path:
    """A scan whose header has these two forms with the codes (qform, sform)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels() if array is None else array, AFFINE)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def save_mha(path, array, affine=AFFINE, compressed=True) -> Path:
    """A MetaImage with these voxels, whose affine is in RAS+ mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing_mm.tolist())
    image.SetDirection((lps[:3, :3] / spacing_mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), compressed)
    return path
