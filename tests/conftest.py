"""Fixtures: a tiny data set of two contrasts of the same random shapes."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cyclescan import records
from cyclescan.common.files import sha256, write_json
from cyclescan.preprocessing import detail

TESTS = Path(__file__).parent
SHAPE = (8, 16, 16)
SPACING_MM = (3.0, 2.0, 2.0)
SETTINGS = [
    "patch_shape=8,16,16",
    "generator_levels=2",
    "generator_filters=4",
    "generator_full_resolution_filters=4",
    "discriminator_levels=1",
    "discriminator_filters=4",
    "pool_size=3",
]


# begun first, the longest at the top: with one of them begun last, a core would wait for it alone
DEAR = [
    "test_end_to_end.py",
    "test_notebooks.py",
    "training/test_cyclegan.py",
    "golden/test_golden.py",
    "training/test_resume.py",
    "training/test_distribution.py",
    "test_docs.py",
    "training/test_trainer.py",
    "training/test_watching.py",
    "test_report.py",
]


def pytest_collection_modifyitems(items):
    places = {TESTS / name: place for place, name in enumerate(DEAR)}
    items.sort(key=lambda item: places.get(item.path, len(DEAR)))


def scan(seed: int, domain: str, shape=SHAPE) -> np.ndarray:
    """A smooth random volume on [-1, 1]; domain b is a non-monotone function of the same anatomy."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    field = np.tanh(field / field.std())
    return (field if domain == "a" else 1 - 2 * np.abs(field)).astype(np.float32)


def record(seed: int, domain: str, partner: bool = False) -> records.Record:
    """A record of `scan`, or a pair of it with its exact counterpart."""
    other = "b" if domain == "a" else "a"
    energies = detail.thinned(detail.energies(scan(seed, other)))
    affine = np.diag([*SPACING_MM, 1.0])
    return records.Record(
        scan(seed, domain),
        affine,
        domain,
        {"a": "ciss", "b": "dess"}[domain],
        f"s{seed}",
        [],
        scan(seed, other) if partner else None,
        (f"s{seed}x",) if partner else (),
        1.0,
        np.sqrt(energies) if partner else None,
    )


def write_records(folder, counts=None):
    """A data set with pairs; returns its folder."""
    counts = counts or {"train": 4, "val": 1, "test": 2}
    shards, splits, first = {}, {}, 0
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        splits[split] = {"a": [], "b": []}
        for domain in ("a", "b"):
            # training subjects differ between the domains, test subjects are the same
            start = first + (100 if split == "train" and domain == "b" else 0)
            items = [record(start + i, domain) for i in range(count)]
            path = folder / split / f"{domain}-00000-of-00001.tfrecord"
            records.write_shard(path, items)
            splits[split][domain] = [r.subject for r in items]
            shards[f"{split}/{path.name}"] = {
                "records": count,
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
            }
        first += count
    (folder / "pairs").mkdir()
    for domain in ("a", "b"):
        pairs = [record(i + (100 if domain == "b" else 0), domain, partner=True) for i in range(counts["train"])]
        records.write_shard(folder / "pairs" / f"{domain}-00000-of-00001.tfrecord", pairs)
    scaling = "percentile:0.5,99.5"
    intensity = {"step": "intensity", "scaling": scaling}
    write_json(
        folder / "dataset.json",
        {
            "schema_version": 1,
            "cyclescan_version": "0",
            "seed": 0,
            "disjoint": True,
            "axes": ["R", "S", "A"],
            "spacing_mm": list(SPACING_MM),
            "shape": list(SHAPE),
            "domains": {
                "a": {"name": "ciss", "scaling": scaling, "intensity": {**intensity, "low": 0.0, "high": 1000.0}},
                "b": {"name": "dess", "scaling": scaling, "intensity": {**intensity, "low": 0.0, "high": 500.0}},
            },
            "splits": splits,
            "shards": shards,
            "failed": [],
        },
    )
    return folder


@pytest.fixture(scope="session")
def tiny_records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records") / "records")


@contextlib.contextmanager
def without_graphs():
    """No graph is made of a step: that takes seconds for each kind of step, and a few of them take none."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly():
    """For tests that take few steps. Fixtures of a module are made before this one and have graphs, as runs have."""
    with without_graphs():
        yield
