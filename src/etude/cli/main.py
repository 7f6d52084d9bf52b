"""The entry of the program `etude`. It loads nothing until Ctrl-C is in good hands."""

from __future__ import annotations

from etude.cli.interrupt import leave_at_once


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    with leave_at_once():
        from etude.cli.program import app

        app()
