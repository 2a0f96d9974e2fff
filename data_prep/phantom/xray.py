"""X-rays of the digital knee with their truth: what `cyclescan.plan` has to find.

The bones are painted again on a grid finer than any scan's and further up and down than the scan, so that no bone ends
in the picture. Femur and patella move as one, tibia and fibula as another; the femur is flexed against the tibia more
than in the scan. Line integrals are marched through trilinear interpolation, with a step below the grid's. Four
energies give beam hardening; scatter adds a smooth offset; focal spot and detector blur; photons are counted (Poisson).
A drill lies in the picture that the scan does not have.

Frames: the room has the patient's axes (LPS, mm) and the isocentre of the C-arm as its origin; a pose maps the scan's
LPS to it. The geometry of the C-arm is DICOM's (PS3.3 C.8.7.5). Attenuation after the NIST tables of Hubbell and
Seltzer for water, cortical bone and iron, rounded.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cyclescan.common.command import progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, replacing, states, write_json
from cyclescan.scans.volume import Volume, write
from data_prep.parallel import processes
from data_prep.phantom import DESCRIP, affine_of, anatomy, checked_grid, draw_subject, makes, streams_of
from data_prep.phantom.signals import TRABECULAR_HU, Tissue

Mapping3 = Callable[[np.ndarray], np.ndarray]  # points (..., 3) of the room to the scan
NOTICE = "synthetic, for research, not for navigation"
SID_MM, SOD_MM = 1000.0, 700.0
VIEWS = {"ap": 0.0, "lateral": 90.0}  # the positioner's primary angle in degrees: detector in front, and to the left
BONES_MM, LIMB_MM = (100.0, 192.0, 129.0), (135.0, 200.0, 190.0)  # right, up, front: reach of the two grids
BONES = {"femur": ("femur", "patella"), "tibia": ("tibia", "fibula")}  # what moves together
HINGE = (0.0, 12.0, -8.0)  # the middle of the condyles, about which the knee of `anatomy` bends
# keV: share of the photons, 1/cm of water; of dense bone above water, over its value at 70 keV, where HU are given
SPECTRUM = {40: (0.25, 0.268, 3.26), 60: (0.40, 0.206, 1.29), 80: (0.25, 0.184, 0.79), 100: (0.10, 0.171, 0.60)}
STEEL_PER_CM = {40: 28.0, 60: 9.5, 80: 4.7, 100: 2.9}
WATER_70_PER_CM = 0.193
PHOTONS, SCATTER, SCATTER_PIXELS, BLUR_PIXELS = 2e4, 0.15, 25.0, 0.7
FULL_SCALE = 6.0  # of the logarithm, in 12 bits
DRILL_RADIUS_MM, DRILL_DEPTH_MM, DRILL_LENGTH_MM = 2.0, 10.0, 110.0
# lines and landmarks in the knee's coordinates: lateral, superior, anterior in mm
LINES = {
    "femoral tunnel": ("femur", ((35.0, 31.0, -2.0), (9.5, 13.0, -17.0))),
    "tibial tunnel": ("tibia", ((-15.0, -58.0, 15.0), (-0.5, -15.0, 8.0))),
    "core decompression": ("femur", ((-37.0, 24.0, -6.0), (-22.0, 3.0, 2.0))),
}
LANDMARKS = {
    "femur": {
        "medial epicondyle": (-39.0, 15.0, -9.0),
        "lateral epicondyle": (39.0, 15.0, -9.0),
        "medial condyle, lowest": (-21.5, -10.0, -6.0),
        "lateral condyle, lowest": (21.5, -10.0, -6.0),
        "trochlea, upper rim": (0.0, 33.0, 20.0),
        "medial condyle, rearmost": (-21.5, 11.0, -34.0),
    },
    "tibia": {
        "medial rim of the plateau": (-37.0, -20.0, -2.0),
        "lateral rim of the plateau": (37.0, -20.0, -2.0),
        "tuberosity": (1.0, -45.0, 22.0),
        "medial spine": (-4.5, -9.0, -3.0),
        "lateral spine": (5.0, -10.0, -5.0),
        "head of the fibula": (34.0, -24.0, -18.0),
    },
}
CLICK_PIXELS, CLICK_MM = 1.0, 0.7  # standard deviations of a landmark's place on an X-ray and in the scan


@dataclasses.dataclass(frozen=True)
class Device:
    """The detector and the grids behind it.

    Attributes:
        pixels, pixel_mm: of the square detector.
        bone_mm: spacing of the grid of the bones, right, up, front: finer than that of any scan.
        soft_mm: of that of the soft tissue.
        step_mm: along a ray through bone; through soft tissue it is as much as its spacing.
    """

    pixels: int = 256
    pixel_mm: float = 0.8
    bone_mm: tuple[float, float, float] = (1.0, 0.75, 0.75)
    soft_mm: tuple[float, float, float] = (2.5, 2.5, 2.5)
    step_mm: float = 0.7

    def rays(self, angle_deg: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the source (3,) and the pixels (rows, columns, 3) of the view at a primary angle, LPS mm."""
        source, middle, right, down = _c_arm(angle_deg)
        steps = (np.arange(self.pixels) - (self.pixels - 1) / 2) * self.pixel_mm
        return source, middle + steps[:, None, None] * down + steps[None, :, None] * right

    def project(self, angle_deg: float, points: np.ndarray) -> np.ndarray:
        """Take points (..., 3) of the room to pixels (column, row) of the view at a primary angle."""
        source, middle, right, down = _c_arm(angle_deg)
        forward = (middle - source) / SID_MM
        rays = np.asarray(points) - source
        on_detector = rays * (SID_MM / (rays @ forward))[..., None]
        return np.stack([on_detector @ right, on_detector @ down], -1) / self.pixel_mm + (self.pixels - 1) / 2


DEVICE = Device()


@dataclasses.dataclass(frozen=True)
class Radiographs:
    """The X-rays of one knee and all that is true of them.

    Attributes:
        images: by view, float32 (rows, columns): minus the logarithm of the transmitted share of the photons.
        masks: of "femur" and "tibia" on the grid of the scan, bool (sagittal slices, height, width).
        affine: (4, 4) of that grid, voxels to RAS+ mm.
        poses: of "femur" and "tibia", (4, 4), LPS of the scan to LPS of the room.
        lines: by name its bone and its (2, 3) end points, LPS of the scan.
        landmarks: by bone and name the (3,) true point, LPS of the scan.
        flexion_deg: of the femur against the tibia, beyond that of the scan.
    """

    images: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    affine: np.ndarray
    poses: dict[str, np.ndarray]
    lines: dict[str, tuple[str, np.ndarray]]
    landmarks: dict[str, dict[str, np.ndarray]]
    flexion_deg: float


def make_xrays(
    seed: int,
    shape: Sequence[int],
    spacing_mm: Sequence[float] | None = None,
    index: int = 0,
    device: Device = DEVICE,
) -> Radiographs:
    """Return X-rays of the knee of make A that `make_subject` scans with the same arguments.

    Raises:
        InputError: the shape or spacing is not allowed.
    """
    shape, spacing_mm = checked_grid(shape, spacing_mm, makes.A)
    affine = affine_of(shape, spacing_mm)
    for_drawing, for_knee, *_ = streams_of(seed, index)
    again = streams_of(seed, index)[1]  # in the same state: soft tissue and bones get the same warp
    knee, _, table = draw_subject(for_drawing, makes.A)
    rng = np.random.default_rng([seed, index, 24])
    poses, flexion_deg = _draw_poses(knee, rng)
    lines = {name: (bone, _lps(knee, points, bone)) for name, (bone, points) in LINES.items()}
    landmarks = {
        bone: {name: _lps(knee, point, bone) for name, point in points.items()} for bone, points in LANDMARKS.items()
    }
    grid = tuple(round(mm / step) for mm, step in zip(BONES_MM, device.bone_mm, strict=True))
    bones = anatomy.build_bones(knee, grid, device.bone_mm, for_knee)
    masks = {bone: _mask(bones[bone], device.bone_mm, affine, shape) for bone in BONES}
    solids = [
        (_Solid.of(_bone_excess([bones[name] for name in names], table, knee), device.bone_mm), poses[bone])
        for bone, names in BONES.items()
    ]
    del bones
    grid = tuple(round(mm / step) for mm, step in zip(LIMB_MM, device.soft_mm, strict=True))
    fractions = anatomy.build(knee, grid, device.soft_mm, again).fractions
    soft = _Solid.of(_soft_density(fractions, table), device.soft_mm), _bending(poses, _height(knee))
    drill = _Drill.along(moved(poses["femur"], lines["femoral tunnel"][1]))
    images = {}
    for view, angle_deg in VIEWS.items():
        rays = device.rays(angle_deg)
        water = soft[0].integral(soft[1], *rays, max(device.soft_mm))
        bone = sum(solid.straight_integral(pose, *rays, device.step_mm) for solid, pose in solids)
        images[view] = _expose(water, bone, drill.chord(*rays), rng)
    return Radiographs(images, masks, affine, poses, lines, landmarks, flexion_deg)


def write_xrays(
    out: Path, subjects: Sequence[str], shape, spacing_mm, seed: int, workers: int = 1, device: Device = DEVICE
) -> None:
    """Write OUT/xray/sub-0001/{ap.dcm, lateral.dcm, plan.mrk.json, femur.nii.gz, tibia.nii.gz, truth.json, ...}.

    `landmarks-femur.json` and `landmarks-tibia.json` are what somebody would click, a little off.
    """
    for name in subjects:
        refuse_foreign_folder(out / "xray" / name)
    tasks = [(out / "xray" / name, index) for index, name in enumerate(subjects)]
    task = functools.partial(_write_subject, tuple(shape), spacing_mm, seed, device)
    with processes(min(workers, len(subjects))) as starmap:
        for _ in progress(starmap(task, tasks), total=len(tasks), unit="X-rays"):
            pass


def refuse_foreign_folder(folder: Path) -> None:
    """Refuse a folder with files in it whose truth.json, if there is one, is not ours."""
    if folder.is_dir() and any(folder.iterdir()) and not states(folder / "truth.json", "pose_lps", "flexion_deg"):
        raise InputError(f"The output {folder} holds files that are no X-rays of digital knees; choose another folder.")


def moved(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Take points (..., 3) through a (4, 4) matrix."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def _c_arm(angle_deg: float):
    """Source, middle of the detector, and unit vectors along its rows (to the right) and columns (down)."""
    angle = np.deg2rad(angle_deg)
    forward = np.array([np.sin(angle), -np.cos(angle), 0.0])
    right = np.array([np.cos(angle), np.sin(angle), 0.0])
    return -SOD_MM * forward, (SID_MM - SOD_MM) * forward, right, np.array([0.0, 0.0, -1.0])


def _lps(knee: anatomy.Anatomy, points, bone: str) -> np.ndarray:
    right, up, front = np.moveaxis(anatomy.positions_mm(knee, points, thigh=bone == "femur"), -1, 0)
    return np.stack([-right, -front, up], -1)


def _height(knee: anatomy.Anatomy) -> float:
    """Of the joint in the scan, mm: above it soft tissue moves with the thigh."""
    return float(_lps(knee, (0.0, -8.0, 0.0), "tibia")[2])


def _draw_poses(knee: anatomy.Anatomy, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], float]:
    """Where the leg lies in the room, and the femur bent about the middle of its condyles."""
    leg = np.eye(4)
    leg[:3, :3] = Rotation.from_rotvec(np.clip(rng.normal(0, 3, 3), -6, 6), degrees=True).as_matrix()
    leg[:3, 3] = np.clip(rng.normal(0, 4, 3), -8, 8)
    flexion_deg = float(rng.uniform(4, 14))
    hinge = _lps(knee, HINGE, "tibia")
    bend = np.eye(4)
    # about the patient's left, so that what is up goes back; and a little about the other axes, as knees do
    turn = np.array([-flexion_deg, *np.clip(rng.normal(0, 1.0, 2), -2, 2)])
    bend[:3, :3] = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    bend[:3, 3] = hinge - bend[:3, :3] @ hinge
    return {"femur": leg @ bend, "tibia": leg}, flexion_deg


def _bone_excess(bones: list[dict[str, np.ndarray]], table: dict[str, Tissue], knee: anatomy.Anatomy) -> np.ndarray:
    """HU / 1000 above muscle, which fills the place of bones in the soft tissue."""
    total = np.float32(0)
    for fractions in bones:
        for name, fraction in fractions.items():
            if name != "air":
                trabecular = TRABECULAR_HU * knee.bone_volume if name == "marrow_epiphysis" else 0.0
                total = total + fraction * np.float32((table[name].hu + trabecular - table["muscle"].hu) / 1000)
    return total


def _soft_density(fractions: dict[str, np.ndarray], table: dict[str, Tissue]) -> np.ndarray:
    """Relative to water, bones filled with muscle."""
    total = np.float32(0)
    for name, fraction in fractions.items():
        bony = name.startswith("marrow") or name == "cortical_bone"
        total = total + fraction * np.float32(1 + table["muscle" if bony else name].hu / 1000)
    return total


def _mask(fractions: dict[str, np.ndarray], fine_mm, affine: np.ndarray, shape) -> np.ndarray:
    """Voxels of the scan of which more than half is bone, as the fine grid has it."""
    solid = sum(fraction for name, fraction in fractions.items() if name != "air")
    spacing_mm = (affine[0, 0], affine[2, 1], affine[1, 2])
    # the mean over a voxel of the scan, read at its middle
    mean = ndimage.uniform_filter(solid, [max(1, round(s / f)) for s, f in zip(spacing_mm, fine_mm, strict=True)])
    places = [
        ((np.arange(n) - (n - 1) / 2) * s) / f + (m - 1) / 2
        for n, s, f, m in zip(shape, spacing_mm, fine_mm, solid.shape, strict=True)
    ]
    return ndimage.map_coordinates(mean, np.meshgrid(*places, indexing="ij"), order=1) > 0.5


@dataclasses.dataclass(frozen=True)
class _Solid:
    """A density on a grid along right, up and front, cut to what is not empty.

    Attributes:
        density: float32, with a rim of zeros.
        to_index: (4, 4), LPS mm of the scan to voxels.
    """

    density: np.ndarray
    to_index: np.ndarray

    @classmethod
    def of(cls, density: np.ndarray, spacing_mm) -> _Solid:
        box = ndimage.find_objects((density != 0).astype(np.uint8))[0]
        to_index = np.diag([0.0, 0.0, 0.0, 1.0])
        for axis, (column, sign) in enumerate(((0, -1), (2, 1), (1, -1))):
            to_index[axis, column] = sign / spacing_mm[axis]
        to_index[:3, 3] = (np.array(density.shape) - 1) / 2 - [s.start for s in box] + 1
        return cls(np.pad(density[box], 1), to_index)

    def straight_integral(self, pose: np.ndarray, source: np.ndarray, targets: np.ndarray, step_mm: float):
        """Return, along the rays from `source` (3,) to `targets` (..., 3) through the solid at a pose, density times
        cm.
        """
        to_index = self.to_index @ np.linalg.inv(pose)
        start, ray = moved(to_index, source), (targets - source) @ to_index[:3, :3].T
        # where each ray, of which 0 is the source and 1 the pixel, enters and leaves the grid
        nonzero = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
        faces = np.sort(np.stack([-start / nonzero, (np.array(self.density.shape) - 1 - start) / nonzero]), axis=0)
        enters, leaves = faces[0].max(-1), faces[1].min(-1)
        hit = leaves > enters
        enters, leaves, ray = enters[hit], leaves[hit], ray[hit].T
        length_mm = np.linalg.norm(targets - source, axis=-1)[hit] * (leaves - enters)
        steps = int(np.ceil(length_mm.max() / step_mm))
        total = np.zeros(hit.sum())
        for number in range(steps):
            along = enters + (leaves - enters) * ((number + 0.5) / steps)
            places = [s + along * r for s, r in zip(start, ray, strict=True)]
            total += ndimage.map_coordinates(self.density, places, order=1, prefilter=False)
        result = np.zeros(hit.shape)
        result[hit] = total * length_mm / steps / 10
        return result

    def integral(self, to_scan: Mapping3, source: np.ndarray, targets: np.ndarray, step_mm: float) -> np.ndarray:
        """Return the same where the way from the room to the scan bends."""
        reach = float(np.linalg.norm(np.array(self.density.shape) / np.abs(self.to_index[:3, :3]).sum(1))) / 2
        direction = targets - source
        direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
        start = -(direction @ source) - reach  # as far before the point nearest to the isocentre as the solid reaches
        total = np.zeros(targets.shape[:-1])
        for number in range(int(np.ceil(2 * reach / step_mm))):
            points = to_scan(source + (start + (number + 0.5) * step_mm)[..., None] * direction)
            places = np.moveaxis(moved(self.to_index, points), -1, 0)
            total += ndimage.map_coordinates(self.density, places, order=1, prefilter=False)
        return total * step_mm / 10


def _rigid(pose: np.ndarray) -> Mapping3:
    return functools.partial(moved, np.linalg.inv(pose))


def _bending(poses: dict[str, np.ndarray], height_mm: float) -> Mapping3:
    """Soft tissue goes with the thigh above the joint and with the shin below it, smoothly in between."""
    thigh, shin = _rigid(poses["femur"]), _rigid(poses["tibia"])

    def to_scan(points):
        below = shin(points)
        share = np.clip((below[..., 2:] - height_mm + 20) / 50, 0, 1)
        share = share * share * (3 - 2 * share)
        return share * thigh(points) + (1 - share) * below

    return to_scan


@dataclasses.dataclass(frozen=True)
class _Drill:
    """A steel cylinder in the room from `tip` (3,) along the unit vector `axis` (3,)."""

    tip: np.ndarray
    axis: np.ndarray

    @classmethod
    def along(cls, line: np.ndarray) -> _Drill:
        """It has entered (2, 3) a line at its first point and gone some way."""
        outwards = (line[0] - line[1]) / np.linalg.norm(line[0] - line[1])
        return cls(line[0] - DRILL_DEPTH_MM * outwards, outwards)

    def chord(self, source: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the length of each ray inside the cylinder, cm."""
        direction = targets - source
        direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
        offset = source - self.tip
        across, apart = (
            direction - (direction @ self.axis)[..., None] * self.axis,
            offset - offset @ self.axis * self.axis,
        )
        a, b, c = (across**2).sum(-1), across @ apart, apart @ apart - DRILL_RADIUS_MM**2
        half = np.sqrt(np.clip(b * b - a * c, 0, None)) / a
        ends = np.stack([-b / a - half, -b / a + half])
        # the caps: where along the axis a ray enters and leaves
        height, slope = offset @ self.axis, direction @ self.axis
        slope = np.where(np.abs(slope) < 1e-9, 1e-9, slope)
        caps = np.sort(np.stack([-height / slope, (DRILL_LENGTH_MM - height) / slope]), axis=0)
        return np.clip(np.minimum(ends[1], caps[1]) - np.maximum(ends[0], caps[0]), 0, None) / 10


def _expose(soft: np.ndarray, bone: np.ndarray, steel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One X-ray: minus the logarithm of the share of the photons that arrive, float32 (rows, columns).

    Args:
        soft, bone, steel: integrals along the rays in cm, of density relative to water, of HU / 1000 of bone above soft
            tissue, and of steel.
        rng: of the photons.
    """
    primary = np.zeros(soft.shape)
    for energy, (share, per_cm, hardening) in SPECTRUM.items():
        attenuation = per_cm * soft + WATER_70_PER_CM * hardening * bone + STEEL_PER_CM[energy] * steel
        primary += share * np.exp(-attenuation)
    scattered = SCATTER * ndimage.gaussian_filter(primary, SCATTER_PIXELS, mode="nearest")
    arriving = ndimage.gaussian_filter(primary, BLUR_PIXELS, mode="nearest") + scattered
    counts = rng.poisson(PHOTONS * arriving)
    return -np.log(np.maximum(counts, 1) / PHOTONS).astype(np.float32)


def _write_subject(shape, spacing_mm, seed: int, device: Device, folder: Path, index: int) -> None:
    made = make_xrays(seed, shape, spacing_mm, index, device)
    make_folder(folder)
    views = [
        {
            "xray": f"{view}.dcm",
            "lines": [
                {
                    "name": name,
                    "bone": bone,
                    "points_px": device.project(angle, moved(made.poses[bone], points)).tolist(),
                }
                for name, (bone, points) in made.lines.items()
            ],
        }
        for view, angle in VIEWS.items()
    ]
    poses = {bone: pose.tolist() for bone, pose in made.poses.items()}
    # first, because a folder that was left half done is known by it
    write_json(
        folder / "truth.json",
        {
            "notice": NOTICE,
            "frame": "poses map LPS mm of the scan to LPS mm of the room, whose origin is the isocentre",
            "pose_lps": poses,
            "flexion_deg": made.flexion_deg,
            "views": views,
        },
    )
    for view, image in made.images.items():
        _write_dicom(folder / f"{view}.dcm", image, VIEWS[view], device.pixel_mm)
    for bone, mask in made.masks.items():
        write(Volume(mask, made.affine), folder / f"{bone}.nii.gz", descrip=DESCRIP, dtype=np.uint8)
    write_json(folder / "plan.mrk.json", _markups({name: points for name, (_, points) in made.lines.items()}))
    rng = np.random.default_rng([seed, index, 25])
    for bone, points in made.landmarks.items():
        write_json(folder / f"landmarks-{bone}.json", _clicked(points, made.poses[bone], device, rng))


def _clicked(points: dict[str, np.ndarray], pose: np.ndarray, device: Device, rng: np.random.Generator) -> dict:
    return {
        "landmarks": [
            {
                "name": name,
                "position_lps": (point + rng.normal(0, CLICK_MM, 3)).tolist(),
                "pixels": {
                    f"{view}.dcm": (device.project(angle, moved(pose, point)) + rng.normal(0, CLICK_PIXELS, 2)).tolist()
                    for view, angle in VIEWS.items()
                },
            }
            for name, point in points.items()
        ]
    }


def _markups(lines: dict[str, np.ndarray]) -> dict:
    """3D Slicer's markups, schema v1.0.3."""
    return {
        "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        "markups-schema-v1.0.3.json#",
        "markups": [
            {
                "type": "Line",
                "name": name,
                "coordinateSystem": "LPS",
                "coordinateUnits": "mm",
                "labelFormat": "%N-%d",
                "controlPoints": [
                    {"id": str(number), "label": label, "position": point, "positionStatus": "defined"}
                    for number, (label, point) in enumerate(zip(("entry", "target"), points.tolist(), strict=True), 1)
                ],
            }
            for name, points in lines.items()
        ],
    }


def _write_dicom(path: Path, image: np.ndarray, angle_deg: float, pixel_mm: float) -> None:
    """An X-Ray Angiographic Image (PS3.3 A.14) of 12 bits in which bone is white; nothing in it names anybody."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.XRayAngiographicImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.Modality, data.SyntheticData, data.ImageType = "XA", "YES", ["DERIVED", "PRIMARY", "SINGLE PLANE"]
    data.PatientName = data.PatientID = data.PatientBirthDate = data.PatientSex = ""
    data.StudyDate = data.StudyTime = data.StudyID = data.AccessionNumber = data.ReferringPhysicianName = ""
    data.Manufacturer, data.ManufacturerModelName = "", "cyclescan digital knee"
    data.SeriesNumber = data.InstanceNumber = 1
    data.ImageComments = NOTICE
    data.DistanceSourceToDetector, data.DistanceSourceToPatient = SID_MM, SOD_MM
    data.ImagerPixelSpacing = [pixel_mm, pixel_mm]
    data.PositionerMotion, data.PositionerPrimaryAngle, data.PositionerSecondaryAngle = "STATIC", angle_deg, 0.0
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", -1
    data.PhotometricInterpretation, data.SamplesPerPixel, data.PixelRepresentation = "MONOCHROME2", 1, 0
    data.Rows, data.Columns = image.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    pixels = np.rint(np.clip(image / FULL_SCALE, 0, 1) * 4095).astype("<u2")
    data.PixelData = pixels.tobytes()
    with replacing(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)
