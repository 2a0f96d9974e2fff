"""Where the search for a bone begins: at the angles of the X-ray's header, or from landmarks (PnP)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.planning import FLIP, moved
from cyclescan.planning.registration import shifted
from cyclescan.planning.xray import Xray

FEWEST = 4  # landmarks
TURN_DEG = 40.0  # about each axis, to either side: where the landmarks' pose is sought from, beside the start
MISS_PIXELS = 20.0  # root mean square beyond which landmarks do not fit the X-rays


def from_header(shape: Sequence[int], affine_ras: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) of a patient who lies straight, with the middle of the scan at the isocentre."""
    middle = FLIP @ affine_ras @ [*((np.array(shape) - 1) / 2), 1]
    pose = np.eye(4)
    pose[:3, 3] = -middle[:3]
    return pose


def from_landmarks(path: str | Path, xrays: Sequence[Xray], about: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the pose whose projected landmarks are closest to where they were seen.

    Args:
        path: JSON, `{"landmarks": [{"name": .., "position_lps": [x, y, z], "pixels": {"ap.dcm": [u, v], ..}}, ..]}`;
            the keys of `pixels` are the names of the X-rays' files.
        xrays: where they were seen.
        about: (4, 4) the pose near which to look first.

    Returns:
        The pose (4, 4), and the root mean square of the distances in pixels.

    Raises:
        InputError: the file is no such JSON, names no X-ray of this call, has fewer than four landmarks or four that
            lie on one line, or its landmarks fit no pose.
    """
    points, pixels = _read(Path(path), xrays)
    flat = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if flat[1] < 1.0:
        raise InputError(f"The landmarks of {path} lie within {flat[1]:.1f} mm of one line; they must be spread.")

    def misses(vector):
        pose = shifted(vector, about, centre)
        differences = [
            xray.view.project(moved(pose, points[seen])) - places
            for xray, (seen, places) in zip(xrays, pixels, strict=True)
        ]
        return np.concatenate(differences).ravel()

    centre = moved(about, points).mean(0)
    best: Any = None
    for turn in (np.zeros(3), *(TURN_DEG * np.eye(3)), *(-TURN_DEG * np.eye(3))):
        found = least_squares(misses, [*turn, 0, 0, 0], method="lm", max_nfev=400)
        if best is None or found.cost < best.cost:
            best = found
    miss = float(np.sqrt(2 * best.cost / (best.fun.size / 2)))
    if miss > MISS_PIXELS:
        raise InputError(
            f"The landmarks of {path} are {miss:.0f} pixels off in the mean where they fit the X-rays best; at most "
            f"{MISS_PIXELS:g} are allowed."
        )
    return shifted(best.x, about, centre), miss


def _read(path: Path, xrays: Sequence[Xray]) -> tuple[np.ndarray, list[tuple[list[int], np.ndarray]]]:
    """All landmarks (n, 3), and for each X-ray which of them it shows and where."""
    entries = read_json(path).get("landmarks")
    names = {xray.name for xray in xrays}
    if not isinstance(entries, list):
        raise InputError(f'{path} has no list "landmarks".')
    points, seen = [], []
    for entry in entries:
        places = {}
        try:
            name, point = str(entry["name"]), np.array(entry["position_lps"], np.float64)
            places = {xray: np.array(place, np.float64) for xray, place in entry["pixels"].items() if xray in names}
            fits = point.shape == (3,) and all(place.shape == (2,) for place in places.values())
        except (TypeError, KeyError, AttributeError, ValueError):
            fits = False
        if not fits:
            raise InputError(f"{path}: the landmark {entry!r} needs name, position_lps and pixels by X-ray.")
        if places:
            points.append(point)
            seen.append((name, places))
    if len(points) < FEWEST:
        raise InputError(
            f"{path} has {len(points)} landmarks that are seen in {' or '.join(sorted(names))}; "
            f"at least {FEWEST} are needed."
        )
    by_xray = []
    for xray in xrays:
        which = [number for number, (_, places) in enumerate(seen) if xray.name in places]
        by_xray.append((which, np.array([seen[number][1][xray.name] for number in which]).reshape(-1, 2)))
    return np.array(points), by_xray
