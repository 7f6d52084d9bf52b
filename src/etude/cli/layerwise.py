"""`etude layerwise`: the rate of each layer and gate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.method_output import show_page

if TYPE_CHECKING:
    from etude.measure.coordinate_check import CoordinateCheck
    from etude.recipe import Recipe

EPILOG = """[bold]Examples[/bold]

  etude layerwise digits-lstm --lr-mult "*\\[forget]=3" --lr-mult "head=0.5"

  etude layerwise digits-resnet --lr-mult "decay(0.75) * no_decay()"

  etude layerwise digits-cnn --lr-mult "unfreeze('50%')" --html rates.html

  etude layerwise digits-mlp --lr 0.01 --lr-mult "mup(64)" --widths 64,128,256,512

  etude tune digits-lstm --lr-mult "*\\[forget]=3"      the same, to tune with"""


PLACE = 50
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("layerwise", epilog=EPILOG, no_args_is_help=True)(layerwise)


@takes_recipe()
def layerwise(
    task: choices.TaskName = None,
    recipe: RecipeOptions = RecipeOptions(),
    page: choices.Page = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,...",
            help="Also check that every layer changes equally at each of these widths, as it does "
            "with mup().",
        ),
    ] = None,
    json: choices.Json = False,
) -> None:
    """Show the rate of every parameter and slice of TASK's model: rule, multiplier, peak.

    Selectors: a name pattern (conv*), @linear, @convolution, @recurrent, @embedding,
    @normalisation, @bias, @input, @middle, @output, and a gate or rows in brackets.
    """
    from etude.measure.layer_rates import layer_rates

    chosen = choices.choose_task(task, recipe.options, None)
    wanted = recipe.choose(chosen, task)
    found = layer_rates(chosen, wanted, device=recipe.device or "cpu")
    if widths is not None:
        found = replace(found, check=_check(task, recipe.options, wanted, widths))
    show_page(found, page, None, json=json)
    if found.check is not None and not found.check.passed:
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
