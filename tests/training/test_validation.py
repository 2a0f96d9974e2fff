"""The score ranks bad translations behind good ones, without ever seeing which volumes belong together."""

import copy

import numpy as np
import pytest
from scipy import ndimage

from cyclescan import records
from cyclescan.artifacts import runs
from cyclescan.artifacts.runs import Run
from cyclescan.common.files import write_json
from cyclescan.config import Config
from cyclescan.training import validation
from cyclescan.training.validation import Validation

SHAPE = (16, 24, 24)
CONFIG = Config(patch_shape=SHAPE, generator_levels=2, lambda_pair=10.0, warmup=0.5)


def anatomy(seed):
    """Three tissues in places that all subjects share, each a little moved and of other size."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    grid = grid - rng.normal(0, 0.08, (3, 1, 1, 1))
    radius = np.sqrt((grid**2).sum(0))
    tissue = np.zeros(SHAPE, int)
    tissue[radius < 0.95 + rng.normal(0, 0.05)] = 1
    tissue[(radius < 0.7) & (grid[1] > rng.normal(0, 0.08))] = 2
    tissue[(radius < 0.7) & (grid[1] < -0.2 + rng.normal(0, 0.08))] = 3
    return tissue


def seen_as(domain, tissue, noise=0.06, seed=0):
    """A scan: fluid is bright in both, bone and fat change places."""
    values = {"a": [-0.95, 0.3, -0.5, 0.8], "b": [-0.95, -0.4, 0.5, 0.7]}[domain]
    field = ndimage.gaussian_filter(np.asarray(values)[tissue], 0.6)
    return np.clip(field + np.random.default_rng(seed).normal(0, noise, SHAPE), -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    affine = np.diag([2.5, 2.5, 2.5, 1.0])

    def write(split, domain, seeds, **more):
        items = []
        for seed in seeds:
            scan = seen_as(domain, anatomy(seed), seed=seed)
            items.append(records.Record(scan, affine, domain, domain, f"s{seed}", [], **more))
        (folder / split).mkdir(exist_ok=True)
        records.write_shard(folder / split / f"{domain}-00000-of-00001.tfrecord", items)

    write("train", "a", range(8))
    write("train", "b", range(100, 108))
    write("val", "a", range(200, 202))
    write("val", "b", range(200, 202))
    partner = seen_as("b", anatomy(300))
    partner[0] = np.nan
    write("pairs", "a", [300], partner=partner, partner_subjects=("s",))
    write("pairs", "b", [301], partner=seen_as("a", anatomy(301)), partner_subjects=("s",))
    write_json(folder / "dataset.json", {"spacing_mm": [2.5, 2.5, 2.5]})
    return folder


@pytest.fixture(scope="module")
def looking(data):
    return Validation(data, CONFIG)


SOURCE_SEEDS = [200, 201, 0, 1]  # validation first, then training


def test_sources_are_of_validation_first(looking):
    for number, seed in enumerate(SOURCE_SEEDS):
        np.testing.assert_allclose(looking.sources["a"][number], seen_as("a", anatomy(seed), seed=seed), atol=1e-4)


def true(noise=0.0):
    return np.stack([seen_as("b", anatomy(seed), noise) for seed in SOURCE_SEEDS])


def matched(volumes, reference):
    """Each volume with the intensities of `reference`, their order kept."""
    wanted = np.sort(reference, axis=None)
    ranks = [np.argsort(np.argsort(v, axis=None)) / (v.size - 1) for v in volumes]
    return np.stack([np.interp(r, np.linspace(0, 1, wanted.size), wanted).reshape(SHAPE) for r in ranks])


BAD = {
    "identity": lambda source, good: source,
    "inverted": lambda source, good: -good,
    "constant": lambda source, good: np.full_like(good, good.mean()),
    "blurred": lambda source, good: np.stack([ndimage.gaussian_filter(v, 1.5) for v in good]),
    "noise added": lambda source, good: good + np.random.default_rng(0).normal(0, 0.2, good.shape),
    "histogram matched": matched,
    "another subject's": lambda source, good: np.roll(good, 1, 0),
    "all the same": lambda source, good: np.repeat(good[:1], len(good), 0),
    "black": lambda source, good: np.full_like(good, -1.0),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_translations_score_worse(looking, name):
    good = true()
    bad = BAD[name](looking.sources["a"], good).astype(np.float32)
    assert looking.measure("a2b", bad)["score"] > 1.15 * looking.measure("a2b", good)["score"]


def test_a_step_towards_the_truth_is_a_better_score(looking):
    good, source = true(), looking.sources["a"]
    scores = [looking.measure("a2b", w * good + (1 - w) * source)["score"] for w in (0.0, 0.3, 0.6, 0.8, 1.0)]
    assert scores == sorted(scores, reverse=True)


def test_what_the_measures_are(looking):
    good = true()
    measured = looking.measure("a2b", good)
    assert looking.measure("a2b", -good)["negative_distance"] == pytest.approx(measured["distance"], rel=1e-6)
    assert 0.5 < measured["variety"] < 1.5
    assert looking.measure("a2b", np.repeat(good[:1], len(good), 0))["variety"] == pytest.approx(0, abs=1e-6)
    assert looking.measure("a2b", np.sign(good))["ends"] > 0.8
    assert abs(looking.measure("a2b", true(noise=0.06))["ends"]) < 0.05
    assert looking.measure("a2b", looking.sources["a"])["shared"] == pytest.approx(1)
    constant = looking.measure("a2b", np.zeros_like(good))
    assert constant["shared"] == 0 and np.isfinite(constant["score"])


class Network:
    """What a Keras model does, for a function of voxels."""

    def __init__(self, function):
        self.function = function

    def __call__(self, volume, training):
        assert volume.shape == (1, *SHAPE, 1) and not training
        return self.function(volume)


def test_nothing_is_said_of_the_variety_of_one_volume(looking):
    alone = copy.copy(looking)
    alone._sources = {domain: volumes[:1] for domain, volumes in looking._sources.items()}
    assert "variety" not in alone.measure("a2b", true()[:1])


def test_looking_at_networks(looking):
    seen = looking.look({"a2b": Network(lambda v: -v), "b2a": Network(lambda v: 0.5 * v)})
    assert set(seen) == {"a2b", "b2a"}
    example = seen["a2b"].example
    np.testing.assert_allclose(example["source"], seen_as("a", anatomy(300), seed=300), atol=1e-4)
    np.testing.assert_array_equal(example["translated"], -example["source"])
    np.testing.assert_array_equal(example["cycled"], -0.5 * example["source"])
    assert (example["partner"][0] == -1).all()
    expected = np.corrcoef(example["translated"][1:].ravel(), example["partner"][1:].ravel())[0, 1]
    assert seen["a2b"].measures["partner"] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(seen["a2b"].translated, -looking.sources["a"])
    each = [s.measures["score"] for s in seen.values()]
    assert validation.score(seen) == pytest.approx(np.sqrt(each[0] * each[1]))


def test_translations_that_are_not_finite_are_no_score(looking):
    with pytest.raises(FloatingPointError, match="b2a"):
        looking.look({"a2b": Network(lambda v: v), "b2a": Network(lambda v: v / 0)})


def test_volumes_of_any_size_are_cut_around_their_middle():
    volume = np.zeros((4, 7, 10), np.float32)
    volume[2, 3, 5] = 1
    cut = validation._middle(volume, (8, 4, 4))
    assert cut.shape == (8, 4, 4)
    assert np.argwhere(cut == 1).tolist() == [[4, 2, 2]]
    assert (cut[:2] == -1).all() and (cut[6:] == -1).all()


def test_cells_are_of_one_size_in_the_body():
    assert validation._cell_edges((32, 64, 64), (3.0, 2.1875, 2.1875)) == (2, 2, 2)
    assert validation._cell_edges((32, 256, 256), (1.5, 0.4, 0.4)) == (3, 12, 12)
    assert validation._cell_edges((8, 16, 16), (3.0, 0.1, 20.0)) == (1, 2, 1)


def test_without_validation_volumes_training_ones_serve(data, tmp_path):
    (tmp_path / "train").symlink_to(data / "train")
    (tmp_path / "dataset.json").write_text((data / "dataset.json").read_text())
    looking = Validation(tmp_path, Config(patch_shape=SHAPE, generator_levels=2))
    np.testing.assert_allclose(looking.sources["b"][0], seen_as("b", anatomy(100), seed=100), atol=1e-4)
    seen = looking.look({"a2b": Network(lambda v: v), "b2a": Network(lambda v: v)})
    assert set(seen["b2a"].example) == {"source", "translated", "cycled"}
    assert "partner" not in seen["b2a"].measures


def stalled(folder, entries, patience=2, **settings):
    run = Run(folder, Config(**({"lambda_pair": 10.0, "warmup": 0.5} | settings)), "", {}, "", 0, patience=patience)
    for step, (score, progress, *more) in enumerate(entries):
        path = folder / "checkpoints" / f"step-{step:08d}"
        path.mkdir(parents=True)
        write_json(path / "checkpoint.json", {"score": score, "progress": progress, **dict(more)})
    assert list(run.checkpoints) == list(range(len(entries)))
    return validation.stalled(run)


PHASE = [(2.0, 0.5), (1.0, 0.6), (1.1, 0.7), (1.0, 0.8)]
WARMUP = [(0.5, 0.1), (0.6, 0.2), (0.7, 0.3)]


@pytest.mark.parametrize(
    ("entries", "settings", "expected"),
    [
        (PHASE, {}, True),
        (PHASE[:-1], {}, False),
        ([*PHASE, (0.9, 0.9)], {}, False),
        (PHASE, {"patience": 3}, False),
        (PHASE, {"patience": 0}, False),
        (WARMUP, {}, False),  # the phase has not begun
        ([*WARMUP, *PHASE[:2]], {}, False),  # the warm-up's scores do not count
        (WARMUP, {"warmup": 1.0}, True),  # the warm-up is all there is
        (WARMUP, {"lambda_pair": 0.0}, True),  # there is no warm-up
        ([*PHASE[:-1], (None, 0.8)], {}, False),  # not yet scored
        ([*PHASE[:-1], (3.0, 0.8, ("unplanned", True))], {}, False),
    ],
)
def test_when_a_run_has_stalled(tmp_path, entries, settings, expected):
    assert stalled(tmp_path, entries, **settings) == expected


def test_the_best_checkpoint_has_the_lowest_score(tmp_path):
    stalled(tmp_path, PHASE)
    run = Run(tmp_path, Config(), "", {}, "", 0)
    assert runs.find(run, "best").name == "step-00000001"
