"""What a run leaves on disk, and how it is read back.

RUN/config.json says what the networks are and what they were trained on; RUN/checkpoints/step-00000100/ holds the
whole state at that step (networks, optimizers and their loss scale, image pool, counters). A checkpoint is written
under a temporary name and renamed, so a folder with the final name is complete.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cyclescan import __version__
from cyclescan.config import Config
from cyclescan.errors import InputError
from cyclescan.files import read_json, replacing, sha256, write_json

DIRECTIONS = ("a2b", "b2a")


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run on disk: its folder, settings and the description of its data (part of dataset.json)."""

    path: Path
    config: Config
    preset: str
    data: dict
    records: str
    seed: int

    def write(self) -> None:
        write_json(
            self.path / "config.json",
            {
                "cyclescan_version": __version__,
                "preset": self.preset,
                "seed": self.seed,
                "config": self.config.to_dict(),
                "data": self.data,
                "records": self.records,
            },
        )

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Complete checkpoints by step, in order."""
        found = (self.path / "checkpoints").glob("step-????????")
        return {int(p.name[5:]): p for p in sorted(found) if (p / "checkpoint.json").exists()}

    def names(self, direction: str) -> tuple[str, str]:
        """The names of the source and the target domain of "a2b" or "b2a"."""
        domains = self.data["domains"]
        return domains[direction[0]]["name"], domains[direction[2]]["name"]


def read_run(path: str | Path) -> Run:
    """Read RUN/config.json.

    Raises:
        InputError: the folder or its config.json is missing, or the config has keys this version does not know.
    """
    path = Path(path)
    if not (path / "config.json").exists():
        raise InputError(f"{path} is not a training run: it has no config.json.")
    values = read_json(path / "config.json")
    try:
        return Run(
            path,
            Config.from_dict(values["config"]),
            values["preset"],
            values["data"],
            values["records"],
            values["seed"],
        )
    except KeyError as error:
        raise InputError(f"{path / 'config.json'} lacks the entry {error}.") from error


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
    """Write the whole state (a `tf.train.Checkpoint`) of one step."""
    path = run.path / "checkpoints" / f"step-{step:08d}"
    with replacing(path) as temporary:
        temporary.mkdir()
        state.write(str(temporary / "state"))
        files = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        write_json(
            temporary / "checkpoint.json", {"step": step, "config": run.config.to_dict(), "sha256": files, **facts}
        )
    return path


def restore(path: Path, state, config: Config) -> dict:
    """Read a checkpoint into `state`, every variable of it, and return its facts.

    Raises:
        InputError: it belongs to another config, or a variable is missing or has another shape.
    """
    facts = _facts_of(path, config)
    try:
        state.read(str(path / "state")).assert_consumed()
    except (AssertionError, ValueError, *_tensorflow_errors()) as error:
        raise InputError(f"The checkpoint {path} does not hold the whole state ({_first_line(error)}).") from error
    return facts


def load_generator(run: Run, direction: str, weights: str | int = "last"):
    """The trained generator of one direction as a Keras model: the running average where the run keeps one.

    It computes in float32, also where it was trained in mixed precision and whatever Keras' global policy is, so
    that a translated volume does not depend on either.

    Args:
        run: from `read_run`.
        direction: "a2b" or "b2a".
        weights: "last", "best" or a step.
    """
    import keras
    import tensorflow as tf

    from cyclescan.models import build_generator

    if direction not in DIRECTIONS:
        raise InputError(f"The direction is {direction!r}; allowed is {' or '.join(DIRECTIONS)}.")
    path = find(run, weights)
    _facts_of(path, run.config)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        generator = build_generator(run.config, name=f"generator_{direction}")
    finally:
        keras.config.set_dtype_policy(policy)
    state = tf.train.Checkpoint(**{f"translator_{direction}": generator})
    try:
        status = state.read(str(path / "state"))
        status.expect_partial()
        status.assert_existing_objects_matched()
    except (AssertionError, ValueError, *_tensorflow_errors()) as error:
        raise InputError(f"The checkpoint {path} has no {direction} generator ({_first_line(error)}).") from error
    return generator


def _facts_of(path: Path, config: Config) -> dict:
    facts = read_json(path / "checkpoint.json")
    mine, its = config.to_dict(), facts["config"]
    differing = [key for key in mine if mine[key] != its.get(key)]
    if differing:
        key = differing[0]
        raise InputError(
            f"The checkpoint {path} was made with another config: {key} is {its.get(key)} there and {mine[key]} here."
        )
    for name, digest in facts["sha256"].items():
        if not (path / name).exists() or sha256(path / name) != digest:
            raise InputError(f"The checkpoint {path} is damaged: {name} is missing, truncated or altered.")
    return facts


def _tensorflow_errors():
    import tensorflow as tf

    return (tf.errors.OpError,)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
