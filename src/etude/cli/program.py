"""The program `etude`: its verbs, and how it reports errors."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import nullcontext
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import etude.cli
from etude.cli.console import complain, document_alone, out, print_json
from etude.cli.interrupt import INTERRUPTED
from etude.cli.next_step import told
from etude.errors import BadTypeError, BadValueError, EtudeError

FAILED, WRONG_USE = 1, 2


class Program(TyperGroup):
    """The verbs; an error or an interruption ends in one message and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note whether the output is JSON for a program: then errors are JSON too."""
        ctx.meta["etude.json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; report errors in words, not as a traceback."""
        with document_alone() if ctx.meta["etude.json"] else nullcontext():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _ended(ctx, stop, INTERRUPTED) from stop
        except (BadValueError, BadTypeError) as error:
            raise _ended(ctx, error, WRONG_USE) from error
        except EtudeError as error:
            raise _ended(ctx, error, FAILED) from error
        except Exception as error:
            told = getattr(error, "format_message", None)  # an error of typer itself
            if told is not None and ctx.meta["etude.json"]:
                print_json({"error": told()})
            raise


def _ended(ctx: Any, error: BaseException, code: int) -> typer.Exit:
    """Report an error to the user or program that reads the output; return the exit to raise."""
    message = told(error) or "interrupted"
    if ctx.meta["etude.json"]:
        print_json({"error": message})
    complain(message, error)
    return typer.Exit(code)


app = typer.Typer(
    name="etude",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Program,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        out.print(f"etude {etude.__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which version this is.", callback=_tell_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Choose, schedule and watch the learning rate of neural networks."""


LAST = 100
"""The place in `etude --help` of a verb without a `PLACE`."""


def verb_files(paths: list[str] | None = None) -> list[ModuleType]:
    """Return the files of this package that hold a verb, in the order of `etude --help`.

    A file holds a verb if it has a function `register`, which adds it to the program; its number
    `PLACE` gives its order. Imports that are needed only when a verb runs are inside its function.

    Args:
        paths: The package's folders; None for its own.
    """
    names = [found.name for found in pkgutil.iter_modules(paths or etude.cli.__path__)]
    others = ("main", "program")  # they start the program
    files = [importlib.import_module(f"etude.cli.{name}") for name in names if name not in others]
    return sorted(
        (one for one in files if hasattr(one, "register")),
        key=lambda one: (getattr(one, "PLACE", LAST), one.__name__),
    )


for verb in verb_files():
    verb.register(app)
