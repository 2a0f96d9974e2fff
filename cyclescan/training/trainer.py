"""The loop around the step: batches, schedules, checkpoints, TensorBoard, history, the time that is left."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from cyclescan import dataset, records
from cyclescan.command import progress as progress_bar
from cyclescan.config import Config
from cyclescan.errors import InputError
from cyclescan.files import make_folder, replacing
from cyclescan.training import checkpoints, plan, schedules, validation
from cyclescan.training.checkpoints import Run
from cyclescan.training.cyclegan import CycleGAN

log = logging.getLogger(__name__)

LOG_EVERY = 10


class NotFiniteError(RuntimeError):
    """A loss became NaN or infinite; the message names the term and the step."""


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
) -> Run:
    """Train on the records in `data` and leave everything in the folder `run`.

    Args:
        data: a folder made by `data_prep build` (and `data_prep pair`, if the settings have a pair term).
        run: a new folder, or with `resume` the folder of a run to continue.
        config: the settings; with `resume` they must equal those of the run.
        preset: the name under which the settings were chosen, for the record.
        seed: of weights, order, patches, augmentation, dropout and pools.
        minutes: stop after this time (all sessions of the run together); the schedule is shortened to fit.
        checkpoint_every: steps between checkpoints; by default a tenth of the run. The last step always has one.
        resume: continue from the last checkpoint.
        on_checkpoint: called with the step and the networks after each checkpoint.

    Raises:
        InputError: the data lack what the settings need, or a checkpoint does not fit.
        NotFiniteError: a loss was not finite; the last good checkpoint stays.
    """
    data, folder = Path(data), Path(run)
    info = records.read_info(data)
    run = _open_run(folder, data, info, config, preset, seed, resume)
    _check_patch(data, config)
    plan.warn(config)
    model = CycleGAN(config, run.seed)
    state = model.state()
    elapsed = 0.0
    if resume:
        facts = checkpoints.restore(checkpoints.find(run), state, config)
        elapsed = facts["seconds"]
        log.info("resumed at step %d of %s", int(model.step), folder)
    first = int(model.step)
    _trim_history(folder / "history.csv", first)
    batches = _batches(data, config, run.seed, first)
    validating = validation.patches(data, config.patch_shape)
    every = checkpoint_every or max(1, math.ceil(config.steps / 10))
    began = time.monotonic() - elapsed
    writer = tf.summary.create_file_writer(str(folder / "tensorboard"))
    recent: list[dict] = []
    waited = 0.0
    with progress_bar(total=config.steps, initial=first, unit="step") as bar, writer.as_default():
        for step in range(first + 1, config.steps + 1):
            fraction = _fraction(step - 1, config.steps, time.monotonic() - began, minutes)
            model.set_learning_rate(schedules.learning_rate(fraction, config.learning_rate, config.decay_from))
            before = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - before
            terms, measures = _take_step(model, batch, fraction)
            recent.append(_finite(terms, step, run) | {name: float(value) for name, value in measures.items()})
            bar.update()
            seconds = time.monotonic() - began
            out_of_time = minutes is not None and seconds >= 60 * minutes
            last = step == config.steps or out_of_time
            if step % LOG_EVERY == 0 or last:
                _log(folder, step, seconds, recent, bar, waited)
                recent, waited = [], 0.0
            if step % every == 0 or last:
                score = validation.score(model.translators, validating)
                facts = {"seconds": time.monotonic() - began, "score": score}
                checkpoints.save(run, step, state, facts)
                tf.summary.scalar("validation/score", score, step)
                _sample_slices(model, batch, step)
                if on_checkpoint:
                    on_checkpoint(step, model)
            if out_of_time:
                break
    return run


def _open_run(folder: Path, data: Path, info: dict, config: Config, preset: str, seed: int, resume: bool) -> Run:
    if resume:
        run = checkpoints.read_run(folder)
        differing = [k for k, v in config.to_dict().items() if run.config.to_dict()[k] != v]
        if differing:
            key = differing[0]
            raise InputError(
                f"{folder} was begun with {key} = {getattr(run.config, key)}, not {getattr(config, key)}; "
                "a resumed run keeps its settings."
            )
        return run
    if (folder / "config.json").exists():
        raise InputError(f"{folder} holds a run already; add --resume to continue it, or choose another folder.")
    make_folder(folder)
    about = {key: info[key] for key in ("domains", "spacing_mm", "axes", "shape")}
    run = Run(folder, config, preset, about, str(data.resolve()), seed)
    run.write()
    return run


def _check_patch(data: Path, config: Config) -> None:
    first = records.entries(data, "train", "a")[0]
    shape = records.decode(records.read_at(*first)).voxels.shape
    if any(p > 2 * n for p, n in zip(config.patch_shape, shape, strict=True)):
        raise InputError(
            f"patch_shape {','.join(map(str, config.patch_shape))} is more than twice the volumes of {data}, "
            f"which have {','.join(map(str, shape))} voxels; choose a smaller one with --set patch_shape=D,H,W."
        )


def _batches(data: Path, config: Config, seed: int, first: int):
    paired = config.lambda_pair > 0
    if paired and not (data / "pairs").is_dir():
        raise InputError(
            f"The settings have a pair term (lambda_pair={config.lambda_pair:g}) but {data}/pairs is missing; make it "
            f"with `python -m data_prep pair {data}`, or train without: --set lambda_pair=0."
        )
    streams = {domain: dataset.open_stream(data, "pairs" if paired else "train", domain) for domain in ("a", "b")}
    return iter(
        dataset.batches(streams, config.patch_shape, config.batch_size, seed, config.augment, paired, start=first)
    )


def _fraction(step: int, steps: int, seconds: float, minutes: float | None) -> float:
    """How much of the run is over, by steps or by time, whichever is more."""
    by_time = seconds / (60 * minutes) if minutes else 0.0
    return min(1.0, max(step / steps, by_time))


def _take_step(model: CycleGAN, batch: dict, fraction: float) -> tuple[dict, dict]:
    """The kind of step that this part of the run asks for."""
    config = model.config
    if not (config.lambda_pair > 0 and fraction < config.warmup):
        return model.train_step(batch)
    adversarial_phase = model.adversarial and config.warmup < 1
    soon = fraction >= config.warmup - config.discriminator_warmup
    return model.warmup_step(batch, discriminators=adversarial_phase and soon)


def _finite(terms: dict, step: int, run: Run) -> dict:
    values = {name: float(value) for name, value in terms.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            kept = run.checkpoints
            where = f"the last good checkpoint is step {max(kept)}" if kept else "there is no checkpoint yet"
            raise NotFiniteError(f"The loss {name} is {value} at step {step}; {where}. Try a smaller learning_rate.")
    return values


def _log(folder: Path, step: int, seconds: float, recent: list[dict], bar, waited: float) -> None:
    names = sorted({name for terms in recent for name in terms})
    means = {n: float(np.mean([terms[n] for terms in recent if n in terms])) for n in names}
    row = {"step": step, "seconds": round(seconds, 2), **means}
    _append_history(folder / "history.csv", row)
    for name, value in means.items():
        tf.summary.scalar(f"loss/{name}", value, step)
    tf.summary.scalar("speed/input_seconds", waited / len(recent), step)
    shown = [n for n in ("pair_a2b", "pair_b2a", "cycle_aba", "cycle_bab") if n in means]
    bar.set_postfix({n: f"{means[n]:.3f}" for n in shown})


def _append_history(path: Path, row: dict) -> None:
    """Append a row; columns that appear only later (the adversarial phase) are added to the whole file."""
    columns, rows = _read_history(path)
    added = [name for name in row if name not in columns]
    if added:
        _write_history(path, columns + added, [*rows, row])
    else:
        with open(path, "a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, columns).writerow(row)


def _trim_history(path: Path, step: int) -> None:
    """Remove rows of steps that a resumed run will take again."""
    columns, rows = _read_history(path)
    if rows:
        _write_history(path, columns, [row for row in rows if int(row["step"]) <= step])


def _read_history(path: Path) -> tuple[list[str], list[dict]]:
    if not path.exists():
        return [], []
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        return list(reader.fieldnames or []), list(reader)


def _write_history(path: Path, columns: list[str], rows: list[dict]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _sample_slices(model: CycleGAN, batch: dict, step: int) -> None:
    """The middle sagittal slice of input, translation and cycle to TensorBoard, superior up and anterior left."""
    for source, target in (("a", "b"), ("b", "a")):
        real = batch[f"real_{source}"][:1]
        fake = model.translators[f"{source}2{target}"](real, training=False)
        cycled = model.translators[f"{target}2{source}"](fake, training=False)
        middle = real.shape[1] // 2
        rows = [tf.cast(v, tf.float32)[:, middle, ::-1, ::-1] for v in (real, fake, cycled)]
        tf.summary.image(f"real_{source}, fake_{target}, cycled_{source}", (tf.concat(rows, 2) + 1) / 2, step)
