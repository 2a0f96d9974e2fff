"""How good the networks look without paired truth; the "best" checkpoint is the one with the lowest score.

For each direction, `SOURCES` volumes are translated (of the validation split, and of training where it has fewer) and
compared with `TARGETS` training volumes of the other domain, all together: which of them belong together is not used.

* distance: how far the translations are from real volumes, place by place. In each cell of about `CELL_MM` it is the
  Wasserstein distance between the values that translations and real volumes have there; the mean is over the cells.
  The place tells apart what the intensities alone do not: bone as dark as it should be, and not as dark as fat.
  Noise averages out within a cell, so that texture, which no paired truth would confirm, is worth little.
* shared: the information that a translation shares with its source, as a fraction of their mean entropy. It falls when
  structure is lost or invented, and when noise is added. It is largest for doing nothing, so it counts less:

      score = distance / shared ** SHARED_POWER

A product, so that neither unit matters. benchmarks/validation.py measures how well it chooses.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from cyclescan import records
from cyclescan.artifacts.direction import DIRECTIONS, Direction
from cyclescan.artifacts.runs import Run
from cyclescan.common.files import read_json
from cyclescan.config import Config
from cyclescan.preprocessing.information import nmi
from cyclescan.training import terms

SOURCES = 4  # so few that looking at them is a small share of the training
TARGETS = 24
CELL_MM = 5.0
FEWEST_CELLS = 8  # along each axis
QUANTILES = (np.arange(16) + 0.5) / 16
SHARED_POWER = 0.4
LEAST_SHARED = 1e-3  # a constant translation shares nothing, and its score must be finite
END = 0.99  # beyond it, on either side, a voxel is at the end of the range


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the networks make of the fixed volumes in one direction.

    Attributes:
        measures: `score`, `distance` and `shared` as above; `negative_distance`, that of the negative image; `variety`,
            the variance between translations as a share of that between real volumes; `ends`, the share of voxels at
            -1 or 1 beyond that of real volumes; and, in a run with pairs, `partner`, the correlation of a translation
            with the pseudo-pair's partner.
        translated: float32 (SOURCES, depth, height, width) on [-1, 1].
        example: volumes (depth, height, width) by what they are: `source`, `translated`, `cycled` and, in a run with
            pairs, `partner`, which is -1 where it is unknown.
    """

    measures: dict[str, float]
    translated: np.ndarray
    example: dict[str, np.ndarray]


class Validation:
    """Fixed volumes of both domains, and what is to be known about the real ones.

    Args:
        data: a folder made by `data_prep build`.
        config: of the run; volumes are cut around their middle to its patch, which bounds time and memory.
    """

    def __init__(self, data: str | Path, config: Config):
        data = Path(data)
        spacing_mm = records.read_info(data)["spacing_mm"]
        self._factors = _cell_edges(config.patch_shape, spacing_mm)
        self._sources, self._targets, self._examples = {}, {}, {}
        self._networks: dict[str, tuple] = {}
        for domain in ("a", "b"):
            real = [_middle(r.voxels, config.patch_shape) for r in _read(data, ["train"], domain, TARGETS)]
            self._targets[domain] = _Real(real, self._factors)
            kept = [_middle(r.voxels, config.patch_shape) for r in _read(data, ["val", "train"], domain, SOURCES)]
            self._sources[domain] = kept
            self._examples[domain] = {"source": kept[0]}
            if terms.batch_contents(config)["paired"]:
                (pair,) = _read(data, ["pairs"], domain, 1)
                both = {"source": pair.voxels, "partner": pair.partner}
                self._examples[domain] = {
                    name: _middle(v, config.patch_shape) for name, v in both.items() if v is not None
                }

    @property
    def sources(self) -> dict[str, np.ndarray]:
        """Return the volumes that are translated: float32 (SOURCES, depth, height, width) of each domain."""
        return {domain: np.stack(volumes) for domain, volumes in self._sources.items()}

    def look(self, translators: Mapping) -> dict[str, Seen]:
        """Look at what the networks make of the volumes now, for "a2b" and "b2a".

        Args:
            translators: a Keras model for each direction.

        Raises:
            FloatingPointError: a translation has voxels that are NaN or infinite; the message names the direction.
        """
        seen: dict[str, Seen] = {}
        for direction in DIRECTIONS:
            source = direction.source
            there, back = (self._function(d, translators[d]) for d in (direction, direction.reverse))
            translated = np.stack([there(volume) for volume in self._sources[source]])
            if not np.isfinite(translated).all():
                raise FloatingPointError(direction)
            example = dict(self._examples[source])
            example["translated"] = there(example["source"])
            example["cycled"] = back(example["translated"])
            measures = self.measure(direction, translated)
            if "partner" in example:
                known = np.isfinite(example["partner"])
                measures["partner"] = _correlation(example["translated"][known], example["partner"][known])
                example["partner"] = np.where(known, example["partner"], -1.0)
            seen[direction] = Seen(measures, translated, example)
        return seen

    def _function(self, direction: str, network) -> Callable[[np.ndarray], np.ndarray]:
        """Make a function of volumes; the graph, which takes a second to build, is kept from call to call."""
        if self._networks.get(direction, (None,))[0] is not network:
            translated = tf.function(lambda volume: network(volume, training=False), autograph=False)
            self._networks[direction] = network, translated
        graph = self._networks[direction][1]
        return lambda volume: graph(volume[None, ..., None].astype(np.float32)).numpy().astype(np.float32)[0, ..., 0]

    def measure(self, direction: str, translated: Iterable[np.ndarray]) -> dict[str, float]:
        """Take the `Seen.measures` of translations of the sources, but for `partner`."""
        ends = Direction(direction)
        source, target = self._sources[ends.source], self._targets[ends.target]
        cells = _cells(translated, self._factors)
        distance = target.distance(cells)
        shared = float(np.mean([2 - 2 / nmi(a, b) for a, b in zip(translated, source, strict=True)]))
        measures = {
            "score": distance / max(shared, LEAST_SHARED) ** SHARED_POWER,
            "distance": distance,
            "shared": shared,
            "negative_distance": target.distance(-cells),
            "ends": _share_at_the_ends(translated) - target.ends,
        }
        if len(cells) > 1 and target.variance > 0:
            measures["variety"] = float(cells.var(0).mean() / target.variance)
        return measures


def score(seen: Mapping[str, Seen]) -> float:
    """Make one number for a checkpoint, which holds both directions: the geometric mean of their scores."""
    return math.prod(s.measures["score"] for s in seen.values()) ** (1 / len(seen))


def stalled(run: Run) -> bool:
    """Say whether the last `run.patience` checkpoints were no better than the best before them.

    Checkpoints of the warm-up do not count, unless it is the whole run: the schedule has yet to come to what the run
    is for. Nor do those that only a signal caused.
    """
    if not run.patience:
        return False
    config = run.config
    begin = config.warmup if terms.has_warmup(config) and config.warmup < 1 else 0.0
    scores = []
    for path in run.checkpoints.values():
        facts = read_json(path / "checkpoint.json")
        if facts.get("score") is not None and not facts.get("unplanned") and facts.get("progress", 0.0) >= begin:
            scores.append(facts["score"])
    return run.patience < len(scores) and min(scores[-run.patience :]) >= min(scores[: -run.patience])


class _Real:
    """What is remembered of the real volumes of a domain."""

    def __init__(self, volumes: Sequence[np.ndarray], factors: Sequence[int]):
        cells = _cells(volumes, factors)
        self._quantiles = np.quantile(cells, QUANTILES, axis=0)
        self.variance = float(cells.var(0).mean())
        self.ends = _share_at_the_ends(volumes)

    def distance(self, cells: np.ndarray) -> float:
        """Average the Wasserstein distance between the values of each cell, from `QUANTILES` of both."""
        return float(np.abs(np.quantile(cells, QUANTILES, axis=0) - self._quantiles).mean())


def _read(data: Path, splits: Sequence[str], domain: str, count: int) -> list[records.Record]:
    """Read the first `count` records of a domain, from the first split on."""
    entries = [
        e for split in splits if records.shards(data / split, domain) for e in records.entries(data, split, domain)
    ]
    return [records.decode(records.read_at(*entry)) for entry in itertools.islice(entries, count)]


def _middle(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Cut the middle out of a volume; what is missing is air, -1."""
    missing = [max(0, wanted - n) for wanted, n in zip(shape, volume.shape, strict=True)]
    volume = np.pad(volume, [(m // 2, m - m // 2) for m in missing], constant_values=-1.0)
    starts = [(n - wanted) // 2 for wanted, n in zip(shape, volume.shape, strict=True)]
    return volume[tuple(slice(s, s + wanted) for s, wanted in zip(starts, shape, strict=True))]


def _cell_edges(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Voxels along each edge of a cell."""
    edges = zip(shape, spacing_mm, strict=True)
    return tuple(max(1, min(round(CELL_MM / spacing), n // FEWEST_CELLS)) for n, spacing in edges)


def _cells(volumes: Iterable[np.ndarray], factors: Sequence[int]) -> np.ndarray:
    """The means of the cells of each volume, (volumes, cells); what is left over at the far ends does not count."""
    result = []
    for volume in volumes:
        counts = [n // f for n, f in zip(volume.shape, factors, strict=True)]
        cut = volume[tuple(slice(c * f) for c, f in zip(counts, factors, strict=True))]
        shape = [n for pair in zip(counts, factors, strict=True) for n in pair]
        result.append(cut.reshape(shape).mean((1, 3, 5)).ravel())
    return np.stack(result)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Compute Pearson's correlation, 0 where one is constant."""
    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])


def _share_at_the_ends(volumes: Iterable[np.ndarray]) -> float:
    return float(np.mean([np.mean(np.abs(volume) > END) for volume in volumes]))
