"""The folder of a training run: RUN/config.json says what the networks are and what they were trained on.

Its checkpoints lie in RUN/checkpoints/step-00000100/, see `artifacts.checkpoints`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cyclescan import __version__
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, write_json
from cyclescan.config import Config

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
        started_from: the name of the model whose generators it began with; "" for none.
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
    started_from: str = ""
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
        """Return the folders of the checkpoints by step, in order."""
        found = (self.path / "checkpoints").glob("step-" + 8 * "[0-9]")
        return {int(p.name[5:]): p for p in sorted(found)}

    def names(self, direction: str) -> tuple[str, str]:
        """Return the names of the source and the target domain of "a2b" or "b2a"."""
        domains = self.data["domains"]
        return domains[direction[0]]["name"], domains[direction[2]]["name"]


def is_new(path: str | Path) -> bool:
    """Return whether a folder has nothing of a run in it, nor of anything else, or does not exist."""
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
        config = known_config(values["config"], file, values.get("cyclescan_version", "of an earlier version"))
        names = [f.name for f in dataclasses.fields(Run) if f.name not in ("path", "config")]
        # what came into the program later than the run has its default
        own = {name: values[name] for name in names if name in values or not hasattr(Run, name)}
        return Run(path=path, config=config, **own)
    except KeyError as error:
        raise InputError(f"{file} lacks the entry {error}.") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged: it is not what a run writes ({error}).") from error


def known_config(values: dict, file: Path, version: str) -> Config:
    """Return the settings that a file of an earlier or a later version holds.

    Raises:
        InputError: it has settings that this version does not know; the message names the file and its version.
    """
    known = Config().to_dict()
    unknown = [key for key in values if key not in known]
    if unknown:
        raise InputError(
            f"{file} has the setting {unknown[0]!r}, which this version of cyclescan ({__version__}) does not know; it "
            f"was written by cyclescan {version}."
        )
    return Config.from_dict(values)


def find(run: Run, weights: str | int = "last") -> Path:
    """Return the folder of a checkpoint: "last", "best" or a step.

    Raises:
        InputError: there is no such checkpoint; the message lists those there are.
    """
    existing = run.checkpoints
    if not existing:
        raise InputError(f"{run.path} has no complete checkpoint; train it first.")
    if weights == "last":
        return existing[max(existing)]
    if weights == "best":
        scores = {step: read_json(p / "checkpoint.json").get("score") for step, p in existing.items()}
        scored: dict[int, float] = {step: score for step, score in scores.items() if score is not None}
        if not scored:
            raise InputError(f"{run.path} has no validation scores, so no best checkpoint; use --weights last.")
        return existing[min(scored, key=lambda step: scored[step])]
    if str(weights).isdigit() and int(weights) in existing:
        return existing[int(weights)]
    raise InputError(
        f"{run.path} has no checkpoint {weights!r}; allowed are last, best and the steps "
        f"{', '.join(map(str, existing))}."
    )
