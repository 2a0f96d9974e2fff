"""Training from records to a run on disk: opened or resumed here, trained by `training.loop`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import Any

import tensorflow as tf

from cyclescan.artifacts import runs
from cyclescan.artifacts.runs import Run
from cyclescan.common.errors import InputError
from cyclescan.common.files import alone_in, make_folder
from cyclescan.config import Config
from cyclescan.training import beginning, checkpoints, distribution, plan, stopping, validation
from cyclescan.training.cyclegan import CycleGAN
from cyclescan.training.distribution import Distribution
from cyclescan.training.journal import EVENTS, HISTORY
from cyclescan.training.loop import ChiefLoop, Loop
from cyclescan.training.options import TrainOptions
from cyclescan.training.schedule import Schedule
from cyclescan.training.source import Source

log = logging.getLogger(__name__)


def train(data: str | Path, run: str | Path, config: Config, options: TrainOptions | None = None, **more: Any) -> Run:
    """Train on the records in `data` and leave everything in the folder `run`.

    SIGTERM, SIGINT and a notebook's interrupt are obeyed when the step in hand is done and the run is saved.

    Args:
        data: a folder made by `data_prep build` (and `data_prep pair`, if the settings have a pair term).
        run: a new folder, or with `resume` the folder of a run to continue.
        config: the settings; with `resume` they must equal those of the run.
        options: what else is asked for.
        more: fields of `options` by name, as in `train(data, run, config, preset="demo", seed=3)`.

    Raises:
        InputError: the data lack what the settings need, a checkpoint cannot be used, or the disk is full; or the
            batch cannot be divided among the devices.
        loop.NotFiniteError: a loss or a translation was not finite; the last good checkpoint stays.
        distribution.WorkerLostError: of several machines another one has ended.
        stopping.Terminated: SIGTERM came; the run is saved.
        KeyboardInterrupt: SIGINT came; the run is saved.
    """
    options = dataclasses.replace(options or TrainOptions(), **more)
    devices = distribution.choose(config)
    source, folder = Source(Path(data), config), Path(run)
    given = None if options.start_from is None else beginning.read(options.start_from, config, source.about)
    chosen = Run(
        path=folder,
        config=config,
        preset=options.preset,
        data=source.about,
        records=str(source.folder.resolve()),
        seed=options.seed or 0,
        fingerprint=source.fingerprint,
        started_from="" if given is None else given.name,
        **options.of_run,
    )
    with devices.explaining_a_lost_worker(), stopping.requests() as stop:
        opened = _opened(devices, chosen, options)
        alone = alone_in(folder, f"Another process is training {folder}; wait for it.")
        with alone if devices.is_chief else contextlib.nullcontext():
            return _trained(opened, source, devices, stop, options, given)


def _trained(
    run: Run,
    source: Source,
    devices: Distribution,
    stop: stopping.Request,
    options: TrainOptions,
    given: beginning.Model | None,
) -> Run:
    """The run after its last step, begun with the generators of the given one; raises as `train`."""
    plan.warn(dataclasses.replace(run.config, batch_size=run.config.batch_size // devices.replicas))
    model = CycleGAN(run.config, run.seed, devices, source.finest_plane)
    if given is not None:  # a checkpoint that is resumed replaces them
        beginning.take_over(model, given)
    elif run.started_from and (options.resume_from == 0 or not run.checkpoints):
        raise InputError(
            f"{run.path} began with the generators of {run.started_from} and goes on from its beginning; give that "
            "model with --start-from again."
        )
    facts = {}
    if options.resuming:
        facts = _restored(devices, run, model.state(), options.resume_from)
        log.info("resumed at step %d of %s", int(model.step), run.path)
        run = _within_its_time(run, int(model.step), facts, options)
    stalled = devices.from_chief(lambda: validation.stalled(run))
    over = Schedule(run.config, run.minutes).over(int(model.step), facts.get("seconds", 0.0))
    if (over or stalled) and facts.get("score", 0.0) is not None:
        log.info("%s is complete: nothing is left to do", run.path)
        return run
    batches = source.batches(run.seed, int(model.step), devices)
    loop: Loop
    if devices.is_chief:
        loop = ChiefLoop(run, model, batches, devices, stop, source.folder, facts, options)
        if run != runs.read_run(run.path):
            run.write()
    else:
        loop = Loop(run, model, batches, devices, stop)
    loop.go()
    return run


def _within_its_time(run: Run, step: int, facts: dict, options: TrainOptions) -> Run:
    """The run without its time, where that is over and no other was asked for."""
    if options.minutes is not None or not Schedule(run.config, run.minutes).out_of_time(facts.get("seconds", 0.0)):
        return run
    log.info(
        "its %g minutes are over; it goes on to step %d by the schedule of steps, %.0f %% of which are done",
        run.minutes,
        run.config.steps,
        100 * step / run.config.steps,
    )
    return dataclasses.replace(run, minutes=None)


def _opened(devices: Distribution, chosen: Run, options: TrainOptions) -> Run:
    """The run that the chief has begun or resumed, on every worker.

    Raises:
        InputError: as `_begun` and `_resumed`, or this worker was started for another run.
    """

    def begin() -> dict:
        resumed = options.resuming and not runs.is_new(chosen.path)
        begun = _resumed(chosen, options) if resumed else _begun(chosen)
        return dataclasses.asdict(begun) | {"path": str(begun.path)}

    values = devices.from_chief(begin)
    run = Run(**{**values, "path": chosen.path, "config": Config.from_dict(values["config"])})
    if (run.config, run.fingerprint or chosen.fingerprint) != (chosen.config, chosen.fingerprint):
        raise InputError(
            f"Worker {devices.worker} was given other settings or other records than the chief; give all the same."
        )
    return run


def _restored(devices: Distribution, run: Run, state: tf.train.Checkpoint, step: int | None) -> dict:
    """Bring every worker to the checkpoint that the chief resumes; its facts."""
    facts = devices.from_chief(lambda: checkpoints.resume(run, state, step))
    if facts and not devices.is_chief:
        path = run.checkpoints.get(facts["step"])
        if path is None:
            raise InputError(
                f"{run.path} has no checkpoint of step {facts['step']} here, of which the chief knows; all workers "
                "must see one and the same folder."
            )
        checkpoints.restore(path, state, run.config)
    return facts


def _begun(run: Run) -> Run:
    """The run whose folder has been made and written.

    Raises:
        InputError: something of a run stands there already.
    """
    if (run.path / "config.json").exists():
        raise InputError(f"{run.path} holds a run already; add --resume to continue it, or choose another folder.")
    if run.checkpoints:
        raise InputError(
            f"{run.path} holds the checkpoints of a run that has lost its config.json; choose another folder."
        )
    for name in (HISTORY, EVENTS):
        if (run.path / name).exists():  # a run would write into it, and take out what is not its own
            raise InputError(f"{run.path} holds {name} and no run; choose another folder.")
    make_folder(run.path)
    run.write()
    return run


def _resumed(chosen: Run, options: TrainOptions) -> Run:
    """The run in the folder of `chosen`, with what else was asked for.

    Raises:
        InputError: it has other settings or another seed, or was begun on other records.
    """
    run = runs.read_run(chosen.path)
    if options.seed not in (None, run.seed):
        raise InputError(f"{run.path} was begun with --seed {run.seed}, not {options.seed}.")
    settings = run.config.to_dict()
    differing = [key for key, value in chosen.config.to_dict().items() if settings[key] != value]
    if differing:
        key = differing[0]
        why = (
            "the schedule depends on it from the first step on"
            if key == "steps"
            else "a resumed run keeps its settings"
        )
        raise InputError(
            f"{run.path} was begun with {key} = {getattr(run.config, key)}, not {getattr(chosen.config, key)}; {why}."
        )
    if run.fingerprint and run.fingerprint != chosen.fingerprint:
        raise InputError(
            f"{run.path} was begun on other records than those that are in {chosen.records} now; give it those "
            "with --data, or begin a new run."
        )
    return dataclasses.replace(run, **options.of_run)
