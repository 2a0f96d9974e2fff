"""Readers on bytes that nobody meant to write: they return what is sound, or raise the package's own error.

The examples are the same in every run. `pytest -m slow tests/test_fuzz.py` tries many more.
"""

import contextlib
import gzip
import json
import shutil
import signal
import tracemalloc
import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cyclescan import records
from cyclescan.common.errors import InputError
from cyclescan.common.files import sha256
from cyclescan.scans import volume
from data_prep.verify import verify
from tests.conftest import write_records
from tests.data_prep.scan_files import AFFINE, voxels

SECONDS = 20
PEAK_BYTES = 64e6
QUICK = settings(
    max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
LONG = settings(QUICK, max_examples=5000)


@contextlib.contextmanager
def bounded():
    """Neither a hang nor a large allocation; InputError is an answer."""

    def late(*_):
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    tracemalloc.start()
    try:
        with warnings.catch_warnings(), contextlib.suppress(InputError):
            warnings.simplefilter("ignore")
            yield
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def both(test):
    """The test with few examples, and with many of them marked slow."""
    return pytest.mark.parametrize("options", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)], ids=["few", "many"])(
        test
    )


def _sound(kind, endianness="<", dtype="i2") -> bytes:
    header = (nib.Nifti2Header if kind is nib.Nifti2Image else nib.Nifti1Header)(endianness=endianness)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(endianness))
    return kind(voxels().astype(dtype), AFFINE, header).to_bytes()


SEEDS = [
    _sound(nib.Nifti1Image),
    _sound(nib.Nifti1Image, ">"),
    _sound(nib.Nifti2Image),
    _sound(nib.Nifti1Image, "<", "f4"),
]
# places that matter: the whole header and the extension flag of either kind, and a little of the voxels
EDITS = st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=8)), max_size=6)
CUTS = st.one_of(st.just(None), st.integers(0, 4000))


def _edited(data: bytes, edits, cut) -> bytes:
    result = bytearray(data)
    for place, replacement in edits:
        result[place : place + len(replacement)] = replacement
    return bytes(result[:cut])


@both
def test_nifti_files(tmp_path, options):
    @options
    @given(st.sampled_from(SEEDS), EDITS, CUTS, st.booleans(), st.one_of(st.none(), st.integers(0, 2)))
    def run(data, edits, cut, compressed, index):
        path = tmp_path / ("x.nii.gz" if compressed else "x.nii")
        data = _edited(data, edits, cut)
        path.write_bytes(gzip.compress(data, 1) if compressed else data)
        with bounded():
            shape, affine = volume.read_header(path, index)
            assert min(shape) >= 1
            assert np.isfinite(affine).all()
        with bounded():
            scan = volume.read(path, index)
            assert scan.array.shape == shape
            assert np.isfinite(scan.array).all()
        with bounded():
            assert volume.count(path) >= 1

    run()


@both
def test_gzip_streams(tmp_path, options):
    """The compressed bytes themselves."""
    sound = gzip.compress(SEEDS[0], 6)

    @options
    @given(st.lists(st.tuples(st.integers(0, len(sound)), st.binary(min_size=1, max_size=4)), max_size=4), CUTS)
    def run(edits, cut):
        (tmp_path / "x.nii.gz").write_bytes(_edited(sound, edits, cut))
        with bounded():
            # what passes the checksum of gzip is what was written
            np.testing.assert_array_equal(volume.read(tmp_path / "x.nii.gz").array, voxels())

    run()


@both
def test_any_bytes(tmp_path, options):
    @options
    @given(st.binary(max_size=2000), st.sampled_from(["x.nii", "x.nii.gz", "x.tfrecord"]))
    def run(data, name):
        (tmp_path / name).write_bytes(data)
        with bounded():
            if name == "x.tfrecord":
                list(records.read_shard(tmp_path / name))
            else:
                volume.read(tmp_path / name)
        with bounded():
            records.decode(data)

    run()


def _record() -> records.Record:
    steps = [{"step": "intensity", "low": 0.1, "high": 900.5, "scaling": "percentile:0.5,99.5"}]
    array = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    return records.Record(array, AFFINE, "a", "ciss", "s0123", steps, partner=array, partner_subjects=("s9",))


@both
def test_serialized_records(options):
    sound = records.encode(_record())

    @options
    @given(st.lists(st.tuples(st.integers(0, len(sound)), st.binary(min_size=1, max_size=8)), max_size=6), CUTS)
    def run(edits, cut):
        with bounded():
            record = records.decode(_edited(sound, edits, cut))
            assert record.voxels.ndim >= 0
            assert isinstance(record.preprocessing, list)

    run()


def test_a_record_of_nested_lists():
    """Deeper than the reader of JSON may go."""
    example = records._example_class().FromString(records.encode(_record()))
    example.features.feature["preprocessing"].bytes_list.value[0] = b"[" * 200_000
    with pytest.raises(InputError, match="not a record of cyclescan"):
        records.decode(example.SerializeToString())


@both
def test_shards(tmp_path, options):
    path = tmp_path / "x.tfrecord"
    records.write_shard(path, [_record(), _record()])
    sound = path.read_bytes()

    @options
    @given(st.lists(st.tuples(st.integers(0, len(sound)), st.binary(min_size=1, max_size=8)), max_size=3), CUTS)
    @example([(0, b"\xff" * 8)], None)  # a length of 2**64 - 1
    @example([(0, b"\0" * 8)], None)
    def run(edits, cut):
        data = _edited(sound, edits, cut)
        path.write_bytes(data)
        with bounded():
            found = list(records.read_shard(path))
            # what passes the checksums is what was written
            assert len(found) == 2 or len(data) < len(sound)

    run()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _places(item, (*path, i))


@both
def test_dataset_json(tmp_path, options):
    """Any one value of it replaced by any other."""
    folder = write_records(tmp_path / "records", {"train": 2, "val": 1, "test": 1})
    shutil.rmtree(folder / "pairs")
    path = folder / "dataset.json"
    sound = json.loads(path.read_text())
    for name, facts in sound["shards"].items():
        facts["scans"] = [
            {"subject": r.subject, "content": r.subject + name} for r in records.read_shard(folder / name)
        ]
        assert facts["sha256"] == sha256(folder / name)
    places = sorted(_places(sound), key=str)

    @options
    @given(st.sampled_from(places), JSON)
    @example(("spacing_mm", 0), -(2**63) - 1)  # found by the long run: NumPy has no type for it
    def run(place, value):
        changed = json.loads(json.dumps(sound))
        if not place:
            changed = value
        else:
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
        path.write_text(json.dumps(changed))
        with bounded():
            assert all(isinstance(text, str) for text in verify(folder)["problems"])

    run()
