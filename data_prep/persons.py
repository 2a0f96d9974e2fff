"""One person, one subject: names that differ in a visit, a run, a side or the contrast are of one person.

A table, a layout, a BIDS entity `sub-XXXX`, PatientID and `--subject` state who a scan shows. Where a file's or a
folder's name is all there is, scans of one person would otherwise count as several, and stand in training and test.
Names are joined only where a rule tells, and only with each other: a name that nobody shares stays as it is, so that
well-formed data sets keep their subjects. What merely looks alike is said.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from cyclescan.common.errors import InputError

if TYPE_CHECKING:
    from data_prep.scans import Scan

log = logging.getLogger(__name__)

# how the subject of a scan was found; the last two are guesses that may be joined
TABLE, LAYOUT, PATTERN = "a table", "the layout", "--subject"
BIDS, PATIENT_ID, NAME, FOLDER = "the BIDS entity sub-", "PatientID", "the file's name", "the folder's name"
GUESSED = (NAME, FOLDER)
STATED = (TABLE, LAYOUT, PATTERN)

_BETWEEN = r"[_\-. ]"
_NUMBERED = "session|ses|visit|timepoint|tp|run|repeat|rep|echo|followup|follow-up|fu|day|week|month|year"
_ENTITIES = "ses|acq|run|echo|rec|ce|dir|part|hemi|side"  # of BIDS, beyond the subject
NOT_THE_PERSON = rf"(?:{_NUMBERED}){_BETWEEN}?\d+|(?:{_ENTITIES})-[a-z0-9]+|baseline|followup|left|right|[lr]"
CHANNEL = re.compile(r"(?<=.)_000\d$")  # nnU-Net's number of the contrast: CASE_0000.nii.gz
MOST_JOINED = 12  # names; more that a rule would join are rather numbers of people
MOST_ALIKE = 6  # names that merely look alike
FEWEST_FOLDERS, MOST_IN_FOLDER = 3, 4  # folders of so many names each look like people, not like sites

# words of a name, after its first, that say little about who someone is; with or without a number behind them
_VAGUE = re.compile(
    r"(?:[a-z]|scan|series|img|image|vol|volume|mr|mri|ct|cbct|t1w?|t2w?|pdw?|flair|dess|ciss|pre|post)?(?:\d|0+\d+)?"
    r"|(?:19|20)\d{6}"
)
_TITLES = {"sub", "subj", "subject", "pat", "patient", "case", "id"}


def pattern(text: str | None) -> re.Pattern | None:
    """Return the regular expression of `--subject`; `InputError` where it is none."""
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"--subject is {text!r}, which is no regular expression: {error}.") from error


def by_pattern(given: re.Pattern, relative: PurePath) -> str:
    """Return what `--subject` finds in a path: its group `subject`, else its first group, else all that it matches.

    Raises:
        InputError: it finds nothing there.
    """
    found = given.search(relative.as_posix())
    groups = (found.groupdict().get("subject"), *found.groups(), found.group()) if found else ()
    name = next(filter(None, groups), "")
    if not name:
        raise InputError(f"--subject {given.pattern} finds nobody in {relative}; every scan needs a subject.")
    return name


def settled(
    found: Mapping[str, list[Scan]], names: Mapping[str, str], paths: Mapping[str, str | os.PathLike]
) -> dict[str, list[Scan]]:
    """Return the scans of both domains with one subject for each person, as far as names tell it.

    Says how the subjects were found and how many are in both domains, and warns of names that look like one person.

    Args:
        found: the scans of each domain, from `scans.find` or `layouts.find`.
        names: the name of each domain.
        paths: where the scans of each domain were looked for.
    """
    result = joined(found, names)
    _tell(found, result, names)
    _warn(result, names, paths)
    return result


def joined(found: Mapping[str, list[Scan]], names: Mapping[str, str]) -> dict[str, list[Scan]]:
    """Return one subject for guessed names that a rule tells to be of one person; see `settled` for the arguments.

    Left out of a guessed name are visits, runs, sides, BIDS entities, the domain's own name, and nnU-Net's number of
    the contrast where all names of a domain end with the same one. Names that are equal then are joined.
    """
    persons = {domain: _persons(scans, names.get(domain, "")) for domain, scans in found.items()}
    members = collections.defaultdict(set)
    for of_name in persons.values():
        for name, person in of_name.items():
            members[person].add(name)
    for scans in found.values():
        for scan in scans:
            if scan.named not in GUESSED:
                members[scan.subject].add(scan.subject)
    believed = {person for person, each in members.items() if 1 < len(each) <= MOST_JOINED and len(members) > 1}
    result: dict = {}
    for domain, scans in found.items():
        result[domain] = []
        for scan in scans:
            own = persons[domain].get(scan.subject) if scan.named in GUESSED else None
            result[domain].append(dataclasses.replace(scan, subject=own) if own in believed else scan)
    return result


def _persons(scans: Iterable[Scan], domain_name: str) -> dict[str, str]:
    """Of each guessed name in a domain what is left of it when all but the person is left out."""
    guessed = {scan.subject: scan.named for scan in scans if scan.named in GUESSED}
    channels = {(CHANNEL.search(name) or [None])[0] for name, how in guessed.items() if how == NAME}
    one_channel = len(channels) == 1 and None not in channels and len(guessed) > 1
    words = f"{re.escape(domain_name)}|{NOT_THE_PERSON}" if domain_name else NOT_THE_PERSON
    beside = re.compile(rf"(?:^|{_BETWEEN}+)(?:{words})(?={_BETWEEN}|$)", re.IGNORECASE)
    persons = {}
    for name, how in guessed.items():
        parts = (CHANNEL.sub("", name) if one_channel and how == NAME else name).split("/")
        left = [re.sub(rf"^{_BETWEEN}+|{_BETWEEN}+$", "", beside.sub("", part)) for part in parts]
        persons[name] = "/".join(filter(None, left)) or name
    return persons


def _tell(before: Mapping[str, list[Scan]], after: Mapping[str, list[Scan]], names: Mapping[str, str]) -> None:
    subjects = {domain: {scan.subject for scan in scans} for domain, scans in after.items()}
    counts = ", ".join(f"{len(each)} of {names[domain]}" for domain, each in subjects.items())
    ways = collections.Counter(scan.named for scans in after.values() for scan in scans)
    how = ", ".join(f"{way} ({count} scans)" for way, count in ways.items())
    log.info("Subjects: %s, %d in both, told by %s.", counts, len(set.intersection(*subjects.values())), how)
    former: dict[str, dict] = collections.defaultdict(dict)
    for domain, scans in after.items():
        for old, new in zip(before[domain], scans, strict=True):
            former[new.subject][old.subject] = None
    if several := {new: old for new, old in former.items() if len(old) > 1}:
        person, each = next(iter(several.items()))
        log.info("Of them %d have several names, as %s is %s.", len(several), person, _listed(each))


def _warn(found: Mapping[str, list[Scan]], names: Mapping[str, str], paths: Mapping[str, str | os.PathLike]) -> None:
    subjects = {domain: {s.subject for s in scans if s.named not in STATED} for domain, scans in found.items()}
    guessed = {s.subject for scans in found.values() for s in scans if s.named in GUESSED}
    if alike := _differing_affix(subjects, guessed) or _alike(set.union(*subjects.values()), guessed):
        log.warning(
            "Names that look like one person count as several, and may stand in several splits: %s%s; if they are one, "
            "state who is who with --subject REGEX or a table with the columns subject and path.",
            _listed(alike[0]), f" and {len(alike) - 1} more such groups" if alike[1:] else "",
        )  # fmt: skip
    for domain, scans in found.items():
        if folder := _folder_of_several(scans, Path(paths[domain])):
            log.warning(
                "Folders of %s hold several subjects each, as %s does; if a folder is one person, give --subject "
                "'^([^/]+)/'.", names[domain], folder,
            )  # fmt: skip


def _alike(subjects: set[str], guessed: set[str]) -> list[list[str]]:
    """Groups of names, a guessed one among them, that are the same but for letter case, zeros and vague words."""
    groups = collections.defaultdict(list)
    for name in sorted(subjects):
        first, *rest = re.split(r"[_\-. /]+", name.lower())
        if first in _TITLES and rest:
            first, *rest = rest
        words = [re.sub(r"(?<=\d)[a-z]$", "", first), *(word for word in rest if not _VAGUE.fullmatch(word))]
        letters_and_numbers = re.findall(r"[^\W\d_]+|\d+", " ".join(words))
        groups[" ".join(part.lstrip("0") or "0" for part in letters_and_numbers)].append(name)
    return [g for key, g in groups.items() if key and 1 < len(g) <= MOST_ALIKE and len(groups) > 1 and guessed & set(g)]


def _differing_affix(subjects: Mapping[str, set[str]], guessed: set[str]) -> list[list[str]]:
    """Pairs of names that are the same without the word with which all names of a domain begin, or end."""
    if any(len(each) < 2 or not each <= guessed for each in subjects.values()):
        return []
    for cut in (rf"^([^_\-. ]+){_BETWEEN}+(.+)$", rf"^(.+){_BETWEEN}+([^_\-. ]+)$"):
        word, rest = (1, 2) if cut.endswith("(.+)$") else (2, 1)
        without = {}
        for domain, each in subjects.items():
            parts = {name: found for name in each if (found := re.match(cut, name))}
            same = len(parts) == len(each) and len({found[word] for found in parts.values()}) == 1
            without[domain] = {parts[name][rest] if same else name: name for name in each}
        pairs = [{each[key] for each in without.values()} for key in set.intersection(*map(set, without.values()))]
        differing = sorted(sorted(pair) for pair in pairs if len(pair) > 1)
        if 2 * len(differing) >= min(map(len, subjects.values())):
            return differing
    return []


def _folder_of_several(scans: Iterable[Scan], root: Path) -> str | None:
    """A folder directly below `root` that holds a few subjects, where nearly all folders there do."""
    below = collections.defaultdict(set)
    for scan in scans:
        if scan.named == NAME and scan.path.is_relative_to(root):
            parts = scan.path.relative_to(root).parts
            below[parts[0] if len(parts) > 1 else ""].add(scan.subject)
    several = [folder for folder, each in below.items() if folder and 1 < len(each) <= MOST_IN_FOLDER]
    return min(several) if len(several) >= max(FEWEST_FOLDERS, 0.8 * len(below)) else None


def _listed(names: Iterable[str]) -> str:
    """Three names at most, and how many more there are."""
    names = sorted(names)
    if len(names) > 3:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
