"""Lines of a plan as 3D Slicer keeps them: markups in JSON, one `Line` with two control points for each path.

Source: 3D Slicer's markups schema v1.0.3 (Modules/Loadable/Markups/Resources/Schema in the Slicer repository). Slicer
writes LPS by default and reads RAS as well.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, write_json
from cyclescan.planning import moved

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
SIGNS = {"LPS": np.array([1.0, 1.0, 1.0]), "RAS": np.array([-1.0, -1.0, 1.0])}  # to LPS


@dataclasses.dataclass(frozen=True)
class Line:
    """A straight path; `points_lps` (2, 3) are its entry and its target in mm."""

    name: str
    points_lps: np.ndarray


@dataclasses.dataclass(frozen=True)
class Plan:
    """The lines of a markups file and all else that stands there, so that it can be written back as it was."""

    lines: tuple[Line, ...]
    document: dict
    # for each line the position of its markup in the document and of its two points there
    places: tuple[tuple[int, tuple[int, int]], ...]

    def moved(self, pose: np.ndarray) -> Plan:
        """Return all lines through a (4, 4) LPS matrix."""
        lines = tuple(Line(line.name, moved(pose, line.points_lps)) for line in self.lines)
        return dataclasses.replace(self, lines=lines)


def plan_of(lines: list[Line]) -> Plan:
    """Return a plan from lines alone, in LPS."""
    markups = [
        {
            "type": "Line",
            "name": line.name,
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "labelFormat": "%N-%d",
            "controlPoints": [
                {"id": str(number), "label": f"{line.name}-{number}", "position": point, "positionStatus": "defined"}
                for number, point in enumerate(np.asarray(line.points_lps, float).tolist(), 1)
            ],
        }
        for line in lines
    ]
    places = tuple((number, (0, 1)) for number in range(len(lines)))
    return Plan(tuple(lines), {"@schema": SCHEMA, "markups": markups}, places)


def read(path: str | Path) -> Plan:
    """Read the `Line` markups of a `.mrk.json` file; other kinds of markup are kept and not looked at.

    Raises:
        InputError: the file is missing or no markups; a line has another number of defined points than two, another
            coordinate system than LPS and RAS, or another unit than mm; two lines have one name; there is no line.
    """
    document = read_json(path)
    markups = document.get("markups") if isinstance(document, dict) else None
    if not isinstance(markups, list):
        raise InputError(f'{path} is no markups file of 3D Slicer: it has no list "markups".')
    lines: list = []
    places: list = []
    for number, markup in enumerate(markups):
        if not isinstance(markup, dict) or markup.get("type") != "Line":
            continue
        name = str(markup.get("name") or f"line {len(lines) + 1}")
        signs = _signs(path, name, markup)
        found = []
        for index, point in enumerate(markup.get("controlPoints") or ()):
            if point.get("positionStatus", "defined") == "defined":
                found.append((index, signs * _position(path, name, point.get("position"))))
        if len(found) != 2:
            raise InputError(f"{path}: the line {name!r} has {len(found)} defined control points; 2 are needed.")
        (first, start), (second, end) = found
        if np.linalg.norm(end - start) < 1e-3:
            raise InputError(f"{path}: both control points of the line {name!r} are at {_text(start)} mm.")
        lines.append(Line(name, np.stack([start, end])))
        places.append((number, (first, second)))
    if not lines:
        raise InputError(f'{path} has no markup of the type "Line"; a plan has at least one.')
    names = [line.name for line in lines]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path} has {names.count(twice)} lines of the name {twice!r}; each needs its own.")
    return Plan(tuple(lines), document, tuple(places))


def write(plan: Plan, path: str | Path) -> None:
    """Write a plan in the coordinate systems and with all other entries of the file it was read from."""
    document = copy.deepcopy(plan.document)
    for line, (number, points) in zip(plan.lines, plan.places, strict=True):
        markup = document["markups"][number]
        signs = SIGNS[_system(markup)]
        for index, point in zip(points, line.points_lps, strict=True):
            markup["controlPoints"][index]["position"] = (signs * point).tolist()
    write_json(path, document)


def _system(markup: dict) -> str:
    # files of Slicer 4.11 have numbers: 0 is RAS, 1 is LPS
    given = markup.get("coordinateSystem", "LPS")
    return {"0": "RAS", "1": "LPS"}.get(str(given), str(given))


def _signs(path, name: str, markup: dict) -> np.ndarray:
    system, unit = _system(markup), markup.get("coordinateUnits", "mm")
    if system not in SIGNS:
        raise InputError(f"{path}: the line {name!r} is in {system!r}; LPS and RAS are allowed.")
    unit = unit[-1] if isinstance(unit, list) and unit else unit  # ["mm", "UCUM", "mm"] is allowed, too
    if unit != "mm":
        raise InputError(f"{path}: the line {name!r} is in {unit!r}; mm is allowed.")
    return SIGNS[system]


def _position(path, name: str, given) -> np.ndarray:
    try:
        position = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        position = np.empty(0)
    if position.shape != (3,) or not np.isfinite(position).all():
        raise InputError(f"{path}: a control point of the line {name!r} is at {given!r}; three numbers are needed.")
    return position


def _text(point: np.ndarray) -> str:
    return ", ".join(f"{v:.1f}" for v in point)
