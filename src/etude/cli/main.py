"""The entry point of the program `etude`. It handles Ctrl-C before it loads other modules."""

from __future__ import annotations

import sys

from etude.cli.terminal.interrupt import exit_on_interrupt

FULL = "cannot write to standard output: no space left on its device; write it elsewhere"


def main() -> None:
    """Run the command line, with which the process ends.

    Exit codes: 0 success, 1 failure, 2 wrong use, 130 interrupted.
    """
    with exit_on_interrupt(ends=True):
        _run()


def command_line() -> None:
    """Run the command line in a process that goes on: it raises SystemExit with the exit code."""
    with exit_on_interrupt():
        _run()


def _run() -> None:
    from etude.cli.program import app
    from etude.cli.terminal.console import drop_output, is_full, print_error

    try:
        app()
    except OSError as error:
        if not is_full(error):
            raise
        drop_output()
        print_error(FULL, error)
        sys.exit(1)
