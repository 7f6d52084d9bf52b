"""How a result shows itself in a notebook: it asks the package that draws, by name, when asked."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class ShowsItself:
    """A result with a report: as a page, as single figures, in a notebook, and as text.

    Reports are made by a package above every result, which is loaded when first asked for.
    """

    def report(self, path: str | Path | None = None) -> Any:
        """Return the report as a page, which a notebook shows; or write it to a file.

        Args:
            path: The HTML file to write; None returns the page.

        Returns:
            A `NotebookPage`, or the path of the file.

        Raises:
            StorageError: If the file cannot be written.
        """
        page = _drawing().page_of(self)
        return page if path is None else page.write(path)

    def plot(self, kind: str | None = None, *, dark: bool = False) -> Figure:
        """Return one figure of the report, as a Plotly figure.

        Args:
            kind: Its name, which is the heading above it in small letters, such as 'which rate';
                for a study 'map', 'losses', 'curves', 'sensitivity', 'schedules', 'width' or
                'batch size', and where there are several of a kind, with what it shows: 'losses:
                digits-cnn'. None takes the first.
            dark: Whether to draw it for a dark page.

        Raises:
            UnknownNameError: If the result has no such figure; the message lists those it has.
            BadValueError: If it has no figure at all.
        """
        figure: Figure = _drawing().figure_of(self, kind, dark=dark)
        return figure

    def summary(self) -> str:
        """Return the report as a few lines of text: what was found, one sentence a line."""
        return str(_drawing().text_of(self))

    def _repr_html_(self) -> str:
        return str(_drawing().summary_html(self))


def _drawing() -> Any:
    return import_module("etude.report.notebook")
