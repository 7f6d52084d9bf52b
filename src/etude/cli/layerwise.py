"""`etude layerwise`: which rate each layer and gate gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from etude.cli import choices
from etude.cli.console import out, print_json
from etude.cli.recipe_options import RecipeOptions, takes_recipe

if TYPE_CHECKING:
    from etude.layerwise.picture import RateBar
    from etude.measure.coordinate_check import CoordinateCheck
    from etude.recipe import Recipe

EPILOG = """[bold]Examples[/bold]

  etude layerwise digits-lstm --lr-mult "*\\[forget]=3" --lr-mult "head=0.5"

  etude layerwise digits-resnet --lr-mult "decay(0.75) * no_decay()"

  etude layerwise digits-cnn --lr-mult "unfreeze('50%')" --html rates.html

  etude layerwise digits-mlp --lr 0.01 --lr-mult "mup(64)" --widths 64,128,256,512

  etude tune digits-lstm --set "lr_mult.*\\[forget]=3"      the same, to tune with"""


PLACE = 50
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("layerwise", epilog=EPILOG, no_args_is_help=True)(layerwise)


@takes_recipe()
def layerwise(
    task: choices.TaskName = None,
    recipe: RecipeOptions = RecipeOptions(),
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the picture as a page.")
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,...",
            help="Also check that every layer moves as far at each of these widths, as it does "
            "under mup().",
        ),
    ] = None,
    json: choices.Json = False,
) -> None:
    """Show the rate of every parameter and slice of TASK's model: rule, multiplier, peak.

    Selectors: a name pattern (conv*), @linear, @convolution, @recurrent, @embedding,
    @normalisation, @bias, @input, @middle, @output, and a gate or rows in brackets.
    """
    from etude import files
    from etude.layerwise import picture
    from etude.layerwise.model_parts import anatomy
    from etude.layerwise.planning import plan
    from etude.layerwise.spec import LrMult
    from etude.training.flow import flow_of
    from etude.training.run import Run

    chosen = choices.choose_task(task, recipe.options, None)
    wanted = recipe.choose(chosen, task)
    run = Run(chosen, wanted, device=recipe.device or "cpu")
    run.release()
    flow = flow_of(run.task, wanted, run.model, run.batch_size, run.autocast(), asked=True)
    laid = plan(LrMult(), run.model, flow=flow) if run.state.rates is None else run.state.rates.plan
    parts = anatomy(run.model, flow)
    lines = picture.bars(laid, wanted.lr, run.state.lr_schedule, run.length, parts)
    if page is not None:
        title = f"{chosen.name}: rates by layer"
        files.write_text(page, picture.page(title, lines))
    check = None if widths is None else _check(task, recipe.options, wanted, widths)
    if json:
        plain = _plain(chosen.name, wanted, lines, page)
        print_json(plain if check is None else {**plain, "coordinate_check": check.plain()})
    else:
        _show(lines, laid.depths)
        if check is not None:
            _show_check(check)
        if page is not None:
            out.print(f"\n[dim]picture[/dim]   [bold]{escape(str(page))}[/bold]")
    if check is not None and not check.passed:
        raise typer.Exit(1)


def _check(
    task: str | None, options: list[str] | None, recipe: Recipe, widths: str
) -> CoordinateCheck:
    """Run the coordinate check on the task at several widths."""
    from etude import tasks
    from etude.errors import BadValueError
    from etude.measure.coordinate_check import coordinate_check

    try:
        chosen = [int(text) for text in widths.split(",")]
    except ValueError:
        raise BadValueError(f"--widths {widths!r}: write whole numbers, such as 64,128") from None
    given = choices.pairs(options, "--with")
    assert task is not None
    return coordinate_check(
        lambda width: tasks.load(task, **{**given, "width": width}), recipe, widths=chosen
    )


def _show_check(check: CoordinateCheck) -> None:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("layer", no_wrap=True)
    for width in check.widths:
        table.add_column(f"change at {width}", justify="right", no_wrap=True)
    table.add_column("slope", justify="right")
    for one in check.layers:
        colour = "red" if one in check.failing else "green"
        cells = [f"{value:.3g}" for value in one.change]
        table.add_row(escape(one.layer), *cells, f"[{colour}]{one.slope:+.2f}[/{colour}]")
    out.print()
    _print_whole(table)
    out.print(f"\nCoordinate check {escape(check.verdict())}")


def _show(lines: list[RateBar], depths: int) -> None:
    from etude.layerwise.picture import span, terminal

    decades = span(lines)
    table = Table(box=None, padding=(0, 2), header_style="dim")
    decayed = any(bar.decay != 1 for bar in lines)
    table.add_column("parameter")
    table.add_column("numbers", justify="right")
    table.add_column("rule")
    table.add_column("multiplier", justify="right")
    table.add_column("rate at the peak", justify="right")
    if decayed:
        table.add_column("decay ×", justify="right")
    table.add_column("layer")
    table.add_column("× 1".center(17))
    for bar in lines:
        cells = [bar.name, f"{bar.size:,}", bar.rule, bar.text, f"{bar.rate:.4g}"]
        cells += [f"{bar.decay:g}"] if decayed else []
        cells.append(bar.role or "–")
        table.add_row(*map(escape, cells), terminal(bar, decades, half=8))
    _print_whole(table)
    total = sum(bar.size for bar in lines)
    out.print(f"\n[dim]{len(lines)} rows, {depths} layers, {total:,} numbers[/dim]")


def _print_whole(table: Table) -> None:
    """Print a table at its own width: a name that is cut off names nothing."""
    needed = Measurement.get(out, out.options.update(width=10_000), table).maximum
    Console(highlight=False, soft_wrap=True, width=max(out.width, needed)).print(table)


def _plain(name: str, recipe: Recipe, lines: list[RateBar], page: Path | None) -> dict[str, Any]:
    return {
        "task": name,
        "lr": recipe.lr,
        "lr_mult": None if recipe.lr_mult is None else recipe.lr_mult.plain(),
        "rows": [{**bar._asdict(), "shape": list(bar.shape), "curve": list(bar.curve)}
                 for bar in lines],
        "html": None if page is None else str(page),
    }  # fmt: skip
