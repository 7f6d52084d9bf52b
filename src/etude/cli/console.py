"""What the verbs print with: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.cli import interrupt
from etude.cli.next_step import told

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def complain(message: str, error: BaseException) -> None:
    """Print an error's message and the notes it gathered on its way."""
    line = Text("etude: ", style="bold red")
    line.append(message, style="not bold default")
    err.print(line)
    for note in getattr(error, "__notes__", ()):
        err.print(Text(told(note)))


_document: list[IO[str]] = []
"""Where the JSON document goes while all other output is sent to standard error."""


def print_json(value: Any) -> None:
    """Print one JSON document for machines."""
    stream = _document[-1] if _document else sys.stdout
    stream.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
    stream.flush()


@contextmanager
def document_alone() -> Iterator[None]:
    """Keep standard output for the JSON document: whatever else is printed goes to standard error.

    A task's file may print, and so may a library or a worker process: the file descriptor is
    moved too, where standard output is one.
    """
    stdout = sys.stdout
    stdout.flush()
    try:
        moved = stdout.fileno() == 1
    except (OSError, ValueError, AttributeError):  # captured: there is no descriptor to move
        moved = False
    kept = os.dup(1) if moved else 1
    if moved:
        os.dup2(2, 1)
    interrupt.document = kept
    _document.append(
        open(kept, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor
        if moved
        else stdout
    )
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _document.pop().flush()
        interrupt.document = 1
        if moved:
            stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)


def facts(rows: list[tuple[str, str]]) -> Table:
    """Return a table of names and what they are, without lines."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows:
        table.add_row(name, Text.from_markup(value))
    return table


def number(value: float | None, digits: int = 4) -> str:
    """Return a number to a few digits; a dash for none.

    >>> number(0.123456), number(None)
    ('0.1235', '–')
    """
    return "–" if value is None else f"{value:.{digits}g}"


def metric_text(name: str | None, value: float | None) -> str:
    """Return a metric as people read it: an accuracy in percent.

    >>> metric_text("accuracy", 0.98611), metric_text("mse", 0.01)
    ('98.61%', '0.01')
    """
    if value is not None and name == "accuracy":
        return f"{100 * value:.2f}%"
    return number(value)
