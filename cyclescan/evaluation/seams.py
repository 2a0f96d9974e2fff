"""How much a translation depends on the windows it was made in: the same voxel, different windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cyclescan.inference import sliding_window

DATA_RANGE = 2.0
SHARES = (1 / 2, 2 / 3)  # of the volume that the two windows have, along each axis

DEFINITION = (
    "the same volume is translated twice, by windows of a half and of two thirds of its edges; what is stated is the "
    "mean absolute difference of the two over all voxels, and the largest, as a share of the range of intensities; "
    "plain windows are those of other tools: each normalised by itself, overlapping by a half, blended smoothly"
)


class TranslatesByWindows(Protocol):
    """What is asked of a model of one direction; `inference.translator.Translator` is one."""

    @property
    def stride(self) -> int: ...

    def translate_array(self, array: np.ndarray, *, window: Sequence[int] | None = None) -> np.ndarray: ...


def seam_scores(translator: TranslatesByWindows, array: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the seam scores of a model's way and of plain sliding windows, each "mean" and "largest", in shares of the
    range.

    Args:
        translator: the model.
        array: float32 (depth, height, width) on [-1, 1], at least three strides long along some axis, or the two
            windows are the same and every score is 0.
    """
    stride = translator.stride

    def plain(batch: np.ndarray) -> np.ndarray:
        edges = batch.shape[1:4]
        return np.stack([translator.translate_array(patch[..., 0], window=edges) for patch in batch])[..., None]

    windows = [tuple(max(1, round(share * n / stride)) * stride for n in array.shape) for share in SHARES]
    whole = [translator.translate_array(array, window=window) for window in windows]
    by_windows = [
        sliding_window.apply(array, plain, window, sliding_window.DEFAULT_OVERLAP, stride) for window in windows
    ]
    return {"whole_volume": _differences(*whole), "plain_windows": _differences(*by_windows)}


def _differences(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    difference = np.abs(first - second) / DATA_RANGE
    return {"mean": float(difference.mean()), "largest": float(difference.max())}
