"""Writing an exported model folder, which `artifacts.exports` reads.

`onnx/` and `models.config` belong to the folder as a whole; so do `batching.config` and `compose.yaml`, which are for
the user to change and not checked.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from cyclescan.artifacts import card as cards
from cyclescan.artifacts import checkpoints, runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.exports import CARD, GRAPH, OWN_CARD, files_of, versions
from cyclescan.artifacts.runs import Run
from cyclescan.common.command import progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, read_json, refuse_foreign, replacing, sha256, states, write_json
from cyclescan.inference import sliding_window
from cyclescan.preprocessing import guard
from cyclescan.preprocessing.noise import Noise
from cyclescan.serving import tf_serving

MAX_VOXELS = 2**27  # of a served volume; 512 x 512 x 512


def write(
    run: Run,
    out: str | Path,
    version: int | None = None,
    weights: str | int = "last",
    window: Sequence[int] | None = None,
    max_voxels: int = MAX_VOXELS,
    onnx: bool = False,
) -> Path:
    """Export both directions of a run.

    Args:
        run: from `runs.read_run`.
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
    _refuse_foreign(out, version, onnx)
    card = cards.describe(run, runs.find(run, weights), version, weights, window, max_voxels)
    with contextlib.ExitStack() as renames:
        make_folder(out)
        for direction in progress(DIRECTIONS, desc="writing models", unit="model"):
            folder = renames.enter_context(replacing(out / direction / str(version)))
            _save(run, direction, weights, card, folder)
            tf_serving.write_warm_up(folder, direction, window)
            _add_tensor_names(card["signatures"], folder)
            own = {name: sha256(folder / name) for name in files_of(folder)}
            write_json(folder / OWN_CARD, {**card, "direction": direction, "checksums": own})
            own[OWN_CARD] = sha256(folder / OWN_CARD)
            card["checksums"] |= {f"{direction}/{version}/{name}": digest for name, digest in own.items()}
            if onnx:
                file = _onnx_name(direction, version)
                temporary = renames.enter_context(replacing(out / file))
                _save_onnx(run, direction, weights, card, temporary)
                card["checksums"][file] = sha256(temporary)
    tf_serving.write(out)
    card["checksums"][tf_serving.MODELS] = sha256(out / tf_serving.MODELS)
    write_json(out / CARD, card)
    return out


def _refuse_foreign(out: Path, version: int, onnx: bool) -> None:
    """Refuse a model folder in which something would be replaced that `write` did not make."""
    refuse_foreign(out / CARD, lambda path: states(path, "notice", "checksums"), "card of a model")
    known = read_json(out / CARD)["checksums"] if (out / CARD).is_file() else {}

    lists = (known.get(tf_serving.MODELS), hashlib.sha256(tf_serving.MODELS_TEXT.encode()).hexdigest())
    refuse_foreign(out / tf_serving.MODELS, lambda path: sha256(path) in lists, "list of models of `export`")
    for direction in DIRECTIONS:
        for new in (out / direction / str(version), out / _onnx_name(direction, version))[: 1 + onnx]:
            if new.exists():
                raise InputError(f"{new} exists and is no exported model; choose another --out or --version.")


def _onnx_name(direction: str, version: int) -> str:
    return f"onnx/{direction}-{version}.onnx"


def _next_version(out: Path, version: int | None) -> int:
    newest = max((n for direction in DIRECTIONS for n in versions(out / direction)), default=0)
    if version is None:
        return newest + 1
    if version <= newest:
        raise InputError(f"--version is {version}; {out} holds version {newest} already, so at least {newest + 1}.")
    return version


def _save(run: Run, direction: str, weights, card: dict, folder: Path) -> None:
    import tensorflow as tf

    from cyclescan.serving.graph import ServedTranslator

    domains = run.data["domains"]
    module = ServedTranslator(
        checkpoints.load_generator(run, direction, weights),
        domains[direction[0]]["scaling"],
        domains[direction[2]]["intensity"],
        card["window"],
        card["max_voxels"],
        Noise.of(domains[direction[2]]) if "with_noise" in card["signatures"] else None,
        guard.finest_plane(run.data["spacing_mm"]),
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
            "weights": card["weights"],
            "data": run.data,
            "config": card["config"],
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
