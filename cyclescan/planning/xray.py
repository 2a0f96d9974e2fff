"""X-ray images with the geometry that they were taken in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.planning import moved

SMALLEST = 32  # pixels along an axis
IMAGES = (".png", ".tif", ".tiff")
# of the geometry in a JSON file: what it is in the DICOM header
KEYS = {
    "sid_mm": "DistanceSourceToDetector",
    "sod_mm": "DistanceSourceToPatient",
    "pixel_mm": "ImagerPixelSpacing",
    "primary_deg": "PositionerPrimaryAngle",
    "secondary_deg": "PositionerSecondaryAngle",
}
OPTIONAL = ("principal_px", "bone", "scale")
BONE, SCALE = ("bright", "dark"), ("log", "linear")


@dataclasses.dataclass(frozen=True)
class View:
    """A pinhole: rays run from a point source to a flat detector. All in mm of one LPS frame.

    Attributes:
        source: (3,) the focal spot.
        corner: (3,) the middle of the first pixel.
        column, row: (3,) the step from one pixel to the next one on the right, and to that below.
        size: (columns, rows).
    """

    source: np.ndarray
    corner: np.ndarray
    column: np.ndarray
    row: np.ndarray
    size: tuple[int, int]

    @classmethod
    def of_c_arm(
        cls, sid_mm: float, sod_mm: float, pixel_mm, size, primary_deg=0.0, secondary_deg=0.0, principal_px=None
    ) -> View:
        """Return the view of a C-arm in the room, whose origin is the isocentre.

        Args:
            sid_mm, sod_mm: from the source to the detector, and to the isocentre.
            pixel_mm: between rows and between columns of the detector, as in DICOM.
            size: (columns, rows).
            primary_deg: at 0 the detector is in front of the patient, at 90 to the left.
            secondary_deg: towards the head.
            principal_px: where the perpendicular from the source meets the detector; None for its middle.

        Source: DICOM PS3.3 C.8.7.5, Positioner Primary and Secondary Angle.
        """
        a, b = np.deg2rad([primary_deg, secondary_deg])
        forward = np.array([np.sin(a) * np.cos(b), -np.cos(a) * np.cos(b), np.sin(b)])
        right = np.array([np.cos(a), np.sin(a), 0.0])
        column, row = right * pixel_mm[1], np.cross(right, forward) * pixel_mm[0]
        u, v = principal_px or ((size[0] - 1) / 2, (size[1] - 1) / 2)
        corner = forward * (sid_mm - sod_mm) - u * column - v * row
        return cls(-forward * sod_mm, corner, column, row, tuple(size))

    @property
    def forward(self) -> np.ndarray:
        """Return the (3,) unit vector, perpendicular to the detector, away from the source."""
        normal = np.cross(self.row, self.column)
        normal = normal / np.linalg.norm(normal)
        return normal * np.sign(normal @ (self.corner - self.source))

    @property
    def sid_mm(self) -> float:
        return float(self.forward @ (self.corner - self.source))

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Return the distances in mm between columns and between rows."""
        return float(np.linalg.norm(self.column)), float(np.linalg.norm(self.row))

    @property
    def matrix(self) -> np.ndarray:
        """Return the (3, 4) matrix that takes a point to (u w, v w, w), where w is its depth over the distance to the
        detector.
        """
        inverse = np.linalg.inv(np.stack([self.column, self.row, self.corner - self.source], axis=1))
        return np.concatenate([inverse, -(inverse @ self.source)[:, None]], axis=1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Take points (..., 3) in mm to pixels (..., 2)."""
        homogeneous = np.asarray(points) @ self.matrix[:, :3].T + self.matrix[:, 3]
        return homogeneous[..., :2] / homogeneous[..., 2:]

    def seen_from(self, pose: np.ndarray) -> View:
        """Return this view in the frame that `pose` (4, 4) maps to that of this view."""
        inverse = np.linalg.inv(pose)
        turn = inverse[:3, :3]
        source, corner = moved(inverse, self.source), moved(inverse, self.corner)
        return dataclasses.replace(self, source=source, corner=corner, column=turn @ self.column, row=turn @ self.row)

    def binned(self, factor: int) -> View:
        """Return the view of an image whose pixels are the means of `factor` by `factor` of this one's."""
        size = tuple(n // factor for n in self.size)
        return self._resized(factor, size)

    def refined(self, factor: int) -> View:
        """Return the view of an image with `factor` by `factor` pixels in the place of each."""
        return self._resized(1 / factor, tuple(n * factor for n in self.size))

    def _resized(self, factor: float, size) -> View:
        corner = self.corner + (self.column + self.row) * (factor - 1) / 2
        return dataclasses.replace(self, corner=corner, column=self.column * factor, row=self.row * factor, size=size)


@dataclasses.dataclass(frozen=True)
class Xray:
    """An X-ray: `image` float32 (rows, columns), attenuation on an arbitrary scale, so that bone is bright."""

    name: str
    image: np.ndarray
    view: View


def read(path: str | Path) -> Xray:
    """Read an X-ray and its geometry.

    Args:
        path: DICOM, or PNG or TIFF with a JSON file of the same name beside it (`ap.png`, `ap.json`). A JSON file
            beside a DICOM file adds to its header and wins over it.

    Raises:
        InputError: there is no such file, it is no grey image or too small, or a part of the geometry is missing or
            impossible.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist." if not path.exists() else f"{path} is a folder, not an X-ray.")
    beside = path.with_suffix(".json")
    given = read_json(beside) if beside.exists() else {}
    if unknown := sorted(set(given) - set(KEYS) - set(OPTIONAL)):
        allowed = ", ".join([*KEYS, *OPTIONAL])
        raise InputError(f"{beside} has the entry {unknown[0]!r}; allowed are {allowed}.")
    if path.suffix.lower() in IMAGES:
        image, facts = _read_image(path), given
    else:
        image, header = _read_dicom(path)
        facts = header | given
    if image.ndim != 2:
        raise InputError(f"{path} has the shape {'x'.join(map(str, image.shape))}; one grey image is needed.")
    rows, columns = image.shape
    if min(image.shape) < SMALLEST:
        raise InputError(f"{path} has {columns}x{rows} pixels; at least {SMALLEST} along each side are needed.")
    if not np.isfinite(image).all() or image.min() == image.max():
        raise InputError(f"{path} is constant or not finite; an X-ray must vary.")
    view = View.of_c_arm(size=(columns, rows), **_geometry(path, facts))
    return Xray(path.name, _attenuation(path, image.astype(np.float32), facts), view)


def _geometry(path: Path, facts: Mapping) -> dict:
    missing = [f"{key} ({tag} in DICOM)" for key, tag in KEYS.items() if facts.get(key) is None]
    if missing:
        raise InputError(
            f"{path} is an X-ray without geometry: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; give them in {path.with_suffix('.json').name} beside it."
        )
    sizes = {"pixel_mm": 2, "principal_px": 2}
    values = {}
    for key in (*KEYS, "principal_px"):
        if facts.get(key) is None:
            continue
        try:
            value = np.asarray(facts[key], np.float64)
        except (TypeError, ValueError):
            value = np.empty(0)
        if value.shape != ((2,) if key in sizes else ()) or not np.isfinite(value).all():
            needed = "two numbers are" if key in sizes else "one number is"
            raise InputError(f"{path}: {key} is {facts[key]!r}; {needed} needed.")
        values[key] = value.tolist()
    if not 0 < values["sod_mm"] < values["sid_mm"]:
        raise InputError(
            f"{path}: sod_mm is {values['sod_mm']:g} and sid_mm {values['sid_mm']:g}; the patient is between "
            "source and detector, so 0 < sod_mm < sid_mm is allowed."
        )
    if min(values["pixel_mm"]) <= 0:
        raise InputError(f"{path}: pixel_mm is {values['pixel_mm']}; positive numbers are allowed.")
    return values


def _attenuation(path: Path, image: np.ndarray, facts: Mapping) -> np.ndarray:
    """Bone bright, and the logarithm taken where the pixels are counts of photons."""
    bone, scale = facts.get("bone", "bright"), facts.get("scale", "log")
    if bone not in BONE:
        raise InputError(f"{path}: bone is {bone!r}; allowed is {' or '.join(BONE)}.")
    if scale not in SCALE:
        raise InputError(f"{path}: scale is {scale!r}; allowed is {' or '.join(SCALE)}.")
    if scale == "linear":
        counts = image if bone == "dark" else image.max() - image
        return -np.log(np.maximum(counts, 1e-4 * counts.max()) / counts.max())
    return image if bone == "bright" else image.max() - image


def _read_image(path: Path) -> np.ndarray:
    from skimage import io

    try:
        return np.asarray(io.imread(path))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}).") from error


def _read_dicom(path: Path) -> tuple[np.ndarray, dict]:
    import pydicom

    try:
        data = pydicom.dcmread(path)
        image = data.pixel_array
    except (pydicom.errors.InvalidDicomError, AttributeError, ValueError, NotImplementedError, OSError) as error:
        raise InputError(f"{path} is neither DICOM with an image, nor PNG, nor TIFF ({error}).") from error
    facts: dict = {}
    for key, tag in KEYS.items():
        value = data.get(tag)
        if value not in (None, ""):
            facts[key] = [float(v) for v in value] if isinstance(value, pydicom.multival.MultiValue) else float(value)
    sign = data.get("PixelIntensityRelationshipSign")
    # the sign says what more means; without it, what is shown white is taken for bone
    dark = sign == 1 if sign in (1, -1) else data.get("PhotometricInterpretation") == "MONOCHROME1"
    facts["bone"] = "dark" if dark else "bright"
    facts["scale"] = "linear" if data.get("PixelIntensityRelationship") == "LIN" and sign == 1 else "log"
    return image, facts
