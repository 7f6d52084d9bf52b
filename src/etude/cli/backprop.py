"""`etude backprop`: one step of forward, loss, backward and update, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.method_output import show_page
from etude.errors import BadValueError

EPILOG = """[bold]Examples[/bold]

  etude backprop digits-mlp

  etude backprop digits-deep-mlp --with activation=sigmoid --html step.html

  etude backprop digits-lstm --batch 16 --after 200"""


PLACE = 56
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("backprop", epilog=EPILOG, no_args_is_help=True)(backprop)


@takes_recipe()
def backprop(
    task: choices.TaskName = None,
    page: Annotated[
        Path | None,
        typer.Option("--html", "--save", metavar="FILE", help="Write the report as a page."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", help="Samples in the batch, as --batch-size."),
    ] = None,
    after: Annotated[
        int, typer.Option("--after", metavar="N", help="Updates to do before this step.")
    ] = 0,
    recipe: RecipeOptions = RecipeOptions(),
    json: choices.Json = False,
) -> None:
    """Show one step of TASK, layer by layer: forward, loss, backward, update.

    For every layer: the outputs' shape and spread, the gradient's norm, and the factor by which the
    gradient shrinks or grows on its way back; for every parameter: gradient and update.
    """
    from etude.measure.backprop import backprop as measure

    if batch is not None:
        if choices.batch_size(recipe.batch_size) not in (None, batch):
            raise BadValueError(
                f"--batch {batch} and --batch-size {recipe.batch_size}: give one of them"
            )
        recipe = replace(recipe, batch_size=str(batch))
    chosen = choices.choose_task(task, recipe.options, None)
    found = measure(chosen, recipe.choose(chosen, task), after=after, device=recipe.device)
    show_page(found, page, None, json=json)
