"""HTML pages that are one file: the look they share, and how a template of theirs becomes text."""

from __future__ import annotations


def render(package: str, template: str, **values: object) -> str:
    """A page from `template`, a file of `package`, which may include `page.css.j2`; every value is escaped.

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
