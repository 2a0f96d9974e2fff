"""A model folder on disk: DIR/a2b/N and DIR/b2a/N are SavedModels, DIR/card.json says what they are.

Each version folder carries its own part of the card in `assets.extra/card.json`, which TensorFlow Serving ignores;
so a version that is copied elsewhere, or is no longer the newest, still says what it is. `onnx/` and `models.config`
belong to the folder as a whole; so do `batching.config` and `compose.yaml`, which are for the user to change and not
checked.

Checksums show that a file was damaged, left out by a copy, mixed with another version or edited by hand. They are no
signature: whoever can write the folder can write new ones. Compare the `model_sha256` beside a translated image with
one noted down when the model was made, to know that it is the same model. What a server has loaded they do not show.
And a SavedModel is a program: TensorFlow runs whatever operations are in it, so load those alone whose origin you know.
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
from cyclescan.serving import tf_serving
from cyclescan.training import checkpoints
from cyclescan.training.checkpoints import DIRECTIONS, Run

GRAPH = "saved_model.pb"
CARD = "card.json"
OWN_CARD = f"assets.extra/{CARD}"
MAX_VOXELS = 2**27  # of a served volume; 512 x 512 x 512

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
    "`patches` normalises every patch by itself, so a patch gives other values than the same place of a whole volume "
    "(instance normalisation); `serving_default` and `scaled` normalise by the whole volume, whatever the windows are.",
]


def write(
    run: Run,
    out: str | Path,
    version: int | None = None,
    weights: str | int = "last",
    window: tuple[int, int, int] | None = None,
    max_voxels: int = MAX_VOXELS,
    onnx: bool = False,
) -> Path:
    """Export both directions of a run.

    Args:
        run: from `checkpoints.read_run`.
        out: the model folder; made when it is missing.
        version: number of the version folder, larger than those there; None for one more than the largest.
        weights: "last", "best" or a step.
        window: voxels (depth, height, width) of the windows inside the graph, which decide over memory and speed; None
            for `sliding_window.DEFAULT_WINDOW`.
        max_voxels: a served volume may have so many.
        onnx: write the patch signature as `onnx/a2b-N.onnx` and `onnx/b2a-N.onnx` too.

    Returns:
        `out`. Either both directions and the card are written, or nothing is.

    Raises:
        InputError: no such checkpoint; the version exists or is not the largest; the folder cannot be written; ONNX is
            asked for and not installed.
    """
    out = Path(out)
    window, _ = sliding_window.check_settings(window, None, run.config.stride)
    version = _next_version(out, version)
    card = _card(run, checkpoints.find(run, weights), version, weights, window, max_voxels)
    with contextlib.ExitStack() as renames:
        make_folder(out)
        for direction in DIRECTIONS:
            folder = renames.enter_context(replacing(out / direction / str(version)))
            _save(run, direction, weights, window, max_voxels, folder)
            tf_serving.write_warm_up(folder, direction, window)
            _add_tensor_names(card["signatures"], folder)
            own = {name: sha256(folder / name) for name in _files(folder)}
            write_json(folder / OWN_CARD, {**card, "direction": direction, "checksums": own})
            own[OWN_CARD] = sha256(folder / OWN_CARD)
            card["checksums"] |= {f"{direction}/{version}/{name}": digest for name, digest in own.items()}
            if onnx:
                file = f"onnx/{direction}-{version}.onnx"
                temporary = renames.enter_context(replacing(out / file))
                _save_onnx(run, direction, weights, card, temporary)
                card["checksums"][file] = sha256(temporary)
    tf_serving.write(out)
    card["checksums"][tf_serving.MODELS] = sha256(out / tf_serving.MODELS)
    write_json(out / CARD, card)
    return out


def find(path: str | Path, direction: str) -> tuple[Path, dict] | None:
    """The version folder that `path` means and its own card, checked against its checksums.

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
    for name in _files(path):
        if name not in card["checksums"] and name != OWN_CARD:
            raise InputError(f"The model {path} holds {name}, which was not exported with it; remove it.")
    if (root / CARD).exists():
        _check_root(root, path, card)
    return path, card


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


def _files(folder: Path) -> list[str]:
    """Names of all files below a folder, sorted; hidden ones are left out."""
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")
    )


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


def _save(run: Run, direction: str, weights, window, max_voxels: int, folder: Path) -> None:
    import tensorflow as tf

    from cyclescan.serving.graph import ServedTranslator

    domains = run.data["domains"]
    module = ServedTranslator(
        checkpoints.load_generator(run, direction, weights),
        domains[direction[0]]["scaling"],
        domains[direction[2]]["intensity"],
        window,
        max_voxels,
    )
    tf.saved_model.save(module, str(folder), signatures=module.endpoints)


def _save_onnx(run: Run, direction: str, weights, card: dict, path: Path) -> None:
    from cyclescan.serving import onnx_graph

    domains = run.data["domains"]
    facts = {key: card[key] for key in ("notice", "model", "version", "cyclescan_version", "preset", "step", "licence")}
    onnx_graph.write(
        checkpoints.load_generator(run, direction, weights),
        path,
        {
            **facts,
            "checkpoint_sha256": card["checkpoint_sha256"],
            "direction": direction,
            "source": domains[direction[0]]["name"],
            "target": domains[direction[2]]["name"],
            "orientation": run.data["axes"],
            "spacing_mm": run.data["spacing_mm"],
            "edges_multiple_of": run.config.stride,
            "source_scaling": domains[direction[0]]["scaling"],
            "target_intensity": domains[direction[2]]["intensity"],
            "limits": card["limits"],
        },
    )


def _add_tensor_names(signatures: dict, folder: Path) -> None:
    """Add what TensorFlow's C API calls the inputs and outputs; both directions have the same graph."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((folder / GRAPH).read_bytes())
    for name, stated in signatures.items():
        definition = proto.meta_graphs[0].signature_def[name]
        for key, tensors in (("inputs", definition.inputs), ("outputs", definition.outputs)):
            for given, facts in stated[key].items():
                facts["tensor"] = tensors[given].name


def _card(run: Run, checkpoint: Path, version: int, weights, window, max_voxels: int) -> dict:
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
        "checkpoint_sha256": identity(checkpoints.checksums(checkpoint)),
        "directions": {
            direction: {"source": source, "target": target, "path": f"{direction}/{version}"}
            for direction, (source, target) in names.items()
        },
        "signatures": _signatures(run),
        "window": list(window),
        "max_voxels": max_voxels,
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
    scaled = {"unit": "1, scaled to [-1, 1]"}
    patches = {
        "dtype": "float32",
        "shape": [None, None, None, None, 1],
        "axes": ["batch", "depth", "height", "width", "channel"],
        **scaled,
    }
    grid = {**volume, "orientation": axes, "spacing_mm": spacing}
    return {
        "serving_default": {
            "inputs": {
                "volume": {
                    **grid,
                    "unit": "intensities of the scanner as in the source file, or HU for CT",
                    "note": "one whole volume of at most max_voxels voxels, finite and not constant",
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
        "scaled": {
            "inputs": {
                "volume": {**grid, **scaled, "note": "one whole volume of at most max_voxels voxels"},
                "window": {
                    "dtype": "int32",
                    "shape": [3],
                    "axes": ["depth", "height", "width"],
                    "unit": "voxels",
                    "note": f"multiples of {stride}; decides over memory and speed, not over the result",
                },
                "overlap": {
                    "dtype": "float32",
                    "shape": [],
                    "axes": [],
                    "unit": "1, a fraction of the window",
                    "note": "at least 0 and below 1; costs time and changes nothing",
                },
            },
            "outputs": {"translated": {**volume, **scaled, "note": "the shape of the input"}},
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
