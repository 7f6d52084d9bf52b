"""`etude export`: writes a recipe as code or configuration for another program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from etude import files
from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions
from etude.cli.terminal.console import out, print_json
from etude.errors import BadValueError, StorageError
from etude.next_step import NearestSchedule

if TYPE_CHECKING:
    from etude.recipe import Recipe
    from etude.tasks import Task

EPILOG = """[bold]Examples[/bold]

  etude export --list

  etude export runs/digits-cnn-20250101-120000 --as optax

  etude export recipe.toml --as transformers --steps 2000

  etude export my_project.py:task --as optax --steps 2000

  etude export recipe.toml --as nanogpt --steps 5000 --nearest --out config/train_mine.py"""


INPUTS = "a recipe file (.toml or .json), the folder of a run or tuning, or a task as file.py:name"

PLACE = 42
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("export", epilog=EPILOG, no_args_is_help=True)(export)


def export(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="A recipe file, .toml or .json, the folder of a run or tuning, or a task as "
            "file.py:name, for the recipe with which `etude tune` begins.",
            show_default=False,
        ),
    ] = None,
    targets: Annotated[bool, typer.Option("--list", help="List what --as takes.")] = False,
    target: Annotated[
        str | None,
        typer.Option("--as", "--to", metavar="TARGET", help="The program (--list)."),
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
        raise BadValueError(f"no recipe: give {INPUTS}")
    if target is None:
        raise BadValueError(f"for which program? Give --as: {', '.join(TARGETS)}")
    recipe, length, task = _read(source)
    chosen = steps if steps is not None else length
    if chosen is None and isinstance(recipe.steps, str):
        raise BadValueError(
            f"{source!r} has steps={recipe.steps!r}, and how many updates that are depends on "
            "the data: give --steps"
        )
    try:
        code = export_code(recipe, target, chosen, task=task, nearest=nearest)
    except BadValueError as error:
        if isinstance(error.next_step, NearestSchedule):
            error.next_step = replace(error.next_step, place=_place(source))
        raise
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
    table.add_column("what is written", overflow="fold")
    for name, row in TARGETS.items():
        table.add_row(f"[bold]{name}[/bold]", escape(row.what))
    out.print(table)


def _place(source: str) -> str:
    """Return where the schedule of a source can be changed, as words for a message."""
    from etude.storage.layout import RECIPE

    if Path(source).is_dir():
        return f"a copy of {Path(source) / RECIPE}, and export that"
    place, colon, _ = source.rpartition(":")
    return f"`recipe` of {place}, as Recipe(schedule=...)" if colon else source


def _read(source: str) -> tuple[Recipe, int | None, Task | None]:
    """Return the recipe of a file, folder or task.

    With it, how many updates its run has, where that is kept, and the task, where it was named.
    """
    from etude import tasks
    from etude.recipe import Recipe
    from etude.record import Record
    from etude.storage.run_folder import RunFolder

    path = Path(source)
    if not path.exists() and ":" in source:
        task = tasks.load(source)
        return RecipeOptions().choose(task, source), None, task
    if path.suffix == ".py":
        raise BadValueError(f"{source!r} is no recipe: give {INPUTS}")
    if not path.is_dir():
        return Recipe.load(path), None, None
    recipe = RunFolder(path).recipe()
    if recipe is None:
        raise StorageError(
            f"{source!r} holds no recipe: give the folder of a run, or of a tuning that came "
            "to its end"
        )
    try:
        return recipe, Record.load(path).length, None
    except StorageError:
        return recipe, None, None  # the run has not come to its end
