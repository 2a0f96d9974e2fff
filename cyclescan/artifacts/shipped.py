"""Models that come with cyclescan, by name; saved_models/ has their cards."""

from __future__ import annotations

from pathlib import Path

from cyclescan.common.errors import InputError

# where `pip install` puts them, and where they lie in a checkout
FOLDERS = (Path(__file__).parents[1] / "pretrained_models", Path(__file__).parents[2] / "saved_models")


def names() -> list[str]:
    """Return the names of the models that come with cyclescan, sorted."""
    return sorted({path.parent.name for folder in FOLDERS for path in folder.glob("*/config.json")})


def find(name: str) -> Path:
    """Return the folder of a model.

    Raises:
        InputError: there is none of this name.
    """
    for folder in FOLDERS:
        if (folder / name / "config.json").exists():
            return folder / name
    there = f"; those that come with cyclescan are {', '.join(names())}" if names() else ""
    raise InputError(f"There is no model at {name}{there}.")
