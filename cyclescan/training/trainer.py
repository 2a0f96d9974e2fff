"""The loop around the step: batches, schedules, checkpoints, TensorBoard, history, the time that is left."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from cyclescan import dataset, records
from cyclescan.artifacts import runs
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.runs import Run
from cyclescan.common.command import progress as progress_bar
from cyclescan.common.errors import InputError
from cyclescan.common.files import alone_in, make_folder
from cyclescan.config import Config
from cyclescan.training import beginning, board, checkpoints, distribution, plan, schedules, stopping, terms, validation
from cyclescan.training.cyclegan import CycleGAN
from cyclescan.training.distribution import Distribution, Turn, WorkerLostError
from cyclescan.training.health import Health
from cyclescan.training.journal import EVENTS, HISTORY, Journal
from cyclescan.training.terms import Phase
from cyclescan.training.validation import Validation

log = logging.getLogger(__name__)

LOG_EVERY = 10
ENOUGH_PARTNERS = 10  # their mean has kept a tenth of their texture, as much as `losses.TEXTURE_KEPT` allows
STOPPED = "Another worker was asked to end; {folder} is saved. Start all workers again with --resume."


class NotFiniteError(RuntimeError):
    """A loss or a translation became NaN or infinite; the message names it and the step."""


def train(
    data: str | Path,
    run: str | Path,
    config: Config,
    preset: str = "",
    seed: int = 0,
    minutes: float | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    on_checkpoint: Callable[[int, CycleGAN], None] | None = None,
    resume_from: int | None = None,
    keep_states: int | None = None,
    patience: int | None = None,
    profile: bool = False,
    checkpoint_at: Sequence[float] = (),
    start_from: str | Path | None = None,
) -> Run:
    """Train on the records in `data` and leave everything in the folder `run`.

    SIGTERM, SIGINT and a notebook's interrupt are obeyed when the step in hand is done and the run is saved.

    Args:
        data: a folder made by `data_prep build` (and `data_prep pair`, if the settings have a pair term).
        run: a new folder, or with `resume` the folder of a run to continue.
        config: the settings; with `resume` they must equal those of the run.
        preset: the name under which the settings were chosen, for the record.
        seed: of weights, order, patches, augmentation, dropout and pools.
        minutes: stop after this time (all sessions of the run together); the schedule is shortened to fit. A resumed
            run keeps what it was begun with, unless that time is over: then it goes on to its last step.
        checkpoint_every: steps between checkpoints; by default a tenth of the run, of its time if that ends it. The
            last step always has one. A resumed run keeps what it was begun with.
        resume: continue from the last checkpoint, or from the beginning where there is none yet. A run that does not
            exist is begun: so the same call begins a run and restarts it.
        on_checkpoint: called with the step and the networks after each checkpoint.
        resume_from: continue from the checkpoint of this step, 0 for the beginning; later ones are removed.
        keep_states: of how many checkpoints, the last ones, the whole state is kept, 0 for all; of those before, the
            networks that translate. By default `runs.KEEP_STATES`, or what the resumed run was begun with.
        patience: stop when so many checkpoints had no better score, see `validation.stalled`; 0 for never, the default,
            since a run that is cut short never gets the small learning rate of its end, and the best checkpoint can be
            chosen without. A resumed run keeps what it was begun with.
        profile: record a few steps of this session with TensorFlow's profiler, see `board.traced`.
        checkpoint_at: minutes, counted as `minutes` is, after which there are checkpoints as well.
        start_from: a run, or a model that comes with cyclescan, whose generators a new run begins with.

    Raises:
        InputError: the data lack what the settings need, a checkpoint cannot be used, or the disk is full; or the
            batch cannot be divided among the devices.
        NotFiniteError: a loss or a translation was not finite; the last good checkpoint stays.
        WorkerLostError: of several machines another one has ended.
        stopping.Terminated: SIGTERM came; the run is saved.
        KeyboardInterrupt: SIGINT came; the run is saved.
    """
    devices = distribution.choose(config)
    data, folder = Path(data), Path(run)
    info = records.read_info(data)
    _check_patch(data, config)
    streams = _streams(data, config)
    begun = beginning.read(start_from, config) if start_from is not None else None
    asked = {"minutes": minutes, "checkpoint_every": checkpoint_every, "keep_states": keep_states, "patience": patience}
    asked = {key: value for key, value in asked.items() if value is not None}
    resume = resume or resume_from is not None
    about = {key: info[key] for key in ("domains", "spacing_mm", "axes", "shape")}
    fingerprint = records.fingerprint(
        [entry for domain in ("a", "b") for entry in streams[domain].entries],
        [checksum for domain in ("a", "b") for checksum in streams[domain].checksums],
    )
    if begun is not None:
        asked["started_from"] = begun.path.name
    chosen = Run(folder, config, preset, about, str(data.resolve()), seed, fingerprint, **asked)
    with devices.explaining_a_lost_worker(), stopping.requests() as stop:
        run = _opened(devices, chosen, asked, resume)
        alone = alone_in(folder, f"Another process is training {folder}; wait for it.")
        with alone if devices.is_chief else contextlib.nullcontext():
            about_session = (resume, resume_from, on_checkpoint, stop, profile, checkpoint_at, begun)
            return _train(run, devices, asked, data, streams, *about_session)


def _train(
    run, devices, asked, data, streams, resume, resume_from, on_checkpoint, stop, profile, checkpoint_at, begun
) -> Run:
    folder, config = run.path, run.config
    plan.warn(dataclasses.replace(config, batch_size=config.batch_size // devices.replicas))
    model = CycleGAN(config, run.seed, devices, _finest_plane(run.data["spacing_mm"]))
    if begun is not None:  # a checkpoint that is resumed replaces it
        beginning.take_over(model, begun)
    state = model.state()
    facts = _restored(devices, run, state, resume_from) if resume else {}
    first = int(model.step)
    elapsed, waited, busy = (facts.get(key, 0.0) for key in ("seconds", "input_seconds", "step_seconds"))
    # the terms of steps that are not in history.csv yet, as texts: JSON has no word for what is not finite
    recent = [{name: float(text) for name, text in terms.items()} for terms in facts.get("recent", [])]
    if resume:
        log.info("resumed at step %d of %s", first, folder)
        if "minutes" not in asked and run.minutes is not None and elapsed >= 60 * run.minutes:
            log.info(
                "its %g minutes are over; it goes on to step %d by the schedule of steps, %.0f %% of which are done",
                run.minutes,
                config.steps,
                100 * first / config.steps,
            )
            run = dataclasses.replace(run, minutes=None)
    minutes, every = run.minutes, run.checkpoint_every or max(1, math.ceil(config.steps / 10))
    # a tenth of such a run is one of its time, or of its steps where those end it sooner
    by_time = minutes is not None and not run.checkpoint_every
    out_of_time = minutes is not None and elapsed >= 60 * minutes
    unscored = facts.get("score", 0.0) is None  # the session before was stopped before it knew it
    stalled = devices.from_chief(lambda: validation.stalled(run))
    if (first >= config.steps or out_of_time or stalled) and not unscored:
        log.info("%s is complete: nothing is left to do", folder)
        return run
    batches = _batches(streams, run, first, devices)
    if not devices.is_chief:
        return _follow(run, devices, model, batches, stop)
    checkpoints.check_room(run, state, first, every)
    if run != runs.read_run(folder):
        run.write()
    validating, health = Validation(data, config), Health(config)
    journal = Journal(folder, first)
    began = time.monotonic() - elapsed
    due = sorted(60 * at for at in checkpoint_at if 60 * at > elapsed)
    step = saved = first
    tenths = int(10 * _fraction(first, config.steps, elapsed, minutes))

    def save(more: dict) -> None:
        journal.sync()
        texts = [{name: repr(value) for name, value in terms.items()} for terms in recent]
        about = {"seconds": time.monotonic() - began, "recent": texts, "input_seconds": waited, "step_seconds": busy}
        checkpoints.save(run, step, state, about | more)

    with (
        _explaining_a_full_disk(run, state),
        journal.writing(),
        progress_bar(total=config.steps, initial=first, unit="step") as bar,
        board.traced(folder / "tensorboard", first + 1, config.steps, profile) as traced,
    ):

        def validate() -> dict:
            # a machine that is taken back leaves half a minute; a resumed run makes up for the score
            try:
                found = stop.unless_asked(lambda: _scored(validating.look(model.translators)))
            except FloatingPointError as error:
                # before it is saved: the last good checkpoint is one that translates
                raise _not_finite(f"translation {error}", math.nan, step, run) from error
            if found is None:
                return {"score": None}
            seen, score = found
            health.look_at_checkpoint(step, seen)
            board.scalars("validation", {"score": score}, step)
            board.validation(seen, validating.sources, run, step)
            return {"score": score, "measures": {direction: what.measures for direction, what in seen.items()}}

        if unscored:
            checkpoints.add_facts(run.checkpoints[first], validate())
            stalled = validation.stalled(run)

        def turn() -> Turn:
            done = step >= config.steps or out_of_time or stalled
            return devices.agree(done, stop.signal is not None, time.monotonic() - began)

        while not (now := turn()).over:
            step += 1
            fraction = _fraction(step - 1, config.steps, now.seconds, minutes)
            rate = schedules.learning_rate(fraction, config.learning_rate, config.decay_from)
            model.set_learning_rate(rate)
            before = time.monotonic()
            with traced(step):
                batch = next(batches)
                waited += time.monotonic() - before
                losses, measures = _take_step(model, batch, fraction)
                recent.append(_tagged(losses, measures, step, run))
            busy += time.monotonic() - before
            bar.update()
            seconds = time.monotonic() - began
            out_of_time = minutes is not None and seconds >= 60 * minutes
            last = step == config.steps or out_of_time
            if step % LOG_EVERY == 0 or last:
                board.scalars("speed", _speed(config, len(recent), busy, waited), step)
                board.scalars("schedule", {"learning_rate": rate}, step)
                health.look_at_losses(step, _log(journal, step, seconds, recent, bar))
                recent, waited, busy = [], 0.0, 0.0
            reached = int(10 * _fraction(step, config.steps, seconds, minutes))
            planned = reached > tenths if by_time else step % every == 0
            if planned or last or (due and seconds >= due[0]):
                due = [at for at in due if at > seconds]
                save({"progress": fraction, **validate()})
                saved = step
                # what a save took counts, too: where it takes more than a tenth, not every step is followed by one
                tenths = int(10 * _fraction(step, config.steps, time.monotonic() - began, minutes))
                stalled = validation.stalled(run)
                checkpoints.reduce(run)
                if on_checkpoint:
                    on_checkpoint(step, model)
        if stalled:
            log.info("stopped at step %d: %d checkpoints had no better score; --weights best", step, run.patience)
        if step > saved:  # a worker was asked to end
            save({"unplanned": True})
    if stop.signal is not None:
        over = step == config.steps or out_of_time or stalled
        what = "is complete" if over else "is saved; continue it with --resume"
        log.info("%s: step %d of %d is done and %s %s", stop.name, step, config.steps, folder, what)
        stop.obey()
    if now.stopped:
        raise WorkerLostError(STOPPED.format(folder=folder))
    return run


def _follow(run: Run, devices: Distribution, model: CycleGAN, batches, stop: stopping.Request) -> Run:
    """The loop of a worker that is not the chief: the same steps and nothing else."""
    config, step = run.config, int(model.step)
    while not (now := devices.agree(False, stop.signal is not None, 0.0)).over:
        step += 1
        fraction = _fraction(step - 1, config.steps, now.seconds, run.minutes)
        model.set_learning_rate(schedules.learning_rate(fraction, config.learning_rate, config.decay_from))
        losses, measures = _take_step(model, next(batches), fraction)
        _tagged(losses, measures, step, run)
    if stop.signal is not None:
        log.info("%s: step %d of %d is done; the chief saves it", stop.name, step, config.steps)
        stop.obey()
    if now.stopped:
        raise WorkerLostError(STOPPED.format(folder=run.path))
    return run


def _opened(devices: Distribution, chosen: Run, asked: dict, resume: bool) -> Run:
    """The run that the chief has begun or resumed, on every worker.

    Raises:
        InputError: as `_begun` and `_resumed`, or this worker was started for another run.
    """

    def begin() -> dict:
        begun = _resumed(chosen, asked) if resume and not runs.is_new(chosen.path) else _begun(chosen)
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


def _resumed(chosen: Run, asked: dict) -> Run:
    """The run in the folder of `chosen`, where that has the same settings and data, with what else was asked for."""
    run = runs.read_run(chosen.path)
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
    return dataclasses.replace(run, **asked)


def _check_patch(data: Path, config: Config) -> None:
    for domain in ("a", "b"):
        first = records.entries(data, "train", domain)[0]
        shape = records.decode(records.read_at(*first)).voxels.shape
        if any(p > 2 * n for p, n in zip(config.patch_shape, shape, strict=True)):
            raise InputError(
                f"patch_shape {','.join(map(str, config.patch_shape))} is more than twice the volumes of {data}, "
                f"which have {','.join(map(str, shape))} voxels in domain {domain}; choose a smaller one with --set "
                "patch_shape=D,H,W."
            )


def _finest_plane(spacing_mm: list[float]) -> tuple[int, int]:
    """The two axes of a batch whose voxels are smallest, of equal ones the later."""
    first, second = sorted(range(3), key=lambda axis: (spacing_mm[axis], -axis))[:2]
    return min(first, second) + 1, max(first, second) + 1


def _streams(data: Path, config: Config) -> dict[str, dataset.Stream]:
    contents = terms.batch_contents(config)
    paired = contents["paired"]
    if paired and not (data / "pairs").is_dir():
        raise InputError(
            f"The settings have a pair term (lambda_pair={config.lambda_pair:g}) but {data}/pairs is missing; make it "
            f"with `python -m data_prep pair {data}`, or take a preset that needs none, such as gradient_consistency."
        )
    streams = {domain: dataset.open_stream(data, "pairs" if paired else "train", domain) for domain in ("a", "b")}
    if contents["detail"]:
        for direction in DIRECTIONS:
            source, target = direction.source, direction.target
            pair = records.decode(records.read_at(*streams[source].entries[0]))
            if pair.partner_detail is None:
                raise InputError(
                    f"The settings need to know how much detail partners have (lambda_detail={config.lambda_detail:g}, "
                    f"texture={config.texture}), of which {data}/pairs (domain {source}) knows nothing: it was made by "
                    f"an earlier version. For a new run make it again with `python -m data_prep pair {data}`; to go on "
                    "with a run on it, add --set lambda_detail=0 texture=none."
                )
            partners = len(pair.partner_subjects)
            if config.carries_texture(direction) and partners < ENOUGH_PARTNERS:
                log.warning(
                    "Texture is what a mean of many partners has lost. In %s/pairs it is one of %d, which has kept "
                    "more of it, so generated volumes of domain %s may get little or none.",
                    data,
                    partners,
                    target,
                )
    return streams


def _batches(streams: dict[str, dataset.Stream], run: Run, first: int, devices: Distribution):
    config = run.config
    share = {"worker": devices.worker, "workers": devices.workers}
    try:
        yield from dataset.batches(
            streams,
            config.patch_shape,
            config.batch_size,
            run.seed,
            config.augment,
            **terms.batch_contents(config),
            spacing_mm=run.data["spacing_mm"],
            start=first,
            **share,
        )
    except tf.errors.OpError as error:
        # what `Stream.read` raises comes in TensorFlow's words
        found = re.search(r"InputError: (.*)", str(error))
        if found is None:
            raise
        raise InputError(found.group(1)) from error


@contextlib.contextmanager
def _explaining_a_full_disk(run: Run, state: tf.train.Checkpoint):
    """Turn what the libraries make of a full disk into one sentence."""
    try:
        yield
    except (OSError, InputError, tf.errors.OpError) as error:
        reason = _disk_trouble(error)
        if reason is None:
            raise
        raise InputError(checkpoints.no_room(run, state, reason)) from error


def _disk_trouble(error: BaseException | None) -> str | None:
    """The system's words in an error or in one that it came from, when they are about a disk."""
    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            # TensorFlow has no numbers and many classes, but it quotes the system
            quoted = isinstance(error, tf.errors.OpError) and os.strerror(number) in str(error)
            if quoted or (isinstance(error, OSError) and error.errno == number):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def _scored(seen: dict) -> tuple[dict, float]:
    return seen, validation.score(seen)


def _fraction(step: int, steps: int, seconds: float, minutes: float | None) -> float:
    """How much of the run is over, by steps or by time, whichever is more."""
    by_time = seconds / (60 * minutes) if minutes else 0.0
    return min(1.0, max(step / steps, by_time))


def _take_step(model: CycleGAN, batch: dict, fraction: float) -> tuple[dict, dict]:
    """The kind of step that this part of the run asks for."""
    return model.take_step(batch, _phase(model.config, fraction))


def _phase(config: Config, fraction: float) -> Phase:
    """Which terms count at this part of a run."""
    late = fraction >= config.back_from
    whole = Phase.whole(config, late)
    if not (fraction < config.warmup and terms.has_warmup(config)):
        return whole
    soon = config.warmup < 1 and fraction >= config.warmup - config.discriminator_warmup
    return Phase(warmup=True, late=late, discriminators=whole.discriminators and soon)


def _tagged(losses: dict, measures: dict, step: int, run: Run) -> dict[str, float]:
    """Losses, which must be finite, and measures, which need not, by TensorBoard's tags.

    Raises:
        NotFiniteError: a loss is not finite.
    """
    values = {name: float(value) for name, value in losses.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise _not_finite(f"loss {name}", value, step, run)
    return {f"loss/{k}": v for k, v in values.items()} | {f"measure/{k}": float(v) for k, v in measures.items()}


def _not_finite(what: str, value: float, step: int, run: Run) -> NotFiniteError:
    kept = run.checkpoints
    where = f"the last good checkpoint is step {max(kept)}" if kept else "there is no checkpoint yet"
    return NotFiniteError(f"The {what} is {value} at step {step}; {where}. Try a smaller learning_rate.")


def _log(journal: Journal, step: int, seconds: float, recent: list[dict], bar) -> dict[str, float]:
    """Tell the means of the last steps; returns them by name."""
    means = {}
    for tag in sorted({tag for values in recent for tag in values}):
        values = [row[tag] for row in recent if tag in row]
        # a norm is infinite where float16 overflowed; losses are finite
        room, _, name = tag.partition("/")
        means[name] = float(np.mean([v for v in values if math.isfinite(v)] or [math.nan]))
        board.scalars(room, {name: means[name]}, step)
    journal.add({"step": step, "seconds": round(seconds, 2), **means})
    named = [term.column(direction) for term in terms.all_terms() if term.in_bar for direction in DIRECTIONS]
    bar.set_postfix({name: f"{means[name]:.3f}" for name in named if name in means})
    return means


def _speed(config: Config, steps: int, seconds: float, waited: float) -> dict[str, float]:
    """Of so many steps: without checkpoints and what belongs to them."""
    rate = steps / seconds
    voxels = 2 * config.batch_size * math.prod(config.patch_shape)  # of both domains
    return {"steps_per_second": rate, "voxels_per_second": rate * voxels, "input_seconds": waited / steps}
