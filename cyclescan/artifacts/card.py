"""The card of an exported model: what it is, what it takes and gives, what it was trained on, and its limits."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path

from cyclescan import NOTICE, __version__
from cyclescan.artifacts import checkpoints
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.runs import Run
from cyclescan.common.files import read_json
from cyclescan.preprocessing import Options
from cyclescan.preprocessing.noise import Noise

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


def identity(checksums: dict[str, str]) -> str:
    """Return one SHA-256 for a set of files, given each one's: that of the lines `name digest`, sorted by name."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(checksums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def describe(
    run: Run, checkpoint: Path, version: int, weights: str | int, window: Sequence[int], max_voxels: int
) -> dict:
    """Return the card of one version of a model, without the checksums of its files.

    Args:
        run: that is exported.
        checkpoint: the folder of the checkpoint whose networks are exported.
        version: its number.
        weights: "last", "best" or the step that was asked for.
        window: voxels (depth, height, width) of the windows inside the graph.
        max_voxels: a served volume may have so many.
    """
    facts = read_json(checkpoint / "checkpoint.json")
    names = {str(direction): run.names(direction) for direction in DIRECTIONS}
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
    scan = {
        **grid,
        "unit": "intensities of the scanner as in the source file, or HU for CT",
        "note": "one whole volume of at most max_voxels voxels, finite and not constant",
        # by direction: what the graph cannot do itself
        "prepared_so_that_it": {
            direction: Options.of(run.data["domains"][direction[0]]).sentences() for direction in DIRECTIONS
        },
    }
    translated = {
        **volume,
        "unit": "intensities of the target domain: its training data's, or HU for CT",
        "note": "the shape of the input",
    }
    return {
        "serving_default": {"inputs": {"volume": scan}, "outputs": {"translated": translated}},
        **_with_noise(run, scan, translated),
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


def _with_noise(run: Run, scan: dict, translated: dict) -> dict:
    """The signature `with_noise`, where the noise of both domains is known."""
    known = {direction: Noise.of(run.data["domains"][direction[2]]) for direction in DIRECTIONS}
    noise = {str(direction): dataclasses.asdict(noise) for direction, noise in known.items() if noise}
    if len(noise) < len(DIRECTIONS):
        return {}
    seed = {"dtype": "int64", "shape": [], "axes": [], "unit": "1", "note": "give each scan one of its own"}
    made = {**translated, "note": "that of serving_default with as much noise as it lacks", "noise": noise}
    return {"with_noise": {"inputs": {"volume": dict(scan), "seed": seed}, "outputs": {"translated": made}}}


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
