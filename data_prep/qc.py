"""Quality control of a data set: every scan beside the limits of its cohort, outliers first, in one HTML page.

`build` measures each scan (`preprocessing.guard`) and leaves the measures in dataset.json, beside what else it says of
the scan. The page is made from them and from the records, so it needs neither the scans nor the key of the pseudonyms.
What it finds is left out by `build --exclude`.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cyclescan import __version__, records
from cyclescan.common import command, page
from cyclescan.common.errors import InputError
from cyclescan.common.files import refuse_foreign, write_text
from cyclescan.preprocessing import guard
from cyclescan.scans.viewer import Kind, Layer, Study, Viewer, embed
from cyclescan.scans.volume import plane, spacing_of
from data_prep.splits import DOMAINS

log = logging.getLogger(__name__)

LIMITS = ("low", "median", "high")
SHOWN = 48  # scans of each domain inside the limits that are shown beside the outliers
VIEWED = 12  # scans that the viewer shows in any case, and in no finer a grid than lets them in
ROWS = 1000  # of each domain's table, outliers first
PIXELS = 120  # the largest edge of a thumbnail
THUMBNAILS = 2_000_000  # characters of all thumbnails: with the viewer and the tables a page stays below 8 MB
# what a plane is called, the axis it lies across, and the axes it shows to the right and down
PLANES = (("sagittal", 0, 2, 1), ("coronal", 2, 0, 1), ("axial", 1, 0, 2))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", metavar="RECORDS", help="folder made by `data_prep build`")
    parser.add_argument(
        "--out", metavar="FILE.html",
        help="the page; the ids of the outliers are written beside it as .txt; default: RECORDS/qc.html",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    out = Path(args.out) if args.out else Path(args.records) / "qc.html"
    count = write(args.records, out)
    log.info("%s shows %d outliers; leave them out with `build --exclude %s`", out, count, _ids_beside(out))
    command.next_step(f"open {out} in a browser; when all is well: {command.call('data-prep pair', args.records)}")


def write(folder: str | os.PathLike, out: str | os.PathLike) -> int:
    """Write the page of a data set, and beside it, ending in .txt, the ids of its outliers, each with the reason.

    Args:
        folder: made by `build`.
        out: the page, ending in .html.

    Returns:
        The number of outliers.

    Raises:
        InputError: the folder is no data set or has no measures; the page cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"The output {out} is not the name of a page; it must end in .html.")
    refuse_foreign(out, page.is_ours, "page of cyclescan")
    refuse_foreign(_ids_beside(out), _are_ids, "list of outliers")
    info = records.read_info(folder)
    measured = _measured(folder, info)
    domains = [_domain(folder, d, info["domains"][d], [s for s in measured if s["domain"] == d]) for d in DOMAINS]
    outliers = [scan for domain in domains for scan in domain["scans"] if scan["findings"]]
    others = [[scan for scan in domain["scans"] if not scan["findings"]][:SHOWN] for domain in domains]
    shown = [*outliers, *(scan for pair in itertools.zip_longest(*others) for scan in pair if scan)]
    _add_thumbnails(folder, shown)
    text = page.render(
        "data_prep",
        "qc.html.j2",
        domains=domains,
        outliers=outliers,
        viewer=_viewer(folder, shown),
        limits=_limits([info["domains"][d]["guard"]["limits"] for d in DOMAINS]),
        spread=f"{guard.SPREAD:g}",
        ids_file=_ids_beside(out).name,
        excluded=len(info.get("excluded", [])),
        failed=info["failed"],
        measures=guard.MEASURES,
        rows=ROWS,
        version=__version__,
    )
    write_text(out, text)
    lines = (f"{scan['id']}  # {scan['name']}, {scan['split']}: {scan['findings']}\n" for scan in outliers)
    write_text(_ids_beside(out), "".join(lines))
    return len(outliers)


def _measured(folder: Path, info: dict) -> list[dict]:
    """The id, place and measures of every scan of a data set."""
    scans = []
    for shard, facts in info["shards"].items():
        split, _, name = shard.partition("/")
        for number, about in enumerate(facts.get("scans", [])):
            if "measures" not in about:
                raise InputError(f"{folder} has no measures of its scans: an older version built it; build it again.")
            place = {"domain": name[0], "split": split, "shard": shard, "record": number}
            scans.append({"id": about["scan"], "values": about["measures"], **place})
    return scans


def add_guards(domains: dict[str, dict], written: Sequence[tuple]) -> None:
    """Put the limits of each domain's training scans into its entry of dataset.json, as "guard".

    Args:
        domains: entries of dataset.json.
        written: a task and what `build.shards.write_shard` returned for it, of each shard.
    """
    cohorts = {
        domain: [
            about["measures"]
            for task, outcome in written
            if (task.split, task.domain) == ("train", domain)
            for about in outcome["scans"]
        ]
        for domain in DOMAINS
    }
    for domain, other in zip(DOMAINS, reversed(DOMAINS), strict=True):
        domains[domain]["guard"] = guard.limits_of(cohorts[domain], cohorts[other])


def exclude(sources: dict[str, list], path: str | os.PathLike | None) -> list[str]:
    """Remove the scans whose ids stand in a file from the lists of both domains; returns the ids.

    Raises:
        InputError: the file cannot be read; it names a scan that is not there, or all scans of a domain.
    """
    if path is None:
        return []
    ids = read_ids(path)
    known = {source.scan for each in sources.values() for source in each}
    if unknown := [i for i in ids if i not in known]:
        raise InputError(
            f"{path} names {unknown[0]}, which is no id of these scans; ids are those of the page of `data_prep qc`, "
            "and of the key that the data set was built with."
        )
    for domain, each in sources.items():
        sources[domain] = [source for source in each if source.scan not in ids]
        if not sources[domain]:
            raise InputError(f"{path} leaves no scan of domain {domain}; all {len(each)} are excluded.")
    return ids


def _are_ids(path: Path) -> bool:
    """Whether a file is a list as `write` leaves it beside a page."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return False
    return all(re.match(r"s[0-9a-f]{12}-[0-9a-f]{6}  # ", line) for line in lines)


def read_ids(path: str | os.PathLike) -> list[str]:
    """Return the ids in a text file, one a line, # begins a comment; raise `InputError` where it cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list of ids {path} cannot be read: {error}.") from error
    return sorted({found for line in lines if (found := line.partition("#")[0].strip())})


def _ids_beside(out: Path) -> Path:
    return out.with_suffix(".txt")


def _domain(folder: Path, domain: str, about: dict, measured: list[dict]) -> dict:
    """What the page says of one domain; outliers come first, those with most findings before the others."""
    cohort = about["guard"]
    found = [(scan, guard.outside(scan["values"], cohort)) for scan in measured]
    found.sort(key=lambda pair: -len(pair[1]))
    keys = [key for key in guard.MEASURES if any(key in scan["values"] for scan in measured)]
    return {
        "name": about["name"],
        "count": len(measured),
        "trained": cohort["scans"],
        "outliers": sum(bool(findings) for _, findings in found),
        "keys": keys,
        "scans": [
            {
                "id": scan["id"],
                "name": about["name"],
                "split": scan["split"],
                "findings": guard.sentence(findings),
                "cells": [_cell(key, scan["values"], findings) for key in keys],
                "place": (scan["shard"], scan["record"]),
                "planes": [],
                "study": None,
            }
            for scan, findings in found
        ],
    }


def _limits(each: list[dict]) -> list[dict]:
    """The rows of the table of limits: three cells for each domain."""
    rows = []
    for key, about in guard.MEASURES.items():
        if any(key in limits for limits in each):
            cells = [_number(limits[key][n]) if key in limits else "–" for limits in each for n in LIMITS]
            rows.append({"label": about.label, "unit": about.unit, "cells": cells})
    return rows


def _cell(key: str, values: dict, findings: list[dict]) -> dict:
    text = _number(values[key]) if key in values else "–"
    return {"text": text, "outside": any(finding["measure"] == key for finding in findings)}


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _record(folder: Path, place: tuple[str, int]) -> records.Record:
    """The record of a scan, given its shard and its number there."""
    shard = folder / place[0]
    return records.decode(records.read_at(shard, *records.index(shard)[place[1]]))


def _add_thumbnails(folder: Path, scans: Sequence[dict]) -> None:
    """Give scans their "planes", from the first on, as many as the page has room for."""
    room = THUMBNAILS
    for scan in command.progress(scans, desc="thumbnails", unit="scan", leave=False):
        planes = list(_thumbnails(_record(folder, scan["place"])))
        room -= sum(len(plane["source"]) for plane in planes)
        if room < 0:
            return
        scan["planes"] = planes


def _viewer(folder: Path, scans: Sequence[dict]) -> Viewer:
    """The viewer of scans, from the first on; each that is in it gets its number there as "study"."""

    def study(scan: dict) -> Study:
        record = _record(folder, scan["place"])
        title = f"{scan['id']}, {scan['name']}, {scan['split']}{': outlier' if scan['findings'] else ''}"
        return Study(title, record.affine, [Layer(Kind.SOURCE, scan["name"], record.voxels)])

    found = embed(map(study, command.progress(scans, desc="viewer", unit="scan", leave=False)), least=VIEWED)
    for number, scan in enumerate(scans[: found.shown]):
        scan["study"] = number
    return found


def _thumbnails(record: records.Record) -> Iterator[dict]:
    """The middle planes of a record, all at one scale of millimetres."""
    extent_mm = np.multiply(record.voxels.shape, spacing_of(record.affine))
    scale = PIXELS / extent_mm.max()
    for name, across, right, down in PLANES:
        shown = plane(record.voxels, across)
        step = max(1, max(shown.shape) // (2 * PIXELS))  # twice the pixels, for sharp screens
        yield {
            "name": name,
            "source": _jpeg(shown[::step, ::step]),
            "width": max(1, round(extent_mm[right] * scale)),
            "height": max(1, round(extent_mm[down] * scale)),
        }


def _jpeg(shown: np.ndarray) -> str:
    """A plane on [-1, 1] as the text of an image in a page: a quarter of a PNG, whose noise no thumbnail needs."""
    stream = io.BytesIO()
    grey = np.rint((np.clip(shown, -1, 1) + 1) * 127.5).astype(np.uint8)
    Image.fromarray(grey).save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
