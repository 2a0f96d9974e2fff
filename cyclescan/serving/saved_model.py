"""A model folder on disk: DIR/a2b/N and DIR/b2a/N are SavedModels, DIR/card.json says what they are.

Each version folder carries its own part of the card in `assets.extra/card.json`, which TensorFlow Serving ignores;
so a version that is copied elsewhere, or is no longer the newest, still says what it is.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from pathlib import Path

from cyclescan import NOTICE, __version__
from cyclescan.errors import InputError
from cyclescan.files import make_folder, read_json, replacing, sha256, write_json
from cyclescan.inference import sliding_window
from cyclescan.preprocessing import Options
from cyclescan.training import checkpoints
from cyclescan.training.checkpoints import DIRECTIONS, Run

GRAPH = "saved_model.pb"
CARD = "card.json"
OWN_CARD = f"assets.extra/{CARD}"

LICENCE = (
    "The code is under Apache-2.0. The licence of the weights is for whoever trained them to give, within the terms "
    "of the training data."
)
LIMITS = [
    "Structures in the result can be invented or lost, above all where anatomy, coil, protocol or pathology differ "
    "from the training data.",
    "Intensities are on the scale of the training data of the target domain; they are not calibrated measurements.",
    "serving_default expects one whole volume in the orientation and at the voxel size stated here, prepared as its "
    "signature says; it cannot check any of it, nor whether the scan is like those of the training (data: guard).",
    "The result of a window depends on its whole content (instance normalisation), so other windows give slightly "
    "other values.",
]


def write(
    run: Run,
    out: str | Path,
    version: int | None = None,
    weights: str | int = "last",
    window: tuple[int, int, int] | None = None,
    overlap: float | None = None,
) -> Path:
    """Export both directions of a run.

    Args:
        run: from `checkpoints.read_run`.
        out: the model folder; made when it is missing.
        version: number of the version folder, larger than those there; None for one more than the largest.
        weights: "last", "best" or a step.
        window: voxels (depth, height, width) of the windows inside the graph; None for the training's patch.
        overlap: of those windows; None for `sliding_window.DEFAULT_OVERLAP`.

    Returns:
        `out`. Either both directions and the card are written, or nothing is.

    Raises:
        InputError: no such checkpoint; the version exists or is not the largest; the folder cannot be written.
    """
    out = Path(out)
    overlap = sliding_window.DEFAULT_OVERLAP if overlap is None else overlap
    window, overlap = sliding_window.check_settings(window or run.config.patch_shape, overlap, run.config.stride)
    version = _next_version(out, version)
    card = _card(run, checkpoints.find(run, weights), version, weights, window, overlap)
    with contextlib.ExitStack() as renames:
        make_folder(out)
        for direction in DIRECTIONS:
            folder = renames.enter_context(replacing(out / direction / str(version)))
            _save(run, direction, weights, window, overlap, folder)
            files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            own = {name: sha256(folder / name) for name in files}
            write_json(folder / OWN_CARD, {**card, "direction": direction, "checksums": own})
            own[OWN_CARD] = sha256(folder / OWN_CARD)
            card["checksums"] |= {f"{direction}/{version}/{name}": digest for name, digest in own.items()}
    write_json(out / CARD, card)
    return out


def find(path: str | Path, direction: str) -> tuple[Path, dict] | None:
    """The version folder that `path` means and its own card, checked against its checksums.

    Args:
        path: a model folder (its newest version is meant), its folder of one direction, or one version folder.
        direction: "a2b" or "b2a".

    Returns:
        None when `path` is none of these.

    Raises:
        InputError: the model is of the other direction, has no card, or a file is missing or altered.
    """
    path = Path(path)
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
    for name, digest in card["checksums"].items():
        if not (path / name).exists() or sha256(path / name) != digest:
            raise InputError(f"The model {path} is damaged: {name} is missing or altered.")
    return path, card


def versions(folder: str | Path) -> list[int]:
    """The version numbers below the folder of one direction, ascending."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and (p / GRAPH).exists())


def identity(checksums: dict[str, str]) -> str:
    """One SHA-256 for a set of files, given each one's: that of the lines `name digest`, sorted by name."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(checksums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _next_version(out: Path, version: int | None) -> int:
    newest = max((n for direction in DIRECTIONS for n in versions(out / direction)), default=0)
    if version is None:
        return newest + 1
    if version <= newest:
        raise InputError(f"--version is {version}; {out} holds version {newest} already, so at least {newest + 1}.")
    return version


def _save(run: Run, direction: str, weights, window, overlap, folder: Path) -> None:
    import tensorflow as tf

    from cyclescan.serving.graph import ServedTranslator

    domains = run.data["domains"]
    module = ServedTranslator(
        checkpoints.load_generator(run, direction, weights),
        domains[direction[0]]["scaling"],
        domains[direction[2]]["intensity"],
        run.config.stride,
        window,
        overlap,
    )
    tf.saved_model.save(module, str(folder), signatures=module.endpoints)


def _card(run: Run, checkpoint: Path, version: int, weights, window, overlap) -> dict:
    facts = read_json(checkpoint / "checkpoint.json")
    names = {direction: run.names(direction) for direction in DIRECTIONS}
    return {
        "model": f"cyclescan {names['a2b'][0]} <-> {names['a2b'][1]}",
        "version": version,
        "cyclescan_version": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "preset": run.preset,
        "step": facts["step"],
        "score": facts.get("score"),
        "weights": str(weights),
        "checkpoint_sha256": identity(facts["sha256"]),
        "directions": {
            direction: {"source": source, "target": target, "path": f"{direction}/{version}"}
            for direction, (source, target) in names.items()
        },
        "signatures": _signatures(run),
        "window": list(window),
        "overlap": overlap,
        "data": run.data,
        "config": run.config.to_dict(),
        "training_data": _training_data(run),
        "licence": LICENCE,
        "limits": LIMITS,
        "notice": NOTICE,
        "checksums": {},
    }


def _signatures(run: Run) -> dict:
    axes, spacing = run.data["axes"], run.data["spacing_mm"]
    stride = run.config.stride
    volume = {"dtype": "float32", "shape": [None, None, None], "axes": ["depth", "height", "width"]}
    patches = {
        "dtype": "float32",
        "shape": [None, None, None, None, 1],
        "axes": ["batch", "depth", "height", "width", "channel"],
        "unit": "1, scaled to [-1, 1]",
    }
    return {
        "serving_default": {
            "inputs": {
                "volume": {
                    **volume,
                    "unit": "intensities of the scanner as in the source file, or HU for CT",
                    "orientation": axes,
                    "spacing_mm": spacing,
                    "note": "one whole volume of any size, finite and not constant",
                    # by direction: what the graph cannot do itself
                    "prepared_so_that_it": {
                        direction: Options.of(run.data["domains"][direction[0]]).sentences() for direction in DIRECTIONS
                    },
                }
            },
            "outputs": {
                "translated": {
                    **volume,
                    "unit": "intensities of the target domain: its training data's, or HU for CT",
                    "note": "the shape of the input",
                }
            },
        },
        "patches": {
            "inputs": {"patches": {**patches, "note": f"depth, height and width are multiples of {stride}"}},
            "outputs": {"translated": {**patches, "note": "the shape of the input"}},
        },
    }


def _training_data(run: Run) -> dict:
    """How much the model was trained on, without names; what is no longer at hand is left out."""
    summary = {
        "domains": {key: domain["name"] for key, domain in run.data["domains"].items()},
        "shape": run.data.get("shape"),
        "spacing_mm": run.data["spacing_mm"],
    }
    info = Path(run.records) / "dataset.json"
    if info.exists():
        splits = read_json(info).get("splits", {})
        summary["subjects"] = {
            split: {domain: len(subjects) for domain, subjects in of.items()} for split, of in splits.items()
        }
    return summary
