"""The loop around the step. Every worker runs it; that of the chief also tells, validates and saves."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.runs import Run
from cyclescan.common.command import progress as progress_bar
from cyclescan.training import board, checkpoints, stopping, terms, validation
from cyclescan.training.cyclegan import CycleGAN
from cyclescan.training.distribution import Distribution, Turn, WorkerLostError
from cyclescan.training.health import Health
from cyclescan.training.journal import EVENTS, Journal
from cyclescan.training.options import TrainOptions
from cyclescan.training.schedule import Moment, Schedule
from cyclescan.training.validation import Validation

log = logging.getLogger(__name__)

LOG_EVERY = 10
STOPPED = "Another worker was asked to end; {folder} is saved. Start all workers again with --resume."


class NotFiniteError(RuntimeError):
    """A loss or a translation became NaN or infinite; the message names it and the step."""


class Loop:
    """The steps of a run on one worker, the same on each of them.

    Args:
        run: what is trained.
        model: in the state that the run goes on from.
        batches: of this worker, from there on.
        devices: of all workers.
        stop: what a signal asked for.

    Attributes:
        step: the number of the last step.
    """

    def __init__(
        self,
        run: Run,
        model: CycleGAN,
        batches: Iterator[dict[str, tf.Tensor]],
        devices: Distribution,
        stop: stopping.Request,
    ):
        self.run, self.model, self.stop = run, model, stop
        self.schedule = Schedule(run.config, run.minutes)
        self.step = int(model.step)
        self._batches, self._devices = batches, devices

    def go(self) -> None:
        """Take steps until there is nothing left to do or a worker is asked to end.

        Raises:
            NotFiniteError: a loss was not finite.
            WorkerLostError: another worker was asked to end.
            stopping.Terminated: SIGTERM came.
            KeyboardInterrupt: SIGINT came.
        """
        self.finish(self._take_steps())

    def _take_steps(self) -> Turn:
        while not (turn := self.turn()).over:
            self.take_step(turn)
        return turn

    def turn(self) -> Turn:
        """Agree with the other workers on whether there is a step, which only the chief knows."""
        return self._devices.agree(False, self.stop.signal is not None, 0.0)

    def take_step(self, turn: Turn) -> tuple[Moment, dict[str, float]]:
        """Take a step, and return the point of the run where it was taken and what it told, by TensorBoard's tags.

        Raises:
            NotFiniteError: a loss is not finite.
        """
        moment = self.schedule.at(self.schedule.progress(self.step, turn.seconds))
        self.step += 1
        self.model.set_learning_rate(moment.learning_rate)
        losses, measures = self.learn(self.next_batch(), moment)
        losses = {name: float(value) for name, value in losses.items()}
        for name, value in losses.items():
            if not math.isfinite(value):
                raise self.not_finite(f"loss {name}", value)
        # measures need not be finite: a norm is infinite where float16 overflowed
        told = {f"loss/{name}": value for name, value in losses.items()}
        return moment, told | {f"measure/{name}": float(value) for name, value in measures.items()}

    def next_batch(self) -> dict[str, tf.Tensor]:
        """Return the batch of this worker for the step in hand."""
        return next(self._batches)

    def learn(self, batch: dict[str, tf.Tensor], moment: Moment) -> tuple[dict, dict]:
        """Let the networks learn from a batch; returns losses and measures as `CycleGAN.train_step` gives them."""
        return self.model.take_step(batch, moment.phase)

    def not_finite(self, what: str, value: float) -> NotFiniteError:
        """Make the error to raise where something is not finite."""
        kept = self.run.checkpoints
        where = f"the last good checkpoint is step {max(kept)}" if kept else "there is no checkpoint yet"
        return NotFiniteError(f"The {what} is {value} at step {self.step}; {where}. Try a smaller learning_rate.")

    def finish(self, turn: Turn) -> None:
        """Obey what ended the loop; raises as `go`."""
        if self.stop.signal is not None:
            done = f"step {self.step} of {self.run.config.steps} is done"
            log.info("%s: %s%s", self.stop.name, done, self._how_it_ends())
            self.stop.obey()
        if turn.stopped:
            raise WorkerLostError(STOPPED.format(folder=self.run.path))

    def _how_it_ends(self) -> str:
        return "; the chief saves it"


class Clock:
    """The seconds that a run has taken, all its sessions together.

    Args:
        elapsed: those of earlier sessions.
    """

    def __init__(self, elapsed: float = 0.0):
        self._began = time.monotonic() - elapsed

    def __call__(self) -> float:
        return time.monotonic() - self._began


class Due:
    """When there are checkpoints: each so many steps or each tenth of the time, and after given minutes.

    Args:
        schedule: of the run.
        every: steps between checkpoints; None for a tenth of the run, of its time if that ends it.
        minutes: of the run, after which there are checkpoints as well.
        step, seconds: where the run stands.
    """

    def __init__(self, schedule: Schedule, every: int | None, minutes: tuple[float, ...], step: int, seconds: float):
        self.every = every or max(1, math.ceil(schedule.config.steps / 10))
        self._schedule = schedule
        # a tenth of such a run is one of its time, or of its steps where those end it sooner
        self._by_time = schedule.minutes is not None and not every
        self._seconds = sorted(60 * at for at in minutes if 60 * at > seconds)
        self._tenths = self._reached(step, seconds)

    def after(self, step: int, seconds: float) -> bool:
        """Say whether a checkpoint is due after a step."""
        planned = self._reached(step, seconds) > self._tenths if self._by_time else step % self.every == 0
        return planned or bool(self._seconds and seconds >= self._seconds[0])

    def saved(self, step: int, seconds: float, now: float) -> None:
        """Go on from a checkpoint that was begun at `seconds` and is finished now.

        What a save took counts, too: where it takes more than a tenth, not every step is followed by one.
        """
        self._seconds = [at for at in self._seconds if at > seconds]
        self._tenths = self._reached(step, now)

    def _reached(self, step: int, seconds: float) -> int:
        return int(10 * self._schedule.progress(step, seconds))


@dataclasses.dataclass
class Unlogged:
    """What the steps have told since the last row of history.csv; a checkpoint keeps it.

    So the means do not depend on where a run was interrupted.

    Attributes:
        told: what each step told, by TensorBoard's tags.
        waited: seconds for input.
        busy: seconds of the steps, input included.
    """

    told: list[dict[str, float]] = dataclasses.field(default_factory=list)
    waited: float = 0.0
    busy: float = 0.0

    @classmethod
    def from_facts(cls, facts: dict) -> Unlogged:
        """Read what the facts of a checkpoint say of it."""
        told = [{name: float(text) for name, text in values.items()} for values in facts.get("recent", [])]
        return cls(told, facts.get("input_seconds", 0.0), facts.get("step_seconds", 0.0))

    def to_facts(self) -> dict:
        """Make entries of checkpoint.json, numbers as texts, since JSON has no word for what is not finite."""
        texts = [{name: repr(value) for name, value in values.items()} for values in self.told]
        return {"recent": texts, "input_seconds": self.waited, "step_seconds": self.busy}

    def means(self) -> dict[str, float]:
        """Average each tag over the steps that told it; NaN where nothing finite was told."""
        found = {}
        for tag in sorted({tag for values in self.told for tag in values}):
            values = [row[tag] for row in self.told if tag in row]
            found[tag] = float(np.mean([v for v in values if math.isfinite(v)] or [math.nan]))
        return found

    def speed(self, voxels: int) -> dict[str, float]:
        """Say how fast these steps of so many voxels were, without checkpoints and what belongs to them."""
        steps = len(self.told)
        rate = steps / self.busy
        return {"steps_per_second": rate, "voxels_per_second": rate * voxels, "input_seconds": self.waited / steps}


class ChiefLoop(Loop):
    """The loop of the worker that writes.

    Args:
        run, model, batches, devices, stop: as for `Loop`.
        data: the folder of the records.
        facts: of the checkpoint that the run goes on from; {} at its beginning.
        options: what was asked for.

    Raises:
        InputError: the disk has no room for the next checkpoint.
    """

    def __init__(
        self,
        run: Run,
        model: CycleGAN,
        batches: Iterator[dict[str, tf.Tensor]],
        devices: Distribution,
        stop: stopping.Request,
        data: Path,
        facts: dict,
        options: TrainOptions,
    ):
        super().__init__(run, model, batches, devices, stop)
        elapsed = facts.get("seconds", 0.0)
        self._due = Due(self.schedule, run.checkpoint_every, tuple(options.checkpoint_at), self.step, elapsed)
        self._state = model.state()
        checkpoints.check_room(run, self._state, self.step, self._due.every)
        self._options = options
        self._validating, self._health = Validation(data, run.config), Health(run.config)
        self._journal = Journal(run.path, self.step)
        self._clock = Clock(elapsed)
        self._unlogged = Unlogged.from_facts(facts)
        self._unscored = facts.get("score", 0.0) is None  # the session before was stopped before it knew it
        self._saved = self.step
        self._over = self.schedule.over(self.step, elapsed)
        self._stalled = validation.stalled(run)

    def go(self) -> None:
        """Take steps, tell of them and save them until there is nothing left to do or a worker is asked to end.

        Raises:
            InputError: the disk is full, or records were replaced.
            NotFiniteError: a loss or a translation was not finite; the last good checkpoint stays.
            WorkerLostError, stopping.Terminated, KeyboardInterrupt: as `Loop.go`; the run is saved.
        """
        steps, begin = self.run.config.steps, self.step
        with (
            checkpoints.explaining_a_full_disk(self.run, self._state),
            self._journal.writing(),
            progress_bar(total=steps, initial=begin, unit="step") as self._bar,
            board.traced(self.run.path / EVENTS, begin + 1, steps, self._options.profile) as self._traced,
        ):
            if self._unscored:
                checkpoints.add_facts(self.run.checkpoints[begin], self._validate())
                self._stalled = validation.stalled(self.run)
            turn = self._take_steps()
            if self._stalled:
                words = "stopped at step %d: %d checkpoints had no better score; --weights best"
                log.info(words, self.step, self.run.patience)
            if self.step > self._saved:  # a worker was asked to end
                self._save({"unplanned": True})
        self.finish(turn)

    def turn(self) -> Turn:
        """Agree with the other workers on whether there is a step, and by whose clock: this one's."""
        done = self._over or self._stalled
        return self._devices.agree(done, self.stop.signal is not None, self._clock())

    def take_step(self, turn: Turn) -> tuple[Moment, dict[str, float]]:
        """Take a step and do what is due after it; returns and raises as `Loop.take_step`."""
        self._before = self._clock()
        with self._traced(self.step + 1):
            moment, told = super().take_step(turn)
        self._unlogged.told.append(told)
        self._unlogged.busy += self._clock() - self._before
        self._bar.update()
        seconds = self._clock()
        self._over = self.schedule.over(self.step, seconds)
        if self.step % LOG_EVERY == 0 or self._over:
            self.log(moment, seconds)
        if self._due.after(self.step, seconds) or self._over:
            self.checkpoint(moment)
            self._due.saved(self.step, seconds, self._clock())
        return moment, told

    def next_batch(self) -> dict[str, tf.Tensor]:
        """Return the batch for the step in hand; the time that it takes is measured."""
        batch = super().next_batch()
        self._unlogged.waited += self._clock() - self._before
        return batch

    def log(self, moment: Moment, seconds: float) -> None:
        """Tell the means of the steps since the last time: history.csv, TensorBoard, the bar, warnings."""
        config, means = self.run.config, {}
        voxels = 2 * config.batch_size * math.prod(config.patch_shape)  # of both domains
        board.scalars("speed", self._unlogged.speed(voxels), self.step)
        board.scalars("schedule", {"learning_rate": moment.learning_rate}, self.step)
        for tag, mean in self._unlogged.means().items():
            room, _, name = tag.partition("/")
            means[name] = mean
            board.scalars(room, {name: mean}, self.step)
        self._journal.add({"step": self.step, "seconds": round(seconds, 2), **means})
        named = [term.column(direction) for term in terms.all_terms() if term.in_bar for direction in DIRECTIONS]
        self._bar.set_postfix({name: f"{means[name]:.3f}" for name in named if name in means})
        self._health.look_at_losses(self.step, means)
        self._unlogged = Unlogged()

    def checkpoint(self, moment: Moment) -> None:
        """Look how good the networks are, save the state, and make the checkpoints before it smaller."""
        self._save({"progress": moment.progress, **self._validate()})
        self._saved = self.step
        self._stalled = validation.stalled(self.run)
        checkpoints.reduce(self.run)
        if self._options.on_checkpoint:
            self._options.on_checkpoint(self.step, self.model)

    def _save(self, more: dict) -> None:
        self._journal.sync()
        about = {"seconds": self._clock(), **self._unlogged.to_facts(), **more}
        checkpoints.save(self.run, self.step, self._state, about)

    def _validate(self) -> dict:
        """Score the networks, and return the score and what it is made of as facts of a checkpoint.

        A machine that is taken back leaves half a minute, so this is broken off by a signal; a resumed run makes up for
        the score.
        """
        try:
            found = self.stop.unless_asked(self._look)
        except FloatingPointError as error:
            # before it is saved: the last good checkpoint is one that translates
            raise self.not_finite(f"translation {error}", math.nan) from error
        if found is None:
            return {"score": None}
        seen, score = found
        self._health.look_at_checkpoint(self.step, seen)
        board.scalars("validation", {"score": score}, self.step)
        board.validation(seen, self._validating.sources, self.run, self.step)
        return {"score": score, "measures": {direction: what.measures for direction, what in seen.items()}}

    def _look(self) -> tuple[dict, float]:
        seen = self._validating.look(self.model.translators)
        return seen, validation.score(seen)

    def _how_it_ends(self) -> str:
        over = self._over or self._stalled
        return f" and {self.run.path} {'is complete' if over else 'is saved; continue it with --resume'}"
