"""What a run tells while it goes on: history.csv for programs, TensorBoard's events for people.

When a run is resumed, both are cut back to the step where it goes on, and a line that was cut off is dropped. What was
told before a checkpoint is on the disk before the checkpoint is. So no step is told twice and none is missing.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from cyclescan import records
from cyclescan.common.files import replacing, sync

HISTORY, EVENTS = "history.csv", "tensorboard"  # in the folder of a run


class Journal:
    """The history and the events of one run.

    Args:
        run: its folder.
        step: what was told of later steps is removed.
    """

    def __init__(self, run: Path, step: int):
        self._history = run / HISTORY
        self._events = run / EVENTS
        self._earlier: set[Path] = set()
        self._end = 0
        _trim_history(self._history, step)
        for path in self._event_files():
            _trim_events(path, step)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Have `tf.summary` write to RUN/tensorboard while the block runs."""
        self._earlier, self._end = self._event_files(), 0
        writer = tf.summary.create_file_writer(str(self._events))
        with writer.as_default():
            yield
        writer.close()

    def add(self, row: dict[str, float]) -> None:
        """Append a row to history.csv, and bring to TensorBoard what was written of its step.

        Columns that appear only later (the adversarial phase) are added to the whole file.

        Raises:
            OSError: the disk is full.
        """
        columns, rows = _read_history(self._history)
        added = [name for name in row if name not in columns]
        if added:
            _write_history(self._history, columns + added, [*rows, row])
        else:
            with open(self._history, "a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, columns).writerow(row)
        before = self._end
        self._flush()
        if self._end == before:
            self._raise_full()

    def sync(self) -> None:
        """Wait until everything told so far is on the disk."""
        self._flush()
        sync(self._events)
        if self._history.exists():
            sync(self._history)

    def _flush(self) -> None:
        tf.summary.flush()
        # TensorFlow's writer drops what a full disk does not take without a word, so look at what came there
        for path in self._event_files() - self._earlier:
            self._end += sum(map(len, records.frames(path, self._end)))
            if self._end < path.stat().st_size:
                self._raise_full()

    def _raise_full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._events))

    def _event_files(self) -> set[Path]:
        return set(self._events.glob("events.out.tfevents.*"))


def _read_history(path: Path) -> tuple[list[str], list[dict]]:
    """Read columns and rows, without lines that a killed process or a machine that went away left unfinished."""
    if not path.exists():
        return [], []
    lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
    reader = csv.DictReader(line for line in lines if line.endswith("\n") and "\0" not in line)
    return list(reader.fieldnames or []), [row for row in reader if None not in row.values()]


def _write_history(path: Path, columns: list[str], rows: list[dict]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _trim_history(path: Path, step: int) -> None:
    columns, rows = _read_history(path)
    kept = [row for row in rows if int(row["step"]) <= step]
    if kept:
        _write_history(path, columns, kept)
    else:
        path.unlink(missing_ok=True)


def _trim_events(path: Path, step: int) -> None:
    """Rewrite a file of events without those of later steps, or remove it when none is left."""
    kept, told = [], False
    for frame in records.frames(path):
        event = tf.compat.v1.Event.FromString(frame[12:-4])
        if event.step <= step:
            kept.append(frame)
            told = told or event.HasField("summary")
    if not told:
        path.unlink()
    elif sum(map(len, kept)) < path.stat().st_size:
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))
