"""The program `etude`: its verbs, and its error messages."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import nullcontext
from types import ModuleType
from typing import Annotated, Any

import typer

import etude.cli
from etude.cli.options.processes import mute_others
from etude.cli.options.unknown_option import unknown_option
from etude.cli.options.unknown_verb import VerbGroup
from etude.cli.options.whole_numbers import spelt_out
from etude.cli.terminal.console import out, print_error, print_json, reserve_stdout
from etude.cli.terminal.help_text import fit_terminal, reflow_help
from etude.cli.terminal.interrupt import INTERRUPTED, interruption_told
from etude.cli.terminal.next_step import message_of
from etude.cli.terminal.warning_lines import warnings_in_one_line
from etude.errors import BadTypeError, BadValueError, EtudeError, WorldError, shown
from etude.recipe_mistakes import explain

FAILED, WRONG_USE = 1, 2

LOST = 75
"""The exit code if another process does not answer: the same command may succeed later."""


class Program(VerbGroup):
    """Runs a verb; an error or an interruption gives one message and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; with `--json`, errors are JSON too."""
        ctx.meta["etude.json"] = "--json" in args
        ctx.meta["etude.arguments"] = list(args)
        fit_terminal(self)
        return super().parse_args(ctx, spelt_out(self, args))

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; report errors as messages, not as tracebacks."""
        stdout = reserve_stdout() if ctx.meta["etude.json"] else nullcontext()
        with stdout, warnings_in_one_line():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        arguments: list[str] = ctx.meta["etude.arguments"]
        try:
            mute_others(next((word for word in arguments if not word.startswith("-")), ""))
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            verb = self.commands.get(ctx.invoked_subcommand)
            with interruption_told():
                raise _reported(ctx, stop, INTERRUPTED, _without_trace(verb)) from stop
        except (BadValueError, BadTypeError) as error:
            raise _reported(ctx, error, WRONG_USE) from error
        except WorldError as error:
            raise _reported(ctx, error, LOST) from error
        except EtudeError as error:
            raise _reported(ctx, error, FAILED) from error
        except Exception as error:
            if wrong := _wrong_value(error) or _wrong_option(error, arguments):
                raise _reported(ctx, BadValueError(wrong), WRONG_USE) from error
            describe = getattr(error, "format_message", None)  # an error of typer itself
            if describe is not None and ctx.meta["etude.json"]:
                print_json({"error": describe()})
            raise


def _wrong_value(error: Exception) -> str:
    """Return what is wrong with the value of an option that typer refused; empty if unknown."""
    option = getattr(error, "param", None)
    mistakes = getattr(error.__cause__, "errors", None)
    if option is None or mistakes is None or not option.opts[0].startswith("-"):
        return ""
    mistake = mistakes()[0]
    value = mistake["input"]
    said = explain({**mistake, "loc": ("value",)}, (), least=_least(option))
    return f"{option.opts[0]} {value}{said.removeprefix(f'value={shown(value)}')}"


def _least(option: Any) -> int | None:
    """Return the least value of an option for a whole number; None if it is not known here."""
    from etude.recipe import Recipe

    least: int | None = getattr(getattr(option, "parameter_info", None), "min", None)
    if least is None and option.name in Recipe.model_fields:
        return 0 if _allowed(option.name, 0) else 1
    return least


def _allowed(field: str, value: int) -> bool:
    from etude.recipe import Recipe

    given: dict[str, Any] = {field: value}
    try:
        Recipe(**given)
    except BadValueError:
        return False
    return True


def _wrong_option(error: Exception, arguments: list[str]) -> str:
    """Return which option is meant by an unknown one; empty if the error is another."""
    typed, context = getattr(error, "option_name", ""), getattr(error, "ctx", None)
    if context is None or not hasattr(error, "possibilities"):
        return ""
    return unknown_option(context.command, context.command_path, typed, arguments)


def _without_trace(verb: Any) -> str:
    """Return what is said of an interruption that says nothing itself.

    A verb without `--resume` writes its results at its end.
    """
    groups = hasattr(verb, "commands")
    if verb is None or groups or any("--resume" in one.opts for one in verb.params):
        return "interrupted"
    return "interrupted; nothing was saved: to begin again, give the same command"


def _reported(ctx: Any, error: BaseException, code: int, usual: str = "") -> typer.Exit:
    """Print an error, as JSON if that was requested, and return the exit to raise."""
    message = message_of(error) or usual
    if ctx.meta["etude.json"]:
        print_json({"error": message})
    print_error(message, error)
    return typer.Exit(code)


EPILOG = """[bold]Begin with[/bold]

  etude tune digits-cnn             one of the bundled tasks

  etude tasks                       the list of them

  etude tune my_project.py:task     your own network and data

  etude diagnose my_project.py:task     if it does not train

  etude tune --help                 the options and examples of a verb"""

app = typer.Typer(
    name="etude",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Program,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"etude {etude.__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Tune, schedule and measure the learning rate of neural networks."""


LAST = 100
"""The position in `etude --help` of a verb without a `PLACE`."""


def verb_files(paths: list[str] | None = None) -> list[ModuleType]:
    """Return the modules of this package that define a verb, in the order of `etude --help`.

    A module defines a verb if it has a function `register`, which adds it to the program. Its
    number `PLACE` determines the order. Modules that are needed only when a verb runs are imported
    inside its function.

    Args:
        paths: The folders to search; None for those of this package.
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
reflow_help(app)
