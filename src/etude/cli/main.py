"""The entry point of the program `etude`. It handles Ctrl-C before it loads other modules."""

from __future__ import annotations

from etude.cli.terminal.interrupt import exit_on_interrupt


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 wrong use, 130 interrupted."""
    with exit_on_interrupt():
        from etude.cli.program import app

        app()
