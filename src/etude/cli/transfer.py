"""`etude transfer`: computes the rate for another size from a tuned rate, and tests it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from etude.cli import choices
from etude.cli.console import out, print_json
from etude.cli.draw import draw
from etude.cli.recipe_options import RecipeOptions, takes_recipe
from etude.errors import BadValueError

EPILOG = """[bold]Examples[/bold]

  etude transfer digits-mlp --recipe runs/tuned/recipe.toml --batch-size 256

  etude transfer digits-mlp --recipe tuned.toml --width 32 256 --mup --save wide.toml

  etude transfer my_project.py:task --recipe tuned.toml --steps '40 epochs' --share 0.25"""

Sides = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="BEFORE AFTER", help="Tuned and new size; bundled tasks use the new one."),
]


PLACE = 90
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("transfer", epilog=EPILOG, no_args_is_help=True)(transfer)


@takes_recipe(without=("steps", "batch_size"), help={"lr": "The rate that was tuned."})
def transfer(
    task: choices.TaskName = None,
    batch_size: Annotated[int | None, typer.Option(help="The new batch size.")] = None,
    width: Sides = None,
    mup: Annotated[
        bool | None,
        typer.Option("--mup/--no-mup", help="Whether to use muP's multipliers for the width."),
    ] = None,
    depth: Sides = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="LENGTH", help="The new length: updates, or '20 epochs'."),
    ] = None,
    share: Annotated[float, typer.Option(help="Share of the new run for the comparison.")] = 0.125,
    factor: Annotated[float, typer.Option(help="The factor between neighbouring rates.")] = 2.5,
    further: Annotated[int, typer.Option(help="Rates besides the first three, at most.")] = 2,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recipe to use, .toml or .json."),
    ] = None,
    recipe: RecipeOptions = RecipeOptions(),
    json: choices.Json = False,
) -> None:
    """Transfer a tuned rate to another batch size, width, depth or length, and test it on TASK.

    A rule from the literature gives the new rate. Then this rate and its neighbours are trained
    for a share of the new run, with the same seed. If another rate is clearly better, the rule is
    not confirmed, and that rate is proposed.
    """
    from etude.report import present
    from etude.tuning.transfer.transfer import transfer as carry

    sized = _sized(task, recipe.options, width=width, depth=depth)
    chosen = choices.choose_task(task, sized, None)
    tuned = recipe.choose(chosen, task)
    found = carry(
        tuned,
        chosen,
        batch_size=batch_size,
        width=width,
        mup=mup,
        depth=depth,
        steps=None if steps is None else choices.pairs([f"steps={steps}"], "--steps")["steps"],
        share=share,
        factor=factor,
        further=further,
        device=recipe.device,
        progress=False if json else None,
    )
    if save is not None:
        found.best.save(save)
    if json:
        print_json(found.plain())
    else:
        draw(present(found))
        if save is not None:
            words = [f"--with {shlex.quote(word)}" for word in sized]
            command = " ".join(["etude train", shlex.quote(str(task)), *words])
            out.print(f"\n[dim]{escape(command)} --recipe {escape(shlex.quote(str(save)))}[/dim]")
    if not found.trained:
        raise typer.Exit(1)


def _sized(
    task: str | None, options: list[str] | None, **sides: tuple[int, int] | None
) -> list[str]:
    """Return the task's options with the new width and depth, if the task is a bundled one."""
    given = choices.pairs(options, "--with")
    found = list(options or ())
    for name, pair in sides.items():
        if pair is None:
            continue
        if name in given and given[name] != pair[1]:
            raise BadValueError(
                f"--with {name}={given[name]} is not the second of --{name} {pair[0]} {pair[1]}: "
                "leave --with out"
            )
        if name not in given and task is not None and ":" not in task:
            found.append(f"{name}={pair[1]}")
    return found
