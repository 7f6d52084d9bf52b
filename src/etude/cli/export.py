"""`etude export`: writes a recipe as code or configuration for another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from etude import files
from etude.cli.options import choices
from etude.cli.terminal.console import out, print_json
from etude.errors import BadValueError, StorageError

if TYPE_CHECKING:
    from etude.recipe import Recipe

EPILOG = """[bold]Examples[/bold]

  etude export --list

  etude export runs/digits-cnn-20250101-120000 --as optax

  etude export recipe.toml --as transformers --steps 2000

  etude export recipe.toml --as nanogpt --steps 5000 --nearest --out config/train_mine.py"""


PLACE = 42
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("export", epilog=EPILOG, no_args_is_help=True)(export)


def export(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE",
            help="A recipe file, .toml or .json, or the folder of a run or tuning.",
            show_default=False,
        ),
    ] = None,
    targets: Annotated[bool, typer.Option("--list", help="List what --as takes.")] = False,
    target: Annotated[
        str | None, typer.Option("--as", metavar="TARGET", help="The program (--list).")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Length in updates (default: the run's, or the recipe's).", min=1),
    ] = None,
    nearest: Annotated[
        bool,
        typer.Option(
            "--nearest",
            help="Take the nearest schedule that the program has, and say by how much it differs.",
        ),
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to a file.")
    ] = None,
    json: choices.Json = False,
) -> None:
    """Write a recipe for another program: its schedule, optimizer, clipping and accumulation.

    What the program cannot express is refused, unless --nearest allows a schedule that differs.
    What it does not apply is listed in a comment at the end.
    """
    from etude.export import TARGETS, export_code

    if targets:
        _list_targets(json)
        return
    if source is None:
        raise BadValueError("no recipe: give a recipe file, or the folder of a run or tuning")
    if target is None:
        raise BadValueError(f"for which program? Give --as: {', '.join(TARGETS)}")
    recipe, length = _read(source)
    chosen = steps if steps is not None else length
    if chosen is None and isinstance(recipe.steps, str):
        raise BadValueError(
            f"{str(source)!r} has steps={recipe.steps!r}, and how many updates that are depends on "
            "the data: give --steps"
        )
    code = export_code(recipe, target, chosen, nearest=nearest)
    if file is not None:
        files.write_text(file, f"{code}\n")
    if json:
        where = {} if file is None else {"file": str(file)}
        print_json({"target": target, "code": code, **where})
    elif file is None:
        out.print(code, markup=False, highlight=False, soft_wrap=True)
    else:
        out.print(f"written to [bold]{escape(str(file))}[/bold]")


def _list_targets(json: bool) -> None:
    from etude.export import TARGETS

    if json:
        print_json([{"name": name, "what": row.what} for name, row in TARGETS.items()])
        return
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("target", no_wrap=True)
    table.add_column("what is written")
    for name, row in TARGETS.items():
        table.add_row(f"[bold]{name}[/bold]", escape(row.what))
    out.print(table)


def _read(source: Path) -> tuple[Recipe, int | None]:
    """Return the recipe of a file or folder, and how many updates its run has, where it is kept."""
    from etude.recipe import Recipe
    from etude.record import Record
    from etude.storage.run_folder import RunFolder

    if not source.is_dir():
        return Recipe.load(source), None
    recipe = RunFolder(source).recipe()
    if recipe is None:
        raise StorageError(
            f"{str(source)!r} holds no recipe: give the folder of a run, or of a tuning that came "
            "to its end"
        )
    try:
        return recipe, Record.load(source).length
    except StorageError:
        return recipe, None  # the run has not come to its end
