"""A progress bar for whoever watches: drawn on a terminal's error stream, else silent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    """Takes the state of some work of known length."""

    def __call__(self, done: float, total: float, text: str) -> None:
        """Show that `done` of `total` is done, and what `text` says of it."""


def _silent(done: float, total: float, text: str) -> None:
    return None


@contextmanager
def bar(wanted: bool | None, title: str) -> Iterator[Bar]:
    """Give a bar to report to for the length of a block.

    Args:
        wanted: Whether to draw it; None draws it where somebody sits at a terminal.
        title: What is being done.
    """
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        work = progress.add_task(title, total=None, text="")

        def show(done: float, total: float, text: str) -> None:
            progress.update(work, completed=done, total=total, text=text)

        yield show
