"""The page's templates, filled in by Jinja2: whatever is put into them is escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from etude.report.frame import SANS
from etude.report.palette import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from jinja2 import Environment

NAMES = (
    "paper", "ink", "soft", "rule", "grid", "accent", "second", "warn", "tied", "unstable",
)  # fmt: skip
"""Colours of a theme that the page itself uses."""


@cache
def environment() -> Environment:
    """Return what fills in the templates; a name that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("etude.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, **values: Any) -> Markup:
    """Return a template filled in."""
    return Markup(environment().get_template(name).render(values))


def css() -> Markup:
    """Return the look of the page."""
    return render("page.css", light=_colours(LIGHT), dark=_colours(DARK), sans=_trusted(SANS))


def script() -> Markup:
    """Return the script that dresses and prints the figures of the page."""
    return render("page.js")


@cache
def plotly() -> Markup:
    """Return plotly.js, the bundle with the traces that our figures use."""
    bundle = files("etude.report") / "vendor" / "plotly-basic" / "plotly-basic.min.js"
    return _trusted(bundle.read_text(encoding="utf-8"))


def _trusted(text: str) -> Markup:
    """Mark a text that comes with Etude, and holds nothing of a user's, as safe to include."""
    return Markup(text)


def _colours(theme: Theme) -> Markup:
    return _trusted("".join(f"--{name}:{getattr(theme, name)};" for name in NAMES))
