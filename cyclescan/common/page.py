"""HTML pages that are one file: the look they share, and how a template of theirs becomes text."""

from __future__ import annotations

import os
import re
from pathlib import Path

LOOKED_AT = 4096  # bytes at the start and at the end of a page
MARKS = (rb'<meta name="generator" content="cyclescan', rb"report of a cyclescan run</title>", rb"Made by cyclescan \d")


def is_ours(path: str | os.PathLike) -> bool:
    """Return whether a file is a page that this program made; pages of versions before 0.3 have no `generator`."""
    data = Path(path).read_bytes()
    return any(re.search(mark, data[:LOOKED_AT] + data[-LOOKED_AT:]) for mark in MARKS)


def render(package: str, template: str, **values: object) -> str:
    """Return a page from `template`, a file of `package`, which may include `page.css.j2`; every value is escaped.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not given.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, "."), jinja2.PackageLoader("cyclescan.common", ".")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
