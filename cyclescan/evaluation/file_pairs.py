"""Which files of two or more folders belong together: those of one name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cyclescan.common.errors import InputError
from cyclescan.evaluation import metrics
from cyclescan.scans import volume as volumes


def find(
    given: Mapping[str, Path], kinds: Mapping[str, Sequence[str]] | None = None, who: re.Pattern | None = None
) -> dict[str, dict[str, Path]]:
    """Return the files of each role by the name that pairs them: below the folder, without `.nii` or `.nii.gz`.

    Args:
        given: for each role, such as "predicted" and "reference", a NIfTI file or a folder that is searched for them.
            Single files always belong together.
        kinds: where files are paired by whom they are of, the names, without suffix, that files of a role may have if
            a folder has several of one person; None to pair by whole names.
        who: finds the person in a path below the folder; files in which it finds nobody are left out.

    Raises:
        InputError: a path does not exist or holds no NIfTI file, or no name is in all of them.
    """
    found = {role: files(path) for role, path in given.items()}
    if kinds is not None and who is not None:
        found = {role: _by_person(each, kinds.get(role, ()), who, given[role]) for role, each in found.items()}
    if all(path.is_file() for path in given.values()):
        return {role: {volumes.stem(next(iter(given.values()))): path} for role, path in given.items()}
    if not set.intersection(*map(set, found.values())):
        names = "; ".join(f"{path} has {some(found[role])}" for role, path in given.items())
        raise InputError(
            f"No names of {' and '.join(given)} volumes are the same, so nothing can be compared: {names}."
        )
    return found


def _by_person(found: Mapping[str, Path], kinds: Sequence[str], who: re.Pattern, folder: Path) -> dict[str, Path]:
    """Return one file for each person.

    Raises:
        InputError: nobody is found, or of one person there are several files, of which no kind tells one.
    """
    of: dict[str, list[Path]] = {}
    for name, path in found.items():
        if persons := who.findall(name):
            of.setdefault(persons[-1], []).append(path)
    if not of and not folder.is_file():
        raise InputError(f"No name in {folder} states a patient of the challenge, as 1HNA001 does.")
    chosen = {}
    for person, paths in of.items():
        fitting = [path for path in paths if len(paths) == 1 or volumes.stem(path) in kinds]
        if len(fitting) != 1:
            wanted = f"one named {' or '.join(kinds)}" if kinds else "one"
            raise InputError(f"{folder} has {len(paths)} files of {person} and not {wanted} among them.")
        chosen[person] = fitting[0]
    return chosen


def files(path: Path) -> dict[str, Path]:
    """Return the NIfTI and .mha files by their name below `path` without suffix; maps of doubt are left out.

    Raises:
        InputError: there is none, or two have one name.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_file():
        if not volumes.is_scan(path):
            raise InputError(f"{path} is not a NIfTI file; its name must end in .nii, .nii.gz or .mha.")
        return {volumes.stem(path): path}
    found: dict[str, Path] = {}
    for file in volumes.files_below(path):
        name = file.relative_to(path).with_name(volumes.stem(file)).as_posix()
        if name in found:
            raise InputError(f"{found[name]} and {file} have the same name; remove one of them.")
        found[name] = file
    if not found:
        raise InputError(f"There is no NIfTI file (.nii or .nii.gz), nor .mha, in {path} or its sub-folders.")
    return found


def some(names: Iterable[str]) -> str:
    """Return the first three names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_grids(paths: Mapping[str, Path]) -> None:
    """Refuse volumes whose voxels are not at the same places as the reference's; reads headers only.

    Raises:
        InputError: one is 4-D, or its shape or affine is another; the message says which.
    """
    grids = {}
    for role, path in paths.items():
        if (held := volumes.count(path)) > 1:
            raise InputError(f"{path} is 4-D and holds {held} volumes; single 3-D volumes are compared.")
        grids[role] = volumes.read_header(path)
    shape, affine = grids["reference"]
    for role, (own_shape, own_affine) in grids.items():
        if own_shape != shape:
            raise InputError(
                f"The {role} volume has {times(own_shape)} voxels and its reference {times(shape)}; "
                "resample one onto the other's grid."
            )
        if not metrics.same_grid(affine, own_affine, shape):
            raise InputError(
                f"The {role} volume and its reference have other affines, by which their voxels lie up to "
                f"{metrics.distance_mm(affine, own_affine, shape):.4g} mm apart, and at most "
                f"{metrics.tolerance_mm(affine):.4g} mm are allowed; resample one onto the other's grid."
            )


def times(shape: Iterable[int]) -> str:
    """Write a shape as 32x64x64."""
    return "x".join(map(str, shape))
