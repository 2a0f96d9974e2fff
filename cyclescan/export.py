"""`python -m cyclescan.export`: write SavedModels for TensorFlow Serving, or weights alone to hand on."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json

log = logging.getLogger(__name__)

DESCRIPTION = "Write SavedModels for TensorFlow Serving, with a card and checksums, or weights alone to hand on."


def export(
    run: str | Path,
    out: str | Path,
    version: int | None = None,
    weights: str | int = "last",
    window: Sequence[int] | None = None,
    max_voxels: int | None = None,
    onnx: bool = False,
    formats: Sequence[str] = (),
) -> Path:
    """Write OUT/a2b/N, OUT/b2a/N and OUT/card.json; see `serving.saved_model.write`.

    Args:
        run: a training run.
        out: the model folder.
        version: N; None for one more than the largest there.
        weights: "last", "best" or a step.
        window: voxels (depth, height, width) of the windows inside the graph; None for `DEFAULT_WINDOW`.
        max_voxels: a served volume may have so many; None for `saved_model.MAX_VOXELS`.
        onnx: write OUT/onnx/a2b-N.onnx and OUT/onnx/b2a-N.onnx too.
        formats: folders for other programs, see `serving.bundles`; they hold the ONNX files, which are then written.

    Raises:
        InputError: there is no such run or checkpoint, the version is not new, or the folder cannot be written.
    """
    from cyclescan.artifacts import runs
    from cyclescan.serving import saved_model

    max_voxels = max_voxels or saved_model.MAX_VOXELS
    onnx = onnx or bool(formats)
    out = saved_model.write(runs.read_run(run), out, version, weights, window, max_voxels, onnx)
    if formats:
        from cyclescan.serving import bundles

        bundles.write(out, read_json(out / "card.json")["version"], formats)
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, help="folder of a training run")
    parser.add_argument("--out", required=True, help="model folder, for instance saved_models/knee")
    parser.add_argument("--version", type=int, default=None, help="default: one more than the largest there")
    parser.add_argument("--weights", default="last", help="last, best or a step")
    parser.add_argument(
        "--window",
        type=int,
        nargs=3,
        default=None,
        metavar=("D", "H", "W"),
        help="voxels that are worked on at once, multiples of the network's stride; decides over memory and speed and "
        "not over the result",
    )
    parser.add_argument(
        "--max-voxels", type=int, default=None, help="a served volume may have so many; default: 512 x 512 x 512"
    )
    parser.add_argument(
        "--weights-only",
        nargs="*",
        choices=("a2b", "b2a"),
        default=None,
        metavar="DIRECTION",
        help="instead of SavedModels write what `translate --model OUT` needs and no more, with weights in 16 bits (6 "
        "MB a direction of the preset demo), to hand a model on; a2b, b2a or, by default, both",
    )
    parser.add_argument(
        "--onnx", action="store_true", help="write OUT/onnx/{a2b,b2a}-N.onnx too, for 3D Slicer, MONAI and Triton"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("slicer", "monai"),
        default=[],
        help="write OUT/slicer/ (an adapter for SlicerModalityConverter) or OUT/monai/ (a bundle) too, each with the "
        "ONNX file of its direction",
    )


def run(arguments: argparse.Namespace) -> int | None:
    if arguments.version is not None and arguments.version < 1:
        raise InputError(f"--version is {arguments.version}; it must be at least 1.")
    if arguments.max_voxels is not None and arguments.max_voxels < 1:
        raise InputError(f"--max-voxels is {arguments.max_voxels}; it must be at least 1.")
    if arguments.weights_only is not None:
        from cyclescan.artifacts import checkpoints, runs
        from cyclescan.artifacts.direction import DIRECTIONS

        directions = arguments.weights_only or DIRECTIONS
        out = checkpoints.publish(runs.read_run(arguments.run), arguments.out, arguments.weights, directions)
        log.info("%s translates %s", out, " and ".join(directions))
        command.next_step(command.call("translate", "--model", out, "--direction", directions[0], "SCANS", "OUT"))
        return command.DONE
    out = export(
        arguments.run,
        arguments.out,
        arguments.version,
        arguments.weights,
        arguments.window,
        arguments.max_voxels,
        arguments.onnx,
        arguments.format,
    )
    log.info("%s holds the models of both directions and %s", out, out / "card.json")
    used = command.call("translate", "--model", out, "--direction", "a2b", "SCANS", "OUT")
    command.next_step(f"use it: {used}; serve it: docs/how-to/serve.md")
    return command.DONE


def main(arguments: list[str] | None = None) -> int:
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.export", arguments)


if __name__ == "__main__":
    sys.exit(main())
