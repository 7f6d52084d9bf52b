"""Lets a terminal of any width wrap the paragraphs of `--help`."""

from __future__ import annotations

import inspect
import re

import typer

_ITEM = re.compile(r"^(\s|[-*•]\s|\d+\.\s)")
"""The beginning of a line that stays on its own: one that is indented, or an item of a list."""


def reflowed(text: str) -> str:
    """Return a text whose paragraphs are one line each; lists and indented lines stay as they are.

    Args:
        text: Paragraphs, separated by empty lines, whose lines end where the source's do.

    >>> reflowed("The first line\\nand its end.\\n\\nA list:\\n- one\\n- two")
    'The first line and its end.\\n\\nA list:\\n- one\\n- two'
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


def _joined(lines: list[str]) -> str:
    found: list[str] = []
    for line in lines:
        if found and not _ITEM.match(line):
            found[-1] += f" {line}"
        else:
            found.append(line)
    return "\n".join(found)
