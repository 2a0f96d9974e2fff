"""The digital knee: CISS, DESS and CT of the same random anatomy, by the physics of docs/explanation/physics.md.

subject = make_subject(seed=0, shape=(64, 128, 128))
write_cohort("scans", subjects=10, make="random", seed=3)
pair = draw_pair(np.random.default_rng(0))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cyclescan.common.command import progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import begins_with, make_folder, refuse_foreign, write_text
from cyclescan.scans.volume import Volume, descrip_of, write
from data_prep.parallel import processes
from data_prep.phantom import makes, pathology, planted, scanner
from data_prep.phantom.makes import Make

SHAPE = (64, 128, 128)
SMALLEST, LARGEST = 8, 1024  # voxels along an axis
PARTICIPANTS, TABLE = "participants.tsv", "table of digital knees"
DESCRIP = "cyclescan digital knee, synthetic, not for clinical use"
TYPES = {"ciss": np.int16, "dess": np.int16, "ct": np.int16, "labels": np.uint8}
LESION_TYPE = {"lesions": np.float32}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One knee, scanned three times; arrays are (sagittal slices, height, width), to the right, up and to the front.

    Attributes:
        ciss, dess: file intensities, float32, not negative.
        ct: Hounsfield units, float32; None where it was not asked for.
        labels: the prevailing tissue, uint8, a position in `anatomy.NAMES`; 0 is air.
        affine: (4, 4), voxels to RAS+ mm; the centre of the volume is the origin.
        participant: what a line of participants.tsv says: side, size, flexion_deg and so on.
        lesion: the fraction of each voxel that lesions changed, float32; None where none were asked for.
    """

    ciss: np.ndarray
    dess: np.ndarray
    ct: np.ndarray | None
    labels: np.ndarray
    affine: np.ndarray
    participant: dict
    lesion: np.ndarray | None = None


def make_subject(
    seed: int,
    shape: Sequence[int] = SHAPE,
    spacing_mm: Sequence[float] | None = None,
    *,
    index: int = 0,
    make: Make = makes.A,
    knee: object | None = None,
    lesion: str | None = None,
    lesions: Sequence[str] | None = None,
) -> Subject:
    """Draw and scan one knee; a function of its arguments alone.

    Args:
        seed: of the cohort, not negative.
        shape: (sagittal slices, height, width), from 8 to 1024 each.
        spacing_mm: in the same order; by default the make's field of view is divided, 96 x 140 x 140 mm for A.
        index: of the subject in the cohort.
        make: whose anatomy, tissues, protocols and scanner; another protocol is `dataclasses.replace(make, ciss=...)`.
        knee: take this in place of a random one; it is what `make.draw_knee` returns.
        lesion: one of `planted.KINDS`: a plain one of one size, by which benchmarks compare.
        lesions: kinds of `pathology.KINDS`, whose place, size and shape are drawn; empty for none, but a map of them.
            All else, noise included, is that of the same knee without: its healthy twin.

    Raises:
        InputError: the seed, shape or spacing is not allowed.

    The anatomy of (seed, index) is the same on every grid; noise and fine texture are drawn voxel by voxel.
    """
    shape, spacing_mm = checked_grid(shape, spacing_mm, make)
    if seed < 0 or index < 0:
        raise InputError(f"--seed is {seed if seed < 0 else index}; whole numbers from 0 are allowed.")
    return _scanned(streams_of(seed, index), shape, spacing_mm, make, knee=knee, lesion=lesion, lesions=lesions)


def lesions_of(seed: int, index: int, rate: float) -> tuple[str, ...]:
    """Return the kinds of lesions that subject `index` of a cohort of `seed` and `rate` has; empty for one of the
    healthy.

    A kind for which the field of view has no place is left out of the subject.

    Example:
        >>> kinds = lesions_of(seed=0, index=3, rate=0.5)
        >>> ill, twin = (make_subject(0, index=3, lesions=which) for which in (kinds, ()))
    """
    if not pathology.has_lesions(seed, index, rate):
        return ()
    # apart from the generators of the subject, which are its seed's children 0 to 4
    return pathology.draw(np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=(5,))))


def draw_pair(
    rng: np.random.Generator,
    shape: Sequence[int] = (32, 64, 64),
    spacing_mm: Sequence[float] | None = None,
    *,
    make: Make | None = None,
    lesion_rate: float | None = None,
) -> Subject:
    """Return one knee in CISS and DESS for a stream of true pairs, without CT: 0.2 s at 32x64x64 on one core, 0.2 more
    if ill.

    Args:
        rng: where everything is drawn from; the same state gives the same knee.
        shape, spacing_mm: as in `make_subject`.
        make: by default every call draws a random make of its own.
        lesion_rate: the chance that the knee has lesions; from the same state without it comes the healthy twin.

    Raises:
        InputError: the shape or spacing is not allowed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> knees = [draw_pair(rng) for _ in range(3)]  # three scanners
        >>> one = makes.random(seed=7)
        >>> knees = [draw_pair(rng, make=one) for _ in range(3)]  # three people in one scanner
    """
    make = make or makes.draw(rng)
    shape, spacing_mm = checked_grid(shape, spacing_mm, make)
    streams, kinds = rng.spawn(5), None
    if lesion_rate is not None:
        for_kinds = streams[-1].spawn(1)[0]
        kinds = pathology.draw(for_kinds) if for_kinds.random() < lesion_rate else ()
    return _scanned(streams, shape, spacing_mm, make, lesions=kinds, ct=False)


def _scanned(streams, shape, spacing_mm, make: Make, *, knee=None, lesion=None, lesions=None, ct=True) -> Subject:
    """Draw, build and scan; `streams` are of the drawing, the knee, the scans, a planted lesion and other lesions."""
    for_drawing, for_knee, for_scans, for_lesion, for_lesions = streams
    drawn = draw_subject(for_drawing, make)
    knee, examination, table = knee or drawn[0], drawn[1], drawn[2]
    tissues = make.build_knee(knee, shape, spacing_mm, for_knee)
    participant, where = knee.describe(), None
    if lesion:
        tissues, where = planted.plant(tissues, lesion, spacing_mm, for_lesion)
    if lesions is not None:
        tissues, where, there = pathology.inflict(tissues, lesions, spacing_mm, for_lesions)
        participant["lesions"] = ",".join(there)
    scans = scanner.acquire(tissues, table, examination, spacing_mm, for_scans, make.ciss, make.dess, ct)
    return Subject(
        **{"ct": None, **scans},
        labels=tissues.labels(),
        affine=affine_of(shape, spacing_mm),
        participant=participant,
        lesion=where,
    )


def streams_of(seed: int, index: int) -> list[np.random.Generator]:
    """Return the generators of a subject's drawing, knee, scans, a planted lesion and other lesions."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence([seed, index]).spawn(5)]


def draw_subject(rng: np.random.Generator, make: Make) -> tuple[object, scanner.Scanner, dict]:
    """Return a subject's knee, examination and table of tissues."""
    examinations = make.examinations
    return (
        make.draw_knee(rng),
        scanner.draw(rng, examinations),
        scanner.draw_tissues(rng, make.tissues, examinations),
    )


def affine_of(shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the matrix from voxels to RAS+ mm of a scan whose axes point right, up and to the front; its middle is the
    origin.
    """
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    # right, superior, anterior: the first axis is x, the second z and the third y of RAS+
    for axis, row in enumerate((0, 2, 1)):
        affine[row, axis] = spacing_mm[axis]
        affine[row, 3] = -spacing_mm[axis] * (shape[axis] - 1) / 2
    return affine


def write_cohort(
    out: str | Path,
    subjects: int,
    shape: Sequence[int] = SHAPE,
    spacing_mm: Sequence[float] | None = None,
    seed: int = 0,
    workers: int = 1,
    make: Make | str = "A",
    lesion_rate: float | None = None,
) -> list[str]:
    """Write OUT/{ciss,dess,ct,labels}/sub-0001.nii.gz ... and OUT/participants.tsv; returns the subjects' names.

    With `lesion_rate`, that share of the subjects has lesions, OUT/lesions/sub-0001.nii.gz ... say which share of each
    voxel they changed, and the table has a column `lesions`.

    Subject i is the same whatever the number of subjects and of workers. `make` is a make or a name of `makes.NAMES`,
    where "random" is the random make of the seed. Each file is written under a temporary name and renamed.

    Raises:
        InputError: a number is not allowed or the folder cannot be written.
    """
    for name, number in (("--subjects", subjects), ("--workers", workers)):
        if number < 1:
            raise InputError(f"{name} is {number}; whole numbers from 1 are allowed.")
    if seed < 0:
        raise InputError(f"--seed is {seed}; whole numbers from 0 are allowed.")
    if lesion_rate is not None and not 0 <= lesion_rate <= 1:
        raise InputError(f"--lesions is {lesion_rate:g}; numbers from 0 to 1 are allowed.")
    make = makes.named(make, seed) if isinstance(make, str) else make
    shape, spacing_mm = checked_grid(shape, spacing_mm, make)
    out = make_folder(out)
    types = TYPES if lesion_rate is None else TYPES | LESION_TYPE
    _refuse_foreign(out, subjects, types)
    for name in types:
        make_folder(out / name)
    task = functools.partial(_write_subject, out, types, seed, shape, spacing_mm, make, lesion_rate)
    numbers = [(number,) for number in range(subjects)]
    with processes(min(workers, subjects)) as starmap:
        rows = list(progress(starmap(task, numbers), total=subjects, unit="knee"))
    columns = list(rows[0])
    lines = ["\t".join(columns), *("\t".join(str(row[c]) for c in columns) for row in rows)]
    write_text(out / PARTICIPANTS, "\n".join(lines) + "\n")
    return [row["participant_id"] for row in rows]


def _refuse_foreign(out: Path, subjects: int, types: dict) -> None:
    """Refuse a folder in which something would be replaced that `write_cohort` did not make."""
    refuse_foreign(out / PARTICIPANTS, lambda path: begins_with(path, "participant_id\tside\tsize\tflexion_deg"), TABLE)
    for scan in types:
        for index in range(subjects if (out / scan).is_dir() else 0):
            refuse_foreign(_file(out, scan, index), lambda path: descrip_of(path).startswith(DESCRIP), "digital knee")


def _file(out: Path, scan: str, index: int) -> Path:
    return out / scan / f"{name_of(index)}.nii.gz"


def name_of(index: int) -> str:
    """Return the name of a cohort's subject: "sub-0001" for the first, of index 0."""
    return f"sub-{index + 1:04d}"


def checked_grid(shape, spacing_mm, make: Make) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return shape and spacing as numbers that are allowed; `InputError` where one is not."""
    shape = tuple(int(n) for n in shape)
    if len(shape) != 3 or min(shape) < SMALLEST or max(shape) > LARGEST:
        raise InputError(
            f"--shape is {' '.join(map(str, shape))}; three whole numbers from {SMALLEST} to {LARGEST} are allowed."
        )
    if spacing_mm is None:
        spacing_mm = (f / n for f, n in zip(make.field_of_view_mm, shape, strict=True))
    spacing_mm = tuple(float(s) for s in spacing_mm)
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        given = " ".join(f"{s:g}" for s in spacing_mm)
        raise InputError(f"--spacing-mm is {given}; three positive numbers are allowed.")
    return shape, spacing_mm


def _write_subject(out: Path, types: dict, seed: int, shape, spacing_mm, make: Make, rate, index: int) -> dict:
    kinds = None if rate is None else lesions_of(seed, index, rate)
    subject = make_subject(seed, shape, spacing_mm, index=index, make=make, lesions=kinds)
    for scan, dtype in types.items():
        array = subject.lesion if scan == "lesions" else getattr(subject, scan)
        write(Volume(array, subject.affine), _file(out, scan, index), descrip=DESCRIP, dtype=dtype)
    return {"participant_id": name_of(index), **subject.participant}
