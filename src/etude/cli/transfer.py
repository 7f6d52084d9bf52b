"""`etude transfer`: computes the rate for another size from a tuned rate, and tests it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.options.sizes import SizedCommand, new_size
from etude.cli.terminal.console import out
from etude.cli.terminal.method_output import show_page
from etude.errors import BadValueError

if TYPE_CHECKING:
    from etude.distributed.world_rate import WorldRate
    from etude.tuning.transfer.transfer import Transfer

EPILOG = """[bold]Examples[/bold]

  etude transfer digits-mlp --recipe runs/tuned/recipe.toml --batch-size 256

  etude transfer digits-mlp --recipe tuned.toml --width 32 256 --mup --save wide.toml

  etude transfer my_project.py:task --recipe tuned.toml --steps '40 epochs' --share 0.25

  etude transfer digits-mlp --recipe tuned.toml --world-size 1 8"""

Sides = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="BEFORE AFTER", help="Tuned and new size; bundled tasks use the new one."),
]


PLACE = 90
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("transfer", cls=SizedCommand, epilog=EPILOG, no_args_is_help=True)(transfer)


@takes_recipe(without=("steps", "batch_size"), help={"lr": "The rate that was tuned."})
def transfer(
    task: choices.TaskName = None,
    batch_size: Annotated[
        str | None,
        typer.Option(metavar="[BEFORE] AFTER", help="The new batch size; the recipe has the old."),
    ] = None,
    width: Sides = None,
    mup: Annotated[
        bool | None,
        typer.Option("--mup/--no-mup", help="Whether to use muP's multipliers for the width."),
    ] = None,
    depth: Sides = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="[BEFORE] AFTER", help="The new length: updates, or '20 epochs'."),
    ] = None,
    world_size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="BEFORE AFTER",
            help="Tuned and new number of processes; each keeps its batch.",
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="With --world-size: linear, 'square root' or 'noise scale'."),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            help="Share of the new run for the comparison (default: 0.125; 0.25 with --world-size)."
        ),
    ] = None,
    factor: Annotated[
        float | None,
        typer.Option(
            help="The factor between neighbouring rates (default: 2.5; 2 with --world-size)."
        ),
    ] = None,
    further: Annotated[int, typer.Option(help="Rates besides the first three, at most.")] = 2,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recipe to use, .toml or .json."),
    ] = None,
    recipe: RecipeOptions = RecipeOptions(),
    page: choices.Page = None,
    json: choices.Json = False,
) -> None:
    """Transfer a tuned rate to another batch size, width, depth, length or number of processes.

    The new rate is tested on TASK.

    A rule from the literature gives the new rate. Then this rate and its neighbours are trained
    for a share of the new run, with the same seed. If another rate is clearly better, the rule is
    not confirmed, and that rate is proposed.
    """
    from etude.distributed.world_rate import rate_for_world
    from etude.tuning.transfer.transfer import transfer as carry

    sized = _sized(task, recipe.options, width=width, depth=depth)
    chosen = choices.choose_task(task, sized, None)
    tuned = recipe.choose(chosen, task)
    trial: dict[str, Any] = {
        "further": further, "device": recipe.device, "progress": False if json else None
    }  # fmt: skip
    trial |= {k: v for k, v in {"share": share, "factor": factor}.items() if v is not None}
    found: Transfer | WorldRate
    if world_size is not None:
        _refuse_others(batch_size=batch_size, width=width, mup=mup, depth=depth, steps=steps)
        before, after = world_size
        found = rate_for_world(chosen, tuned, before=before, after=after, rule=rule, **trial)
    else:
        if rule is not None:
            raise BadValueError("--rule chooses a rule for --world-size BEFORE AFTER: give both")
        found = carry(
            tuned,
            chosen,
            batch_size=_whole(new_size("--batch-size", batch_size, tuned.batch_size)),
            width=width,
            mup=mup,
            depth=depth,
            steps=new_size("--steps", steps, tuned.steps),
            **trial,
        )
    if save is not None:
        found.best.save(save)
    show_page(found, page, None, json=json)
    if save is not None and not json:
        words = [f"--with {shlex.quote(word)}" for word in sized]
        command = " ".join(["etude train", shlex.quote(str(task)), *words])
        out.print(f"\n[dim]{escape(command)} --recipe {escape(shlex.quote(str(save)))}[/dim]")
    if not found.trained:
        raise typer.Exit(1)


def _whole(size: int | str | None) -> int | None:
    """Check that a new batch size is a whole number.

    Raises:
        BadValueError: If it is none.
    """
    if size is not None and not isinstance(size, int):
        raise BadValueError(f"--batch-size {size}: give a whole number of 1 or more, such as 64")
    return size


def _refuse_others(**given: object) -> None:
    """Check that only the number of processes changes.

    Raises:
        BadValueError: If something else is to change too.
    """
    for name, value in given.items():
        if value is not None:
            raise BadValueError(
                f"--world-size changes the batch and the length with the number of processes: "
                f"leave --{name.replace('_', '-')} out, or transfer in two steps"
            )


def _sized(
    task: str | None, options: list[str] | None, **sides: tuple[int, int] | None
) -> list[str]:
    """Return the task's options with the new width and depth, if the task is a bundled one."""
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
