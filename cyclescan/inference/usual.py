"""What a trained model usually loses, measured on scans of its training and kept with the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cyclescan import records
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.runs import Run
from cyclescan.common.command import progress
from cyclescan.inference import doubt, lost
from cyclescan.inference.translator import Translator


def add_limits(run: Run, data: str | Path | None = None) -> Run:
    """Translate scans of the training there and back, and write what is lost of them into RUN/config.json.

    It stands beside the limits of the guard, so that exported models know it, too, see `lost.limits_of`.

    Args:
        run: with a checkpoint.
        data: its records; None for where they were when it began, from where they may have been moved since.

    Returns:
        The run with these limits.

    Raises:
        InputError: a checkpoint or a shard is missing or damaged.
    """
    there = {direction: Translator.load(run.path, direction) for direction in DIRECTIONS}
    domains = dict(run.data["domains"])
    places = {d: records.entries(data or run.records, "train", d.source)[: lost.SCANS] for d in DIRECTIONS}
    with progress(total=sum(map(len, places.values())), desc="there and back", unit="scan") as bar:
        for direction, entries in places.items():
            cycles = []
            for place in entries:
                scan = records.decode(records.read_at(*place)).voxels
                returned = there[direction.reverse].translate_array(there[direction].translate_array(scan))
                cycles.append((doubt.cycle(scan, returned), scan))
                bar.update()
            domains[direction.source] = domains[direction.source] | {lost.LIMITS: lost.limits_of(cycles)}
    limited = dataclasses.replace(run, data=run.data | {"domains": domains})
    limited.write()
    return limited
