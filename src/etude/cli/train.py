"""`etude train`: trains one recipe on one task."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from etude.cli import choices, observe
from etude.cli.console import files, out, print_json
from etude.cli.draw import draw as draw_report
from etude.cli.recipe_options import RecipeOptions, takes_recipe

if TYPE_CHECKING:
    from etude.progress import Bar
    from etude.record import Record
    from etude.training.state import RunState

EPILOG = """[bold]Examples[/bold]

  etude train digits-cnn --lr 0.003

  etude train my_project.py:task --recipe recipe.toml --out runs/first

  etude train --resume runs/first

  etude train --resume runs/first --steps 2000

  etude train digits-cnn --observe my_project.py:WeightNorm"""


PLACE = 20
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("train", epilog=EPILOG, no_args_is_help=True)(train)


@takes_recipe()
def train(
    task: choices.TaskName = None,
    recipe: RecipeOptions = RecipeOptions(),
    folder: choices.Out = None,
    resume: choices.Resume = None,
    own: choices.TaskOnResume = None,
    accept: choices.Accept = False,
    watching: observe.Observe = None,
    watch: observe.Watch = True,
    json: choices.Json = False,
) -> None:
    """Train TASK with one recipe; save the model, the record and a report in a run folder.

    Ctrl-C saves the run and exits; --resume continues it, with the same result to the bit. With
    --steps, --resume trains a run further, even if it has finished, on the schedule of the new
    length.
    """
    from etude import report
    from etude.diagnosis.health.watched import train as run
    from etude.progress import bar
    from etude.record import Status

    chosen = choices.choose_task(task, recipe.options, resume, own)
    wanted = None
    if resume is None:
        wanted = recipe.choose(chosen, task)
    else:
        choices.refuse_with_resume(recipe.typed(without=("steps",)), folder)
    seen = observe.observers(watching)
    with (
        choices.run_folder(folder, resume, task) as home,
        bar(False if json else None, chosen.name) as draw,
    ):
        record = run(
            chosen,
            wanted,
            folder=home.path,
            resume=resume is not None,
            steps=None if resume is None else choices.length(recipe.steps),
            accept_changes=accept,
            device=recipe.device,
            observers=seen,
            watch=observe.watcher(watch, chosen, wanted, recipe.recipe),
            on_step=partial(show_step, draw),
        )
        page = report.write(record, home.report, task=chosen)
    if json:
        health = observe.health(record)
        print_json({**record.plain(), **health, "folder": str(home.path), "report": str(page)})
    else:
        show(record, home.path, page)
    if record.status == Status.DIVERGED:
        raise typer.Exit(1)


def show_step(draw: Bar, current: RunState) -> None:
    """Advance the progress bar at every tenth update."""
    if current.step % 10 == 0:
        last = current.evaluations[-1].loss
        draw(current.step, current.length, f"validation loss {last:.4g}")


def show(record: Record, home: Path, page: Path) -> None:
    """Print the result for a person."""
    from etude.report import present

    draw_report(present(record))
    out.print()
    out.print(files(home, page))
