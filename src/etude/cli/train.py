"""`etude train`: trains one recipe on one task."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from etude.cli.options import choices, observe, processes
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.console import files, out, print_json
from etude.cli.terminal.draw import draw as draw_report

if TYPE_CHECKING:
    from etude.progress import Bar
    from etude.record import Record
    from etude.training.state.state import RunState

EPILOG = """[bold]Examples[/bold]

  etude train digits-cnn --lr 0.003

  etude train my_project.py:task --recipe recipe.toml --out runs/first

  etude train --resume runs/first

  etude train --resume runs/first --steps 2000

  etude train digits-cnn --nproc 2

  etude train digits-cnn --observe my_project.py:WeightNorm"""


PLACE = 20
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("train", epilog=EPILOG, no_args_is_help=True)(train)


@takes_recipe()
def train(
    context: typer.Context,
    task: choices.TaskName = None,
    recipe: RecipeOptions = RecipeOptions(),
    folder: choices.Out = None,
    resume: choices.Resume = None,
    own: choices.TaskOnResume = None,
    accept: choices.Accept = False,
    watching: observe.Observe = None,
    watch: observe.Watch = True,
    log: observe.LogTo = None,
    nproc: processes.Count = None,
    devices: processes.Devices = None,
    restarts: processes.Restarts = 0,
    timeout: processes.Timeout = None,
    find_unused: processes.FindUnused = False,
    shard: processes.Shard = False,
    json: choices.Json = False,
) -> None:
    """Train TASK with one recipe; save the model, the record and a report in a run folder.

    Ctrl-C saves the run and exits; --resume continues it, with the same result to the bit. With
    --steps, --resume trains a run further, even if it has finished, on the schedule of the new
    length. --nproc trains in several processes, as `torchrun -m etude train` does: their weights
    are those of one process up to rounding. With --shard each process keeps a part of the weights.
    """
    from etude import report
    from etude.diagnosis.health.watched import train as run
    from etude.progress import bar
    from etude.record import Status

    asked = processes.ProcessOptions(nproc, devices, restarts, timeout, find_unused, shard)
    with ExitStack() as stack:
        world = stack.enter_context(processes.world(context, asked, recipe.device))
        again = folder is not None and world.from_main(partial(_goes_on, folder))
        resume, folder = (folder, None) if again else (resume, folder)
        chosen = choices.choose_task(None if again else task, recipe.options, resume, own)
        wanted = None
        if resume is None:
            wanted = recipe.choose(chosen, task)
        elif not again:
            choices.refuse_with_resume(recipe.typed(without=("steps",)), folder)
        seen = observe.observers(watching)
        place = choices.run_folder(folder, resume, task)
        home = world.from_main(lambda: stack.enter_context(place))
        shows = False if json or not world.is_main else None
        with bar(shows, chosen.name) as draw:
            record = run(
                chosen,
                wanted,
                folder=home.path,
                resume=resume is not None,
                steps=None if resume is None else choices.length(recipe.steps),
                accept_changes=accept,
                device=recipe.device,
                world=world,
                observers=seen,
                watch=observe.watcher(watch and not world.shards, chosen, wanted, recipe.recipe),
                log=log,
                on_step=partial(show_step, draw),
            )
        page = report.write(record, home.report, task=chosen) if world.is_main else home.report
        if json:
            health = observe.health(record)
            print_json({**record.plain(), **health, "folder": str(home.path), "report": str(page)})
        elif world.is_main:
            show(record, home.path, page)
    if record.status == Status.DIVERGED:
        raise typer.Exit(1)


def _goes_on(folder: Path) -> bool:
    """Return whether a run that was started again finds its checkpoint in a folder."""
    from etude.storage.run_folder import RunFolder

    return processes.restarted() and RunFolder(folder).taken


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
