"""HTML pages from templates: self-contained, every value escaped, no scripts."""

from typing import Any


def render_page(template: str, **values: Any) -> str:
    """A page of this package with everything it needs inside; every value is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("steper_ray.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
