"""A model on new scans whose truth is known: what a demo can say of it in a minute."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.evaluation.baselines import HistogramMatching, identity
from cyclescan.evaluation.metrics import all_metrics
from cyclescan.evaluation.paired import DATA_RANGE, LIMITS, METHODS, Case
from cyclescan.inference import doubt
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import body, geometry, prepare_as
from cyclescan.scans.volume import Volume

MOST_DOUBTED = 0.1  # of the body's voxels
LEAST_CONTRAST = 0.02  # on [-1, 1]: what is fainter in the true scan cannot be said to survive


@dataclasses.dataclass(frozen=True)
class Lesion:
    """What was planted into a subject.

    Attributes:
        name: in words.
        mask: (depth, height, width) on the grid of the scans, the share of each voxel that changed.
        healthy: the scans of the same subject without it, by domain; all else, noise included, is the same.
    """

    name: str
    mask: np.ndarray
    healthy: Mapping[str, Volume]


@dataclasses.dataclass(frozen=True)
class Subject:
    """Scans of one subject in both domains, by "a" and "b", on one grid."""

    name: str
    scans: Mapping[str, Volume]
    lesion: Lesion | None = None


@dataclasses.dataclass(frozen=True)
class Remains:
    """What became of a lesion; arrays on the working grid.

    Attributes:
        mask: of the lesion, from 0 to 1.
        healthy: the true scan of the subject without it.
        contrast: how much brighter it makes its place in the true scan, on [-1, 1].
        surviving: the share of this that it makes in the translation; None where there is too little of it.
    """

    mask: np.ndarray
    healthy: np.ndarray
    contrast: float
    surviving: float | None


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a model made of one scan, beside the truth and beside doing nothing; arrays on the working grid.

    Attributes:
        case: with its doubt.
        truth: the case's.
        measures: `metrics.all_metrics` by method of `paired.METHODS`.
        doubted: how many times as large as elsewhere the error is in the tenth of the body that is doubted most.
        findings: what of the scan is unlike the training's, see `Translator.outside`; None where nothing is known.
        remains: of the subject's lesion; None where it has none, or none on this grid.
    """

    case: Case
    truth: np.ndarray
    measures: Mapping[str, Mapping[str, float]]
    doubted: float
    findings: Sequence[dict] | None
    remains: Remains | None


def show(
    subjects: Sequence[Subject], translators: Mapping[Direction, Translator], pool: Iterable[Subject]
) -> list[Shown]:
    """Translate subjects in both directions and measure what became of them.

    Args:
        subjects: new to the model.
        translators: of both directions.
        pool: other subjects, onto whose intensities histogram matching goes.

    Returns:
        Of each subject, both directions.

    Raises:
        InputError: a scan cannot be prepared as the model needs it.
    """
    data = translators[Direction.A2B].data
    prepared = [{domain: prepare_as(other.scans[domain], data, domain)[0].array for domain in "ab"} for other in pool]
    matching = {domain: HistogramMatching(arrays[domain] for arrays in prepared) for domain in "ab"}
    return [
        _shown(subject, translators[direction], translators[direction.reverse], matching[direction.target])
        for subject in subjects
        for direction in DIRECTIONS
    ]


def _shown(subject: Subject, there: Translator, back: Translator, matching: HistogramMatching) -> Shown:
    direction = Direction(there.direction)
    scan = subject.scans[direction.source]
    volume, steps = prepare_as(scan, there.data, direction.source)
    real, truth = volume.array, prepare_as(subject.scans[direction.target], there.data, direction.target)[0].array
    fake = there.translate_array(real)
    candidates = zip(METHODS, (fake, identity(real), matching(real)), strict=True)
    measures = {method: all_metrics(candidate, truth, DATA_RANGE, LIMITS) for method, candidate in candidates}
    uncertain = doubt.doubt(doubt.parts(real, fake, there.translate_array, back.translate_array, there.stride))
    case = Case(
        direction=direction,
        source=there.source_name,
        target=there.target_name,
        subject=subject.name,
        affine=volume.affine,
        input=real,
        translated=fake,
        truth=truth,
        cycled=None,
        scores=measures["translated"],
        doubt=uncertain,
    )
    return Shown(
        case=case,
        truth=truth,
        measures=measures,
        doubted=_doubted(np.abs(fake - truth), uncertain, body.mask(real) > 0),
        findings=there.outside(scan, steps),
        remains=_remains(case, truth, subject.lesion, there) if subject.lesion else None,
    )


def _doubted(error: np.ndarray, uncertain: np.ndarray, within: np.ndarray) -> float:
    """See `Shown.doubted`."""
    most = uncertain >= np.quantile(uncertain[within], 1 - MOST_DOUBTED)
    if not (within & ~most).any():
        return float("nan")
    return float(error[within & most].mean() / max(error[within & ~most].mean(), 1e-9))


def _remains(case: Case, truth: np.ndarray, lesion: Lesion, there: Translator) -> Remains | None:
    direction = Direction(there.direction)
    mask, _ = geometry.to_canonical(Volume(lesion.mask, lesion.healthy[direction.source].affine))
    mask, _ = geometry.resample(mask, there.data["spacing_mm"])
    real, healthy = (
        prepare_as(lesion.healthy[domain], there.data, domain)[0].array
        for domain in (direction.source, direction.target)
    )
    weights = np.clip(mask.array, 0, 1)
    if not weights.sum():
        return None
    made = float(np.average(case.translated - there.translate_array(real), weights=weights))
    contrast = float(np.average(truth - healthy, weights=weights))
    return Remains(weights, healthy, contrast, made / contrast if abs(contrast) >= LEAST_CONTRAST else None)
