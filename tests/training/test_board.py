"""What is written for TensorBoard, read back."""

import contextlib
import logging

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclescan.training import board


def written(folder):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def values(events, tag):
    return {e.step: tf.make_ndarray(e.tensor_proto) for e in events.Tensors(tag)}


def test_planes_lie_as_a_radiologist_sees_them():
    volume = np.full((3, 5, 7), -1.0)
    volume[1, 4, 6] = 1.0  # middle in depth, superior and anterior: top left of the sagittal plane
    volume[0, 4, 3] = 0.5  # middle in width, superior and left: top right of the coronal plane
    volume[2, 2, 6] = 0.0  # middle in height, anterior and right: top left of the axial plane
    image = board.triplanar([volume], (1.0, 1.0, 1.0))
    assert image.shape == (5 + 5 + 7 + 2 * board.GAP, 7)
    coronal, axial = 5 + board.GAP, 10 + 2 * board.GAP
    assert image[0, 0] == 1.0
    assert image[coronal, 2] == 0.75
    assert image[axial, 0] == 0.5
    assert (image > 0).sum() == 3


def test_pixels_are_square_and_volumes_side_by_side():
    dark, bright = np.full((4, 6, 8), -1.0), np.full((4, 6, 8), 1.0)
    image = board.triplanar([bright, dark, bright], (3.0, 1.0, 2.0))
    # sagittal 6 x 16, coronal 6 x 12, axial 16 x 12
    assert image.shape == (6 + 6 + 16 + 2 * board.GAP, 3 * 16 + 2 * board.GAP)
    assert image[:, :16].sum() == 6 * 16 + 6 * 12 + 16 * 12
    assert image[:, 16 : 32 + 2 * board.GAP].sum() == 0
    np.testing.assert_array_equal(image[:, -16:], image[:, :16])


def test_what_is_written_can_be_read_back(tmp_path):
    rng = np.random.default_rng(0)
    volumes = {"ciss": rng.uniform(-1, 1, (4, 6, 8)), "to dess": rng.uniform(-1, 1, (4, 6, 8))}
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        board.scalars("loss", {"cycle_aba": 0.25, "lost": float("nan"), "large": float("inf")}, 10)
        board.scalars("loss", {"cycle_aba": 0.125}, 20)
        board.picture("a2b", volumes, (2.0, 1.0, 1.0), 20)
    events = written(tmp_path)
    assert set(events.Tags()["tensors"]) == {"loss/cycle_aba", "a2b"}
    assert values(events, "loss/cycle_aba") == {10: 0.25, 20: 0.125}
    width, height, png = values(events, "a2b")[20]
    expected = board.triplanar(list(volumes.values()), (2.0, 1.0, 1.0))
    assert (int(height), int(width)) == expected.shape
    np.testing.assert_allclose(tf.image.decode_png(png).numpy()[..., 0], 255 * expected, atol=1)
    assert events.SummaryMetadata("a2b").summary_description == "ciss | to dess"


def events_of_trace(folder):
    """Names of the events in the trace below `folder`, and the numbers of its steps."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = (folder / "plugins" / "profile").glob("*/*.xplane.pb")
    names, steps = set(), set()
    for part in xplane_pb2.XSpace.FromString(path.read_bytes()).planes:
        statistics = {key: value.name for key, value in part.stat_metadata.items()}
        for event in (event for line in part.lines for event in line.events):
            name = part.event_metadata[event.metadata_id].name
            names.add(name)
            if name == "step":
                steps |= {s.int64_value for s in event.stats if statistics[s.metadata_id] == "step_num"}
    return names, steps


@pytest.mark.parametrize(("last", "expected"), [(40, (11, 15)), (8, (4, 8)), (3, (1, 3))])
def test_a_trace_holds_the_steps_it_names(tmp_path, caplog, last, expected):
    product = tf.function(lambda x: tf.matmul(x, x))
    with caplog.at_level(logging.INFO), board.traced(tmp_path, 1, last) as traced:
        for step in range(1, last + 1):
            with traced(step):
                product(tf.ones((8, 8))).numpy()
    assert f"trace of steps {expected[0]} to {expected[1]}: {tmp_path}" in caplog.text
    names, steps = events_of_trace(tmp_path)
    assert steps == set(range(expected[0], expected[1] + 1))
    assert any("MatMul" in name for name in names)


def test_no_trace_unless_wanted(tmp_path):
    with board.traced(tmp_path, 1, 5, wanted=False) as traced, traced(1):
        pass
    assert not list(tmp_path.iterdir())


def test_a_step_that_fails_leaves_no_profiler_behind(tmp_path):
    with contextlib.suppress(ZeroDivisionError), board.traced(tmp_path / "first", 1, 3) as traced, traced(1):
        raise ZeroDivisionError
    with board.traced(tmp_path / "second", 1, 1) as traced, traced(1):
        tf.ones(3).numpy()
    assert events_of_trace(tmp_path / "second")[1] == {1}
