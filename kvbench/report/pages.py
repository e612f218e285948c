"""Render the templates of HTML pages: self-contained, with everything from elsewhere escaped."""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING, Any

from kvbench.text import printable

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["own_text", "render_page"]


def render_page(name: str, **values: Any) -> str:
    """Return the page of a template in `templates/`; a value that it lacks is an error."""
    return _template(name).render(**values)


def own_text(name: str, more: str = "") -> Any:
    """Return a file of `templates/` as it is, such as a style sheet, followed by more of ours."""
    from markupsafe import Markup

    return Markup(_source(name) + more)


def _source(name: str) -> str:
    source = resources.files("kvbench.report").joinpath(f"templates/{name}")
    return source.read_text(encoding="utf-8")


@functools.cache
def _template(name: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    # Everything is escaped except what is ours, such as charts.
    engine = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # A model's name or an error may contain control characters.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    return engine.from_string(_source(name))
