"""`etude tune`: finds the learning rate that trains a task best."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etude.cli.options import choices, observe, processes
from etude.cli.options.over import read_over
from etude.cli.options.rates import read_range, read_rates
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.console import files, out, print_json
from etude.cli.terminal.draw import draw
from etude.cli.terminal.next_step import quoted

if TYPE_CHECKING:
    from etude.tasks import Task
    from etude.tuning.result import TuneResult

EPILOG = """[bold]Examples[/bold]

  etude tune digits-cnn

  etude tune digits-mlp --with width=256 --optimizer sgd --set optimizer.momentum=0.9

  etude tune my_project.py:task --recipe recipe.toml --budget 1.5

  etude tune digits-mlp --lr-range 1e-4:1e-2

  etude tune digits-mlp --seeds 3 --budget 6

  etude tune digits-mlp --over optimizer=adamw,sgd,prodigy --over batch_size=32,128 --budget 6

  etude tune digits-mlp --with width=256 --from "mup(base_width=64, lr=0.01)"

  etude tune digits-cnn --engine ray --on ray://10.0.0.7:10001

  etude tune --resume runs/digits-cnn-20250101-120000"""


PLACE = 10
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("tune", epilog=EPILOG, no_args_is_help=True)(tune)


@takes_recipe(without=("lr",))
def tune(
    context: typer.Context,
    task: choices.TaskName = None,
    budget: Annotated[
        float | None,
        typer.Option(help="In full training runs, including the trained model (default: 3.0)."),
    ] = None,
    lr: choices.TypedRate = None,
    recipe: RecipeOptions = RecipeOptions(),
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="Choose this too, within the same budget: a field of the recipe, "
            "optimizer.HYPERPARAMETER or warmup, with values separated by commas or LOW..HIGH; "
            "may be repeated.",
        ),
    ] = None,
    objective: choices.Objective = None,
    maximize: choices.Maximize = None,
    folds: choices.Folds = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Compare the best rates over this many seeds (default: 1)."),
    ] = None,
    valid_samples: Annotated[
        str | None,
        typer.Option(
            help="Compare rates on this many validation samples, or on 'all'; default: of a set of "
            "more than 2,048 as many as cost a fifth of the training, 256 at least."
        ),
    ] = None,
    lr_range: Annotated[
        str | None,
        typer.Option(
            "--lr-range", metavar="LOW:HIGH", help="Try no rate below LOW and none above HIGH."
        ),
    ] = None,
    lrs: Annotated[
        str | None,
        typer.Option(
            metavar="RATES",
            help="Try these rates only, separated by commas, or LOW:HIGH:COUNT.",
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RULE",
            help="Begin where a published rule says: 'step law', 'mup(base_width=64, lr=0.01)', "
            "lora or 'lora(full=1e-4)'.",
        ),
    ] = None,
    engine: choices.EngineName = None,
    on: choices.On = None,
    folder: choices.Out = None,
    resume: choices.Resume = None,
    own: choices.TaskOnResume = None,
    accept: choices.Accept = False,
    watch: observe.Watch = True,
    log: observe.LogTo = None,
    nproc: processes.Count = None,
    devices: processes.Devices = None,
    timeout: processes.Timeout = None,
    find_unused: processes.FindUnused = False,
    json: choices.Json = False,
) -> None:
    """Find the learning rate that trains TASK best, and train the model with it.

    A few rates start with the recipe's full schedule and are paused; the better ones continue.
    Prints the rate, the range of rates that tie with it, the rate that broke training, and the
    cost; writes a run folder with the model and a report. --resume with a larger --budget
    continues a finished tuning.
    """
    from etude import report
    from etude.diagnosis.health.watched import tune as search
    from etude.tuning.outcome import Outcome

    choices.refuse_rate(lr, recipe.changes, task)
    asked = processes.ProcessOptions(nproc, devices, 0, timeout, find_unused)
    with ExitStack() as stack:
        world = stack.enter_context(processes.world(context, asked, recipe.device))
        chosen = choices.choose_task(task, recipe.options, resume, own)
        wanted: dict[str, Any] = {}
        if resume is None:
            wanted["recipe"] = recipe.choose(chosen, task)
            wanted["budget"] = 3.0 if budget is None else budget
            wanted |= {"over": read_over(over), "objective": objective}
            wanted |= {"maximize": maximize, "folds": 1 if folds is None else folds}
            wanted["seeds"] = 1 if seeds is None else seeds
            wanted |= {"lr_range": read_range(lr_range), "lrs": read_rates(lrs)}
            wanted["start_from"] = start_from
            wanted["valid_samples"] = (
                int(valid_samples) if valid_samples and valid_samples.isdecimal() else valid_samples
            ) or "auto"
        else:
            choices.refuse_with_resume(
                recipe.typed(),
                *(over, objective, maximize, folds, seeds, valid_samples, lr_range, lrs),
                *(start_from, folder),
            )
            wanted["budget"] = budget
        place = choices.run_folder(folder, resume, task)
        home = world.from_main(lambda: stack.enter_context(place))
        chosen_engine = stack.enter_context(choices.engine_on(engine, on))
        best = search(
            chosen,
            folder=home.path,
            resume=resume is not None,
            accept_changes=accept,
            device=recipe.device,
            engine=chosen_engine,
            watch=watch,
            log=log,
            progress=False if json else None,
            world=world,
            **wanted,
        )
        page = report.write(best, home.report, task=chosen) if world.is_main else home.report
        if json:
            health = observe.health(best.record)
            print_json({**best.plain(), **health, "folder": str(home.path), "report": str(page)})
        elif world.is_main:
            show(best, home.path, page, chosen)
    if best.outcome == Outcome.NOTHING_TRAINS:
        raise typer.Exit(1)


def show(best: TuneResult, home: Path, page: Path, task: Task | None = None) -> None:
    """Print the result for a person."""
    from etude.report import present

    draw(present(best, task=task))
    out.print()
    out.print(files(home, page))
    if best.larger_budget is not None:
        command = f"etude tune --resume {quoted(home)} --budget {best.larger_budget.runs:g}"
        out.print(f"To go on with a larger budget: {command}", markup=False)
