"""Writing the checkpoints of a run and resuming them.

A checkpoint is written under a temporary name, brought to the disk and renamed, so a folder with the final name is
complete. Of old checkpoints only the networks that translate are kept, see `artifacts.checkpoints`, which reads them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
from pathlib import Path

from cyclescan import __version__
from cyclescan.artifacts.checkpoints import (
    checksums,
    facts_of,
    first_line,
    last_good,
    load_translator,
    sound_facts,
    tensorflow_errors,
)
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.runs import Run
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, recover, remove_folder, replacing, sha256, write_json
from cyclescan.config import Config

log = logging.getLogger(__name__)


def save(run: Run, step: int, state, facts: dict) -> Path:
    """Write a state (a `tf.train.Checkpoint`) of one step, so that it survives a machine that goes away."""
    path = run.path / "checkpoints" / f"step-{step:08d}"
    with replacing(path, durable=True) as temporary:
        temporary.mkdir()
        state.write(str(temporary / "state"))
        files = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        about = {"step": step, "versions": _versions(), "config": run.config.to_dict(), "sha256": files}
        write_json(temporary / "checkpoint.json", {**about, **facts})
    return path


def add_facts(path: Path, facts: dict) -> None:
    """Add to what a checkpoint says about itself."""
    write_json(path / "checkpoint.json", read_json(path / "checkpoint.json") | facts, durable=True)


def reduce(run: Run) -> None:
    """Keep the whole state of the last `run.keep_states` checkpoints alone, of those before the networks to translate.

    Those before that only a signal caused are removed. A checkpoint that is damaged is left as it is.
    """
    kept = run.keep_states
    for path in list(run.checkpoints.values())[:-kept] if kept else []:
        try:
            facts = facts_of(path)
            if facts.get("unplanned"):
                remove_folder(path)
            elif facts.get("whole", True):
                _reduce_one(run, path, facts)
        except InputError as error:
            if isinstance(error.__cause__, OSError):  # a full disk, most likely
                raise
            log.warning("%s It is left as it is.", error)


def _reduce_one(run: Run, path: Path, facts: dict) -> None:
    import tensorflow as tf

    with tf.device("/CPU:0"):  # the accelerator's memory belongs to the training
        networks = {f"translator_{direction}": load_translator(path, run.config, direction) for direction in DIRECTIONS}
    facts = {k: v for k, v in facts.items() if k not in ("sha256", "recent")}
    facts |= {"whole": False, "sha256_when_whole": checksums(path)}
    save(run, facts["step"], tf.train.Checkpoint(**networks), facts)


def restore(path: Path, state, config: Config) -> dict:
    """Read a checkpoint into `state`, every variable of it, and return its facts.

    Raises:
        InputError: it is damaged, belongs to another config, or a variable is missing or has another shape.
    """
    facts = sound_facts(path, config)
    if not facts.get("whole", True):
        raise InputError(f"The checkpoint {path} is an old one, of which only the networks that translate were kept.")
    try:
        state.read(str(path / "state")).assert_consumed()
    except tensorflow_errors() as error:
        others = _other_versions(facts)
        hint = f" It was saved with {others}; go on with those, or begin a new run." if others else ""
        raise InputError(f"{path} does not hold the whole state ({first_line(error)}).{hint}") from error
    return facts


def resume(run: Run, state, step: int | None = None) -> dict:
    """Bring `state` to a checkpoint, make it the last one of the run and return its facts.

    What a killed process left half-written is removed, and so are later checkpoints. Nothing but this process may use
    the run meanwhile.

    Args:
        run: from `read_run`.
        state: a `tf.train.Checkpoint` of freshly made networks.
        step: of the checkpoint; None for the last, 0 for the state before the first step.

    Returns:
        The facts; {} when there is no checkpoint, or `step` is 0.

    Raises:
        InputError: the checkpoint cannot be used; the message names the last one that can, and how to use it.
    """
    for folder in (run.path, run.path / "checkpoints", run.path / "tensorboard"):
        if folder.is_dir():
            recover(folder)
    existing = run.checkpoints
    chosen = max(existing, default=0) if step is None else step
    facts = {}
    if chosen:
        if chosen not in existing:
            raise InputError(f"{run.path} has no checkpoint at step {chosen}. {_way_out(run, chosen)}")
        try:
            facts = restore(existing[chosen], state, run.config)
        except InputError as error:
            raise InputError(f"{error} {_way_out(run, chosen)}") from error
        others = _other_versions(facts)
        if others:
            log.warning(
                "Step %d was saved with %s, this is %s: the run goes on, but not bit for bit as it would have there.",
                chosen,
                others,
                _text(_versions()),
            )
    # the latest first: a process killed here leaves a run whose checkpoints have no gap
    for later in sorted((s for s in existing if s > chosen), reverse=True):
        remove_folder(existing[later])
        log.info("removed the checkpoint of step %d", later)
    return facts


def _way_out(run: Run, step: int) -> str:
    good = last_good(run)
    if good is None:
        return "No checkpoint of the run can be resumed; --resume-from 0 begins it again with its seed and settings."
    if good == step:  # whole, but not what this program needs
        return f"The last good checkpoint is step {good}, for the versions that made it."
    return f"The last good checkpoint is step {good}: --resume-from {good} goes on there and removes later ones."


def check_room(run: Run, state, first: int, every: int) -> None:
    """Say what the checkpoints of a run will take on the disk.

    Args:
        run: of the rest of which this is asked.
        state: its `tf.train.Checkpoint`.
        first: the step where it stands.
        every: steps between checkpoints.

    Raises:
        InputError: there is no room for the next one.
    """
    whole = size(state)
    translating = size(*(getattr(state, f"translator_{direction}") for direction in DIRECTIONS))
    count = -(-run.config.steps // every) - first // every
    if not count:
        return
    # one more than is kept exists while it is written
    states = min(count, run.keep_states + 1 if run.keep_states else count)
    needed = states * whole + (count - states) * translating
    disk = shutil.disk_usage(run.path)
    kept = f", whole states of the last {run.keep_states}" if run.keep_states else ""
    log.info(
        "checkpoints: %d of %s%s, %s in all; %s are free", count, _bytes(whole), kept, _bytes(needed), _bytes(disk.free)
    )
    if disk.total and disk.free < whole:  # some network file systems tell no sizes
        raise InputError(no_room(run, state, os.strerror(errno.ENOSPC)))
    if disk.total and disk.free < needed:
        log.warning("The disk of %s may be full before the run ends; make room, or see --keep-states.", run.path)


def no_room(run: Run, state, reason: str) -> str:
    """Make the sentence about a disk that takes no more."""
    good = last_good(run)
    kept = f"the last good checkpoint is step {good}" if good else "there is no checkpoint yet"
    return (
        f"{run.path} cannot be written: {reason}. A checkpoint needs {_bytes(size(state))}, "
        f"{_bytes(shutil.disk_usage(run.path).free)} are free; {kept}. Make room and continue with --resume."
    )


@contextlib.contextmanager
def explaining_a_full_disk(run: Run, state):
    """Turn what the libraries make of a full disk into one sentence.

    Args:
        run: which is written.
        state: its `tf.train.Checkpoint`.

    Raises:
        InputError: the disk is full, or cannot be written for another reason.
    """
    import tensorflow as tf

    try:
        yield
    except (OSError, InputError, tf.errors.OpError) as error:
        reason = disk_trouble(error)
        if reason is None:
            raise
        raise InputError(no_room(run, state, reason)) from error


def disk_trouble(error: BaseException | None) -> str | None:
    """Return the system's words in an error or in one that it came from, when they are about a disk, else None."""
    import tensorflow as tf

    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            # TensorFlow has no numbers and many classes, but it quotes the system
            quoted = isinstance(error, tf.errors.OpError) and os.strerror(number) in str(error)
            if quoted or (isinstance(error, OSError) and error.errno == number):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def size(*trackables) -> int:
    """Add up the bytes of the variables of TensorFlow objects, each counted once."""
    import keras
    import tensorflow as tf

    objects = {id(v): v for trackable in trackables for v in tf.train.TrackableView(trackable).descendants()}
    variables = [v for v in objects.values() if isinstance(v, (tf.Variable, keras.Variable))]
    return sum(tf.as_dtype(v.dtype).size * math.prod(v.shape) for v in variables)


def _bytes(number: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


def _versions() -> dict[str, str]:
    """The versions of the packages that decide over the bytes of a run."""
    import keras
    import tensorflow as tf

    return {"cyclescan": __version__, "tensorflow": tf.__version__, "keras": keras.__version__}


def _other_versions(facts: dict) -> str:
    """The versions a checkpoint was saved with, where they are not those of this process."""
    versions = facts.get("versions")
    return "" if versions in (None, _versions()) else _text(versions)


def _text(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
