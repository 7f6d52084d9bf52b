"""The program `etude`: its verbs, and what an error looks like."""

from __future__ import annotations

import sys

import typer
from typer.core import TyperGroup

from etude.cli import schedule, tasks, train, tune
from etude.cli.console import complain
from etude.errors import BadTypeError, BadValueError, EtudeError

app = typer.Typer(
    name="etude",
    help="Choose, schedule and watch the learning rate of neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=TyperGroup,
)
for verb in (tune, train, tasks, schedule):
    verb.register(app)

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command line; an error is one message, never a traceback.

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    try:
        app()
    except KeyboardInterrupt as stop:
        complain(str(stop) or "stopped", stop)
        sys.exit(INTERRUPTED)
    except (BadValueError, BadTypeError) as error:
        complain(str(error), error)
        sys.exit(WRONG_USE)
    except EtudeError as error:
        complain(str(error), error)
        sys.exit(FAILED)
    except BrokenPipeError:
        # Whoever read our output has left, as `etude tasks | head` does.
        sys.stderr.close()
        sys.exit(FAILED)
