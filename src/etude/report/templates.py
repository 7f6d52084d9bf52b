"""Renders the templates of the page with Jinja2, which escapes all inserted values."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from etude.report.figures.frame import SANS
from etude.report.figures.palette import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from jinja2 import Environment

NAMES = (
    "paper", "ink", "soft", "rule", "grid", "accent", "second", "warn", "tied", "unstable",
)  # fmt: skip
"""The colours of a theme that the page uses outside of figures."""


@cache
def environment() -> Environment:
    """Return the Jinja2 environment, in which an undefined name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("etude.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, **values: Any) -> Markup:
    """Return a rendered template."""
    return Markup(environment().get_template(name).render(values))


def css() -> Markup:
    """Return the style sheet of the page."""
    return render("page.css", light=_colours(LIGHT), dark=_colours(DARK), sans=_trusted(SANS))


def script() -> Markup:
    """Return the script that applies the theme to the figures and prints them."""
    return render("page.js")


@cache
def plotly() -> Markup:
    """Return plotly.js, as the smallest bundle with the traces that the figures use."""
    bundle = files("etude.report") / "vendor" / "plotly-basic" / "plotly-basic.min.js"
    return _trusted(bundle.read_text(encoding="utf-8"))


def _trusted(text: str) -> Markup:
    """Mark a text as safe to include; it must be part of Etude and contain no user input."""
    return Markup(text)


def _colours(theme: Theme) -> Markup:
    return _trusted("".join(f"--{name}:{getattr(theme, name)};" for name in NAMES))
