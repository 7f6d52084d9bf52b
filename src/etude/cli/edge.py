"""`etude edge`: where training breaks above a rate, and where curvature says it should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from etude.cli import choices
from etude.cli.console import facts, number, out, print_json
from etude.cli.recipe_options import RecipeOptions, takes_recipe

if TYPE_CHECKING:
    from etude.measure.edge import Edge
    from etude.measure.probe import Probe
    from etude.measure.sharpness import Sharpness

EPILOG = """[bold]Examples[/bold]

  etude edge digits-mlp

  etude edge digits-cnn --recipe runs/tuned/recipe.toml

  etude edge digits-mlp --optimizer sgd --lr 0.1 --batch-size 1024 --at-most 200"""


PLACE = 80
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("edge", epilog=EPILOG, no_args_is_help=True)(edge)


@takes_recipe(help={"lr": "The rate to probe above."})
def edge(
    task: choices.TaskName = None,
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
    recipe: RecipeOptions = RecipeOptions(),
    json: choices.Json = False,
) -> None:
    """Double TASK's rate until training breaks; compare that with what curvature predicts.

    Every probe starts from the same weights and batches and follows the first updates of the
    recipe's own schedule. The sharpness is the largest eigenvalue of the Hessian, preconditioned by
    the optimizer's own second moment where it has one.
    """
    from etude.measure.edge import edge as measure

    chosen = choices.choose_task(task, recipe.options, None)
    wanted = recipe.choose(chosen, task)
    found = measure(
        chosen,
        wanted,
        steps=at_most,
        doublings=doublings,
        bisections=bisections,
        marks=marks,
        samples=samples,
        iterations=iterations,
        device=recipe.device,
        progress=False if json else None,
    )
    if json:
        print_json(found.plain())
    else:
        show(found)


def show(found: Edge) -> None:
    """Print the findings for a person."""
    out.print()
    out.print(
        f"[bold]{escape(found.task)}[/bold]: {len(found.probes)} rates, {found.steps} of "
        f"{found.length} updates each, {found.cost:.2f} full runs"
    )
    out.print()
    limit = "at no rate tried"
    if found.unstable is not None:
        below = "" if found.stable is None else f" (holds at {found.stable:g})"
        limit = f"[bold]{found.unstable:g}[/bold]{below}"
    rows = [("learning rate", f"{found.lr:g}"), ("breaks at", limit)]
    if found.predicted is not None:
        ratio = "" if found.ratio is None else f", the measured one is {found.ratio:.2g} times that"
        rows.append(("predicted limit", f"{found.predicted:.3g}{ratio}"))
        rows.append(("", f"[dim]rate × sharpness = {escape(found.formula)}[/dim]"))
    else:
        rows.append(("predicted limit", f"none: {escape(found.unpredicted())}"))
    rows.append(("gradient norm", f"{number(found.own.norm, 3)} (90th percentile at its own rate)"))
    out.print(facts(rows))
    out.print()
    out.print(_probes(found.probes, found.lr))
    if found.sharpness:
        out.print(f"\nSharpness on {found.sharpness[0].samples} training samples:\n")
        out.print(_curvature(found.sharpness))
    out.print(f"\n{escape(found.advice())}")


def _probes(probes: tuple[Probe, ...], own: float) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("rate", "first loss", "last loss", "rise", "norm", ""):
        table.add_column(name, justify="left" if name == "" else "right")
    for probe in probes:
        word = "[bold green]own[/bold green]" if probe.lr == own else "[dim]holds[/dim]"
        if probe.spiked:
            word = f"[yellow]spikes at {probe.rise_at}[/yellow]"
        if probe.unstable:
            word = f"[red]{escape(probe.reason)}[/red]"
        table.add_row(
            f"{probe.lr:.4g}",
            number(probe.first),
            number(probe.last),
            number(probe.rise, 3),
            number(probe.norm, 3),
            word,
        )
    return table


def _curvature(marks: tuple[Sharpness, ...]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("update", "sharpness", "preconditioned", "rate", "limit", "products", ""):
        table.add_column(name, justify="left" if name == "" else "right")
    for one in marks:
        words = [] if one.converged else ["not converged"]
        if one.method != "second derivatives":
            words.append(f"by {one.method}")
        table.add_row(
            str(one.step),
            number(one.value),
            number(one.preconditioned),
            number(one.rate),
            number(one.limit),
            str(one.products),
            f"[yellow]{', '.join(words)}[/yellow]" if words else "",
        )
    return table
