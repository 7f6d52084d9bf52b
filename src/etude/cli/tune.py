"""`etude tune`: which learning rate trains a task best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.syntax import Syntax
from rich.table import Table

from etude.cli import choices
from etude.cli.console import facts, metric_text, number, out, print_json
from etude.cli.over import read_over
from etude.cli.recipe_options import RecipeOptions, takes_recipe
from etude.export import pytorch_code

if TYPE_CHECKING:
    from etude.tasks import Task
    from etude.tuning.recipes.selection import Selection
    from etude.tuning.result import TuneResult

EPILOG = """[bold]Examples[/bold]

  etude tune digits-cnn

  etude tune digits-mlp --with width=256 --optimizer sgd --set optimizer.momentum=0.9

  etude tune my_project.py:task --recipe recipe.toml --budget 1.5

  etude tune digits-mlp --over optimizer=adamw,sgd,prodigy --over batch_size=32,128 --budget 6

  etude tune --resume runs/digits-cnn-20250101-120000"""


PLACE = 10
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("tune", epilog=EPILOG, no_args_is_help=True)(tune)


@takes_recipe(without=("lr",))
def tune(
    task: choices.TaskName = None,
    budget: Annotated[
        float | None,
        typer.Option(help="In full training runs, the trained model included (default: 3.0)."),
    ] = None,
    lr: Annotated[str | None, typer.Option("--lr", hidden=True)] = None,
    recipe: RecipeOptions = RecipeOptions(),
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="Choose this too, from the same budget: a field of the recipe, "
            "optimizer.HYPERPARAMETER or warmup, with values between commas or LOW..HIGH; may "
            "be repeated.",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Compare rates by 'loss' or 'metric' (default: loss, for a GAN the metric)."
        ),
    ] = None,
    maximize: Annotated[
        bool | None,
        typer.Option("--maximize/--minimize", help="Which way the metric is better."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Compare by k-fold cross-validation on the training data.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="loop, pool, vmap, 'vmap pool' or auto; default: loop or pool."),
    ] = None,
    folder: choices.Out = None,
    resume: choices.Resume = None,
    own: choices.TaskOnResume = None,
    accept: choices.Accept = False,
    json: choices.Json = False,
) -> None:
    """Find the learning rate that trains TASK best, with the trained model as evidence.

    A few rates start on the recipe's real schedule, pause, and the better ones go on. Prints the
    rate, the range that ties with it, what rate broke training, and what it cost; writes a
    run folder with the model and a report. --resume with a larger --budget goes on with what a
    finished tuning has tried.
    """
    from etude import report
    from etude.tuning.tune import tune as search

    choices.refuse_rate(lr, recipe.changes, task)
    chosen = choices.choose_task(task, recipe.options, resume, own)
    wanted: dict[str, Any] = {}
    if resume is None:
        wanted["recipe"] = recipe.choose(chosen, task)
        wanted["budget"] = 3.0 if budget is None else budget
        wanted |= {"over": read_over(over), "objective": objective}
        wanted |= {"maximize": maximize, "folds": 1 if folds is None else folds}
    else:
        choices.refuse_with_resume(recipe.typed(), *(over, objective, maximize, folds, folder))
        wanted["budget"] = budget
    with choices.run_folder(folder, resume, task) as home:
        best = search(
            chosen,
            folder=home.path,
            resume=resume is not None,
            accept_changes=accept,
            device=recipe.device,
            engine=engine,
            progress=False if json else None,
            **wanted,
        )
        page = report.write(best, home.report, task=chosen)
    if json:
        print_json({**best.plain(), "folder": str(home.path), "report": str(page)})
    else:
        show(best, home.path, page, chosen)
    if best.outcome == "nothing trains":
        raise typer.Exit(1)


def show(best: TuneResult, home: Path, page: Path, task: Task | None = None) -> None:
    """Print the findings for a person."""
    record = best.record
    out.print()
    out.print(
        f"[bold]{record.task}[/bold]: {len(best.trials)} rates, {best.cost:.2f} full runs, "
        f"{best.seconds:.1f} s"
    )
    out.print()
    found = best.outcome != "nothing trains"
    if found:
        out.print(facts(_findings(best)))
    if advice := best.advice():
        out.print(f"\n[yellow]{advice}[/yellow]")
    out.print()
    if best.selection is not None:
        out.print(_selection(best.selection))
        out.print()
    out.print(_trials(best))
    if found:
        code = pytorch_code(best.recipe, record.length, task=task)
        out.print("\n[dim]The recipe, for a PyTorch loop of your own:[/dim]\n")
        out.print(Syntax(code, "python", background_color="default"))
    out.print()
    out.print(facts([("run folder", f"[bold]{home}[/bold]"), ("report", f"[bold]{page}[/bold]")]))


def _findings(best: TuneResult) -> list[tuple[str, str]]:
    record = best.record
    low, high = best.tied
    parts = ", ".join(f"{part.runs:.2f} {part.name}" for part in best.costs)
    others = [t for t in best.trials if t.lr != best.lr]
    tied = [t for t in others if t.tied]
    open_ = [t for t in others if not (t.tied or t.followed or t.record.status == "diverged")]
    seen = any(t.followed for t in others)
    none = "none of the others that were followed" if seen else "no other rate was followed so far"
    rows = [
        ("learning rate", f"[bold green]{best.lr:g}[/bold green]"),
        ("ties with it", f"{low:g} to {high:g}, with this seed" if tied else none),
    ]
    if open_:
        rows.append(("not followed", ", ".join(f"{t.lr:g}" for t in open_)))
    rows.append(("broke training", _broken(best)))
    if best.sensitivity is not None:
        rows.append(
            (
                "at twice or half",
                f"{best.sensitivity:.1%} of the drop is lost, at most, by the rates followed",
            )
        )
    if best.confidence is not None:
        rows.append(("confidence", f"{best.confidence:.0%} of resampled validation sets agree"))
    rows.append(("cost", f"{best.cost:.2f} full runs: {parts}"))
    if record.metric is not None:
        now = metric_text(record.metric, best.metric)
        before = metric_text(record.metric, best.untrained.metric)
        rows.append((f"validation {record.metric}", f"[bold]{now}[/bold] (untrained {before})"))
    rows.append(
        ("validation loss", f"{number(best.loss)} (untrained {number(best.untrained.loss)})")
    )
    return rows


def _broken(best: TuneResult) -> str:
    """Say which rate above the best broke, and how; or that none was seen to."""
    if best.stable_below is None and best.common_break is not None:
        return f"no edge known: higher rates diverged at update {best.common_break}"
    if best.stable_below is None:
        return "no higher rate, as far as they were followed"
    trial = next(t for t in best.trials if t.lr == best.stable_below)
    if trial.record.status == "diverged":
        return f"{trial.lr:g} (diverged at update {trial.record.cost.steps})"
    return f"{trial.lr:g} (ended with what it had learned lost)"


def _selection(selection: Selection) -> Table:
    """Return what the recipe was chosen from, the best first."""
    from etude.report.words import told
    from etude.tuning.recipes.selection import HORIZONS

    table = Table(box=None, padding=(0, 2), header_style="dim", title_justify="left")
    names = list(dict.fromkeys(name for one in selection.tried for name in one.values))
    for name in names:
        table.add_column(name.removeprefix("optimizer."))
    for name in ("rate", *(f"at {100 * share:g}%" for share in HORIZONS)):
        table.add_column(name, justify="right")
    for one in selection.tried:
        values = [told(one.values.get(name, "")) for name in names]
        scores = [number(score) for score in one.scores]
        scores += [""] * (len(HORIZONS) - len(scores))
        chosen = "bold green" if one.values == selection.values else ""
        table.add_row(*values, f"{one.lr:g}", *scores, style=chosen)
    return table


def _trials(best: TuneResult) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("rate", "updates", "validation loss", ""):
        table.add_column(name, justify="left" if name == "" else "right")
    for trial in best.trials:
        record = trial.record
        last = record.evaluations[-1] if record.evaluations else None
        if trial.lr == best.lr and best.outcome != "nothing trains":
            word = "[bold green]best[/bold green]"
        elif record.status == "diverged":
            word = f"[red]diverged: {record.reason}[/red]"
        elif trial.unstable:
            word = "[red]lost what it learned[/red]"
        elif trial.tied:
            word = "ties"
        else:
            word = f"[dim]{'worse' if trial.followed else 'not followed further'}[/dim]"
        table.add_row(
            f"{trial.lr:g}", str(record.cost.steps), number(last.loss if last else None), word
        )
    return table
