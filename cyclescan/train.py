"""`python -m cyclescan.train`: train the two generators on records."""

from __future__ import annotations

import argparse
import logging
import sys

from cyclescan.artifacts import runs
from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.config import Config, reference
from cyclescan.config.presets import PRESETS, preset
from cyclescan.training import options, stopping
from cyclescan.training.options import TrainOptions

log = logging.getLogger(__name__)

DESCRIPTION = "Train the two generators of a pair of contrasts on records made by data_prep build."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command, and the settings that `--set` takes at the end of its help."""
    parser.epilog = reference.command_line_help()
    parser.add_argument("--data", help="folder made by `data_prep build`")
    parser.add_argument("--run", help="folder for settings, checkpoints, TensorBoard and history")
    names = ", ".join(PRESETS)
    parser.add_argument("--preset", default=None, help=f"recipe: {names} (default: knee, or that of the resumed run)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        action="extend",
        dest="settings",
        help="change settings of the preset, for instance patch_shape=32,64,64 precision=mixed_float16; they are "
        "listed below",
    )
    parser.add_argument("--steps", type=int, default=None, help="number of steps; default: the preset's")
    options.add_arguments(parser)
    parser.add_argument("--plan", action="store_true", help="print which settings fit the memory, and train nothing")
    parser.add_argument(
        "--gpu-memory-gb",
        type=float,
        default=None,
        metavar="GB",
        help="with --plan: for a GPU of this size, not this machine",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, or print a plan; returns the exit code.

    Raises:
        InputError: something is wrong with the options, the data, the run or the disk.
    """
    if arguments.steps is not None and arguments.steps < 1:
        raise InputError(f"--steps is {arguments.steps}; it must be at least 1.")
    asked = options.from_arguments(arguments)
    settings = list(arguments.settings) + ([f"steps={arguments.steps}"] if arguments.steps else [])
    if arguments.plan:
        _plan(preset(arguments.preset or "knee").with_settings(settings), arguments.gpu_memory_gb)
        return command.DONE
    if arguments.gpu_memory_gb is not None:
        raise InputError("--gpu-memory-gb is for --plan alone; training uses the memory that there is.")
    for name in ("data", "run"):
        if getattr(arguments, name) is None:
            raise InputError(f"--{name} is missing; only --plan does without.")
    begins = not asked.resuming or (asked.resume_from is None and runs.is_new(arguments.run))
    begun = None if begins else runs.read_run(arguments.run)
    base = begun.config if begun and not arguments.preset else preset(arguments.preset or "knee")
    before = max(begun.checkpoints, default=0) if begun and asked.resume_from is None else 0
    return _train(arguments, base.with_settings(settings), asked, before)


def _train(arguments: argparse.Namespace, config: Config, asked: TrainOptions, before: int) -> int:
    # what is wrong with the options has been said by now: TensorFlow takes seconds to import
    from cyclescan.inference import usual
    from cyclescan.training import distribution, trainer
    from cyclescan.training.distribution import WorkerLostError
    from cyclescan.training.loop import NotFiniteError

    try:
        trained = trainer.train(arguments.data, arguments.run, config, asked)
    except NotFiniteError as error:
        raise InputError(str(error)) from error
    except stopping.Terminated:
        return command.DONE  # saved, and the log says how to continue
    except WorkerLostError as error:
        log.error("error: %s", error)
        return command.TRY_AGAIN
    # a run that was complete already stays as it is
    if max(trained.checkpoints, default=0) > before and distribution.this_worker() == 0:
        trained = usual.add_limits(trained, arguments.data)
    log.info("done: %s, last checkpoint at step %d", trained.path, max(trained.checkpoints, default=0))
    page, scans = command.call("report", "--run", trained.path), ("--direction", "a2b", "SCANS", "OUT")
    command.next_step(
        f"look at it with {page}, or use it: {command.call('translate', '--model', trained.path, *scans)}"
    )
    return command.DONE


def _plan(config: Config, gigabytes: float | None) -> None:
    from cyclescan.training import plan

    device = plan.present() if gigabytes is None else plan.gpu(gigabytes)
    sys.stdout.write(plan.page(config, device))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, by default that of this process, and return its exit code."""
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.train", arguments)


if __name__ == "__main__":
    sys.exit(main())
