"""Linked planes of volumes inside a page: slices, a slider between two volumes, maps over them; nothing from elsewhere.

Voxels travel in the page itself, in 8 bits, so a page has a budget: what is larger is shown on a coarser grid, and says
so. What is drawn, and what mouse and keys do, stands in viewer.js.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from cyclescan.common import page
from cyclescan.scans.volume import CANONICAL_AXES, spacing_of

BUDGET = 4_500_000  # characters of one page's voxels; the pages themselves are held below 8 MB
LEVELS = 255  # steps of a voxel in a page
LIMIT_PERCENTILE = 99.5  # of a map; beyond it colours are the strongest


class Kind(enum.Enum):
    """What a layer is to the others of its study."""

    SOURCE = "source"
    TRANSLATION = "translation"
    TRUTH = "truth"
    DOUBT = "doubt"
    OUTLINE = "outline"


IMAGES = (Kind.SOURCE, Kind.TRANSLATION, Kind.TRUTH)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One volume of a study, (depth, height, width): an image, a map of doubt from 0 up, or a mask on [0, 1].

    A study has at most one layer of each kind.
    """

    kind: Kind
    name: str
    array: np.ndarray


@dataclasses.dataclass(frozen=True)
class Study:
    """Volumes that are looked at together.

    Attributes:
        title: what the reader chooses it by.
        affine: (4, 4) voxels to RAS+ mm; the axes point to R, S and A.
        layers: of one shape, at least one image.
        limits: intensities of the images that are the darkest and the brightest that can be shown.
    """

    title: str
    affine: np.ndarray
    layers: Sequence[Layer]
    limits: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        shapes = {layer.array.shape for layer in self.layers}
        if len(shapes) != 1 or not any(layer.kind in IMAGES for layer in self.layers):
            raise ValueError(f"a study needs an image, and layers of one shape, not {sorted(shapes)}")


@dataclasses.dataclass(frozen=True)
class Viewer:
    """What a page takes in.

    Attributes:
        html: goes into the body, where an element of the id `viewer` is not yet.
        style: goes into the head.
        policy: goes to the end of the page's Content-Security-Policy; it lets this one script run and no other.
        shown: how many of the studies fitted, from the first on.
    """

    html: Markup
    style: Markup
    policy: str
    shown: int


def embed(studies: Iterable[Study], least: int = 1, budget: int = BUDGET) -> Viewer:
    """Make the viewer of as many studies as fit.

    Args:
        studies: in the order in which they are offered; volumes that several of them have travel once. Of those after
            the first `least` one is asked for at a time.
        least: so many of the first are always shown, on a coarser grid if need be. No other is shown finer than they.
        budget: characters that the voxels may take.

    Raises:
        ValueError: there is no study.
    """
    studies = iter(studies)
    first = list(itertools.islice(studies, least))
    if not first:
        raise ValueError("a viewer needs a study")
    most = _most_voxels(first, budget)
    blobs: dict[bytes, int] = {}
    described: list[dict] = []
    for study in itertools.chain(first, studies):
        own = dict(blobs)
        about = _described(_reduced(study, most), study, own)
        if len(described) >= least and _characters(own) > budget:
            break
        blobs = own
        described.append(about)
    script = (Path(__file__).parent / "viewer.js").read_text(encoding="utf-8")
    data = {"studies": described, "voxels": [base64.b64encode(blob).decode() for blob in blobs]}
    html = page.render(__name__, "viewer.html.j2", data=data, script=Markup(script), studies=described)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (Path(__file__).parent / "viewer.css").read_text(encoding="utf-8")
    return Viewer(Markup(html), Markup(style), f"; script-src 'sha256-{digest}'", len(described))


def _most_voxels(studies: Sequence[Study], budget: int) -> int:
    """How many voxels each volume may have, so that these studies fit."""
    volumes = {hashlib.sha256(layer.array.tobytes()).digest() for study in studies for layer in study.layers}
    # base64 makes four characters of three bytes, and up to four to fill up
    return max(1, budget * 3 // 4 // len(volumes) - 4)


def _characters(blobs: dict[bytes, int]) -> int:
    return sum(4 * math.ceil(len(blob) / 3) for blob in blobs)


def _described(study: Study, given: Study, blobs: dict[bytes, int]) -> dict:
    """What the script knows of a study; its voxels are added to `blobs`, each volume once."""
    layers = []
    for layer in study.layers:
        low, high = study.limits if layer.kind in IMAGES else (0.0, max(1e-6, float(layer.array.max())))
        scaled = (np.clip(layer.array, low, high) - low) / (high - low)
        blob = np.rint(scaled * LEVELS).astype(np.uint8).tobytes()
        about = {"kind": layer.kind.value, "name": layer.name, "low": low, "high": high}
        if layer.kind is Kind.DOUBT:
            about["limit"] = _limit(layer.array)
        layers.append({**about, "voxels": blobs.setdefault(blob, len(blobs))})
    found = {layer.kind: layer.array for layer in study.layers}
    error_limit = None
    if {Kind.TRANSLATION, Kind.TRUTH} <= found.keys():
        error_limit = _limit(np.abs(found[Kind.TRANSLATION] - found[Kind.TRUTH]))
    coarser = study.layers[0].array.shape != given.layers[0].array.shape
    return {
        "title": study.title,
        "shape": list(study.layers[0].array.shape),
        "spacing_mm": list(spacing_of(study.affine)),
        "affine": np.asarray(study.affine, float).tolist(),
        "axes": list(CANONICAL_AXES),
        "limits": list(study.limits),
        "error_limit": error_limit,
        "coarser_than_mm": list(spacing_of(given.affine)) if coarser else None,
        "layers": layers,
    }


def _limit(array: np.ndarray) -> float:
    """Where the colours of a map end, rounded up to a tenth."""
    return max(0.1, math.ceil(10 * float(np.percentile(array, LIMIT_PERCENTILE)) - 1e-9) / 10)


def _reduced(study: Study, most: int) -> Study:
    """A study whose volumes have at most so many voxels: the finest axis is halved again and again, by means of two."""
    shape, spacing = np.array(study.layers[0].array.shape), np.array(spacing_of(study.affine))
    factors = np.ones(3, int)
    while np.prod(-(-shape // factors)) > most:
        worth = np.where(factors < shape, spacing * factors, np.inf)
        factors[int(worth.argmin())] *= 2
    if (factors == 1).all():
        return study
    # the first voxel of the coarser grid lies in the middle of those that it stands for
    step = np.diag([*factors, 1.0])
    step[:3, 3] = (factors - 1) / 2
    layers = [dataclasses.replace(layer, array=_means(layer.array, factors)) for layer in study.layers]
    return dataclasses.replace(study, affine=np.asarray(study.affine) @ step, layers=layers)


def _means(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Means over blocks; the last block of an axis is filled with its last voxels."""
    padded = np.pad(array, [(0, -n % f) for n, f in zip(array.shape, factors, strict=True)], mode="edge")
    blocks = [part for n, f in zip(padded.shape, factors, strict=True) for part in (n // f, f)]
    return padded.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)
