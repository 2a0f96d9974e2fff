"""Several centres brought to one: every centre's scans are translated to a reference centre's, and measured by site.

    python -m benchmarks.many_centres SCANS OUT --reference CENTRE [--preset knee] [--steps N] [--set KEY=VALUE ...]
        [--test TEST --masks MASKS]

SCANS has a folder of scans for each centre. For every one but the reference the commands of the product run one after
the other, each written out before it runs: `build`, `pair` where the preset has pairs, `train`, `translate`. The scans
of TEST are translated, a folder for each centre again, or those of SCANS without it. Where TEST/REFERENCE has scans of
the same names (subjects who travelled), `evaluate` compares each centre's translations with them, and `endpoints` with
MASKS, one for each subject, writes one page with a table for each site. A run that is cut off continues: give it the
same command. docs/how-to/many-centres.md.

Writes OUT/CENTRE/{records,run}, OUT/harmonised/CENTRE, OUT/evaluation/CENTRE, OUT/sites.tsv and OUT/endpoints.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cyclescan import endpoints, evaluate, train, translate
from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, write_text
from cyclescan.config.presets import preset
from cyclescan.scans import volume as volumes
from data_prep import __main__ as data_prep

log = logging.getLogger(__name__)

DESCRIPTION = __doc__
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "data_prep": data_prep.main,
    "cyclescan.train": train.main,
    "cyclescan.translate": translate.main,
    "cyclescan.evaluate": evaluate.main,
    "cyclescan.endpoints": endpoints.main,
}


def centres(folder: Path, reference: str) -> list[str]:
    """Return the names of the centres but the reference's, sorted.

    Raises:
        InputError: there is no such folder, none of the reference, or none beside it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; it must have a folder of scans for each centre.")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if reference not in found:
        raise InputError(
            f"{folder} has no folder {reference} of the reference; there are {', '.join(found) or 'none'}."
        )
    if len(found) < 2:
        raise InputError(f"{folder} has the reference {reference} alone; at least one other centre is needed.")
    return [name for name in found if name != reference]


def harmonise(arguments: argparse.Namespace) -> None:
    """Run the commands of all centres, then those that compare.

    Raises:
        InputError: the folders are not as they should be, or a command has failed; what is done stays.
    """
    scans, out, reference = Path(arguments.scans), Path(arguments.out), arguments.reference
    if bool(arguments.test) != bool(arguments.masks):
        raise InputError("--test and --masks belong together: endpoints are measured in masks of the test scans.")
    others = centres(scans, reference)
    config = preset(arguments.preset).with_settings(arguments.settings)
    if arguments.test and (left := sorted(set(centres(Path(arguments.test), reference)) - set(others))):
        raise InputError(f"{arguments.test} has scans of {left[0]}, of which {scans} has none to learn from.")
    for centre in others:
        records, run = out / centre / "records", out / centre / "run"
        _call("data_prep", "build", "--a", f"{centre}={scans / centre}", "--b", f"{reference}={scans / reference}",
              "--out", records)  # fmt: skip
        if config.lambda_pair and not (records / "pairs" / "pairs.json").exists():
            _call("data_prep", "pair", records)
        steps = ["--steps", arguments.steps] if arguments.steps else []
        settings = ["--set", *arguments.settings] if arguments.settings else []
        _call("cyclescan.train", "--data", records, "--run", run, "--preset", arguments.preset, "--resume", *steps,
              *settings)  # fmt: skip
        given = Path(arguments.test or scans) / centre
        if given.is_dir():
            _call("cyclescan.translate", "--model", run, "--direction", "a2b", given, out / "harmonised" / centre)
    if arguments.test:
        compare(Path(arguments.test), Path(arguments.masks), out, reference)


def compare(test: Path, masks: Path, out: Path, reference: str) -> None:
    """Compare each centre's translations with the reference's scans of the same subjects, and all of them by site."""
    there = _by_name(test / reference)
    of_mask = _by_name(masks)
    sites = []
    for centre in centres(test, reference):
        made, before = (_by_name(folder / centre) for folder in (out / "harmonised", test))
        both = sorted(set(made) & set(there) & set(before))
        if not both:
            raise InputError(f"No scan of {test / centre} has the name of one of {test / reference}; nobody travelled.")
        if missing := sorted(set(both) - set(of_mask)):
            raise InputError(f"{masks} has no mask named {missing[0]}.")
        for name in both:
            site = f"{centre}-{name}"
            sites.append((site, centre))
            for kind, path in (("predicted", made), ("source", before), ("reference", there), ("masks", of_mask)):
                _link(path[name], out / "compared" / kind / f"{site}{_suffix(path[name])}")
        _call("cyclescan.evaluate", "--predicted", out / "harmonised" / centre, "--reference", test / reference,
              "--source", test / centre, "--out", out / "evaluation" / centre)  # fmt: skip
    write_text(out / "sites.tsv", "".join("\t".join(row) + "\n" for row in [("subject", "site"), *sites]))
    compared = out / "compared"
    _call("cyclescan.endpoints", "--predicted", compared / "predicted", "--reference", compared / "reference",
          "--source", compared / "source", "--masks", compared / "masks", "--sites", out / "sites.tsv",
          "--out", out / "endpoints")  # fmt: skip


def _by_name(folder: Path) -> Mapping[str, Path]:
    return {volumes.stem(path): path for path in volumes.files_below(folder)} if folder.is_dir() else {}


def _suffix(path: Path) -> str:
    return path.name.removeprefix(volumes.stem(path))


def _link(path: Path, link: Path) -> None:
    make_folder(link.parent)
    link.unlink(missing_ok=True)
    os.symlink(path.resolve(), link)


def _call(program: str, *given: object) -> None:
    """Run a command as the command line does, and say it first."""
    words = [str(word) for word in given]
    log.info("python -m %s %s", program, " ".join(words))
    if (code := COMMANDS[program](words)) not in (command.DONE, command.SOME_FAILED):
        raise InputError(f"python -m {program} {' '.join(words[:2])} ended with {code}; its last line says why.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this script."""
    parser.add_argument("scans", metavar="SCANS", help="a folder of scans for each centre")
    parser.add_argument("out", metavar="OUT", help="folder for everything that is written")
    parser.add_argument("--reference", required=True, metavar="CENTRE", help="the centre that all are brought to")
    parser.add_argument("--preset", default="knee", help="recipe of the training runs")
    parser.add_argument("--steps", type=int, default=None, help="of each training run; default: the preset's")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend", dest="settings",
                        help="change settings of the preset")  # fmt: skip
    parser.add_argument("--test", default=None, help="scans to be translated, a folder for each centre")
    parser.add_argument("--masks", default=None, help="masks named as the subjects, for `endpoints`")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return command.run(DESCRIPTION, add_arguments, harmonise, "python -m benchmarks.many_centres", arguments)


if __name__ == "__main__":
    sys.exit(main())
