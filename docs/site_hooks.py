"""What the site needs beyond plain MkDocs: links out of docs/, and equations without a script from elsewhere.

A page may link to any file of the repository by its relative path, as on a code host. A file outside docs/ that is
linked to gets a copy in the site, below `repository/`: Markdown becomes a page, anything else stays as it is. So
results stay where the benchmarks write them, and the site holds all that it speaks of.

Equations are LaTeX between dollar signs, which code hosts render; here they become MathML, which browsers render.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
from pathlib import Path, PurePosixPath

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
COPIES = "repository/"
# [text](target) or ![text](target); not in code, where brackets are followed by a call
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, *, config):
    """Add a copy of each file outside docs/ that a page, or such a copy, links to."""
    pending = [file.src_uri for file in files.documentation_pages()]
    while pending:
        page = pending.pop()
        text = (ROOT / _in_repository(page)).read_text(encoding="utf-8")
        for target in LINK.findall(text):
            path = _target(page, target)
            uri = _in_site(path)
            if not uri.startswith(COPIES) or files.get_file_from_path(uri):
                continue
            if not (ROOT / path).is_file():
                raise PluginError(f"{_in_repository(page)} links to {target}, which is no file of the repository.")
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
            if uri.endswith(".md"):
                pending.append(uri)
    return files


def on_page_markdown(markdown, *, page, config, files):
    """Point links that leave docs/, or that come from a copy, to where their targets are in the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(here)
    return LINK.sub(lambda match: os.path.relpath(_in_site(_target(here, match[1])), folder or "."), markdown)


def on_page_content(content, *, page, config, files):
    """Turn LaTeX into MathML."""

    def mathml(match):
        return convert(html.unescape(match[2]), display="block" if match[1] == "div" else "inline")

    return EQUATION.sub(mathml, content)


def _target(page: str, link: str) -> str:
    """The path in the repository that a link of a page of the site means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(_in_repository(page)), link))


def _in_repository(uri: str) -> str:
    return uri.removeprefix(COPIES) if uri.startswith(COPIES) else f"docs/{uri}"


def _in_site(path: str) -> str:
    parts = PurePosixPath(path).parts
    return posixpath.join(*parts[1:]) if parts[0] == "docs" and len(parts) > 1 else COPIES + path
