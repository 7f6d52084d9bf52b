"""Prints a report in the terminal: the same facts, tables and sentences as the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from pygments.token import Token  # type: ignore[import-untyped]
from rich.console import Console
from rich.measure import Measurement
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.table import Table
from rich.text import Text

from etude.cli.terminal.console import ANY_WIDTH, out

if TYPE_CHECKING:
    from rich.console import RenderableType

    from etude.report.document import Bullets, DataTable, Fact, Part, Report, TableRow, Tone

BAR = 20
"""The number of characters of a full bar."""

STYLES = {"plain": "", "good": "bold green", "warn": "red", "soft": "dim"}

CODE = ANSISyntaxTheme(
    {
        Token.Comment: Style(dim=True),
        Token.Keyword: Style(bold=True),
        Token.Name.Tag: Style(bold=True),
        Token.String: Style(color="green"),
    }
)
"""The colours of code: the terminal's own, which can be read on a light and a dark background."""


def draw(report: Report) -> None:
    """Print a report for a person; only the page shows figures and details."""
    out.print()
    _print(Text.assemble((report.subject, "bold"), ": ", report.lede))
    if report.facts:
        out.print()
        out.print(facts(report.facts))
    if report.notice:
        out.print()
        _print(Text.assemble(("Note: ", "bold magenta"), report.notice))
    for section in report.sections:
        if section.detail:
            continue
        if section.title and section.parts and isinstance(section.parts[0], str):
            out.print()  # sentences say little without what they are about
            out.print(Text(section.title, "bold"))
        for part in section.parts:
            if (drawn := _part(part)) is not None:
                out.print()
                for one in drawn:
                    _print(one, whole=isinstance(one, Table) and getattr(part, "whole", False))


def print_table(part: DataTable) -> None:
    """Print a table alone, fitted to the terminal."""
    for one in _fitting(part):
        _print(one, whole=isinstance(one, Table) and part.whole)


def _print(drawn: RenderableType, whole: bool = False) -> None:
    """Print a part; if `whole`, as wide as its names need, so that none is cut off.

    Sentences are wrapped between words; the lines of code stay as they are, to be copied.
    """
    width = out.width
    if whole:
        width = max(width, _measured(drawn).minimum)
    console: Console = out
    if width > out.width:
        console = Console(file=out.file, width=width, highlight=False, soft_wrap=True)
    console.print(drawn, soft_wrap=not isinstance(drawn, Text))


def facts(rows: Iterable[Fact]) -> Table:
    """Return facts as a table of names, values and notes, without lines."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for fact in rows:
        name = fact.name[:1].lower() + fact.name[1:]
        value = Text(fact.value, _style(fact.tone))
        if fact.note:
            value.append(f"  {fact.note}", "not bold dim default")
        table.add_row(Text(name), value)
    return table


def _part(part: Part) -> tuple[RenderableType, ...] | None:
    """Return the printed form of a part of a section; None if the terminal does not show it."""
    from etude.report.document import Bullets, DataTable, Listing

    if isinstance(part, str):
        return (Text(part),)
    if isinstance(part, Bullets):
        return (_bullets(part),)
    if isinstance(part, Listing):
        code = Syntax(part.text.strip("\n"), part.language, theme=CODE)
        return Text(f"{part.title}:\n", "dim"), code
    if isinstance(part, DataTable):
        return _fitting(part)
    return None


def _fitting(part: DataTable) -> tuple[RenderableType, ...]:
    """Return a table; if it is too wide for the terminal, without bars, then minor columns.

    Bars repeat a number of the table. Columns that are left out are named below it.
    """
    table = table_of(part)
    if _measured(table).maximum <= out.width:
        return (*_caption(f"{part.caption} {part.scale}"), table)
    table, above = table_of(part, bars=False), _caption(part.caption)
    left = [column.name for column in part.columns if column.minor]
    if _measured(table).maximum <= out.width or not left:
        return (*above, table)
    said = f"A wider terminal shows more columns: {', '.join(left)}."
    return *above, table_of(_without_minor(part), bars=False), Text(said, "dim")


def _caption(text: str) -> tuple[Text, ...]:
    return (Text(text.strip(), "dim"),) if text.strip() else ()


def _measured(drawn: RenderableType) -> Measurement:
    """Return the widths at which all that may be wrapped is, and nothing is."""
    return Measurement.get(out, out.options.update(width=ANY_WIDTH), drawn)


def _without_minor(part: DataTable) -> DataTable:
    kept = [i for i, column in enumerate(part.columns) if not column.minor]

    def left(row: TableRow) -> TableRow:
        keys = tuple(row.keys[i] for i in kept) if row.keys else ()
        return replace(row, cells=tuple(row.cells[i] for i in kept), keys=keys)

    return replace(
        part,
        columns=tuple(part.columns[i] for i in kept),
        rows=tuple(map(left, part.rows)),
        total=None if part.total is None else left(part.total),
    )


def _bullets(part: Bullets) -> Table:
    """Return sentences with a hanging indent, their notes dimmed."""
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(overflow="fold")
    for text, note in part.items:
        line = Text(text)
        if note:
            line.append(f" ({note})", "dim")
        table.add_row("•", line)
    return table


def table_of(part: DataTable, *, bars: bool = True) -> Table:
    """Return a table of rows and columns without lines, with its bars or without."""
    table = Table(box=None, padding=(0, 2), header_style="dim", show_header=part.headed)
    for place, column in enumerate(part.columns):
        longest = max((len(row.cells[place]) for row in part.rows), default=0)
        table.add_column(
            Text(column.name),
            justify="right" if column.number else "left",
            no_wrap=column.whole,
            min_width=longest if column.whole else None,
            overflow="fold",
        )
    barred = part.barred and bars
    if barred:
        table.add_column("")
    for row in part.rows:
        table.add_row(*_cells(row), *(_bar(part, row) if barred else ()), style=_style(row.tone))
    if part.total is not None:
        last = _bar(part, part.total) if barred else ()
        table.add_row(*_cells(part.total), *last, style="bold")
    return table


def _cells(row: TableRow) -> list[Text]:
    return [Text(cell) for cell in row.cells]


def _bar(part: DataTable, row: TableRow) -> list[Text]:
    if part.centred:
        return [Text("" if row.bar is None else centred_bar(row.bar), "dim")]
    return [Text("█" * max(1, round(BAR * row.bar)) if row.bar else "", "dim")]


def centred_bar(length: float, half: int = BAR // 2) -> str:
    """Return a bar that starts at a line in the middle.

    Args:
        length: From -1, the full left half, to 1, the full right half.
        half: The number of characters on each side.

    >>> centred_bar(1.0, half=4), centred_bar(-0.5, half=4)
    ('    │████', '  ██│    ')
    """
    cells = round(half * abs(length))
    left, right = (cells, 0) if length < 0 else (0, cells)
    return f"{'█' * left:>{half}}│{'█' * right:<{half}}"


def _style(tone: Tone) -> str:
    return STYLES[tone]
