"""`python -m cyclescan.train`: train the two generators on records."""

from __future__ import annotations

import argparse
import logging
import sys

from cyclescan import command
from cyclescan.errors import InputError
from cyclescan.presets import PRESETS, preset

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
        help="change settings of the preset, for instance patch_shape=32,64,64 precision=mixed_float16",
    )
    parser.add_argument("--steps", type=int, default=None, help="number of steps; default: the preset's")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time, with the schedule shortened")
    parser.add_argument("--checkpoint-every", type=int, default=None, help="steps; default: a tenth of the run")
    parser.add_argument("--seed", type=int, default=None, help="default 0, or that of the resumed run")
    parser.add_argument("--resume", action="store_true", help="continue the run from its last checkpoint")
    parser.add_argument("--plan", action="store_true", help="print which settings fit the memory, and train nothing")
    parser.add_argument(
        "--gpu-memory-gb",
        type=float,
        default=None,
        metavar="GB",
        help="with --plan: of which GPU; default: this machine's",
    )


def run(arguments: argparse.Namespace) -> int | None:
    for name in ("steps", "minutes", "checkpoint_every"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be positive.")
    if arguments.gpu_memory_gb is not None and not arguments.plan:
        raise InputError("--gpu-memory-gb is for --plan alone; training uses the memory that there is.")
    for name in () if arguments.plan else ("data", "run"):
        if getattr(arguments, name) is None:
            raise InputError(f"--{name} is missing; only --plan does without.")
    # checked before TensorFlow is imported, which takes seconds
    chosen = preset(arguments.preset or "knee")
    settings = list(arguments.settings) + ([f"steps={arguments.steps}"] if arguments.steps else [])
    chosen = chosen.with_settings(settings)

    from cyclescan.training import checkpoints, plan, trainer

    if arguments.plan:
        gigabytes = arguments.gpu_memory_gb
        device = plan.present() if gigabytes is None else plan.gpu(gigabytes)
        sys.stdout.write(plan.page(chosen, device))
        return
    if arguments.resume:
        begun = checkpoints.read_run(arguments.run)
        base = preset(arguments.preset) if arguments.preset else begun.config
        chosen = base.with_settings(settings)
        if arguments.seed not in (None, begun.seed):
            raise InputError(f"{arguments.run} was begun with --seed {begun.seed}, not {arguments.seed}.")
    try:
        trained = trainer.train(
            arguments.data,
            arguments.run,
            chosen,
            preset=arguments.preset or "knee",
            seed=arguments.seed or 0,
            minutes=arguments.minutes,
            checkpoint_every=arguments.checkpoint_every,
            resume=arguments.resume,
        )
    except trainer.NotFiniteError as error:
        raise InputError(str(error)) from error
    log.info("done: %s, last checkpoint at step %d", trained.path, max(trained.checkpoints))


def main(arguments: list[str] | None = None) -> int:
    return command.run(__doc__.split(": ")[1], add_arguments, run, "python -m cyclescan.train", arguments)


if __name__ == "__main__":
    sys.exit(main())
