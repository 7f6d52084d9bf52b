"""A report in a notebook: the page in a frame, single figures, and a summary without scripts."""

from __future__ import annotations

import html as escaping
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etude.errors import BadValueError, kind_of, unknown_name
from etude.report import page, templates
from etude.report.document import Bullets, DataTable, Drawing, Report
from etude.report.figures.palette import DARK, LIGHT, Theme
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


Draw = Callable[[Theme], "Figure"]


def figures(result: object) -> dict[str, Draw]:
    """Return the figures of a result's report by name, the first one first.

    A figure's name is the heading above it in small letters; the second one below a heading has a
    2 after it. The figures of a study have short names, see `figure_names`.
    """
    if isinstance(result, StudyResult):
        content = StudyContent(result)
        names = figure_names(content)
        return {name: content.drawn[kind][at][1] for name, (kind, at) in names.items()}
    found: dict[str, Draw] = {}
    for section in present(result).sections:
        drawn = [part.draw for part in section.parts if isinstance(part, Drawing)]
        for count, draw in enumerate(drawn, 1):
            found[section.title.lower() + (f" {count}" if count > 1 else "")] = draw
    return found


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


def figure_of(result: object, kind: str | None = None, *, dark: bool = False) -> Figure:
    """Return one figure of the report on a result.

    Args:
        result: The result of a verb.
        kind: The name of the figure, see `figures`; None takes the first.
        dark: Whether to draw it for a dark page.

    Raises:
        UnknownNameError: If there is no such figure.
        BadValueError: If the report has no figure.
        BadTypeError: If there is no report for this type of result.
    """
    found = figures(result)
    if not found:
        raise BadValueError(f"the report on {kind_of(result)} has no figure: see report()")
    name = next(iter(found)) if kind is None else kind
    if name not in found:
        raise unknown_name("figure of this result", name, found)
    return found[name](DARK if dark else LIGHT)


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
