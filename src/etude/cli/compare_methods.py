"""`etude compare-methods`: the ways to choose a rate, side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from etude.cli.options import choices
from etude.cli.options.rates import read_rates
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.method_output import show_page

EPILOG = """[bold]Examples[/bold]

  etude compare-methods digits-mlp

  etude compare-methods diabetes-mlp --methods grid,tuner --lrs 1e-3:1:7

  etude compare-methods digits-mlp --html methods.html"""


PLACE = 24
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("compare-methods", epilog=EPILOG, no_args_is_help=True)(compare_methods)


@takes_recipe()
def compare_methods(
    task: choices.TaskName = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Some of default, 'range test', grid, folds and tuner, separated by commas; "
            "default: all that suit the task."
        ),
    ] = None,
    lrs: Annotated[
        str | None,
        typer.Option(
            metavar="RATES", help="The grid: rates separated by commas, or LOW:HIGH:COUNT."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.")] = 3,
    rule: Annotated[str, typer.Option(help="The rule of the range test.")] = "valley",
    budget: Annotated[float, typer.Option(help="The tuner's, in full training runs.")] = 3.0,
    objective: choices.Objective = None,
    maximize: choices.Maximize = None,
    engine: choices.EngineName = None,
    recipe: RecipeOptions = RecipeOptions(),
    page: choices.Page = None,
    json: choices.Json = False,
) -> None:
    """Choose TASK's rate by range test, grid, cross-validation and tuner; show what each misses.

    Each way ends with a full run at its rate, which its cost includes. What it missed is the share
    of the drop in loss to the best full run of the comparison.
    """
    from etude.methods.compare import compare_methods as compare

    chosen = choices.choose_task(task, recipe.options, None)
    found = compare(
        chosen,
        recipe.choose(chosen, task),
        methods=None if methods is None else [name.strip() for name in methods.split(",")],
        lrs=read_rates(lrs),
        folds=folds,
        rule=rule,
        budget=budget,
        objective=objective,
        maximize=maximize,
        engine=engine,
        device=recipe.device,
        progress=False if json else None,
    )
    show_page(found, page, chosen, json=json)
