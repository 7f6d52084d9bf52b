"""`etude sensitivity`: how the loss responds to the rate of each layer kind and gate."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from etude.cli import choices
from etude.cli.console import number, out, print_json
from etude.cli.recipe_options import RecipeOptions, takes_recipe

if TYPE_CHECKING:
    from etude.measure.sensitivity import Response, Sensitivity

EPILOG = """[bold]Examples[/bold]

  etude sensitivity digits-lstm

  etude sensitivity digits-cnn --budget 10 --seeds 6

  etude sensitivity digits-mlp --part @input --part @middle --part @output"""


PLACE = 60
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("sensitivity", epilog=EPILOG, no_args_is_help=True)(sensitivity)


@takes_recipe()
def sensitivity(
    task: choices.TaskName = None,
    budget: Annotated[float, typer.Option(help="In full runs, all short runs together.")] = 6.0,
    seeds: Annotated[int, typer.Option(help="Repetitions of every comparison, 2 to 10.")] = 4,
    factor: Annotated[float, typer.Option(help="Rates are multiplied and divided by it.")] = 3.0,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            metavar="SELECTOR",
            help="What to vary, repeatable (default: each layer kind and each gate).",
        ),
    ] = None,
    recipe: RecipeOptions = RecipeOptions(),
    json: choices.Json = False,
) -> None:
    """Measure how TASK's loss responds to the rate of each layer kind and gate.

    Pairs of short runs with the same seed, one part's rate multiplied and divided. Proposes
    multipliers only where the gain exceeds its spread over the seeds and holds on fresh ones.
    """
    from etude.measure.sensitivity import sensitivity as measure

    chosen = choices.choose_task(task, recipe.options, None)
    wanted = recipe.choose(chosen, task)
    found = measure(
        chosen,
        wanted,
        budget=budget,
        seeds=seeds,
        factor=factor,
        parts=parts,
        device=recipe.device,
        progress=False if json else None,
    )
    if json:
        print_json(found.plain())
    else:
        words = (word for text in recipe.options or () for word in ("--with", text))
        show(found, [task or "TASK", *words], recipe.typed(without=("lr",)))


def show(found: Sensitivity, subject: list[str], own: list[str]) -> None:
    """Print the findings for a person.

    Args:
        found: What to print.
        subject: The words that name the task on the command line.
        own: The options that change its recipe.
    """
    from etude.storage.layout import RECIPE

    base = sum(found.baseline) / len(found.baseline)
    out.print()
    out.print(
        f"[bold]{escape(found.task)}[/bold]: {len(found.seeds)} seeds, {found.steps} updates each, "
        f"{found.cost:.2f} full runs; validation loss {number(base)} at one rate for all"
    )
    out.print()
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("part", "rate ×", "gain", "± 95%", "spread", ""):
        table.add_column(name, justify="left" if name in ("part", "") else "right")
    rows = [*found.responses, *([found.trial] if found.trial else [])]
    for one in rows:
        table.add_row(*_cells(one))
    out.print(table)
    out.print(f"\n{escape(found.advice())}")
    lines = []
    if found.whole is not None:
        tuned = f"runs/{found.task}-tuned"
        lines += [
            ["etude", "tune", *subject, *_without_rate(own), "--out", tuned],
            ["etude", "sensitivity", *subject, "--recipe", f"{tuned}/{RECIPE}"],
        ]
    if found.proposal:
        rules = [f"lr_mult.{part}={factor:.3g}" for part, factor in found.proposal.items()]
        sets = [word for rule in rules for word in ("--set", rule)]
        lines.append(["etude", "tune", *subject, *_without_rate(own), *sets])
    if lines:
        out.print()
    for line in lines:
        out.print(f"[dim]{escape(shlex.join(line))}[/dim]")


def _without_rate(own: list[str]) -> list[str]:
    """Leave out a rate that was set, which `tune` would refuse."""
    kept: list[str] = []
    for option, value in zip(own[::2], own[1::2], strict=True):
        if option != "--set" or value.partition("=")[0].strip() != "lr":
            kept += [option, value]
    return kept


def _cells(one: Response) -> list[str]:
    from etude.measure.sensitivity import TOGETHER

    colours = {"better": "green", "worse": "yellow", "diverged": "red", "nothing": "dim"}
    words = {"nothing": "within its spread", "diverged": "diverged"}
    colour = colours[one.verdict]
    verdict = f"[{colour}]{words.get(one.verdict, one.verdict)}[/{colour}]"
    factor = "–" if one.part == TOGETHER else f"{one.factor:.3g}"
    if not one.finite:
        return [escape(one.part), factor, "–", "–", "–", verdict]
    return [
        escape(one.part),
        factor,
        f"{one.effect:+.3g}",
        f"{one.margin:.2g}",
        f"{one.spread:.2g}",
        verdict,
    ]
