"""The entry point of the program `etude`. It handles Ctrl-C before it loads other modules."""

from __future__ import annotations

import sys

from etude.cli.terminal.interrupt import exit_on_interrupt

FULL = "cannot write to standard output: no space left on its device; write it elsewhere"


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 wrong use, 130 interrupted."""
    with exit_on_interrupt():
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
