"""A report in a notebook: the page in a frame, single figures, and a summary without scripts."""

from __future__ import annotations

import html as escaping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etude.errors import BadTypeError, unknown_name
from etude.report import page, templates
from etude.report.document import Bullets, DataTable, Report
from etude.report.palette import DARK, LIGHT
from etude.report.registry import present
from etude.report.study.content import StudyContent
from etude.studies.result import StudyResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT = 900
"""The height of the frame in pixels."""


@dataclass(frozen=True)
class NotebookPage:
    """The page of a report, which a notebook shows in a frame of its own.

    Attributes:
        html: The text of the page; it needs no network.
    """

    html: str

    def __repr__(self) -> str:
        return f"<NotebookPage of {len(self.html):,} characters>"

    def write(self, path: str | Path) -> Path:
        """Write the page to a file, and return its path.

        Raises:
            StorageError: If it cannot be written.
        """
        return page.write_page(self.html, path)

    def _repr_html_(self) -> str:
        """Return a frame: scripts and styles of page and notebook do not meet."""
        return (
            f'<iframe sandbox="allow-scripts" style="width:100%;height:{HEIGHT}px;border:0" '
            f'title="report" srcdoc="{escaping.escape(self.html, quote=True)}"></iframe>'
        )


def page_of(result: object) -> NotebookPage:
    """Return the report on a result as a page for a notebook."""
    return NotebookPage(page.html(result))


def figure_names(content: StudyContent) -> dict[str, tuple[str, int]]:
    """Return the names of the figures of a study: 'map', 'losses: digits-cnn', 'width'.

    A kind with one figure has its name; of several, each has its own after a colon, and the name of
    the kind alone is the first.
    """
    found: dict[str, tuple[str, int]] = {}
    for kind, drawn in content.drawn.items():
        found[kind] = kind, 0
        if len(drawn) > 1:
            found.update({f"{kind}: {name}": (kind, i) for i, (name, _) in enumerate(drawn)})
    return found


def figure_of(result: object, kind: str, *, dark: bool = False) -> Figure:
    """Return one figure of the report on a study.

    Args:
        result: The study.
        kind: The name of the figure, see `figure_names`.
        dark: Whether to draw it for a dark page.

    Raises:
        UnknownNameError: If there is no such figure.
        BadTypeError: If the result is not that of a study.
    """
    if not isinstance(result, StudyResult):
        raise BadTypeError(f"result is a {type(result).__name__}: give the result of a study")
    content = StudyContent(result)
    names = figure_names(content)
    if kind not in names:
        raise unknown_name("figure of this study", kind, names)
    group, at = names[kind]
    return content.drawn[group][at][1](DARK if dark else LIGHT)


def summary_html(result: object) -> str:
    """Return the sentences and the first table of a report, as HTML without scripts."""
    report = present(result)
    return str(
        templates.render(
            "summary.html", report=report, bullets=_bullets(report), table=_table(report)
        )
    )


def text_of(result: object) -> str:
    """Return the report as a few lines of text: what was found, one sentence a line."""
    report = present(result)
    lines = [f"{report.subject}: {report.lede}", *([report.notice] if report.notice else [])]
    return "\n".join([*lines, *(f"- {text} ({note})" for text, note in _bullets(report))])


def _bullets(report: Report) -> list[tuple[str, str]]:
    return [
        item
        for section in report.sections
        for part in section.parts
        if isinstance(part, Bullets)
        for item in part.items
    ]


def _table(report: Report) -> DataTable | None:
    parts = (part for section in report.sections for part in section.parts)
    return next((part for part in parts if isinstance(part, DataTable)), None)
