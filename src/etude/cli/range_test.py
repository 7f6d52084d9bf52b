"""`etude range-test`: raises the rate over a short run, and reads a rate off the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.console import out, print_json
from etude.cli.terminal.draw import draw

EPILOG = """[bold]Examples[/bold]

  etude range-test digits-mlp

  etude range-test digits-cnn --rule lr-finder --repeats 5

  etude range-test my_project.py:task --optimizer sgd --report ramp.html"""


PLACE = 23
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("range-test", epilog=EPILOG, no_args_is_help=True)(range_test)


@takes_recipe(without=("lr",))
def range_test(
    task: choices.TaskName = None,
    rule: Annotated[
        str,
        typer.Option(
            help="valley, slide, steep or minimum/10 (fastai's), lightning, or lr-finder."
        ),
    ] = "valley",
    updates: Annotated[int, typer.Option(help="Updates of a ramp.")] = 100,
    repeats: Annotated[int, typer.Option(help="How many ramps, each with another seed.")] = 3,
    lr: choices.TypedRate = None,
    recipe: RecipeOptions = RecipeOptions(),
    page: Annotated[
        Path | None,
        typer.Option("--html", "--report", metavar="FILE", help="Write a page with the curves."),
    ] = None,
    json: choices.Json = False,
) -> None:
    """Raise TASK's rate exponentially over a short run; read a rate off the training loss.

    Ramp and rule are those of fastai, Lightning or pytorch-lr-finder. The ramp is repeated, to
    show how far the suggestion depends on the seed. `tune` compares rates by whole runs.
    """
    from etude import report
    from etude.methods.range_test import range_test as measure
    from etude.report import present

    choices.refuse_rate(lr, recipe.changes, task, "range-test")
    chosen = choices.choose_task(task, recipe.options, None)
    found = measure(
        chosen,
        recipe.choose(chosen, task),
        rule=rule,
        updates=updates,
        repeats=repeats,
        device=recipe.device,
        progress=False if json else None,
    )
    written = None if page is None else report.write(found, page, task=chosen)
    if json:
        print_json({**found.plain(), "report": None if written is None else str(written)})
    else:
        draw(present(found, task=chosen))
        if written is not None:
            out.print()
            out.print(f"Report: {written}")
    if found.lr is None:
        raise typer.Exit(1)
