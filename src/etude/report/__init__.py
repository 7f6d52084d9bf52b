"""Reports on results, as plain data, and as one HTML file that needs no network.

`present` returns facts, tables and sentences, which the terminal and the page both draw; `html`
and `write` create the page.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.report.notebook import figure_of, page_of, summary_html, text_of
    from etude.report.page import html, write
    from etude.report.registry import present

__all__ = ["figure_of", "html", "page_of", "present", "summary_html", "text_of", "write"]

_HOMES = {
    "figure_of": "etude.report.notebook",
    "html": "etude.report.page",
    "page_of": "etude.report.notebook",
    "present": "etude.report.registry",
    "summary_html": "etude.report.notebook",
    "text_of": "etude.report.notebook",
    "write": "etude.report.page",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # they load torch and jinja2, which importing the package must not
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
