"""Prints a report in the terminal: the same facts, tables and sentences as the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from etude.cli.terminal.console import out

if TYPE_CHECKING:
    from rich.console import RenderableType

    from etude.report.document import Bullets, DataTable, Fact, Part, Report, TableRow, Tone

BAR = 20
"""The number of characters of a full bar."""

STYLES = {"plain": "", "good": "bold green", "warn": "red", "soft": "dim"}


def draw(report: Report) -> None:
    """Print a report for a person; only the page shows figures and details."""
    out.print()
    out.print(Text.assemble((report.subject, "bold"), ": ", report.lede))
    if report.facts:
        out.print()
        out.print(facts(report.facts))
    if report.notice:
        out.print()
        out.print(Text(report.notice, "yellow"))
    for section in report.sections:
        if section.detail:
            continue
        for part in section.parts:
            if (drawn := _part(part)) is not None:
                out.print()
                for one in drawn:
                    _print(one, whole=isinstance(one, Table) and getattr(part, "whole", False))


def _print(drawn: RenderableType, whole: bool) -> None:
    """Print a part; if `whole`, at its own width, so that no name is cut off."""
    width = out.width
    if whole:
        needed = Measurement.get(out, out.options.update(width=10_000), drawn).maximum
        width = max(width, needed)
    console = out
    if width > out.width:
        console = Console(file=out.file, width=width, highlight=False, soft_wrap=True)
    console.print(drawn)


def facts(rows: Iterable[Fact]) -> Table:
    """Return facts as a table of names, values and notes, without lines."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    table.add_column()
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
        code = Syntax(part.text.strip("\n"), part.language, background_color="default")
        return Text(f"{part.title}:\n", "dim"), code
    if isinstance(part, DataTable):
        return (*([Text(part.caption, "dim")] if part.caption else []), _fitting(part))
    return None


def _fitting(part: DataTable) -> Table:
    """Return a table, without its minor columns if it is too wide for the terminal."""
    table = table_of(part)
    needed = Measurement.get(out, out.options.update(width=10_000), table).maximum
    if part.whole or part.total is not None or needed <= out.width:
        return table
    kept = [i for i, column in enumerate(part.columns) if not column.minor]
    rows = (replace(row, cells=tuple(row.cells[i] for i in kept)) for row in part.rows)
    return table_of(replace(part, columns=tuple(part.columns[i] for i in kept), rows=tuple(rows)))


def _bullets(part: Bullets) -> Table:
    """Return sentences with a hanging indent, their notes dimmed."""
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column()
    for text, note in part.items:
        line = Text(text)
        if note:
            line.append(f" ({note})", "dim")
        table.add_row("•", line)
    return table


def table_of(part: DataTable) -> Table:
    """Return a table of rows and columns without lines."""
    table = Table(box=None, padding=(0, 2), header_style="dim", show_header=part.headed)
    for column in part.columns:
        justify = "right" if column.number else "left"
        table.add_column(Text(column.name), justify=justify, no_wrap=column.whole)  # type: ignore[arg-type]
    if part.barred:
        table.add_column("")
    for row in part.rows:
        table.add_row(*_cells(row), *_bar(part, row), style=_style(row.tone))
    if part.total is not None:
        table.add_row(*_cells(part.total), *_bar(part, part.total), style="bold")
    return table


def _cells(row: TableRow) -> list[Text]:
    return [Text(cell) for cell in row.cells]


def _bar(part: DataTable, row: TableRow) -> list[Text]:
    if not part.barred:
        return []
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
