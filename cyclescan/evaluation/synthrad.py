"""The image measures of the SynthRAD2025 challenge, on its own definitions: for figures beside its tables.

Source: image_metrics of github.com/SynthRAD2025/evaluation (MIT), read at commit 17cac47 and written anew. What is
particular there is kept: outside the mask both volumes are -1024 HU; PSNR and MS-SSIM are of volumes cut to a fixed
range, MAE is not; MS-SSIM (Wang et al. 2003) has cubes of 7 voxels and the sample covariance, is raised to its weight
voxel by voxel, the luminance at every level, before the mean over the mask; and a volume smaller than 97 voxels along
an axis is padded with its border. The range is -1024 to 3000 HU, as in the copies of that code that participants
published; the commit itself has 3071, by which PSNR is 0.15 dB higher.
"""

from __future__ import annotations

import re

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

from cyclescan.common.errors import InputError
from cyclescan.evaluation import metrics
from cyclescan.preprocessing.information import checked_pair

NAMES = ("mae", "psnr", "ms_ssim")
PATIENT = re.compile(
    r"(?<![A-Za-z0-9])[12](?:AB|HN|TH)[A-Z]\d+(?![A-Za-z0-9])"
)  # as 1HNA001: task, region, centre, number
KINDS = {"reference": ("ct",), "mask": ("mask",), "source": ("mr", "cbct")}  # files of a patient's folder
RANGE_HU = (-1024.0, 3000.0)
SMALLEST = 97  # voxels along an axis; a smaller volume is padded, or the coarsest level would be empty
WINDOW = 7  # voxels along an edge of the cube
MARGIN = WINDOW // 2  # left out at the border of every level
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the levels, Wang et al. 2003

DEFINITIONS = {
    "mae": "mean absolute error in HU over the voxels of the mask; lower is better",
    "psnr": f"in dB over the voxels of the mask, both volumes cut to {RANGE_HU[0]:g} to {RANGE_HU[1]:g} HU, whose "
    "difference is the data range; null when there is no error; higher is better",
    "ms_ssim": "masked multi-scale structural similarity of 5 levels, of volumes that are cut so and are -1024 outside "
    "the mask, padded to 97 voxels along each axis; null where the mask has none in the middle of the coarsest level; "
    "higher is better, at most 1",
}


def measures(predicted: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Measure the challenge's three image measures of one case.

    Args:
        predicted, reference: (depth, height, width) in HU.
        mask: bool of the same shape, the voxels that count.

    Raises:
        InputError: the shapes differ, a voxel is not finite, or the mask is empty.
    """
    predicted, reference = checked_pair(predicted, reference)
    if mask.shape != reference.shape or not mask.any():
        raise InputError(
            f"The mask has {mask.sum()} voxels in a shape of {mask.shape}; some, in the reference's shape "
            f"{reference.shape}, are needed."
        )
    made, true = (array[mask][:, None, None] for array in (predicted, reference))
    low, high = RANGE_HU
    return {
        "mae": metrics.mae(made, true),
        "psnr": metrics.psnr(np.clip(made, low, high), np.clip(true, low, high), high - low),
        "ms_ssim": ms_ssim(predicted, reference, mask),
    }


def ms_ssim(predicted: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Compute masked MS-SSIM, see `DEFINITIONS`; NaN where a level has no voxel of the mask beyond its margin."""
    low, high = RANGE_HU
    padding = [(max(0, SMALLEST - n) // 2, max(0, SMALLEST - n) - max(0, SMALLEST - n) // 2) for n in mask.shape]
    inside = np.pad(mask, padding, mode="edge")
    made, true = (
        np.pad(np.where(mask, np.clip(array, low, high), low) - low, padding, mode="edge")
        for array in (predicted, reference)
    )
    product, core = 1.0, (slice(MARGIN, -MARGIN),) * 3
    for level, weight in enumerate(WEIGHTS):
        if level:
            # the mean of each voxel and those before it, of every second; what lies beyond the volume counts as 0
            made, true = (ndimage.uniform_filter(a, 2, mode="constant")[::2, ::2, ::2] for a in (made, true))
            inside = inside[::2, ::2, ::2]
        _, similarity = structural_similarity(true, made, win_size=WINDOW, data_range=high - low, full=True)
        # what the source has as luminance, contrast and structure, each cut at 0: their product is this
        counted = np.maximum(similarity, 0)[core][inside[core]] ** weight
        if not counted.size:
            return float("nan")
        product *= float(np.clip(counted.mean(), 0, 1))
    return product
