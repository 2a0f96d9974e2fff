"""Choosing series by what their headers say: `PATH#SeriesDescription~CISS&EchoTime=3.4`."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cyclescan.common.errors import InputError
from cyclescan.scans.dicom.series import Series
from cyclescan.scans.dicom.tags import read_value

GRAMMAR = "a rule is KEYWORD=VALUE or KEYWORD~REGEX with a DICOM keyword such as SeriesDescription; & joins several"
LISTED = 20  # series that a sentence lists


@dataclasses.dataclass(frozen=True)
class Rule:
    """A DICOM keyword, "=" or "~", and the value or regular expression; letter case does not count."""

    keyword: str
    operator: str
    value: str

    def holds(self, text: str) -> bool:
        """Return whether a header's value, as text, is what the rule asks for. Numbers are equal as numbers."""
        if self.operator == "~":
            return re.search(self.value, text, re.IGNORECASE) is not None
        if text.casefold() == self.value.casefold():
            return True
        try:
            return math.isclose(float(text), float(self.value), rel_tol=1e-6)
        except ValueError:
            return False


def split(text: str | os.PathLike) -> tuple[Path, tuple[Rule, ...]]:
    """Divide `PATH#RULES` into the path and its rules; a path that exists as it stands has none.

    Raises:
        InputError: there is nothing, a rule is not understood, or its keyword is not of the DICOM dictionary.
    """
    text = os.fspath(text)
    if not text:
        raise InputError("The path is empty; a file or a folder is needed.")
    if "#" not in text or os.path.exists(text):
        return Path(text), ()
    cuts = [i for i, letter in enumerate(text) if letter == "#"]
    # a folder's name may hold a # itself
    cut = next((i for i in cuts if os.path.exists(text[:i])), cuts[0])
    return Path(text[:cut]), tuple(_parse(part) for part in text[cut + 1 :].split("&"))


def _parse(text: str) -> Rule:
    from pydicom.datadict import keyword_dict

    match = re.fullmatch(r"\s*([A-Za-z0-9]+)\s*([=~])(.*)", text)
    if not match:
        raise InputError(f"The rule {text!r} is not understood; {GRAMMAR}.")
    rule = Rule(*match.groups())
    if rule.keyword not in keyword_dict:
        near = difflib.get_close_matches(rule.keyword, keyword_dict, 1)
        raise InputError(f"DICOM has no keyword {rule.keyword!r}{f'; {near[0]} is one' if near else ''}; {GRAMMAR}.")
    if rule.operator == "~":
        try:
            re.compile(rule.value)
        except re.error as error:
            raise InputError(f"The regular expression {rule.value!r} is not understood: {error}.") from error
    return rule


def choose(found: Sequence[Series], rules: Sequence[Rule], place: str | os.PathLike) -> list[Series]:
    """Return the series for which all rules hold; without rules, those that can be a scan, one for each subject and
    study.

    Without rules, localizers and single slices are passed over. A series with a problem is chosen like any other, so
    that it fails by itself when it is read.

    Args:
        found: all series of `place`.
        rules: see `split`.
        place: what sentences name.

    Raises:
        InputError: no series is chosen, or rules are needed to choose among several of one subject.
    """
    if rules:
        chosen = [s for s in found if all(rule.holds(value_of(s, rule.keyword)) for rule in rules)]
        if not chosen:
            stated = "&".join(f"{r.keyword}{r.operator}{r.value}" for r in rules)
            raise InputError(f"The rule {stated} chooses none of the series of {place}: {listing(found)}.")
        # what could not be read may have been chosen: it is left to fail
        return chosen + [s for s in found if not s.uid]
    served = {s.subject for s in found if is_candidate(s)}
    # nobody is passed over in silence: a subject of single slices alone is left to fail
    candidates = [s for s in found if is_candidate(s) or (s.subject not in served and not s.is_localizer)]
    if not candidates:
        if all(s.problem for s in found):
            return list(found)
        raise InputError(f"{place} holds no series but localizers: {listing(found)}; a rule can choose them.")
    of_subject: dict[tuple[str, str], list[Series]] = {}
    for series in candidates:
        if series.uid:  # a file that cannot be read is nobody's second series
            person = series.subject or str(series.path.parent)
            of_subject.setdefault((person, series.study_uid), []).append(series)
    for several in of_subject.values():
        if len(several) > 1 and not all(s.problem for s in several):
            raise InputError(
                f"{place} holds {len(several)} series of one subject: {listing(several)}; choose by a rule, for "
                f"instance {place}#SeriesDescription~REGEX."
            )
    return candidates


def is_candidate(series: Series) -> bool:
    """Return whether a series may be a scan: no localizer, and no single picture that came with the examination."""
    return not series.is_localizer and (len(series.slices) > 1 or series.slices[0].problem is not None)


def value_of(series: Series, keyword: str) -> str:
    """Return a value of the series' first header as text, "" where there is none."""
    return series.facts[keyword] if keyword in series.facts else read_value(series.slices[0].path, keyword)


def listing(found: Sequence[Series]) -> str:
    """Return the series as a reader of a sentence can tell them apart."""
    names = []
    for series in found[:LISTED]:
        facts = series.facts
        what = facts.get("SeriesDescription") or facts.get("ProtocolName") or facts.get("Modality") or "without a name"
        number = f"{facts['SeriesNumber']} " if "SeriesNumber" in facts else ""
        echo = f", TE {facts['EchoTime']}" if "EchoTime" in facts else ""
        names.append(f"{number}{what} ({len(series.slices)} slices{echo})")
    names = list(dict.fromkeys(names))
    rest = len(found) - LISTED
    return ", ".join(names) + (f" and {rest} more" if rest > 0 else "")
