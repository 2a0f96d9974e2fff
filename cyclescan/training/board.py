"""What TensorBoard shows of a run: curves, tri-planar pictures, histograms of intensities, a trace of some steps."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from cyclescan.artifacts.direction import Direction
from cyclescan.artifacts.runs import Run
from cyclescan.scans.volume import plane
from cyclescan.training.validation import Seen

log = logging.getLogger(__name__)

GAP = 4  # pixels between the planes of a picture
AXES = (0, 2, 1)  # fixed in the sagittal, the coronal and the axial plane, from top to bottom
BUCKETS = 64
SKIPPED_STEPS, TRACED_STEPS = 10, 5  # the first steps build graphs and fill queues


def scalars(room: str, values: Mapping[str, float], step: int) -> None:
    """Show one curve ROOM/NAME for each value; one that is not finite leaves a gap."""
    for name, value in values.items():
        if math.isfinite(value):
            tf.summary.scalar(f"{room}/{name}", value, step)


def picture(name: str, columns: Mapping[str, np.ndarray], spacing_mm: Sequence[float], step: int) -> None:
    """Show the three middle planes of some volumes of one shape, side by side, see `triplanar`.

    Args:
        name: where TensorBoard shows it.
        columns: volumes (depth, height, width) on [-1, 1] by what they are, from left to right.
        spacing_mm: of depth, height and width.
        step: of the run.
    """
    image = triplanar(list(columns.values()), spacing_mm)
    tf.summary.image(name, image[None, ..., None], step, description=" | ".join(columns))


def triplanar(volumes: Sequence[np.ndarray], spacing_mm: Sequence[float]) -> np.ndarray:
    """Join the middle sagittal, coronal and axial planes, from top to bottom, of each volume, from left to right.

    Planes lie as in the report (`volume.plane`): superior up, anterior to the left and, in the axial plane, up.

    Args:
        volumes: (depth, height, width) on [-1, 1], axes R, S, A, all of one shape.
        spacing_mm: of depth, height and width; pixels are squares of the smallest.

    Returns:
        float32 (rows, columns), 0 for -1 and for the gaps, 1 for 1.
    """
    columns = []
    for volume in volumes:
        planes = [_square_pixels(plane(volume, axis), spacing_mm, axis) for axis in AXES]
        width = max(p.shape[1] for p in planes)
        columns.append(np.concatenate([_padded(p, p.shape[0] + GAP, width) for p in planes])[:-GAP])
    joined = np.concatenate([_padded(c, c.shape[0], c.shape[1] + GAP) for c in columns], 1)[:, :-GAP]
    return np.clip((joined + 1) / 2, 0, 1).astype(np.float32)


def validation(seen: Mapping[str, Seen], sources: Mapping[str, np.ndarray], run: Run, step: int) -> None:
    """Show what the networks make of the fixed volumes: measures, pictures, distributions of intensities.

    Args:
        seen: of each direction, from `Validation.look`.
        sources: the volumes that were translated, of each domain.
        run: names the domains and their spacing.
        step: when.
    """
    for direction, what in seen.items():
        ends, (source, target) = Direction(direction), run.names(direction)
        scalars("validation", {f"{name}_{direction}": value for name, value in what.measures.items()}, step)
        labels = {
            "source": source,
            "translated": f"translated to {target}",
            "cycled": f"and back to {source}",
            "partner": f"registered {target} of another subject",
        }
        columns = {label: what.example[name] for name, label in labels.items() if name in what.example}
        picture(direction, columns, run.data["spacing_mm"], step)
        tf.summary.histogram(f"intensity/real_{ends.source}", sources[ends.source], step, buckets=BUCKETS)
        tf.summary.histogram(f"intensity/fake_{ends.target}", what.translated, step, buckets=BUCKETS)


@contextlib.contextmanager
def traced(
    folder: Path, first: int, last: int, wanted: bool = True
) -> Iterator[Callable[[int], contextlib.AbstractContextManager]]:
    """Record a few steps with TensorFlow's profiler, once the first ones are over.

    Args:
        folder: TensorBoard's; the trace goes to plugins/profile/DATE/ below it.
        first: the number of the first step that will be taken.
        last: that of the last one; a short run is traced at its end.
        wanted: False to record nothing.

    Yields:
        What to put around everything that belongs to one step, `with step(number):`.
    """
    begin = max(first, min(first + SKIPPED_STEPS, last - TRACED_STEPS + 1))
    running, reached = False, begin

    @contextlib.contextmanager
    def step(number: int) -> Iterator[None]:
        nonlocal running, reached
        if number == begin and wanted:
            tf.profiler.experimental.start(str(folder))
            running = True
        if not running:
            yield
            return
        reached = number
        with tf.profiler.experimental.Trace("step", step_num=number, _r=1):
            yield
        if number == begin + TRACED_STEPS - 1:
            stop()

    def stop() -> None:
        nonlocal running
        running = False
        tf.profiler.experimental.stop()
        log.info(
            "trace of steps %d to %d: %s; TensorBoard shows it once tensorboard-plugin-profile is installed",
            begin,
            reached,
            folder / "plugins" / "profile",
        )

    try:
        yield step
    finally:
        if running:
            stop()  # or no other profiler could start in this process


def _square_pixels(image: np.ndarray, spacing_mm: Sequence[float], axis: int) -> np.ndarray:
    depth, height, width = spacing_mm
    edges_mm = {0: (height, width), 2: (height, depth), 1: (width, depth)}[axis]
    for along, edge in enumerate(edges_mm):
        length = image.shape[along]
        wanted = max(1, round(length * edge / min(spacing_mm)))
        image = np.take(image, (np.arange(wanted) * length) // wanted, along)
    return image


def _padded(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Fill an image up with black below and to the right."""
    return np.pad(image, ((0, rows - image.shape[0]), (0, columns - image.shape[1])), constant_values=-1.0)
