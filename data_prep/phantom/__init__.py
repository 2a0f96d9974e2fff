"""The digital knee: CISS, DESS and CT of the same random anatomy, by the physics of shared/physics.md.

    subject = make_subject(seed=0, index=0, shape=(64, 128, 128))
    write_cohort("scans", subjects=10)
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cyclescan.command import progress
from cyclescan.errors import InputError
from cyclescan.files import make_folder, write_text
from cyclescan.volume import Volume, write
from data_prep.phantom import anatomy, scanner

FIELD_OF_VIEW_MM = (96.0, 140.0, 140.0)
SHAPE = (64, 128, 128)
DESCRIP = "cyclescan digital knee: synthetic, not for clinical use"
TYPES = {"ciss": np.int16, "dess": np.int16, "ct": np.int16, "labels": np.uint8}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One knee, scanned three times.

    Attributes:
        scans: "ciss" and "dess" in file intensities, "ct" in HU, "labels" (uint8, position in `anatomy.NAMES`); each
            (sagittal slices, height, width), growing to the right, up and to the front.
        affine: (4, 4), voxels to RAS+ mm; the centre of the volume is the origin.
        parameters: what was drawn for the anatomy.
    """

    scans: dict[str, np.ndarray]
    affine: np.ndarray
    parameters: anatomy.Anatomy


def make_subject(
    seed: int, index: int = 0, shape: Sequence[int] = SHAPE, spacing_mm: Sequence[float] | None = None
) -> Subject:
    """Draw and scan one knee; a function of (seed, index, shape, spacing) alone.

    Args:
        seed: of the cohort.
        index: of the subject in it.
        shape: (sagittal slices, height, width), at least 8 each.
        spacing_mm: in the same order; by default the field of view is 96 x 140 x 140 mm.

    Raises:
        InputError: a shape or spacing is not allowed.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) != 3 or min(shape) < 8 or max(shape) > 1024:
        raise InputError(f"--shape is {' '.join(map(str, shape))}; three whole numbers from 8 to 1024 are allowed.")
    spacing_mm = tuple(spacing_mm or (f / n for f, n in zip(FIELD_OF_VIEW_MM, shape, strict=True)))
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise InputError(f"--spacing-mm is {' '.join(map(str, spacing_mm))}; three positive numbers are allowed.")
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    knee, examination, table = anatomy.draw(rng), scanner.draw(rng), scanner.draw_tissues(rng)
    tissues = anatomy.build(knee, shape, spacing_mm, rng)
    scans = scanner.acquire(tissues, table, examination, spacing_mm, rng)
    scans["labels"] = tissues.labels()
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    # right, superior, anterior: the first axis is x, the second z and the third y of RAS+
    for axis, row in enumerate((0, 2, 1)):
        affine[row, axis] = spacing_mm[axis]
        affine[row, 3] = -spacing_mm[axis] * (shape[axis] - 1) / 2
    return Subject(scans, affine, knee)


def write_cohort(
    out: str | Path,
    subjects: int,
    shape: Sequence[int] = SHAPE,
    spacing_mm: Sequence[float] | None = None,
    seed: int = 0,
    workers: int = 1,
) -> list[str]:
    """Write OUT/{ciss,dess,ct,labels}/sub-0001.nii.gz ... and OUT/participants.tsv; returns the subjects' names.

    Subject i is the same whatever the number of subjects and of workers.

    Raises:
        InputError: a number is not allowed or the folder cannot be written.
    """
    if subjects < 1 or workers < 1:
        raise InputError(f"--subjects is {subjects} and --workers {workers}; both must be at least 1.")
    out = make_folder(out)
    for name in TYPES:
        make_folder(out / name)
    task = functools.partial(_write_subject, out, seed, tuple(shape), spacing_mm)
    numbers = range(subjects)
    if workers == 1:
        rows = list(progress(map(task, numbers), total=subjects, unit="knee"))
    else:
        with multiprocessing.get_context("spawn").Pool(min(workers, subjects)) as pool:
            rows = list(progress(pool.imap(task, numbers), total=subjects, unit="knee"))
    columns = list(rows[0])
    lines = ["\t".join(columns), *("\t".join(str(row[c]) for c in columns) for row in rows)]
    write_text(out / "participants.tsv", "\n".join(lines) + "\n")
    return [row["participant_id"] for row in rows]


def _write_subject(out: Path, seed: int, shape, spacing_mm, index: int) -> dict:
    subject = make_subject(seed, index, shape, spacing_mm)
    name = f"sub-{index + 1:04d}"
    for scan, dtype in TYPES.items():
        volume = Volume(subject.scans[scan], subject.affine)
        write(volume, out / scan / f"{name}.nii.gz", descrip=DESCRIP, dtype=dtype)
    knee = subject.parameters
    return {
        "participant_id": name,
        "side": knee.side,
        "size": round(float(np.mean(knee.scale)), 4),
        "flexion_deg": round(knee.flexion_deg, 2),
        "cartilage_mm": round(knee.cartilage_mm[0], 2),
        "effusion_mm": round(knee.effusion_mm, 2),
        "subcutaneous_fat_mm": round(knee.subcutaneous_mm, 1),
        "bone_volume_fraction": round(knee.bone_volume, 3),
    }
