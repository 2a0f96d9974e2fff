"""How good a trained model is on subjects it never saw: against their paired truth, and without it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclescan import records
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.command import progress
from cyclescan.common.errors import InputError
from cyclescan.evaluation import histograms
from cyclescan.evaluation.baselines import POOL, HistogramMatching, identity
from cyclescan.evaluation.metrics import all_metrics, mae, same_grid, summarize
from cyclescan.evaluation.seams import TranslatesByWindows, seam_scores
from cyclescan.inference import doubt
from cyclescan.inference.translator import Translator
from cyclescan.preprocessing import body
from cyclescan.records import Record
from cyclescan.scans.volume import spacing_of

log = logging.getLogger(__name__)

METHODS = ("translated", "identity", "histogram_matching")
LIMITS = (-1.0, 1.0)  # intensities of records and of networks
DATA_RANGE = 2.0
PICTURES = 2  # volumes of each direction that are kept for the report


@dataclasses.dataclass(frozen=True)
class Case:
    """One test volume for the pictures; arrays float32 (depth, height, width) on [-1, 1], axes R, S, A.

    Attributes:
        direction: "a2b" or "b2a".
        source, target: names of the two domains.
        subject: pseudonymous id.
        affine: (4, 4) voxels to RAS+ mm.
        input, translated: the test volume and its translation.
        truth: the same subject in the target domain, or None.
        cycled: the translation translated back, or None without a model of the other direction.
        scores: `metrics.all_metrics` of the translation against the truth, or None.
        doubt: how far the translation should be doubted, see `inference.doubt`; of the first volume of a direction, and
            None without a model of the other direction.
    """

    direction: str
    source: str
    target: str
    subject: str
    affine: np.ndarray
    input: np.ndarray
    translated: np.ndarray
    truth: np.ndarray | None
    cycled: np.ndarray | None
    scores: dict | None
    doubt: np.ndarray | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of depth, height and width."""
        return spacing_of(self.affine)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where a record is, and what decides whether another one is its truth."""

    place: tuple[str, int, int]
    subject: str
    shape: tuple[int, ...]
    affine: np.ndarray

    def read(self) -> Record:
        return records.decode(records.read_at(*self.place))

    def matches(self, other: _Entry) -> bool:
        same = self.subject == other.subject and self.shape == other.shape
        return same and same_grid(self.affine, other.affine, self.shape)


def evaluate_on_records(
    translators: Mapping[str, TranslatesByWindows], records_dir: str | Path, limit: int | None = None
) -> tuple[dict, list[Case], dict]:
    """Translate the test volumes of a data set and measure them; one volume is in memory at a time.

    The truth of a volume is the record of the same subject in the other domain on the same grid. Volumes without it
    count for the histograms and the cycle. An empty test split is replaced by the validation split, and
    `metrics["about"]["split"]` says which it was.

    Args:
        translators: a model for "a2b", "b2a" or both.
        records_dir: a folder made by `data_prep build`.
        limit: at most so many volumes of each direction, those with a truth first; None for all.

    Returns:
        `(metrics, cases, histograms)`:

        * metrics: for each direction `translated`, `identity` and `histogram_matching`, each with the mean of every
          measure of `metrics.NAMES`, `sd` and `subjects` (absent where no volume has a truth), and `unpaired`, with
          the number of `volumes`, the `cycle_mae`, `kl`, and `seams` of the first volume; and `about`;
        * cases: up to `PICTURES` volumes of each direction;
        * histograms: `histograms.compare` for each direction; the target's is that of the real volumes of the target
          domain in the same split. And `subjects`, see `histograms.Comparison.found`, with noise where the model knows
          that of the target.

    Raises:
        InputError: there are no records to test on, or one is damaged.
    """
    folder = Path(records_dir)
    names = {domain: about["name"] for domain, about in records.read_info(folder)["domains"].items()}
    if limit is not None and limit < 1:
        raise InputError(f"The limit is {limit}; at least one volume is needed.")
    split = _choose_split(folder)
    entries, target_counts = {}, {}
    for domain in ("a", "b"):
        entries[domain], target_counts[domain] = _survey(folder / split, domain)

    metrics: dict[str, Any] = {}
    cases: list[Case] = []
    compared: dict[str, dict] = {}
    for direction in DIRECTIONS:
        if direction in translators:
            jobs = _with_truth(entries[direction[0]], entries[direction[2]])[:limit]
            result = _one_direction(translators, direction, jobs, names, folder, target_counts[direction[2]])
            metrics[direction], compared[direction] = result.metrics, result.histograms
            cases += result.cases
    metrics["about"] = {
        "split": split,
        "limit": limit,
        "intensities": "[-1, 1]",
        "data_range": DATA_RANGE,
        "sd": "sample standard deviation over subjects (n - 1)",
        "histogram_matching": f"onto the pooled intensities of up to {POOL} training volumes of the target domain",
    }
    return metrics, cases, compared


class _Result(NamedTuple):
    """What `evaluate_on_records` gives, of one direction."""

    metrics: dict
    cases: list[Case]
    histograms: dict


def _one_direction(
    translators: Mapping[str, TranslatesByWindows],
    direction: str,
    jobs: list[tuple[_Entry, _Entry | None]],
    names: dict[str, str],
    folder: Path,
    target_counts: dict[str, np.ndarray],
) -> _Result:
    source, target = direction[0], direction[2]
    matching = HistogramMatching(_training_volumes(folder, target)) if jobs[0][1] else None
    back = translators.get(f"{target}2{source}")
    rows: dict[str, list] = {method: [] for method in METHODS}
    cases: list[Case] = []
    cycle, comparison = [], histograms.Comparison(LIMITS)
    for entry, truth_entry in progress(jobs, desc=f"{names[source]} to {names[target]}", unit="volume"):
        real = entry.read()
        fake = _translated(translators[direction], real.voxels, direction, real.subject)
        cycled = None
        if back is not None:
            cycled = _translated(back, fake, f"{target}2{source}", real.subject)
            cycle.append(mae(cycled, real.voxels))
        true_record = truth_entry.read() if truth_entry else None
        truth = true_record.voxels if true_record else None
        images = {"before": real.voxels, "after": fake} | ({} if truth is None else {"real": truth})
        images |= _noisy(translators[direction], fake, [len(comparison)])
        comparison.add(real.subject, "", images, _body(true_record or real))
        if truth is not None and matching is not None:
            candidates = zip(METHODS, (fake, identity(real.voxels), matching(real.voxels)), strict=True)
            for method, candidate in candidates:
                measured = all_metrics(candidate, truth, DATA_RANGE, LIMITS)
                rows[method].append({"subject": real.subject, **measured})
        if len(cases) < PICTURES:
            case = Case(
                direction=direction,
                source=names[source],
                target=names[target],
                subject=real.subject,
                affine=real.affine,
                input=real.voxels,
                translated=fake,
                truth=truth,
                cycled=cycled,
                scores=rows["translated"][-1] if truth is not None else None,
                doubt=None if cases or back is None else _doubt(translators[direction], back, real.voxels, fake),
            )
            cases.append(case)
    subjects = comparison.found(target_counts)
    before, after = (np.array(subjects["counts"]["everything"][name]) for name in ("before", "after"))
    compared = histograms.compare(before, after, target_counts["everything"], LIMITS) | {"subjects": subjects}
    metrics: dict[str, Any] = {method: _summary(rows[method]) for method in METHODS if rows[method]}
    metrics["unpaired"] = {
        "volumes": len(jobs),
        "cycle_mae": float(np.mean(cycle)) if cycle else None,
        "kl": {key: value for key, value in compared.items() if key not in ("counts", "subjects")},
        "seams": seam_scores(translators[direction], jobs[0][0].read().voxels),
    }
    return _Result(metrics, cases, compared)


def _doubt(there: TranslatesByWindows, back: TranslatesByWindows, real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    return doubt.doubt(doubt.parts(real, fake, there.translate_array, back.translate_array, there.stride))


def _choose_split(folder: Path) -> str:
    for split in ("test", "val"):
        if all(records.shards(folder / split, domain) for domain in ("a", "b")):
            if split == "val":
                log.warning("%s has no test volumes of both domains; its validation volumes are used instead.", folder)
            return split
    raise InputError(f"{folder} has neither test nor validation volumes of both domains; split it with --split.")


def _survey(folder: Path, domain: str) -> tuple[list[_Entry], dict[str, np.ndarray]]:
    """Every record of a domain without its voxels, and the histograms of all by region; checksums are verified."""
    found, counts = [], {region: np.zeros(histograms.BINS, np.int64) for region in histograms.REGIONS}
    for shard in records.shards(folder, domain):
        for place, record in zip(records.index(shard), records.read_shard(shard), strict=True):
            found.append(_Entry((str(shard), *place), record.subject, record.voxels.shape, record.affine))
            counts["everything"] += histograms.count(record.voxels, LIMITS)
            counts["body"] += histograms.count(record.voxels[_body(record)], LIMITS)
    if not found:
        raise InputError(f"{folder} has no records of domain {domain}.")
    return found, counts


def _body(record: Record) -> np.ndarray:
    """Where the body is; the whole volume where none is found."""
    mask = body.mask(record.voxels) if record.mask is None else record.mask.astype(bool)
    return mask if mask.any() else np.ones_like(mask)


def _noisy(translator: TranslatesByWindows, fake: np.ndarray, seed: list[int]) -> dict[str, np.ndarray]:
    """The translation with noise, from a model that knows the target's."""
    if not isinstance(translator, Translator) or not translator.knows_noise:
        return {}
    return {"noisy": translator.array_with_noise(fake, seed)}


def _with_truth(sources: list[_Entry], targets: list[_Entry]) -> list[tuple[_Entry, _Entry | None]]:
    """Each source with its truth, if that is beyond doubt; those that have one come first."""
    jobs = []
    for source in sources:
        truths = [target for target in targets if source.matches(target)]
        jobs.append((source, truths[0] if len(truths) == 1 else None))
    return sorted(jobs, key=lambda job: job[1] is None)


def _training_volumes(folder: Path, domain: str):
    """Voxels of up to `POOL` training volumes of a domain."""
    for place in itertools.islice(records.entries(folder, "train", domain), POOL):
        yield records.decode(records.read_at(*place)).voxels


def _translated(translator: TranslatesByWindows, voxels: np.ndarray, direction: str, subject: str) -> np.ndarray:
    fake = np.asarray(translator.translate_array(voxels), np.float32)
    if not np.isfinite(fake).all():
        raise InputError(f"The {direction} model makes voxels of the subject {subject} that are NaN or infinite.")
    return fake


def _summary(rows: list[dict]) -> dict:
    means, deviations = summarize(rows)
    return {**means, "sd": deviations, "subjects": rows}
