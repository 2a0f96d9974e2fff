"""The whole way: scan to CT, the bone out of it, its pose from the X-rays, the lines on them, and what is written."""

from __future__ import annotations

import base64
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclescan import __version__
from cyclescan.common import page
from cyclescan.common.errors import InputError
from cyclescan.common.files import begins_with, make_folder, refuse_foreign, replacing, states, write_json, write_text
from cyclescan.planning import NOTICE, bones, moved, pictures, registration, starts, trajectories, xray
from cyclescan.planning.projection import Bone, bone_of, traced
from cyclescan.planning.registration import Result
from cyclescan.planning.trajectories import Plan
from cyclescan.planning.xray import Xray
from cyclescan.preprocessing import guard
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume

if TYPE_CHECKING:
    from cyclescan.inference.translator import Translator

log = logging.getLogger(__name__)

OURS = "result of `plan`"
TFM_HEAD = "#Insight Transform File V1.0\n#Made by cyclescan plan\n"
LANDMARKS_REACH = 5.0  # mm and degrees by which a start from landmarks may be off


@dataclasses.dataclass(frozen=True)
class Task:
    """What the user gave.

    Attributes:
        mr: the scan, a NIfTI file or a DICOM folder.
        plan: markups of 3D Slicer.
        bone: a mask, or the labels of the digital knee, of which `which` is taken.
        xrays: one or more files.
        landmarks: see `starts.from_landmarks`; None to begin at the header's angles.
        reach, starts, seed, workers: see `registration.register`; a reach of None is the usual one.
    """

    mr: Path
    plan: Path
    bone: Path
    xrays: tuple[Path, ...]
    landmarks: Path | None = None
    which: str = "femur"
    reach: float | None = None
    starts: int = registration.STARTS
    seed: int = 0
    workers: int = 1


@dataclasses.dataclass(frozen=True)
class _Given:
    """The task's files, read and checked against each other."""

    scan: Volume
    mask: np.ndarray
    plan: Plan
    belongs: list[bool]
    xrays: list[Xray]
    start: np.ndarray
    landmarks_px: float | None


def carry_over(
    task: Task, translator: Translator, out: str | Path, progress: Callable[[int, int], None] | None = None
) -> dict:
    """Find the bone on the X-rays, draw the lines there, and write OUT.

    OUT gets plan.json, plan.html, pose.tfm, lines.mrk.json (the plan in the room) and a picture for each X-ray.

    Args:
        task: what the user gave.
        translator: from the scan's contrast to CT.
        out: a folder.
        progress: called with (searches done, searches in all).

    Returns:
        What plan.json says.

    Raises:
        InputError: a file cannot be used or does not fit the others; the scan is not of the contrast that the model
            was trained on; something in OUT would be replaced that is not of `plan`.
    """
    began = time.perf_counter()
    out = _checked_output(Path(out), task)
    given = _read(task)
    ct = _translated(translator, given.scan, task.mr)
    bone = bone_of(ct.array, given.mask, given.scan.affine)
    if not bone.density.any():
        raise InputError(f"The synthetic CT has no bone inside the mask {task.bone}; is it the right mask?")
    ends = np.concatenate([line.points_lps for line in _lines(given)])
    measured = np.concatenate([ends, bones.surface(given.mask, given.scan.affine)])
    reach = task.reach or (LANDMARKS_REACH if task.landmarks else registration.REACH)
    settings: dict[str, Any] = {"reach": reach, "starts": task.starts, "seed": task.seed, "workers": task.workers}
    found = registration.register(bone, given.xrays, given.start, measured, progress=progress, **settings)
    about = {
        "notice": NOTICE,
        "cyclescan_version": __version__,
        "files": {
            "mr": task.mr.name,
            "plan": task.plan.name,
            "bone": task.bone.name,
            "landmarks": task.landmarks.name if task.landmarks else None,
        },
        "model": dataclasses.asdict(translator.origin),
        "settings": settings | {"which": task.which},
        "landmarks_px": given.landmarks_px,
    }
    report = about | _measured(given, found, time.perf_counter() - began)
    _write(out, given, bone, found, report)
    return report


def _checked_output(out: Path, task: Task) -> Path:
    names = [path.name for path in task.xrays]
    if not names:
        raise InputError("There is no X-ray; give one or two with --xray.")
    stems = [path.stem for path in task.xrays]
    if len(set(stems)) < len(stems):
        raise InputError(f"The X-rays are {', '.join(names)}; their names must differ: results have them.")
    make_folder(out)
    refuse_foreign(out / "plan.json", lambda path: states(path, "cyclescan_version", "accepted", "spread_mm"), OURS)
    refuse_foreign(out / "plan.html", page.is_ours, OURS)
    refuse_foreign(out / "pose.tfm", lambda path: begins_with(path, TFM_HEAD), OURS)
    refuse_foreign(out / "lines.mrk.json", lambda path: states(path, "markups", "notice"), OURS)
    for stem in stems:
        refuse_foreign(out / f"{stem}.png", pictures.is_ours, OURS)
    for path in (task.plan, task.bone, *task.xrays, *filter(None, [task.landmarks])):
        if os.path.abspath(path.parent) == os.path.abspath(out):
            raise InputError(f"The output {out} is the folder of {path.name}; choose another one.")
    return out


def _read(task: Task) -> _Given:
    xrays = [xray.read(path) for path in task.xrays]
    sizes = {each.view.size for each in xrays}
    if len(sizes) > 1:
        shown = " and ".join(f"{each.name} {each.view.size[0]}x{each.view.size[1]}" for each in xrays)
        raise InputError(f"The X-rays are of different sizes, {shown} pixels; views of one moment have one size.")
    scan = _scan(task.mr)
    mask = bones.read(task.bone, scan, task.which)
    plan = trajectories.read(task.plan)
    belongs = bones.lines_of(plan.lines, mask, scan.affine, task.plan)
    start, miss = starts.from_header(scan.shape, scan.affine), None
    if task.landmarks:
        start, miss = starts.from_landmarks(task.landmarks, xrays, start)
    return _Given(scan, mask, plan, belongs, xrays, start, miss)


def _scan(path: Path) -> Volume:
    if not path.is_dir():
        return volumes.read(path)
    from cyclescan.scans.dicom import convert, rules, series

    found = [each for each in series.find(path) if rules.is_candidate(each)]
    if len(found) != 1:
        raise InputError(f"{path} holds {len(found)} DICOM series that could be the scan; one is needed.")
    return convert.read(found[0])


def _translated(translator: Translator, scan: Volume, path: Path) -> Volume:
    """The synthetic CT on the grid of the scan; a scan of another contrast is refused, another grid only warned of."""
    array, steps = translator.prepare(scan)
    findings = translator.outside(scan, steps) or []
    contrast = [each for each in findings if each["measure"] in (*guard.CONTRAST, guard.LIKENESS, guard.JOINT)]
    if contrast:
        raise InputError(
            f"{path} is unlike the {translator.source_name} scans that the model was trained on: "
            f"{guard.sentence(contrast, 4)}; its CT would mean nothing."
        )
    if findings:
        log.warning("warning: %s is unlike the scans of the training: %s.", path, guard.sentence(findings, 4))
    return translator.restore(translator.translate_array(array), steps)


def _lines(given: _Given):
    return [line for line, is_ours in zip(given.plan.lines, given.belongs, strict=True) if is_ours]


def _measured(given: _Given, found: Result, seconds: float) -> dict:
    views = []
    for each in given.xrays:
        lines = []
        for line in _lines(given):
            ends, before = (each.view.project(moved(pose, line.points_lps)) for pose in (found.pose, given.start))
            scatter = [moved(np.array(start["pose_lps"]), line.points_lps) for start in found.starts]
            shown = np.stack([each.view.project(points) for points in scatter])
            lines.append(
                {
                    "name": line.name,
                    "points_px": ends.tolist(),
                    "points_mm": (ends * each.view.pixel_mm).tolist(),
                    "before_px": before.tolist(),
                    "spread_px": np.median(np.linalg.norm(shown[1:] - ends, axis=-1), axis=0).tolist(),
                }
            )
        geometry = {"size": list(each.view.size), "pixel_mm": list(each.view.pixel_mm), "sid_mm": each.view.sid_mm}
        pose = found.pose.tolist()
        views.append({"xray": each.name, "picture": _picture(each), "lines": lines, "pose_lps": pose, **geometry})
    left_out = [line.name for line, ours in zip(given.plan.lines, given.belongs, strict=True) if not ours]
    return {
        "accepted": found.accepted,
        "why": found.why,
        "depth": None
        if found.depth_mm is None
        else "One X-ray does not show depth: along its axis nothing is certain.",
        "frame": "pose_lps maps LPS mm of the scan to LPS mm of the room, whose origin is the isocentre; pose.tfm is "
        "its inverse, as ITK and 3D Slicer take transforms",
        "views": views,
        "lines_of_other_bones": left_out,
        "start_lps": given.start.tolist(),
        "agreement": found.agreement,
        "spread_mm": found.spread_mm,
        "depth_spread_mm": found.depth_mm,
        "limit_mm": registration.LIMIT_MM,
        "starts": found.starts,
        "seconds": seconds,
    }


def _picture(each: Xray) -> str:
    return f"{Path(each.name).stem}.png"


def _write(out: Path, given: _Given, bone: Bone, found: Result, report: dict) -> None:
    shown = []
    for each, view in zip(given.xrays, report["views"], strict=True):
        image = pictures.overlay(each, traced(bone, each.view, found.pose), view["lines"], found.accepted)
        with replacing(out / view["picture"]) as temporary:
            temporary.write_bytes(image)
        shown.append({**view, "source": "data:image/png;base64," + base64.b64encode(image).decode()})
    write_text(out / "pose.tfm", tfm(np.linalg.inv(found.pose)))
    in_room = given.plan.moved(found.pose)
    in_room.document["notice"] = NOTICE
    trajectories.write(in_room, out / "lines.mrk.json")
    values = {
        "report": report,
        "views": shown,
        "model": Path(report["model"]["model"]).name,
    }  # places stay with the user
    write_text(out / "plan.html", page.render("cyclescan.planning", "plan.html.j2", **values))
    write_json(out / "plan.json", report)  # last: where it is, all is


def tfm(matrix: np.ndarray) -> str:
    """Return a (4, 4) LPS matrix as ITK's text file of an affine transform, as 3D Slicer writes one."""
    numbers: Sequence[float] = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    parameters = " ".join(repr(float(v)) for v in numbers)
    return (
        f"{TFM_HEAD}#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {parameters}\nFixedParameters: 0 0 0\n"
    )
