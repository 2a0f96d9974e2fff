"""`python -m cyclescan.endpoints`: what a trial measures, in translations and in true scans, and how they agree."""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclescan import NOTICE, __version__
from cyclescan.common import command, page
from cyclescan.common.errors import InputError
from cyclescan.common.files import begins_with, make_folder, refuse_foreign, replacing, states, walk, write_json

if TYPE_CHECKING:
    from cyclescan.scans.volume import Volume

log = logging.getLogger(__name__)

DESCRIPTION = (
    "Measure what a trial measures, signal, area and volume of regions, in translations and in true scans, and say how "
    "well they agree: Bland-Altman, ICC(2,1), Lin's concordance, for each region and site."
)
OURS = "result of `endpoints`"


def measure_files(given: Mapping[str, Path], arguments: argparse.Namespace) -> tuple[list[dict], list[str], list[str]]:
    """Return rows of all subjects and regions, the names of the sites, and the names of the subjects in the order of
    the rows.

    Raises:
        InputError: a mask is on another grid or has no whole numbers, a region is empty, there are too few subjects, a
            site has no subjects, or a subject no site.
    """
    from cyclescan.evaluation import endpoints, file_pairs
    from cyclescan.evaluation import sites as site_tables
    from cyclescan.evaluation.agreement import FEWEST
    from cyclescan.scans import volume as volumes

    pairs = file_pairs.find(given)
    names = sorted(set.intersection(*map(set, pairs.values())))
    if len(names) < FEWEST:
        raise InputError(
            f"{len(names)} of the {len(pairs['predicted'])} predicted volumes has a reference and a mask of its name; "
            f"agreement needs at least {FEWEST} subjects."
        )
    site_of = site_tables.read(arguments.sites, names)
    masks = {}
    for name in names:
        file_pairs.check_grids({role: files[name] for role, files in pairs.items()})
        masks[name] = endpoints.read_mask(pairs["mask"][name])
    table = Path(arguments.regions) if arguments.regions else None
    regions = endpoints.Regions.of(list(masks.values()), table, arguments.reference_tissue)
    rows = []
    for number, name in enumerate(command.progress(names, unit="subject"), 1):
        scans = {role: volumes.read(pairs[role][name]) for role in given if role != "mask"}
        if arguments.n4:
            scans = {role: _bias_corrected(scan, pairs[role][name]) for role, scan in scans.items()}
        measured = {role: endpoints.measure(scan, masks[name], regions) for role, scan in scans.items()}
        for region in measured["reference"]:
            row = {"subject": number, "site": site_of[name], "region": region}
            for role, values in measured.items():
                row |= {f"{role}_{key}": value for key, value in values[region].items()}
            rows.append(row)
    return rows, sorted(set(site_of.values()) - {""}), names


def _bias_corrected(scan: Volume, path: Path) -> Volume:
    from cyclescan.evaluation import endpoints

    try:
        return endpoints.bias_corrected(scan)
    except InputError as error:
        raise InputError(f"--n4 cannot correct {path}: {error}") from error


def write(out: Path, rows: Sequence[Mapping], sites: Sequence[str], names: Sequence[str], n4: bool = False) -> dict:
    """Write OUT/endpoints.{json,csv,html}, figures/ and subjects.tsv; returns what the JSON says.

    `n4` says whether the scans had their bias field corrected before.
    """
    from cyclescan.evaluation import endpoints
    from cyclescan.evaluation.agreement import DEFINITIONS
    from cyclescan.reporting import endpoints_page

    compared = endpoints.compare(rows, sites)
    result = {
        "notice": NOTICE,
        "cyclescan_version": __version__,
        "subjects": len(names),
        "n4": n4,
        "agreement": compared,
        "measures": endpoints.MEASURES,
        "definitions": DEFINITIONS,
    }
    write_json(out / "endpoints.json", result)
    _write_table(out / "endpoints.csv", rows, ",")
    _write_table(out / "subjects.tsv", [{"subject": i, "file": name} for i, name in enumerate(names, 1)], "\t")
    endpoints_page.write(rows, compared, sites, out, n4)
    return result


def _write_table(path: Path, rows: Sequence[Mapping], delimiter: str) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predicted", required=True, help="translated volumes: a folder of NIfTI files")
    parser.add_argument("--reference", required=True, help="true volumes of the same names, on the same grids")
    parser.add_argument("--source", default=None, help="the volumes that were translated: adds doing nothing")
    parser.add_argument("--masks", required=True, help="NIfTI files of the same names, a whole number for each region")
    parser.add_argument(
        "--regions", default=None, help="a .tsv with the columns index and name, as BIDS has; names them"
    )
    parser.add_argument(
        "--reference-tissue", default=None, help="name or number of the region that signals are divided by"
    )
    parser.add_argument(
        "--n4",
        action="store_true",
        help="first divide every scan, translated, true and source alike, by its coil's field (N4; seconds for a scan)",
    )
    parser.add_argument("--sites", default=None, help="a .tsv or .csv with the columns subject and site")
    parser.add_argument("--out", required=True, help="folder for endpoints.json, .csv, .html and figures/")


def run(arguments: argparse.Namespace) -> int | None:
    given = {"predicted": arguments.predicted, "reference": arguments.reference, "mask": arguments.masks}
    given |= {"source": arguments.source} if arguments.source else {}
    out = make_folder(arguments.out)
    refuse_foreign(out / "endpoints.json", lambda path: states(path, "agreement", "definitions"), OURS)
    refuse_foreign(out / "endpoints.csv", lambda path: begins_with(path, "subject,site,region,"), OURS)
    refuse_foreign(out / "subjects.tsv", lambda path: begins_with(path, "subject\tfile"), OURS)
    refuse_foreign(out / "endpoints.html", page.is_ours, OURS)
    there = next(walk(make_folder(out / "figures")), None)
    if there and not (out / "endpoints.html").exists():
        raise InputError(f"{there} exists and is no {OURS}, so it is not replaced; choose another place.")
    rows, sites, names = measure_files({role: Path(path) for role, path in given.items()}, arguments)
    result = write(out, rows, sites, names, arguments.n4)
    for row in result["agreement"]:
        if (row["measure"], row["site"]) == ("signal", "all") and row["icc"]:
            icc, low, high = row["icc"]
            sys.stdout.write(
                f"{row['region']}, {row['image']}: ICC {icc:.2f} ({low:.2f} to {high:.2f}), {row['n']} subjects\n"
            )
    log.info("%s is written; subjects.tsv says which subject is which, keep it apart.", out / "endpoints.html")
    command.next_step(
        f"open {out / 'endpoints.html'} in a browser; endpoints.csv has a line for each subject and region"
    )
    return command.DONE


def main(arguments: list[str] | None = None) -> int:
    return command.run(DESCRIPTION, add_arguments, run, "python -m cyclescan.endpoints", arguments)


if __name__ == "__main__":
    sys.exit(main())
