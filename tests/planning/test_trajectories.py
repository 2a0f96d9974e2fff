"""Markups of 3D Slicer: read, moved, and written back as they were."""

import json

import numpy as np
import pytest

from cyclescan.common.errors import InputError
from cyclescan.planning import trajectories
from cyclescan.planning.trajectories import Line

TURN = np.array([[0.0, -1, 0, 5], [1, 0, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1]])


def markup(name="tunnel", system="LPS", points=((1.0, 2, 3), (4.0, 5, 6)), **more):
    controls = [
        {"id": str(i), "label": f"{name}-{i}", "position": list(p), "positionStatus": "defined", "selected": True}
        for i, p in enumerate(points, 1)
    ]
    return {"type": "Line", "name": name, "coordinateSystem": system, "controlPoints": controls, "locked": True, **more}


def written(tmp_path, *markups):
    path = tmp_path / "plan.mrk.json"
    path.write_text(json.dumps({"@schema": "s", "markups": list(markups)}))
    return path


def test_ras_and_lps_are_one_place(tmp_path):
    plan = trajectories.read(written(tmp_path, markup("a"), markup("b", "RAS", ((-1, -2, 3), (-4, -5, 6)))))
    np.testing.assert_array_equal(plan.lines[0].points_lps, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(plan.lines[1].points_lps, plan.lines[0].points_lps)


@pytest.mark.parametrize("system", ["LPS", "RAS", "0", 1])
def test_what_was_read_is_written_back_unchanged(tmp_path, system):
    path = written(tmp_path, markup("a", system), {"type": "Fiducial", "controlPoints": []})
    trajectories.write(trajectories.read(path), tmp_path / "again.mrk.json")
    assert json.loads((tmp_path / "again.mrk.json").read_text()) == json.loads(path.read_text())


def test_a_moved_plan_keeps_its_coordinate_system(tmp_path):
    plan = trajectories.read(written(tmp_path, markup("a", "RAS", ((-1, -2, 3), (-4, -5, 6)))))
    trajectories.write(plan.moved(TURN), tmp_path / "moved.mrk.json")
    points = json.loads((tmp_path / "moved.mrk.json").read_text())["markups"][0]["controlPoints"]
    # (1, 2, 3) in LPS turns to (-2 + 5, 1 - 2, 3 + 3) = (3, -1, 6)
    assert points[0]["position"] == [-3, 1, 6]
    np.testing.assert_allclose(trajectories.read(tmp_path / "moved.mrk.json").lines[0].points_lps[0], [3, -1, 6])


def test_a_plan_of_lines_reads_as_they_are(tmp_path):
    lines = [Line("one", np.array([[1.5, 2, 3], [4, 5, 6]])), Line("two", np.array([[0.0, 0, 0], [0, 0, 9]]))]
    trajectories.write(trajectories.plan_of(lines), tmp_path / "p.mrk.json")
    again = trajectories.read(tmp_path / "p.mrk.json").lines
    assert [line.name for line in again] == ["one", "two"]
    for line, other in zip(lines, again, strict=True):
        np.testing.assert_array_equal(line.points_lps, other.points_lps)


def test_points_that_are_not_defined_are_passed_over(tmp_path):
    third = markup(points=((1, 2, 3), (7, 7, 7), (4, 5, 6)))
    third["controlPoints"][1]["positionStatus"] = "undefined"
    np.testing.assert_array_equal(trajectories.read(written(tmp_path, third)).lines[0].points_lps[1], [4, 5, 6])


@pytest.mark.parametrize(
    ("markups", "words"),
    [
        ([{"type": "Curve"}], "no markup of the type"),
        ([markup(points=((1, 2, 3),))], "1 defined control points"),
        ([markup(points=((1, 2, 3), (1, 2, 3)))], "both control points"),
        ([markup(system="IJK")], "LPS and RAS are allowed"),
        ([markup(coordinateUnits="um")], "mm is allowed"),
        ([markup(), markup()], "2 lines of the name"),
        ([markup(points=((1, 2), (4, 5, 6)))], "three numbers are needed"),
        ([markup(points=((1, 2, "x"), (4, 5, 6)))], "three numbers are needed"),
    ],
)
def test_bad_markups_are_named(tmp_path, markups, words):
    with pytest.raises(InputError, match=words):
        trajectories.read(written(tmp_path, *markups))
