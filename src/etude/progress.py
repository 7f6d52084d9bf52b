"""Progress: a bar on a terminal's error stream, or else a line at intervals."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS = 10.0
"""Seconds between two lines if no terminal can show a bar; shorter work prints nothing."""


class Bar(Protocol):
    """Protocol of functions that show the progress of work of known length."""

    def __call__(self, done: float, total: float, text: str) -> None:
        """Show that `done` of `total` is done, with a text."""


def silent(done: float, total: float, text: str) -> None:
    """Show nothing."""


class _Lines:
    """Writes a line at intervals, for a log."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.told = time.monotonic()

    def __call__(self, done: float, total: float, text: str) -> None:
        if (now := time.monotonic()) - self.told >= SECONDS:
            self.told = now
            share = done / total if total else 0.0
            print(f"{self.title}: {share:.0%} {text}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def bar(wanted: bool | None, title: str) -> Iterator[Bar]:
    """Return a progress function that is active within a `with` block.

    Args:
        wanted: Whether to draw the bar; None draws it on a terminal, and elsewhere writes a line
            every `SECONDS`.
        title: The name of the work.
    """
    if wanted is False:
        yield silent
        return
    # A terminal that cannot move its cursor would show no bar at all.
    plain = not sys.stderr.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    if wanted is None and plain:
        yield _Lines(title)
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
