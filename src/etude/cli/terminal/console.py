"""Output of the verbs: results on standard output, everything else on standard error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, Any

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from etude.cli.terminal import interrupt
from etude.cli.terminal.next_step import message_of

ANY_WIDTH = 10_000
"""The width of output that no terminal shows: nothing is wrapped, and nothing is left out."""


class ResultConsole(Console):
    """Standard output: as wide as the terminal, and of any width in a file or a pipe."""

    @property
    def size(self) -> ConsoleDimensions:
        """The columns and lines; rich would take 80 for a file and for a simple terminal."""
        if not self.is_terminal:
            return ConsoleDimensions(ANY_WIDTH, 25)
        if self.is_dumb_terminal:
            return ConsoleDimensions(*shutil.get_terminal_size((80, 25)))
        return super().size

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        self._width, self._height = new


out = ResultConsole(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: RenderableType) -> None:
    """Print sentences, wrapped between words; a command to be copied is better printed whole."""
    out.print(text, soft_wrap=False)


def print_error(message: str, error: BaseException) -> None:
    """Print an error's message and its notes."""
    line = Text("etude: ", style="bold red")
    line.append(message, style="not bold default")
    err.print(line)
    for note in getattr(error, "__notes__", ()):
        err.print(Text(message_of(note)))


_document: list[IO[str]] = []
"""The stream of the JSON document while all other output goes to standard error."""


def print_json(value: Any) -> None:
    """Print one JSON document for programs."""
    if out.quiet:
        return
    stream = _document[-1] if _document else sys.stdout
    stream.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
    stream.flush()


def is_full(error: BaseException) -> bool:
    """Return whether an error is that of standard output, which nothing more can be written to."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full and getattr(error, "filename", None) is None


def drop_output() -> None:
    """Drop what waits to be written to standard output, which would fail again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in {1, interrupt.document}:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def reserve_stdout() -> Iterator[None]:
    """Use standard output only for the JSON document; all other output goes to standard error.

    The code of a task, a library or a worker process may print. Therefore the file descriptor is
    redirected too, if standard output has one.
    """
    stdout = sys.stdout
    stdout.flush()
    try:
        moved = stdout.fileno() == 1
    except (OSError, ValueError, AttributeError):  # captured output has no file descriptor
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
    """Return a table of names and values, without lines."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text.from_markup(value))
    return table


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with a few digits, or a dash for None.

    >>> number(0.123456), number(None)
    ('0.1235', '–')
    """
    return "–" if value is None else f"{value:.{digits}g}"


def files(home: Path, page: Path) -> Table:
    """Return the paths of the run folder and its report, as a table."""
    return facts(
        [
            ("run folder", f"[bold]{escape(str(home))}[/bold]"),
            ("report", f"[bold]{escape(str(page))}[/bold]"),
        ]
    )
