"""The command `data_prep build`."""

from __future__ import annotations

import argparse
import logging

from cyclescan.common import command
from cyclescan.common.command import DONE, SOME_FAILED
from cyclescan.common.errors import InputError
from cyclescan.preprocessing import intensity
from cyclescan.scans.volume import SIDES
from data_prep import layouts, pseudonyms, splits, workspace
from data_prep.build.pipeline import build
from data_prep.splits import DOMAINS, SPLITS

log = logging.getLogger(__name__)


# long, because it is a list: one entry for each option
def add_arguments(parser: argparse.ArgumentParser) -> None:
    path_help = (
        "name and scans of domain {}: a folder searched recursively for .nii, .nii.gz and .mha files and for DICOM "
        "series; a .csv or .tsv table with the columns subject, path and if wanted split, side and site; "
        "or one file. PATH#KEYWORD~REGEX&KEYWORD=VALUE chooses among DICOM series, see `python -m data_prep scans PATH`"
    )
    for domain in DOMAINS:
        parser.add_argument(f"--{domain}", metavar="NAME=PATH", required=True, help=path_help.format(domain))
    parser.add_argument(
        "--layout", metavar="NAME", choices=list(layouts.LAYOUTS),
        help="both paths are of an unpacked public data set, of which the domain's name chooses the scans, as in "
        f"--a t1=DIR --b t2=DIR --layout ixi; {', '.join(layouts.LAYOUTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--subject", metavar="REGEX",
        help="who a scan in a folder shows: what this finds in its path below the folder (its first group, or all), as "
        "in '^([^/]+)/' for the first folder's name; without it, BIDS' sub-, PatientID, or the name of file or folder, "
        "where names that differ in visit, run, side or the domain's own name are of one person",
    )  # fmt: skip
    parser.add_argument("--out", metavar="RECORDS", required=True, help="folder to write: shards and dataset.json")
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace a data set that another command made; the same command brings it up to date without this",
    )  # fmt: skip
    parser.add_argument(
        "--spacing-mm", type=float, nargs=3, metavar=("R", "S", "A"),
        help="working voxel size along right, superior, anterior; without it, the median of all scans",
    )  # fmt: skip
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar=("D", "H", "W"),
        help="crop or pad every scan about its centre to this many voxels of the working size along right, superior, "
        "anterior; without it, every scan keeps its extent",
    )  # fmt: skip
    parser.add_argument(
        "--split", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"),
        help="subjects as fractions that sum to 1, or as whole numbers (subjects beyond their sum are left out); "
        f"without it, what the tables say, else {' '.join(map(str, splits.DEFAULT_SPLIT))}",
    )  # fmt: skip
    parser.add_argument(
        "--split-by", choices=("subject", "site"), default="subject",
        help="what is divided: subjects, of each site its share, or whole sites (the column site of the tables)",
    )  # fmt: skip
    parser.add_argument(
        "--split-file", metavar="FILE",
        help=f"divide as this table says: RECORDS/{workspace.SPLIT_FILE} of an earlier data set of the same key, or "
        f"your own with the columns subject and split ({', '.join(SPLITS)} or {splits.LEFT_OUT})",
    )  # fmt: skip
    parser.add_argument(
        "--disjoint",
        action="store_true",
        help="each training subject gives its scans to one domain only: for experiments on subjects who have both, "
        "half of whose training scans are left out",
    )
    for domain in DOMAINS:
        parser.add_argument(
            f"--scaling-{domain}", metavar="KIND:LOW,HIGH",
            help=f"intensities of domain {domain} that become -1 and 1: percentile:LOW,HIGH of the whole volume, which "
            f"cuts off what lies beyond; soft_percentile:LOW,HIGH, such as {intensity.UNCUT_MR_SCALING}, which cuts "
            f"off no signal; or window_hu:LOW,HIGH. Without it, {intensity.CT_SCALING} for CT (by Modality, values or "
            f"name), else {intensity.MR_SCALING}",
        )  # fmt: skip
    parser.add_argument("--n4", action="store_true", help="correct the bias field of MR scans (N4; seconds for a scan)")
    parser.add_argument(
        "--side", choices=SIDES,
        help="mirror scans of the other side, so that all show this one; a table's column side, the BIDS entity hemi-L "
        "or hemi-R, or Laterality in the JSON file beside a scan says which side it shows",
    )  # fmt: skip
    parser.add_argument(
        "--crop-body", type=float, metavar="MM", dest="crop_body_mm", help="crop to the body and this margin around it"
    )
    parser.add_argument(
        "--exclude", metavar="FILE", help="scans to leave out: their ids, one a line, as `data_prep qc` writes them"
    )
    parser.add_argument(
        "--volume",
        type=int,
        metavar="N",
        help="which volume of 4-D files to take, from 0; 3-D files are taken as they are",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; without it, one for each CPU")
    parser.add_argument("--runner", metavar="NAME", default="DirectRunner", help="a runner of Apache Beam")
    parser.add_argument(
        "runner_options", nargs="*", metavar="RUNNER_OPTION",
        help="after --: options of Beam and its runner, such as -- --job_endpoint=HOST:8099",
    )  # fmt: skip
    parser.add_argument(
        "--key-file", metavar="FILE",
        help="the secret key of the pseudonyms, made when it is missing; keep it outside the data set; without it, "
        f"${pseudonyms.KEY_VARIABLE} or {pseudonyms.DEFAULT_KEY_FILE}",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    options = vars(args).copy()
    for domain in DOMAINS:
        options[domain] = name_and_path(domain, options[domain])
    info = build(**options)
    for split in SPLITS:
        counts = {d: _records_in(info, split, d) for d in DOMAINS}
        names = ", ".join(f"{counts[d]} {info['domains'][d]['name']}" for d in DOMAINS)
        both = set.intersection(*(set(info["splits"][split][d]) for d in DOMAINS))
        log.info("%-5s %s, subjects in both: %d", split, names, len(both))
    log.info("%s is complete, %d scans failed", args.out, len(info["failed"]))
    page, pairs = (command.call(f"data-prep {name}", args.out) for name in ("qc", "pair"))
    command.next_step(f"look for outliers: {page}; pseudo-pairs, which the presets of training need: {pairs}")
    return SOME_FAILED if info["failed"] else DONE


def name_and_path(domain: str, text: str) -> tuple[str, str]:
    """Take NAME=PATH apart; `InputError` where it is something else."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"--{domain} is {text!r}; it must be NAME=PATH, for instance ciss=scans/ciss.")
    return name, path


def _records_in(info: dict, split: str, domain: str) -> int:
    return sum(s["records"] for name, s in info["shards"].items() if name.startswith(f"{split}/{domain}-"))
