"""`etude transfer`: a tuned rate carried to another size, and tried there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from etude.cli import choices
from etude.cli.console import facts, number, out, print_json
from etude.cli.recipe_options import RecipeOptions, takes_recipe
from etude.errors import BadValueError

if TYPE_CHECKING:
    from etude.tuning.transfer.transfer import Transfer

EPILOG = """[bold]Examples[/bold]

  etude transfer digits-mlp --recipe runs/tuned/recipe.toml --batch-size 256

  etude transfer digits-mlp --recipe tuned.toml --width 32 256 --mup --save wide.toml

  etude transfer my_project.py:task --recipe tuned.toml --steps '40 epochs' --share 0.25"""

Sides = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="BEFORE AFTER", help="A bundled task is built with the second."),
]


PLACE = 90
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("transfer", epilog=EPILOG, no_args_is_help=True)(transfer)


@takes_recipe(without=("steps", "batch_size"), help={"lr": "The rate that was tuned."})
def transfer(
    task: choices.TaskName = None,
    batch_size: Annotated[int | None, typer.Option(help="The new batch size.")] = None,
    width: Sides = None,
    mup: Annotated[
        bool | None,
        typer.Option("--mup/--no-mup", help="Whether the width goes by muP's multipliers."),
    ] = None,
    depth: Sides = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="LENGTH", help="The new length: updates, or '20 epochs'."),
    ] = None,
    share: Annotated[float, typer.Option(help="Of the new run that is trained to judge.")] = 0.125,
    factor: Annotated[float, typer.Option(help="Between neighbouring rates.")] = 2.5,
    further: Annotated[int, typer.Option(help="Rates beyond the first three at most.")] = 2,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recipe to use, .toml or .json."),
    ] = None,
    recipe: RecipeOptions = RecipeOptions(),
    json: choices.Json = False,
) -> None:
    """Carry a tuned rate to another batch size, width, depth or length, and try it on TASK.

    The rate goes by a rule from the literature; then it and its neighbours are trained, paired,
    for a share of the new run. Where another is clearly better, the rule is not confirmed and
    that one is proposed.
    """
    from etude.tuning.transfer.transfer import transfer as carry

    sized = _sized(task, recipe.options, width=width, depth=depth)
    chosen = choices.choose_task(task, sized, None)
    tuned = recipe.choose(chosen, task)
    found = carry(
        tuned,
        chosen,
        batch_size=batch_size,
        width=width,
        mup=mup,
        depth=depth,
        steps=None if steps is None else choices.pairs([f"steps={steps}"], "--steps")["steps"],
        share=share,
        factor=factor,
        further=further,
        device=recipe.device,
        progress=False if json else None,
    )
    if save is not None:
        found.best.save(save)
    if json:
        print_json(found.plain())
    else:
        show(found)
        if save is not None:
            words = [f"--with {shlex.quote(word)}" for word in sized]
            command = " ".join(["etude train", shlex.quote(str(task)), *words])
            out.print(f"\n[dim]{escape(command)} --recipe {escape(shlex.quote(str(save)))}[/dim]")
    if not found.trained:
        raise typer.Exit(1)


def _sized(
    task: str | None, options: list[str] | None, **sides: tuple[int, int] | None
) -> list[str]:
    """Return the task's options with the new width and depth, which a bundled task takes."""
    given = choices.pairs(options, "--with")
    found = list(options or ())
    for name, pair in sides.items():
        if pair is None:
            continue
        if name in given and given[name] != pair[1]:
            raise BadValueError(
                f"--with {name}={given[name]} is not the second of --{name} {pair[0]} {pair[1]}: "
                "leave --with out"
            )
        if name not in given and task is not None and ":" not in task:
            found.append(f"{name}={pair[1]}")
    return found


def show(found: Transfer) -> None:
    """Print the findings for a person."""
    out.print()
    out.print(
        f"[bold]{escape(found.task)}[/bold]: {len(found.rates)} rates, {found.updates} of "
        f"{found.length} updates each, {found.cost:.2f} full runs"
    )
    out.print()
    for rule in found.rules:
        out.print(escape(rule.text()))
    colour = "green" if found.confirmed else "yellow"
    rows = [("the rule's rate", f"{found.recipe.lr:.4g}")]
    if found.trained:
        rows.append(("learning rate", f"[bold {colour}]{found.lr:.4g}[/bold {colour}]"))
    rows.append(("untrained loss", number(found.untrained)))
    out.print()
    out.print(facts(rows))
    out.print()
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("rate", "validation loss", ""):
        table.add_column(name, justify="left" if name == "" else "right")
    for rate, loss in zip(found.rates, found.losses, strict=True):
        words = ["the rule's"] if rate == found.recipe.lr else []
        if rate == found.lr and found.trained:
            words.append(f"[bold {colour}]to use[/bold {colour}]")
        if loss == float("inf"):
            words.append("[red]diverged[/red]")
        table.add_row(f"{rate:.4g}", number(loss), ", ".join(words))
    out.print(table)
    out.print(f"\n[{colour}]{escape(found.advice())}[/{colour}]")
