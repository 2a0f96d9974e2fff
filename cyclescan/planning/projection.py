"""A bone out of a CT, and its X-ray image: fast for the search, and exact for what is shown.

The search asks for thousands of images. `Cloud` moves the voxels of one bone through the pinhole and adds each to the
pixel that it falls on: some milliseconds. plastimatch traces rays exactly (Siddon 1985), but every image of it starts a
program, which alone takes longer than the cloud; it draws what is shown and checks the cloud.
"""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.planning import FLIP
from cyclescan.planning.xray import View

SOFT_HU = 50.0  # muscle: what a bone displaces, and what the X-ray has beside it
END_MM = 12.0  # over which a bone fades where the scan ends: the X-ray has no edge there


@dataclasses.dataclass(frozen=True)
class Bone:
    """One bone: `density` float32 on the grid of the scan, in units of water above soft tissue; 0 elsewhere."""

    density: np.ndarray
    affine: np.ndarray  # voxels to LPS mm


def bone_of(values: np.ndarray, mask: np.ndarray, affine_ras: np.ndarray) -> Bone:
    """Cut a bone out of a CT.

    Args:
        values: Hounsfield units.
        mask: bool, of the same shape.
        affine_ras: (4, 4) of both, as in NIfTI.
    """
    excess = np.clip(values - SOFT_HU, 0, None).astype(np.float32) / 1000
    return Bone(excess * mask * _fading(mask, affine_ras), FLIP @ affine_ras)


def _fading(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """1 inside and falling to 0 at those faces of the scan that cut the bone."""
    weight = np.ones(mask.shape, np.float32)
    spacing_mm = np.sqrt((affine[:3, :3] ** 2).sum(0))
    for axis, (size, step) in enumerate(zip(mask.shape, spacing_mm, strict=True)):
        to_low = np.arange(size) * step
        for distance, end in ((to_low, 0), (to_low[::-1], size - 1)):
            if np.take(mask, end, axis).any():
                ramp = np.clip(distance / END_MM, 0, 1).astype(np.float32)
                weight *= ramp.reshape([-1 if i == axis else 1 for i in range(3)])
    return weight


def coarser(bone: Bone, factor: int) -> Bone:
    """Return means over blocks of `factor` voxels along each axis; beyond the ends it is empty for the mean."""
    pads = [(0, -n % factor) for n in bone.density.shape]
    padded = np.pad(bone.density, pads)
    blocks = padded.reshape([k for n in padded.shape for k in (n // factor, factor)])
    affine = bone.affine.copy()
    affine[:3, 3] += affine[:3, :3].sum(1) * (factor - 1) / 2
    affine[:3, :3] *= factor
    return Bone(blocks.mean((1, 3, 5)), affine)


class Cloud:
    """The voxels of a bone as points with a mass.

    Attributes:
        points: float32 (3, n), LPS mm of the scan.
        masses: float32 (n,), density times volume, mm^3.
    """

    def __init__(self, bone: Bone, step_mm: float = np.inf) -> None:
        """Voxels longer than `step_mm` along an axis become as many points as keep below it.

        With voxels longer than the pixels are wide (at the bone), columns of voxels that a ray looks along show as
        stripes, and a search turns the bone away from them.
        """
        index = np.argwhere(bone.density > 0)
        masses = bone.density[bone.density > 0]
        for axis, length in enumerate(np.sqrt((bone.affine[:3, :3] ** 2).sum(0))):
            parts = max(1, int(np.ceil(length / step_mm)))
            offsets = (np.arange(parts) - (parts - 1) / 2) / parts
            index = (index[None] + offsets[:, None, None] * np.eye(3)[axis]).reshape(-1, 3)
            masses = np.tile(masses / parts, parts)
        points = index @ bone.affine[:3, :3].T + bone.affine[:3, 3]
        self.points = np.ascontiguousarray(points.T, np.float32)
        self.masses = (masses * abs(np.linalg.det(bone.affine[:3, :3]))).astype(np.float32)

    def image(self, view: View, pose: np.ndarray) -> np.ndarray:
        """Return the line integrals of the bone at a pose, float32 (rows, columns), density times mm.

        A point goes to the nearest quarter of a pixel; quarters are added up, and what falls outside is left out. What
        a point of mass m adds to a pixel is m over the area that the pixel has at the depth of the point; the cosine of
        the ray's angle to the axis is left out (1 % at 8 degrees).
        """
        matrix = (view.refined(2).matrix @ pose).astype(np.float32)
        columns, rows = (2 * n for n in view.size)
        u, v, depth = matrix[:, :3] @ self.points + matrix[:, 3:]
        # points at or behind the source are far outside, not mirrored into the picture
        nearness = 1 / np.maximum(depth, np.float32(1e-6))
        # a rim of one quarter pixel catches what is outside, which is cheaper than choosing points
        u = np.clip(u * nearness + np.float32(1.5), 0, columns + 1).astype(np.int32)
        v = np.clip(v * nearness + np.float32(1.5), 0, rows + 1).astype(np.int32)
        v *= columns + 2
        v += u
        sums = np.bincount(v, self.masses * nearness * nearness, (rows + 2) * (columns + 2)).astype(np.float32)
        quarters = sums.reshape(rows + 2, columns + 2)[1:-1, 1:-1]
        lines = quarters[::2] + quarters[1::2]
        return (lines[:, ::2] + lines[:, 1::2]) / np.float32(view.pixel_mm[0] * view.pixel_mm[1])


def traced(bone: Bone, view: View, pose: np.ndarray) -> np.ndarray:
    """Compute what `Cloud.image` does, float32, by exact ray tracing with plastimatch.

    Raises:
        InputError: plastimatch is not installed.
        RuntimeError: it failed.
    """
    density, frame, steps = _straight(bone)
    camera = view.seen_from(pose @ frame)
    # plastimatch looks from the source at the patient, so its columns run the other way; its help calls columns rows
    columns, rows = view.size
    sid_mm, forward = camera.sid_mm, camera.forward
    foot = View.project(camera, camera.source + forward)
    middle = camera.source + forward * sid_mm / 2
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "bone.mha"), Path(folder, "drr")
        _write_mha(density, steps, given)
        call = [_program(), "drr", "-A", "cpu", "-P", "none", "-i", "exact", "-t", "raw", "-I", given, "-O", made]
        call += [f"--nrm={_text(-forward)}", f"--vup={_text(-camera.row)}", f"--isocenter={_text(middle)}"]
        call += ["--sad", f"{sid_mm / 2:.9g}", "--sid", f"{sid_mm:.9g}", "-r", f"{columns} {rows}"]
        call += ["-z", _text([columns * view.pixel_mm[0], rows * view.pixel_mm[1]])]
        call += ["-c", _text([columns - 1 - foot[0], foot[1]])]
        done = subprocess.run([str(part) for part in call], capture_output=True, text=True, check=False)
        result = Path(folder, "drr0000.raw")
        if done.returncode or not result.exists():
            raise RuntimeError(f"plastimatch drr failed: {done.stderr or done.stdout}")
        image = np.fromfile(result, "<f4").reshape(rows, columns)
    return image[:, ::-1] * np.float32(10)  # its lengths are cm


def _program() -> str:
    try:
        import plastimatch
    except ImportError:
        raise InputError("plastimatch is not installed; install cyclescan[plan].") from None
    return str(Path(plastimatch.__file__).parent / "bin" / "plastimatch")


def _straight(bone: Bone) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density on a grid along x, y and z of a frame of its own, that frame (4, 4) in LPS, and the steps in mm.

    plastimatch does not turn with the axes of a grid, and turns are no mirrors: a left-handed grid is flipped.
    """
    density, affine = bone.density, bone.affine.copy()
    if np.linalg.det(affine[:3, :3]) < 0:
        density = density[::-1]
        affine[:3, 3] += affine[:3, 0] * (density.shape[0] - 1)
        affine[:3, 0] *= -1
    steps = np.sqrt((affine[:3, :3] ** 2).sum(0))
    affine[:3, :3] /= steps
    return density, affine, steps


def _write_mha(density: np.ndarray, steps: np.ndarray, path: Path) -> None:
    """MetaImage with its origin in the first voxel; x is the first axis of the array."""
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": _text(steps),
        "DimSize": " ".join(map(str, density.shape)),
        "ElementType": "MET_FLOAT",
        "ElementDataFile": "LOCAL",
    }
    lines = "".join(f"{key} = {value}\n" for key, value in header.items())
    path.write_bytes(lines.encode() + density.astype("<f4").tobytes(order="F"))


def _text(values) -> str:
    return " ".join(f"{v:.9g}" for v in np.asarray(values).tolist())
