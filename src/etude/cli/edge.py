"""`etude edge`: where training breaks above a rate, and where curvature says it should."""

from __future__ import annotations

from typing import Annotated

import typer

from etude.cli import choices
from etude.cli.console import print_json
from etude.cli.draw import draw

EPILOG = """[bold]Examples[/bold]

  etude edge digits-mlp

  etude edge digits-cnn --recipe runs/tuned/recipe.toml

  etude edge digits-mlp --optimizer sgd --lr 0.1 --batch-size 1024 --at-most 200"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("edge", epilog=EPILOG, no_args_is_help=True)(edge)


def edge(
    task: choices.TaskName = None,
    lr: Annotated[float | None, typer.Option("--lr", help="The rate to probe above.")] = None,
    at_most: Annotated[int, typer.Option(help="Updates of each probe.")] = 500,
    doublings: Annotated[int, typer.Option(help="How often the rate is doubled at most.")] = 6,
    bisections: Annotated[
        int, typer.Option(help="How often the gap below the edge is halved.")
    ] = 2,
    marks: Annotated[
        int, typer.Option(help="Places after the start where the sharpness is measured.")
    ] = 2,
    samples: Annotated[
        int | None,
        typer.Option(help="Training samples it is measured on (default: four batches)."),
    ] = None,
    iterations: Annotated[
        int, typer.Option(help="Products with the Hessian at most; 0 measures no sharpness.")
    ] = 30,
    recipe: choices.RecipeFile = None,
    optimizer: choices.Optimizer = None,
    schedule: choices.ScheduleText = None,
    steps: choices.Steps = None,
    batch_size: choices.BatchSize = None,
    seed: choices.Seed = None,
    changes: choices.Set = None,
    options: choices.With = None,
    device: choices.Device = None,
    json: choices.Json = False,
) -> None:
    """Double TASK's rate until training breaks; compare that with what curvature predicts.

    Every probe starts from the same weights and batches and follows the first updates of the
    recipe's own schedule. The sharpness is the largest eigenvalue of the Hessian, preconditioned by
    the optimizer's own second moment where it has one.
    """
    from etude.measure.edge import edge as measure
    from etude.report import present

    chosen = choices.choose_task(task, options, None)
    wanted = choices.choose_recipe(
        chosen,
        recipe,
        changes,
        reference=task,
        lr=lr,
        optimizer=optimizer,
        schedule=schedule,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
    )
    found = measure(
        chosen,
        wanted,
        steps=at_most,
        doublings=doublings,
        bisections=bisections,
        marks=marks,
        samples=samples,
        iterations=iterations,
        device=device,
        progress=False if json else None,
    )
    if json:
        print_json(found.plain())
    else:
        draw(present(found))
