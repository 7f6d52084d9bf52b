"""`etude edge`: the rate at which training breaks, and the rate that curvature predicts."""

from __future__ import annotations

from typing import Annotated

import typer

from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.method_output import show_page

EPILOG = """[bold]Examples[/bold]

  etude edge digits-mlp

  etude edge digits-cnn --recipe runs/tuned/recipe.toml

  etude edge digits-mlp --optimizer sgd --lr 0.1 --batch-size 1024 --at-most 200"""


PLACE = 80
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("edge", epilog=EPILOG, no_args_is_help=True)(edge)


@takes_recipe(help={"lr": "The rate at which probing starts."})
def edge(
    task: choices.TaskName = None,
    at_most: Annotated[int, typer.Option(help="Updates of each probe.")] = 500,
    doublings: Annotated[int, typer.Option(help="The largest number of doublings.")] = 6,
    bisections: Annotated[
        int, typer.Option(help="How often the gap below the edge is halved.")
    ] = 2,
    marks: Annotated[
        int, typer.Option(help="Updates, besides the first, at which the sharpness is measured.")
    ] = 2,
    samples: Annotated[
        int | None,
        typer.Option(help="Training samples it is measured on (default: four batches)."),
    ] = None,
    iterations: Annotated[
        int, typer.Option(help="Hessian-vector products at most; 0 measures no sharpness.")
    ] = 30,
    recipe: RecipeOptions = RecipeOptions(),
    page: choices.Page = None,
    json: choices.Json = False,
) -> None:
    """Double TASK's rate until training breaks; compare this rate with the one curvature predicts.

    Every probe starts from the same weights, with the same batches, and does the first updates of
    the recipe's schedule. The sharpness is the largest eigenvalue of the Hessian, preconditioned
    by the optimizer's second moment if it has one.
    """
    from etude.measure.edge import edge as measure

    chosen = choices.choose_task(task, recipe.options, None)
    wanted = recipe.choose(chosen, task)
    found = measure(
        chosen,
        wanted,
        steps=at_most,
        doublings=doublings,
        bisections=bisections,
        marks=marks,
        samples=samples,
        iterations=iterations,
        device=recipe.device,
        progress=False if json else None,
    )
    show_page(found, page, None, json=json)
