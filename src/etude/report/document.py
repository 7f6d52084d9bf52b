"""A report as plain data: what the terminal and the page both draw, each in its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from etude.errors import BadValueError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from etude.report.palette import Theme


class Tone(StrEnum):
    """How much something is to stand out."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    SOFT = "soft"


@dataclass(frozen=True)
class Fact:
    """One finding: what it is, the value, and what it is measured against.

    Attributes:
        name: With a capital.
        value: A few words, or a number.
        note: What the value is to be read with; may be empty.
        tone: Of the value.
    """

    name: str
    value: str
    note: str = ""
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True)
class TableColumn:
    """A column of a table.

    Attributes:
        name: Its head; a table whose heads are all empty has none.
        number: Whether it holds numbers, which stand on the right.
        minor: Whether it may be left out where there is little room.
        whole: Whether its texts stay on one line, such as names that are to be typed.
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
        tone: Of the row.
        heat: Where the row's colour stands between the lowest and the highest rate, 0 to 1, as in
            the figures; None for a row without one.
        bar: How long its bar is, 0 to 1, or down to -1 in a table whose bars begin in the middle;
            None for a row without one.
    """

    cells: tuple[str, ...]
    tone: Tone = Tone.PLAIN
    heat: float | None = None
    bar: float | None = None


@dataclass(frozen=True)
class DataTable:
    """A table.

    Attributes:
        columns: From the left.
        rows: From the top.
        caption: What one sees; may be empty.
        total: What the rows come to, a row below them; None for none.
        centred: Whether bars begin at a line in the middle, and go left below 0.

    Raises:
        BadValueError: If a row has not a cell for each column.
    """

    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    caption: str = ""
    total: TableRow | None = None
    centred: bool = False

    def __post_init__(self) -> None:
        for row in (*self.rows, *([self.total] if self.total else [])):
            if len(row.cells) != len(self.columns):
                raise BadValueError(
                    f"a row has {len(row.cells)} cells for {len(self.columns)} columns: "
                    f"{row.cells!r}"
                )

    @property
    def headed(self) -> bool:
        """Whether a column has a head."""
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
    """A text to take away, such as a recipe.

    Attributes:
        name: Of letters, digits and hyphens.
        title: What it is.
        text: The text.
        language: Of its syntax, such as 'python'.
    """

    name: str
    title: str
    text: str
    language: str


@dataclass(frozen=True)
class Drawing:
    """A figure. The terminal leaves it out: tables and facts hold what it shows.

    Attributes:
        caption: What one should see.
        draw: Draws it in the colours of a theme.
    """

    caption: str
    draw: Callable[[Theme], Figure]


Part = str | DataTable | Listing | Drawing
"""What a section is made of; a text is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Its heading.
        parts: In order.
        detail: Whether it is for the page alone, too long for a terminal.
    """

    title: str
    parts: tuple[Part, ...]
    detail: bool = False


@dataclass(frozen=True)
class Report:
    """What is told of a result, in the order in which it is read.

    Attributes:
        kind: What was done.
        subject: What it was done on: the task's name.
        title: The answer in a line.
        lede: The answer in a few sentences.
        notice: What the reader must know before using it; empty where all is well.
        facts: The findings, one by one.
        sections: The rest.
    """

    kind: str
    subject: str
    title: str
    lede: str
    notice: str = ""
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()
