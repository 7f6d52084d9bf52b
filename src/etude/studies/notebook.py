"""How a result shows itself in a notebook: it hands itself to the package that draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class ShowsItself:
    """A result with a report: as a page, as single figures, in a notebook, and as text."""

    def report(self, path: str | Path | None = None) -> Any:
        """Return the report as a page, which a notebook shows; or write it to a file.

        Args:
            path: The HTML file to write; None returns the page.

        Returns:
            A `NotebookPage`, or the path of the file.

        Raises:
            StorageError: If the file cannot be written.
        """
        from etude.report import page_of, write

        return page_of(self) if path is None else write(self, path)

    def plot(self, kind: str, *, dark: bool = False) -> Figure:
        """Return one figure of the report, as a Plotly figure.

        Args:
            kind: Its name, such as 'map', 'losses', 'curves', 'sensitivity', 'schedules', 'width'
                or 'batch size'; where there are several of a kind, with what it shows: 'losses:
                digits-cnn'.
            dark: Whether to draw it for a dark page.

        Raises:
            UnknownNameError: If the result has no such figure; the message lists those it has.
        """
        from etude.report import figure_of

        return figure_of(self, kind, dark=dark)

    def _repr_html_(self) -> str:
        from etude.report import summary_html

        return summary_html(self)

    def __str__(self) -> str:
        from etude.report import text_of

        return text_of(self)
