"""HTML pages from templates: self-contained, every value escaped, no scripts but our own."""

from typing import Any


def render_page(template: str, **values: Any) -> str:
    """A page from a template of `reports/templates`, with styles and charts inside; values are escaped.

    A value that is missing is an error (jinja2.UndefinedError).
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("steper_ray.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
