"""The settings as people read them: docs/reference/settings.md, and the end of `train --help`.

    python -m cyclescan.config.reference > docs/reference/settings.md

A test keeps the page current.
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap

from cyclescan.config import fields
from cyclescan.config.fields import Group
from cyclescan.config.presets import PRESETS
from cyclescan.config.settings import Config

WIDTH = 100  # of help on the command line


def page() -> str:
    """Write the settings by group, and what each preset sets differently, as Markdown."""
    lines = [
        "# Settings",
        "",
        "<!-- made by python -m cyclescan.config.reference from the fields of cyclescan/config/settings.py -->",
        "",
        "Given to `train` and `demo` as `--set KEY=VALUE ...`, and kept in RUN/config.json. Lists are written",
        "`32,64,64`, switches `true` or `false`. A preset sets some of them; the others have their defaults.",
    ]
    for group, settings in by_group().items():
        lines += ["", f"## {group.title.capitalize()}", "", f"{_sentence(group.value)}", ""]
        lines += ["| setting | default | allowed | what it is |", "|---|---|---|---|"]
        for field in settings:
            cells = (f"`{field.name}`", f"`{text(field.default)}`", allowed(field), fields.of(field).help)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## Presets", "", "What each preset sets differently.", ""]
    lines += [f"| setting | default | {' | '.join(PRESETS)} |", "|---|---|" + "---|" * len(PRESETS)]
    for field in dataclasses.fields(Config):
        values = [getattr(config, field.name) for _, config in PRESETS.values()]
        if any(value != field.default for value in values):
            chosen = ["" if value == field.default else f"`{text(value)}`" for value in values]
            lines.append(f"| `{field.name}` | `{text(field.default)}` | {' | '.join(chosen)} |")
    lines += ["", *(f"* `{name}`: {about}" for name, (about, _) in PRESETS.items())]
    return "\n".join(lines) + "\n"


def command_line_help() -> str:
    """Write the settings by group as plain text, for the end of a command's help."""
    lines = ["settings for --set KEY=VALUE, with their defaults:"]
    for group, settings in by_group().items():
        lines += ["", f"  {group.title}: {group.value}"]
        for field in settings:
            allows = "" if isinstance(field.default, bool) else f" ({allowed(field)})"
            about = f"{fields.of(field).help}{allows}"
            wrapped = textwrap.wrap(about, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
            lines += [f"    {field.name}={text(field.default)}", *wrapped]
    return "\n".join(lines)


def by_group() -> dict[Group, list[dataclasses.Field]]:
    """Sort the fields of `Config` by group."""
    every = dataclasses.fields(Config)
    return {group: [field for field in every if fields.of(field).group is group] for group in Group}


def text(value: object) -> str:
    """Write a value as `--set` takes it."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else str(value)


def allowed(field: dataclasses.Field) -> str:
    """Say which values a field may have."""
    about = fields.of(field)
    if about.choices:
        return ", ".join(about.choices)
    kinds = {bool: "true, false", int: "whole number", float: "number", tuple: "three whole numbers"}
    return f"{kinds[type(field.default)]}{f', {about.bounds.short}' if about.bounds else ''}"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


if __name__ == "__main__":
    sys.stdout.write(page())
