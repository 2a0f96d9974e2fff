"""What a run leaves on disk, and how it is read back.

RUN/config.json says what the networks are and what they were trained on; RUN/checkpoints/step-00000100/ holds the
whole state at that step (networks, optimizers and their loss scale, image pool, counters). A checkpoint is written
under a temporary name, brought to the disk and renamed, so a folder with the final name is complete. Of old
checkpoints only the networks that translate are kept; checkpoint.json then says `"whole": false`.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from cyclescan import NOTICE, __version__
from cyclescan.config import Config
from cyclescan.errors import InputError
from cyclescan.files import read_json, recover, remove_folder, replacing, sha256, write_json

log = logging.getLogger(__name__)

DIRECTIONS = ("a2b", "b2a")
KEEP_STATES = 3  # one to go on from, and two in case that it is damaged or the run took a bad turn


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run on disk: its folder, settings and the description of its data (part of dataset.json).

    Attributes:
        path: its folder.
        config: its settings.
        preset: the name under which they were chosen.
        data: domains, spacing, axes and shape of its records.
        records: where these were.
        seed: of everything that chance decides.
        fingerprint: of the records it learns from, see `records.fingerprint`; "" where it is not known.
        checkpoint_every: steps between checkpoints; None for a tenth of the run.
        minutes: when it ends by the clock; None for not at all.
        keep_states: of how many checkpoints, the last ones, the whole state is kept; 0 for all.
        patience: it ends when so many checkpoints had no better score, see `validation.stalled`; 0 for never.
        cyclescan_version: by which it was begun.
    """

    path: Path
    config: Config
    preset: str
    data: dict
    records: str
    seed: int
    fingerprint: str = ""
    checkpoint_every: int | None = None
    minutes: float | None = None
    keep_states: int = KEEP_STATES
    patience: int = 0
    cyclescan_version: str = __version__

    def write(self) -> None:
        """Write RUN/config.json."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("path", "config")}
        write_json(
            self.path / "config.json",
            {**own, "config": self.config.to_dict()},
            durable=True,
        )

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The folders of the checkpoints by step, in order."""
        found = (self.path / "checkpoints").glob("step-" + 8 * "[0-9]")
        return {int(p.name[5:]): p for p in sorted(found)}

    def names(self, direction: str) -> tuple[str, str]:
        """The names of the source and the target domain of "a2b" or "b2a"."""
        domains = self.data["domains"]
        return domains[direction[0]]["name"], domains[direction[2]]["name"]


def is_new(path: str | Path) -> bool:
    """Whether a folder has nothing of a run in it, nor of anything else, or does not exist."""
    path = Path(path)
    return not path.exists() or (path.is_dir() and all(p.name.startswith(".") for p in path.iterdir()))


def read_run(path: str | Path) -> Run:
    """Read RUN/config.json. Settings that came into the program after it was written have their defaults.

    Raises:
        InputError: the folder or its config.json is missing, is damaged, or has settings this version does not know.
    """
    path = Path(path)
    file = path / "config.json"
    if not file.exists():
        raise InputError(f"{path} is not a training run: it has no config.json (a run begins without --resume).")
    values = read_json(file)
    try:
        config = _config(values["config"], file, values.get("cyclescan_version", "of an earlier version"))
        names = [f.name for f in dataclasses.fields(Run) if f.name not in ("path", "config")]
        # what came into the program later than the run has its default
        own = {name: values[name] for name in names if name in values or not hasattr(Run, name)}
        return Run(path=path, config=config, **own)
    except KeyError as error:
        raise InputError(f"{file} lacks the entry {error}.") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged: it is not what a run writes ({error}).") from error


def _config(values: dict, file: Path, version: str) -> Config:
    known = Config().to_dict()
    unknown = [key for key in values if key not in known]
    if unknown:
        raise InputError(
            f"{file} has the setting {unknown[0]!r}, which this version of cyclescan ({__version__}) does not know; it "
            f"was written by cyclescan {version}."
        )
    return Config.from_dict(values)


def find(run: Run, weights: str | int = "last") -> Path:
    """The folder of a checkpoint: "last", "best" or a step.

    Raises:
        InputError: there is no such checkpoint; the message lists those there are.
    """
    existing = run.checkpoints
    if not existing:
        raise InputError(f"{run.path} has no complete checkpoint; train it first.")
    if weights == "last":
        return existing[max(existing)]
    if weights == "best":
        scored = {step: read_json(p / "checkpoint.json").get("score") for step, p in existing.items()}
        scored = {step: score for step, score in scored.items() if score is not None}
        if not scored:
            raise InputError(f"{run.path} has no validation scores, so no best checkpoint; use --weights last.")
        return existing[min(scored, key=scored.get)]
    if str(weights).isdigit() and int(weights) in existing:
        return existing[int(weights)]
    raise InputError(
        f"{run.path} has no checkpoint {weights!r}; allowed are last, best and the steps "
        f"{', '.join(map(str, existing))}."
    )


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
            facts = _about(path)
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
        networks = {f"translator_{direction}": _translator(path, run.config, direction) for direction in DIRECTIONS}
    facts = {k: v for k, v in facts.items() if k not in ("sha256", "recent")}
    facts |= {"whole": False, "sha256_when_whole": checksums(path)}
    save(run, facts["step"], tf.train.Checkpoint(**networks), facts)


def checksums(path: Path) -> dict[str, str]:
    """The SHA-256 of each file of a checkpoint as it was first written, which says what its networks are."""
    facts = _about(path)
    return facts.get("sha256_when_whole", facts["sha256"])


def restore(path: Path, state, config: Config) -> dict:
    """Read a checkpoint into `state`, every variable of it, and return its facts.

    Raises:
        InputError: it is damaged, belongs to another config, or a variable is missing or has another shape.
    """
    facts = _checked(path, config)
    if not facts.get("whole", True):
        raise InputError(f"The checkpoint {path} is an old one, of which only the networks that translate were kept.")
    try:
        state.read(str(path / "state")).assert_consumed()
    except (AssertionError, ValueError, *_tensorflow_errors()) as error:
        others = _other_versions(facts)
        hint = f" It was saved with {others}; go on with those, or begin a new run." if others else ""
        raise InputError(f"{path} does not hold the whole state ({_first_line(error)}).{hint}") from error
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


def last_good(run: Run, whole: bool = True) -> int | None:
    """The step of the last checkpoint that is not damaged, if `whole` one to resume from; None when there is none."""
    for step, path in sorted(run.checkpoints.items(), reverse=True):
        try:
            facts = _checked(path, run.config)
        except InputError:
            continue
        if facts.get("whole", True) or not whole:
            return step
    return None


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
    """The sentence about a disk that takes no more."""
    good = last_good(run)
    kept = f"the last good checkpoint is step {good}" if good else "there is no checkpoint yet"
    return (
        f"{run.path} cannot be written: {reason}. A checkpoint needs {_bytes(size(state))}, "
        f"{_bytes(shutil.disk_usage(run.path).free)} are free; {kept}. Make room and continue with --resume."
    )


def size(*trackables) -> int:
    """Bytes of the variables of TensorFlow objects, each counted once."""
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


def load_generator(run: Run, direction: str, weights: str | int = "last"):
    """The trained generator of one direction as a Keras model: the running average where the run keeps one.

    It computes in float32, also where it was trained in mixed precision and whatever Keras' global policy is, so
    that a translated volume does not depend on either.

    Args:
        run: from `read_run`.
        direction: "a2b" or "b2a".
        weights: "last", "best" or a step.

    Raises:
        InputError: there is no such checkpoint, or it cannot be used; the message then names the last that can.
    """
    if direction not in DIRECTIONS:
        raise InputError(f"The direction is {direction!r}; allowed is {' or '.join(DIRECTIONS)}.")
    path = find(run, weights)
    try:
        return _translator(path, run.config, direction)
    except InputError as error:
        good = last_good(run, whole=False)
        if good is None or run.checkpoints[good] == path:
            raise
        raise InputError(f"{error} The last good checkpoint is step {good}: --weights {good}.") from error


def _translator(path: Path, config: Config, direction: str):
    import tensorflow as tf

    from cyclescan.models import build_generator
    from cyclescan.models.graph import precision

    facts = _checked(path, config)
    with precision("float32"):
        generator = build_generator(config, direction)
    if facts.get("published"):
        return _with_published(generator, path / _published(direction))
    state = tf.train.Checkpoint(**{f"translator_{direction}": generator})
    try:
        status = state.read(str(path / "state"))
        status.expect_partial()
        status.assert_existing_objects_matched()
    except (AssertionError, ValueError, *_tensorflow_errors()) as error:
        raise InputError(f"The checkpoint {path} has no {direction} generator ({_first_line(error)}).") from error
    return generator


def publish(run: Run, folder: str | Path, weights: str | int = "last", directions: Sequence[str] = DIRECTIONS) -> Path:
    """Write a run for others to translate with: its settings and the generators of one checkpoint, in 16 bits.

    A generator of the preset `demo` takes 6 MB so. The folder of its records, which tells of this machine, is left out.

    Args:
        run: from `read_run`.
        folder: a new folder, which `Translator.load` and `translate --model` take.
        weights: "last", "best" or a step.
        directions: which generators.

    Raises:
        InputError: there is no such checkpoint, or the folder exists.
    """
    import numpy as np

    chosen, folder = find(run, weights), Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists already; name a new folder.")
    facts = _about(chosen)
    with replacing(folder) as temporary:
        path = temporary / "checkpoints" / chosen.name
        path.mkdir(parents=True)
        for direction in directions:
            values = [np.float16(v.numpy()) for v in load_generator(run, direction, weights).weights]
            np.savez_compressed(path / _published(direction), *values)
        files = {file.name: sha256(file) for file in sorted(path.iterdir())}
        kept = {key: facts[key] for key in ("step", "versions", "config")}
        about = {"notice": NOTICE, **kept, "published": True, "whole": False, "sha256": files}
        write_json(path / "checkpoint.json", about)
        dataclasses.replace(run, path=temporary, records="").write()
    return folder


def _published(direction: str) -> str:
    return f"generator_{direction}.npz"


def _with_published(generator, file: Path):
    import numpy as np

    if not file.exists():
        raise InputError(
            f"The model {file.parents[2]} does not translate {file.stem[-3:]}; its other direction it does."
        )
    with np.load(file) as values:
        generator.set_weights([values[name].astype(np.float32) for name in values.files])
    return generator


def _about(path: Path) -> dict:
    """What a checkpoint says about itself."""
    facts = read_json(path / "checkpoint.json")
    if not (
        isinstance(facts, dict) and isinstance(facts.get("config"), dict) and isinstance(facts.get("sha256"), dict)
    ):
        raise InputError(f"The checkpoint {path} is damaged: checkpoint.json lacks its entries.")
    return facts


def _checked(path: Path, config: Config) -> dict:
    """The facts of a checkpoint whose files are what was written, for these settings."""
    facts = _about(path)
    version = facts.get("versions", {}).get("cyclescan", "of an earlier version")
    mine, its = config.to_dict(), _config(facts["config"], path / "checkpoint.json", version).to_dict()
    differing = [key for key in mine if mine[key] != its[key]]
    if differing:
        key = differing[0]
        raise InputError(
            f"The checkpoint {path} was made with another config: {key} is {its[key]} there and {mine[key]} here."
        )
    if facts.get("step") != int(path.name[5:]):
        raise InputError(f"The checkpoint {path} is damaged: it is of step {facts.get('step')}.")
    for name, digest in facts["sha256"].items():
        if not (path / name).exists() or sha256(path / name) != digest:
            raise InputError(f"The checkpoint {path} is damaged: {name} is missing, truncated or altered.")
    return facts


def _versions() -> dict[str, str]:
    """Of the packages that decide over the bytes of a run."""
    import keras
    import tensorflow as tf

    return {"cyclescan": __version__, "tensorflow": tf.__version__, "keras": keras.__version__}


def _other_versions(facts: dict) -> str:
    """The versions a checkpoint was saved with, where they are not those of this process."""
    versions = facts.get("versions")
    return "" if versions in (None, _versions()) else _text(versions)


def _text(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _tensorflow_errors():
    import tensorflow as tf

    return (tf.errors.OpError,)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
