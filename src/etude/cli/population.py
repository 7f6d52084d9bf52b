"""`etude population`: trains members that copy each other, and learns a schedule on the way."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from etude.cli.options import choices
from etude.cli.options.rates import read_rates
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.method_output import show_found

EPILOG = """[bold]Examples[/bold]

  etude population digits-mlp

  etude population digits-cnn --members 6 --schedule "constant()"

  etude population digits-mlp --lrs 0.001,0.003,0.01 --generations 10 --engine vmap

  etude population --resume runs/digits-mlp-20250101-120000"""


PLACE = 24
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("population", epilog=EPILOG, no_args_is_help=True)(population)


@takes_recipe(without=("lr",))
def population(
    task: choices.TaskName = None,
    members: Annotated[
        int | None, typer.Option(help="How many train side by side (default: 8).")
    ] = None,
    lrs: Annotated[
        str | None,
        typer.Option(
            metavar="RATES",
            help="The rates they begin with, separated by commas, or LOW:HIGH:COUNT; default: 0.4 "
            "decades apart around the usual rate of the optimizer.",
        ),
    ] = None,
    lr: choices.TypedRate = None,
    generations: Annotated[
        int | None, typer.Option(help="Into how many parts the run is cut (default: 20).")
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="The share of the members that copies each time (default: 0.25)."),
    ] = None,
    factors: Annotated[
        str | None,
        typer.Option(
            metavar="FACTORS",
            help="What a copied rate may be multiplied by (default: 0.8,1.25).",
        ),
    ] = None,
    recipe: RecipeOptions = RecipeOptions(),
    objective: choices.Objective = None,
    maximize: choices.Maximize = None,
    engine: choices.EngineName = None,
    on: choices.On = None,
    folder: choices.Out = None,
    resume: choices.Resume = None,
    own: choices.TaskOnResume = None,
    accept: choices.Accept = False,
    json: choices.Json = False,
) -> None:
    """Train members at several rates that copy each other; learn a schedule for TASK from them.

    At the end of each part of the run the worse members copy the better ones and move the rate by
    a factor. Prints the schedule of the best member, which trains to the same weights from the
    start, and the cost: one full run for each member.
    """
    from etude.methods.population import population as train_all

    choices.refuse_rate(lr, recipe.changes, task, "population")
    chosen = choices.choose_task(task, recipe.options, resume, own)
    wanted: dict[str, Any] = {}
    if resume is None:
        wanted = {"recipe": recipe.choose(chosen, task), "members": members}
        wanted |= {"lrs": read_rates(lrs), "generations": generations, "truncation": truncation}
        wanted |= {
            "factors": read_rates(factors, "--factors"),
            "objective": objective,
            "maximize": maximize,
        }
    else:
        given = (members, lrs, generations, truncation, factors, objective, maximize, folder)
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
    if found.best is None:
        raise typer.Exit(1)
