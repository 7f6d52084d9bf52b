"""The report: records, tables, figures, and one HTML file that needs nothing else."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.report.page import html, write

__all__ = ["html", "write"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # loads plotly, which importing the room must not
        from etude.report import page

        return getattr(page, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
