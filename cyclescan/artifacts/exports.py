"""Reading an exported model folder: DIR/a2b/N and DIR/b2a/N are SavedModels, DIR/card.json says what they are.

Each version folder carries its own part of the card in `assets.extra/card.json`, which TensorFlow Serving ignores;
so a version that is copied elsewhere, or is no longer the newest, still says what it is.

Checksums show that a file was damaged, left out by a copy, mixed with another version or edited by hand. They are no
signature: whoever can write the folder can write new ones. Compare the `model_sha256` beside a translated image with
one noted down when the model was made, to know that it is the same model. What a server has loaded they do not show.
And a SavedModel is a program: TensorFlow runs whatever operations are in it, so load those alone whose origin you know.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, sha256

if TYPE_CHECKING:
    import numpy as np

GRAPH = "saved_model.pb"
CARD = "card.json"
OWN_CARD = f"assets.extra/{CARD}"


def find(path: str | Path, direction: str) -> tuple[Path, dict] | None:
    """Return the version folder that `path` means and its own card, checked against its checksums.

    Of a model folder its card, its list of models and its ONNX files are checked too.

    Args:
        path: a model folder (its newest version is meant), its folder of one direction, or one version folder.
        direction: "a2b" or "b2a".

    Returns:
        None when `path` is none of these.

    Raises:
        InputError: the model is of the other direction, has no card, or a file is missing, altered or foreign to it.
    """
    root = path = Path(path)
    for folder in (path, path / direction):
        if versions(folder):
            path = folder / str(max(versions(folder)))
    if not (path / GRAPH).exists():
        if (path / CARD).exists():
            raise InputError(f"{path} has a {CARD} but no {direction} model; export it again.")
        return None
    if not (path / OWN_CARD).exists():
        raise InputError(f"{path} was not exported by cyclescan: it has no {OWN_CARD}.")
    card = read_json(path / OWN_CARD)
    if card["direction"] != direction:
        raise InputError(f"{path} translates {card['direction']}, not {direction}.")
    _check_files(path, card["checksums"])
    for name in files_of(path):
        if name not in card["checksums"] and name != OWN_CARD:
            raise InputError(f"The model {path} holds {name}, which was not exported with it; remove it.")
    if (root / CARD).exists():
        _check_root(root, path, card)
    return path, card


def weights(path: Path) -> list[np.ndarray]:
    """Read the weights of a version folder, float32, in the order of the generator's variables.

    Raises:
        InputError: its variables cannot be read.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        kept = sorted(
            int(m[1]) for name in reader.get_variable_to_shape_map() if (m := re.match(r"weights/(\d+)/", name))
        )
        return [reader.get_tensor(f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE") for number in kept]
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(f"The variables of {path} cannot be read ({str(error).splitlines()[0]}).") from error


def _check_root(root: Path, path: Path, own: dict) -> None:
    """Whether the card of a model folder is that of its newest version, and its other files are as the card says."""
    card = read_json(root / CARD)
    differing = [key for key in own if key not in ("direction", "checksums") and card.get(key) != own[key]]
    if differing:
        raise InputError(
            f"{root / CARD} is altered, or not of version {own['version']}: it differs from {path / OWN_CARD} in "
            f"{differing[0]}; export the model again, or give {path} itself."
        )
    shared = {name: digest for name, digest in card["checksums"].items() if name.split("/")[0] not in DIRECTIONS}
    name = (path / OWN_CARD).relative_to(root).as_posix()
    _check_files(root, {**shared, name: card["checksums"].get(name)})


def _check_files(folder: Path, checksums: dict[str, str | None]) -> None:
    for name, digest in checksums.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise InputError(f"The model {folder} is damaged: {name} is missing or altered.")


def files_of(folder: Path) -> list[str]:
    """Return names of all files below a folder, sorted; hidden ones are left out."""
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")
    )


def versions(folder: str | Path) -> list[int]:
    """Return the version numbers below the folder of one direction, ascending."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and (p / GRAPH).exists())
