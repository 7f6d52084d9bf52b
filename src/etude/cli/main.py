"""The program `etude`: its verbs, and what an error looks like."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from etude.cli import layerwise, optimizers, schedule, sensitivity, tasks, train, tune
from etude.cli.console import complain
from etude.errors import BadTypeError, BadValueError, EtudeError

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


class Program(TyperGroup):
    """The verbs; an error or an interruption ends in one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; what goes wrong is told in words, never as a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            complain(str(stop) or "interrupted", stop)
            raise typer.Exit(INTERRUPTED) from stop
        except (BadValueError, BadTypeError) as error:
            complain(str(error), error)
            raise typer.Exit(WRONG_USE) from error
        except EtudeError as error:
            complain(str(error), error)
            raise typer.Exit(FAILED) from error


app = typer.Typer(
    name="etude",
    help="Choose, schedule and watch the learning rate of neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Program,
)
for verb in (tune, train, tasks, schedule, layerwise, sensitivity, optimizers):
    verb.register(app)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    app()
