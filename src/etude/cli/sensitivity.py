"""`etude sensitivity`: how the loss changes with the rate of each layer kind and gate."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.console import out
from etude.cli.terminal.method_output import show_page

if TYPE_CHECKING:
    from etude.measure.sensitivity import Sensitivity

EPILOG = """[bold]Examples[/bold]

  etude sensitivity digits-lstm

  etude sensitivity digits-cnn --budget 10 --seeds 6

  etude sensitivity digits-mlp --part @input --part @middle --part @output"""


PLACE = 60
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("sensitivity", epilog=EPILOG, no_args_is_help=True)(sensitivity)


@takes_recipe()
def sensitivity(
    task: choices.TaskName = None,
    budget: Annotated[float, typer.Option(help="Cost of all runs together, in full runs.")] = 6.0,
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
    page: choices.Page = None,
    json: choices.Json = False,
) -> None:
    """Measure how TASK's loss changes with the rate of each layer kind and gate.

    Trains short runs with the same seeds, with the rate of one part multiplied and divided.
    Proposes a multiplier only if the gain exceeds its spread over the seeds and is confirmed with
    new seeds.
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
    words = (word for text in recipe.options or () for word in ("--with", text))
    own = recipe.typed(without=("lr",))
    show(found, [task or "TASK", *words], own, page=page, json=json)


def show(
    found: Sensitivity,
    subject: list[str],
    own: list[str],
    *,
    page: Path | None = None,
    json: bool = False,
) -> None:
    """Print the result and, for a person, the commands that it suggests.

    Args:
        found: The result.
        subject: The words that name the task on the command line.
        own: The options that change its recipe.
        page: Where to write the page, if anywhere.
        json: Whether to print it for programs.
    """
    from etude.storage.layout import RECIPE

    show_page(found, page, None, json=json)
    if json:
        return
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
    """Return the options without a rate, which `tune` would reject."""
    kept: list[str] = []
    for option, value in zip(own[::2], own[1::2], strict=True):
        if option != "--set" or value.partition("=")[0].strip() != "lr":
            kept += [option, value]
    return kept
