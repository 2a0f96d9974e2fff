"""Tables that a user writes: .csv and .tsv with named columns."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from cyclescan.common.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read(path: Path, needed: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a table: the number of each one's line, and its cells without blanks around them.

    Args:
        path: ends in .csv or .tsv; UTF-8, with or without a byte order mark.
        needed: columns that must be there; more are allowed.

    Raises:
        InputError: the table cannot be read, is not understood, or lacks a column.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=DELIMITERS[path.suffix.lower()], strict=True)
            # line_num, because a quoted cell may go on over several lines
            rows = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or [])
    except OSError as error:
        raise InputError(f"The table {path} cannot be read: {error.strerror}.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"The table {path} is not understood: {error}.") from error
    if missing := set(needed) - set(columns):
        raise InputError(
            f"The table {path} has the columns {', '.join(columns) or '(none)'}; "
            f"{' and '.join(sorted(missing))} must be among them."
        )
    for number, row in rows:
        if any("\0" in (row[column] or "") for column in columns):
            raise InputError(f"The table {path} is not understood: line {number} holds a NUL character.")
    return [(number, {column: (row[column] or "").strip() for column in columns}) for number, row in rows]
