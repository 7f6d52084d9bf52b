"""`etude grid`: trains every rate of a list to its end."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from etude.cli.options import choices
from etude.cli.options.rates import read_rates
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.method_output import show_found

EPILOG = """[bold]Examples[/bold]

  etude grid digits-mlp

  etude grid digits-cnn --lrs 0.001,0.003,0.01 --seeds 3

  etude grid diabetes-mlp --lrs 1e-4:1:9 --folds 5

  etude grid --resume runs/digits-mlp-20250101-120000"""


PLACE = 22
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("grid", epilog=EPILOG, no_args_is_help=True)(grid)


@takes_recipe(without=("lr",))
def grid(
    task: choices.TaskName = None,
    lrs: Annotated[
        str | None,
        typer.Option(
            metavar="RATES",
            help="Rates separated by commas, or LOW:HIGH:COUNT; default: seven, half a decade "
            "apart, around the usual rate of the optimizer.",
        ),
    ] = None,
    lr: choices.TypedRate = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds for each rate (default: 1).")] = None,
    recipe: RecipeOptions = RecipeOptions(),
    objective: choices.Objective = None,
    maximize: choices.Maximize = None,
    folds: choices.Folds = None,
    engine: choices.EngineName = None,
    on: choices.On = None,
    folder: choices.Out = None,
    resume: choices.Resume = None,
    own: choices.TaskOnResume = None,
    accept: choices.Accept = False,
    json: choices.Json = False,
) -> None:
    """Train every learning rate of a grid to its end; show which trains TASK best.

    Prints the loss at each rate, the best rate and those that tie with it, and the cost: one full
    run for each rate, seed and fold. `tune` needs less, because it leaves the worse rates early.
    """
    from etude.methods.grid import grid as train_all

    choices.refuse_rate(lr, recipe.changes, task, "grid")
    chosen = choices.choose_task(task, recipe.options, resume, own)
    wanted: dict[str, Any] = {}
    if resume is None:
        wanted = {"recipe": recipe.choose(chosen, task), "lrs": read_rates(lrs), "seeds": seeds}
        wanted |= {"objective": objective, "maximize": maximize, "folds": folds}
    else:
        given = (lrs, seeds, objective, maximize, folds, folder)
        choices.refuse_with_resume(recipe.typed(), *given)
    with (
        choices.run_folder(folder, resume, task) as home,
        choices.engine_on(engine, on) as chosen_engine,
    ):
        found = train_all(
            chosen,
            folder=home.path,
            resume=resume is not None,
            accept_changes=accept,
            device=recipe.device,
            engine=chosen_engine,
            progress=False if json else None,
            **wanted,
        )
        show_found(found, home, chosen, json=json)
    if found.lr is None:
        raise typer.Exit(1)
