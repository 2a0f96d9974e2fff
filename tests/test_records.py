import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from cyclescan import records
from cyclescan.common.errors import InputError
from cyclescan.preprocessing.detail import on_all_voxels
from tests.data_prep.scan_files import AFFINE


def make(seed=0, **changes) -> records.Record:
    rng = np.random.default_rng(seed)
    voxels = rng.uniform(-1, 1, (4, 5, 6)).astype(np.float32)
    voxels[0, 0, :3] = -1, 0, 1
    steps = [{"step": "intensity", "low": 0.1, "high": 900.5, "scaling": "percentile:0.5,99.5"}]
    return dataclasses.replace(records.Record(voxels, AFFINE, "a", "ciss", "s0123", steps), **changes)


def test_a_record_comes_back_within_half_a_unit():
    record = make()
    back = records.decode(records.encode(record))
    assert np.abs(back.voxels - record.voxels).max() <= 0.5001 / records.UNIT
    np.testing.assert_array_equal(back.voxels[0, 0, :3], [-1, 0, 1])
    np.testing.assert_allclose(back.affine, AFFINE)
    for field in ("domain", "domain_name", "subject", "preprocessing", "partner", "partner_subjects", "weight", "kind"):
        assert getattr(back, field) == getattr(record, field)


@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 3, 3)])
def test_a_mask_comes_back_in_an_eighth_of_a_byte_a_voxel(shape):
    mask = (np.random.default_rng(2).random(shape) < 0.6).astype(np.uint8)
    voxels = np.zeros(shape, np.float32)
    with_mask, without = (records.encode(make(voxels=voxels, mask=m)) for m in (mask, None))
    back = records.decode(with_mask).mask
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, mask)
    assert records.decode(without).mask is None
    assert len(with_mask) - len(without) == -(-mask.size // 8)
    example = tf.train.Example.FromString(with_mask)
    example.features.feature["mask"].bytes_list.value[0] += b"\0"
    with pytest.raises(InputError, match=f"a mask of {-(-mask.size // 8) + 1} bytes for {mask.size} voxels"):
        records.decode(example.SerializeToString())


def test_records_of_the_first_version_are_read():
    example = tf.train.Example.FromString(records.encode(make()))
    del example.features.feature["mask"]
    example.features.feature["schema_version"].int64_list.value[0] = 1
    back = records.decode(example.SerializeToString())
    assert back.mask is None
    assert np.abs(back.voxels - make().voxels).max() <= 0.5001 / records.UNIT


def test_a_pair_keeps_both_volumes():
    record = make(partner=make(1).voxels, partner_subjects=("s8", "s9"), weight=0.25)
    back = records.decode(records.encode(record))
    assert (back.kind, back.partner_subjects, back.weight) == ("pair", ("s8", "s9"), 0.25)
    assert np.abs(back.partner - record.partner).max() <= 0.5001 / records.UNIT


@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 5, 7)])
def test_the_detail_of_partners_comes_back_on_every_second_voxel(shape):
    coarse = tuple(-(-edge // 2) for edge in shape)
    detail = np.random.default_rng(3).uniform(0, 0.5, (*coarse, 2)).astype(np.float32)
    detail[0, 0, 0] = np.nan
    voxels = np.zeros(shape, np.float32)
    pair = make(voxels=voxels, partner=voxels, partner_subjects=("s8",), partner_detail=detail)
    serialized = records.encode(pair)
    back = records.decode(serialized).partner_detail
    assert np.nanmax(np.abs(back - detail)) <= 0.5001 / records.UNIT
    np.testing.assert_array_equal(np.isnan(back), np.isnan(detail))
    energies = np.asarray(records.parse_pair(serialized, detail=True)[3])
    assert energies.shape == (*shape, 2)
    expected = np.nan_to_num(back**2, nan=-1.0)
    for place in np.ndindex(shape):
        np.testing.assert_allclose(energies[place], expected[tuple(i // 2 for i in place)], rtol=1e-6)
    np.testing.assert_array_equal(energies, on_all_voxels(expected, shape))
    # pairs of before are read, and what reads only those reads this
    without = records.encode(dataclasses.replace(pair, partner_detail=None))
    assert records.decode(without).partner_detail is None
    assert len(records.parse_pair(serialized)) == len(records.parse_pair(without)) == 3


def test_the_graph_and_numpy_read_the_same_voxels():
    pair = make(partner=make(1).voxels, partner_subjects=("s8", "s9"), weight=0.25)
    pair.partner[0, 1, :] = np.nan  # beyond the partner's field of view
    serialized = records.encode(pair)
    back = records.decode(serialized)
    np.testing.assert_array_equal(records.parse_voxels(serialized)[..., 0], back.voxels)
    voxels, partner, weight = records.parse_pair(serialized)
    np.testing.assert_array_equal(voxels[..., 0], back.voxels)
    np.testing.assert_array_equal(partner[..., 0], back.partner)
    np.testing.assert_array_equal(np.isnan(back.partner), np.isnan(pair.partner))
    assert float(weight) == 0.25


def test_bytes_are_those_of_tensorflow(tmp_path):
    several = [make(i) for i in range(3)]
    serialized = [records.encode(r) for r in several]
    for each in serialized:
        assert tf.train.Example.FromString(each).SerializeToString(deterministic=True) == each
    records.write_shard(tmp_path / "ours.tfrecord", several)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs.tfrecord")) as writer:
        for each in serialized:
            writer.write(each)
    assert (tmp_path / "ours.tfrecord").read_bytes() == (tmp_path / "theirs.tfrecord").read_bytes()
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / "ours.tfrecord"))] == serialized
    assert [records.read_at(tmp_path / "ours.tfrecord", *e) for e in records.index(tmp_path / "ours.tfrecord")] == (
        serialized
    )


@pytest.mark.parametrize("kept", [-1, 20, 5])
def test_a_truncated_shard_is_refused(tmp_path, kept):
    path = tmp_path / "a.tfrecord"
    records.write_shard(path, [make(0), make(1)])
    data = path.read_bytes()
    second = records.index(path)[1][0] - 12
    path.write_bytes(data[:-1] if kept < 0 else data[: second + kept])
    with pytest.raises(InputError, match="truncated: its record 1 ends beyond the file"):
        records.index(path)


@pytest.mark.parametrize("place", [8, 200, -1])
def test_a_flipped_bit_is_refused(tmp_path, place):
    path = tmp_path / "a.tfrecord"
    records.write_shard(path, [make(0)])
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="checksum of its record 0 is wrong"):
        list(records.read_shard(path))


@pytest.mark.parametrize(
    "data", [b"", b"no protobuf", tf.train.Example().SerializeToString(), records.encode(make())[:-20]]
)
def test_other_bytes_are_no_record(data):
    with pytest.raises(InputError, match="not a record of cyclescan"):
        records.decode(data)


def test_another_schema_version_is_refused():
    example = tf.train.Example.FromString(records.encode(make()))
    example.features.feature["schema_version"].int64_list.value[0] = 99
    with pytest.raises(InputError, match="schema version 99; this program reads 1 and 2"):
        records.decode(example.SerializeToString())


def test_an_exception_while_writing_leaves_no_shard(tmp_path):
    def failing():
        yield make()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        records.write_shard(tmp_path / "a.tfrecord", failing())
    assert list(tmp_path.iterdir()) == []
