"""Writes the page of what a method found, and prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from etude.cli.terminal.console import files, out, print_json
from etude.cli.terminal.draw import draw

if TYPE_CHECKING:
    from etude.storage.compressed_folder import CompressedFolder
    from etude.storage.run_folder import RunFolder
    from etude.tasks.task import Task


def show_page(found: Any, page: Path | None, task: Task | None, *, json: bool) -> None:
    """Print a result, as text or as JSON, and write its page if one was asked for."""
    from etude import report
    from etude.report import present

    if page is not None:
        report.write(found, page, task=task)
    if json:
        print_json({**found.plain(), "html": None if page is None else str(page)})
        return
    draw(present(found, task=task))
    if page is not None:
        out.print(f"\n[dim]page[/dim]   [bold]{escape(str(page))}[/bold]")


def show_found(
    found: Any, home: RunFolder | CompressedFolder, task: Task | None, *, json: bool
) -> None:
    """Write the page of a result into its folder; print the result, as text or as JSON."""
    from etude import report
    from etude.report import present

    page = report.write(found, home.report, task=task)
    if json:
        print_json({**found.plain(), "folder": str(home.path), "report": str(page)})
        return
    draw(present(found, task=task))
    out.print()
    out.print(files(home.path, page))
