"""`python -m cyclescan.train`: train the two generators on records."""

from __future__ import annotations

import argparse
import logging
import sys

from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.config import Config, reference
from cyclescan.config.presets import PRESETS, preset

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
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time, with the schedule shortened")
    parser.add_argument("--seed", type=int, default=None, help="default 0, or that of the resumed run")
    parser.add_argument(
        "--start-from",
        default=None,
        metavar="MODEL",
        help="a run, or a model that comes with cyclescan, whose generators a new run begins with; its generator_ "
        "settings must be the same",
    )
    _add_checkpoint_arguments(parser)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="record a few steps with TensorFlow's profiler in RUN/tensorboard/plugins/profile",
    )
    parser.add_argument("--plan", action="store_true", help="print which settings fit the memory, and train nothing")
    parser.add_argument(
        "--gpu-memory-gb",
        type=float,
        default=None,
        metavar="GB",
        help="with --plan: for a GPU of this size, not this machine",
    )


def _add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint-every", type=int, default=None, help="steps; default: a tenth of the run")
    parser.add_argument(
        "--keep-states",
        type=int,
        default=None,
        metavar="N",
        help="keep the last N checkpoints whole, of those before only the networks that translate; 0 keeps all whole "
        "(default: 3)",
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=None,
        metavar="N",
        help="stop when N checkpoints after the warm-up had no better validation score; 0: never (default: 0)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run from its last checkpoint, with the options it was begun with; begin it if the folder is "
        "empty",
    )
    parser.add_argument(
        "--resume-from",
        type=int,
        default=None,
        metavar="STEP",
        help="continue it from the checkpoint of this step (0: from the beginning) and remove the later ones",
    )


LEAST = {"steps": 1, "seed": 0, "checkpoint_every": 1, "keep_states": 0, "patience": 0, "resume_from": 0}


def run(arguments: argparse.Namespace) -> int:
    """Train, or print a plan; returns the exit code.

    Raises:
        InputError: something is wrong with the options, the data, the run or the disk.
    """
    for name, least in LEAST.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}.")
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise InputError(f"--minutes is {arguments.minutes}; it must be positive.")
    settings = list(arguments.settings) + ([f"steps={arguments.steps}"] if arguments.steps else [])
    if arguments.plan:
        _plan(preset(arguments.preset or "knee").with_settings(settings), arguments.gpu_memory_gb)
        return command.DONE
    if arguments.gpu_memory_gb is not None:
        raise InputError("--gpu-memory-gb is for --plan alone; training uses the memory that there is.")
    for name in ("data", "run"):
        if getattr(arguments, name) is None:
            raise InputError(f"--{name} is missing; only --plan does without.")

    from cyclescan.artifacts import runs
    from cyclescan.training import stopping

    resume = arguments.resume or arguments.resume_from is not None
    begins = arguments.resume and arguments.resume_from is None and runs.is_new(arguments.run)
    begun = runs.read_run(arguments.run) if resume and not begins else None
    # checked before TensorFlow is imported, which takes seconds
    base = begun.config if begun and not arguments.preset else preset(arguments.preset or "knee")
    chosen = base.with_settings(settings)
    if begun and arguments.seed not in (None, begun.seed):
        raise InputError(f"{arguments.run} was begun with --seed {begun.seed}, not {arguments.seed}.")

    from cyclescan.training import trainer
    from cyclescan.training.distribution import WorkerLostError
    from cyclescan.training.loop import NotFiniteError
    from cyclescan.training.options import TrainOptions

    options = TrainOptions(
        preset=arguments.preset or "knee",
        seed=arguments.seed or 0,
        minutes=arguments.minutes,
        checkpoint_every=arguments.checkpoint_every,
        resume=resume,
        resume_from=arguments.resume_from,
        keep_states=arguments.keep_states,
        patience=arguments.patience,
        profile=arguments.profile,
        start_from=arguments.start_from,
    )
    try:
        trained = trainer.train(arguments.data, arguments.run, chosen, options)
    except NotFiniteError as error:
        raise InputError(str(error)) from error
    except stopping.Terminated:
        return command.DONE  # saved, and the log says how to continue
    except WorkerLostError as error:
        log.error("error: %s", error)
        return command.TRY_AGAIN
    log.info("done: %s, last checkpoint at step %d", trained.path, max(trained.checkpoints, default=0))
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
