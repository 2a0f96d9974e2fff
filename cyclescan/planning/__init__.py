"""Drilling paths planned on MR, shown on an X-ray: markups, X-ray geometry, projection, 2-D/3-D registration.

Lengths are millimetres and points are LPS, as in DICOM and in files of 3D Slicer. There are two frames: that of the
scan (MR), and that of the room, whose origin is the isocentre of the C-arm and whose axes are the patient's. A pose is
a (4, 4) matrix from the scan to the room. Pixels are (u, v), column and row, with (0, 0) in the middle of the first.

No module here imports TensorFlow.
"""

from __future__ import annotations

import numpy as np

NOTICE = "synthetic, for research, not for navigation"
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back


def moved(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Take points (..., 3) through a (4, 4) matrix."""
    return np.asarray(points) @ pose[:3, :3].T + pose[:3, 3]
