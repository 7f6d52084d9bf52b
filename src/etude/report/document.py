"""A report as plain data, which the terminal and the HTML page both draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from etude.errors import BadValueError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from etude.report.figures.palette import Theme


class Tone(StrEnum):
    """The emphasis of a text."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    SOFT = "soft"


@dataclass(frozen=True)
class Fact:
    """One result: its name, its value, and a note.

    Attributes:
        name: The name, capitalised.
        value: A few words, or a number.
        note: What helps to read the value, such as a reference value; may be empty.
        tone: The emphasis of the value.
    """

    name: str
    value: str
    note: str = ""
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True)
class TableColumn:
    """A column of a table.

    Attributes:
        name: The heading; if all headings are empty, the table has no header row.
        number: Whether it contains numbers, which are aligned to the right.
        minor: Whether it can be left out if there is little space.
        whole: Whether its texts stay on one line, such as names to be typed.
    """

    name: str
    number: bool = False
    minor: bool = False
    whole: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        cells: A text for each column.
        tone: The emphasis of the row.
        heat: The position of the row's colour between the lowest and the highest rate, 0 to 1, as
            in the figures; None if the row has no colour.
        bar: The length of its bar, 0 to 1, or down to -1 in a table whose bars start in the
            middle; None if the row has no bar.
        keys: What a sortable table sorts each cell by; None for its text, or the number with which
            that begins. A cell with an en dash stays below the others.
        choice: The figure of a gallery that the row chooses, as the gallery's name and the
            figure's place in it; None if the row chooses none.
    """

    cells: tuple[str, ...]
    tone: Tone = Tone.PLAIN
    heat: float | None = None
    bar: float | None = None
    keys: tuple[float | str | None, ...] = ()
    choice: tuple[str, int] | None = None


@dataclass(frozen=True)
class DataTable:
    """A table.

    Attributes:
        columns: The columns, from left to right.
        rows: The rows, from top to bottom.
        caption: What the table shows; may be empty.
        total: A row with the total, below the others; None if there is none.
        centred: Whether bars start at a line in the middle, and extend to the left below 0.
        sortable: Whether the page sorts it by the column whose heading is chosen.
        scale: What the bars show, after the caption; left out where there is no room for bars.

    Raises:
        BadValueError: If a row does not have one cell, or one key, for each column.
    """

    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    caption: str = ""
    total: TableRow | None = None
    centred: bool = False
    sortable: bool = False
    scale: str = ""

    def __post_init__(self) -> None:
        for row in (*self.rows, *([self.total] if self.total else [])):
            if len(row.cells) != len(self.columns):
                raise BadValueError(
                    f"a row has {len(row.cells)} cells for {len(self.columns)} columns: "
                    f"{row.cells!r}"
                )
            if row.keys and len(row.keys) != len(self.columns):
                raise BadValueError(
                    f"a row has {len(row.keys)} keys for {len(self.columns)} columns: {row.keys!r}"
                )

    @property
    def headed(self) -> bool:
        """Whether a column has a heading."""
        return any(column.name for column in self.columns)

    @property
    def barred(self) -> bool:
        """Whether a row has a bar."""
        return any(row.bar is not None for row in self.rows)

    @property
    def whole(self) -> bool:
        """Whether a column stays on one line."""
        return any(column.whole for column in self.columns)


@dataclass(frozen=True)
class Listing:
    """A text to copy, such as a recipe.

    Attributes:
        name: An identifier of letters, digits and hyphens.
        title: The title.
        text: The text.
        language: The language of its syntax, such as 'python'.
    """

    name: str
    title: str
    text: str
    language: str


@dataclass(frozen=True)
class Drawing:
    """A figure. The terminal leaves it out, because tables and facts contain what it shows.

    Attributes:
        caption: What the figure shows.
        draw: A function that draws it in the colours of a theme.
    """

    caption: str
    draw: Callable[[Theme], Figure]


@dataclass(frozen=True)
class Gallery:
    """Figures of which the page shows the one that the reader chooses from a list.

    Attributes:
        name: An identifier of letters, digits and hyphens.
        label: What is chosen.
        caption: What each figure shows.
        drawings: The name of each choice, and the function that draws it.

    Raises:
        BadValueError: If there is no figure.
    """

    name: str
    label: str
    caption: str
    drawings: tuple[tuple[str, Callable[[Theme], Figure]], ...]

    def __post_init__(self) -> None:
        if not self.drawings:
            raise BadValueError(f"the gallery {self.name!r} has no figure: give at least one")


@dataclass(frozen=True)
class Bullets:
    """Sentences, one below the other.

    Attributes:
        items: Each as a text and a smaller note after it, which may be empty.
    """

    items: tuple[tuple[str, str], ...]


Part = str | DataTable | Listing | Drawing | Gallery | Bullets
"""A part of a section; a text is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: The heading.
        parts: The parts, in order.
        detail: Whether only the page shows it, because it is too long for a terminal.
    """

    title: str
    parts: tuple[Part, ...]
    detail: bool = False


@dataclass(frozen=True)
class Report:
    """The report on a result; its fields are in reading order.

    Attributes:
        kind: What was done.
        subject: The name of the task.
        title: The result in one line.
        lede: The result in a few sentences.
        notice: What the reader must know before using the result; empty if there is nothing.
        facts: The single results.
        sections: The rest.
    """

    kind: str
    subject: str
    title: str
    lede: str
    notice: str = ""
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()
