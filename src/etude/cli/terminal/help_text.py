"""Lets a terminal of any width wrap the paragraphs of `--help`."""

from __future__ import annotations

import inspect
import re
import shutil
from typing import Any

import typer
from rich.text import Text

NARROW = 80
"""The number of columns from which on options fit beside their texts in a table with a frame."""

_ITEM = re.compile(r"^(\s|[-*•]\s|\d+\.\s)")
"""The beginning of a line that stays on its own: one that is indented, or an item of a list."""


def reflowed(text: str) -> str:
    r"""Return a text whose paragraphs are one line each; lists and indented lines stay as they are.

    Args:
        text: Paragraphs, separated by empty lines, whose lines end where the source's do.

    >>> reflowed("The first line\nand its end.\n\nA list:\n- one\n- two")
    'The first line and its end.\n\nA list:\n- one\n- two'
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(_joined(paragraph.splitlines()) for paragraph in paragraphs)


def reflow_help(app: typer.Typer) -> None:
    """Reflow the docstrings of all verbs of a program, and of the verbs of these verbs."""
    for command in app.registered_commands:
        text = command.help or inspect.getdoc(command.callback)
        command.help = None if text is None else reflowed(text)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            reflow_help(group.typer_instance)


def fit_terminal(command: Any) -> None:
    """Make a verb, and the verbs of it, print plain help if the terminal is narrow.

    A table with a frame would cut off the names of options there.
    """
    if shutil.get_terminal_size().columns < NARROW:
        _make_plain(command)


def _make_plain(command: Any) -> None:
    command.rich_markup_mode = None
    command.short_help = _plain((command.help or "").partition("\n\n")[0])
    command.help, command.epilog = _plain(command.help), _plain(command.epilog)
    for inner in getattr(command, "commands", {}).values():
        _make_plain(inner)


def _plain(text: str | None) -> str:
    r"""Return a text without markup; paragraphs of several lines are kept as they are.

    >>> _plain("[bold]A plan[/bold]\n\n  one\n  two")
    'A plan\n\n\x08\n  one\n  two'
    """
    paragraphs = Text.from_markup(text or "").plain.split("\n\n")
    return "\n\n".join(f"\b\n{one}" if "\n" in one else one for one in paragraphs)


def _joined(lines: list[str]) -> str:
    found: list[str] = []
    for line in lines:
        if found and not _ITEM.match(line):
            found[-1] += f" {line}"
        else:
            found.append(line)
    return "\n".join(found)
