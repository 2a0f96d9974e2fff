"""Which site each subject was scanned at, from a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cyclescan.common import tables
from cyclescan.common.errors import InputError


def read(table: str | Path | None, names: Sequence[str]) -> dict[str, str]:
    """The site of each subject; "" for each without a table.

    Args:
        table: a .tsv or .csv with the columns subject (or participant_id) and site; None for none.
        names: of the subjects, as in the table or with folders before them.

    Raises:
        InputError: the table lacks a column, a subject its site, or a site its subjects.
    """
    if table is None:
        return dict.fromkeys(names, "")
    path = Path(table)
    rows = [row for _, row in tables.read(path, ("site",))]
    key = next((key for key in ("subject", "participant_id") if rows and key in rows[0]), None)
    if key is None:
        raise InputError(f"The table {path} needs a column subject or participant_id beside site.")
    site_of = {row[key]: row["site"] for row in rows}
    found = {name: site_of.get(name) or site_of.get(Path(name).name) or "" for name in names}
    for name, site in found.items():
        if not site:
            raise InputError(f"The table {path} has no site for {name}; every subject needs one.")
    if empty := sorted(set(site_of.values()) - set(found.values())):
        raise InputError(f"The site {empty[0]} of {path} has no subject among the volumes; leave it out of the table.")
    return found
