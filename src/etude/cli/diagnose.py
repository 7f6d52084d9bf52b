"""`etude diagnose`: what is wrong with a run, in which layer, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from etude.cli.options import choices, processes
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.console import out, print_json
from etude.cli.terminal.draw import draw

if TYPE_CHECKING:
    from etude.diagnosis.diagnose import TaskDiagnosis

EPILOG = """[bold]Examples[/bold]

  etude diagnose digits-cnn

  etude diagnose my_project.py:task --recipe recipe.toml --repair

  etude diagnose digits-mlp --lr 30 --repair --save mended.toml --html report.html"""


PLACE = 45
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("diagnose", epilog=EPILOG, no_args_is_help=True)(diagnose)


@takes_recipe()
def diagnose(
    context: typer.Context,
    task: choices.TaskName = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Try remedies against the unchanged run.")
    ] = False,
    budget: Annotated[
        float, typer.Option(help="For the remedies, in full runs; at least 2.5.")
    ] = 4.0,
    probes: Annotated[
        float,
        typer.Option(
            help="The largest cost of the short probes that tell causes apart, in full runs; "
            "usually 2 to 4 are spent. 0 trains none."
        ),
    ] = 6.0,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the mended recipe as TOML; needs --repair."),
    ] = None,
    page: choices.Page = None,
    recipe: RecipeOptions = RecipeOptions(),
    nproc: processes.Count = None,
    devices: processes.Devices = None,
    timeout: processes.Timeout = None,
    find_unused: processes.FindUnused = False,
    json: choices.Json = False,
) -> None:
    """Train TASK once under watch; say what is wrong, in which layer, and what mends it.

    The first line is the verdict: the likeliest cause and how sure that is, what speaks for it,
    and the symptoms that follow. A healthy run gives "healthy", and nothing is tried. Ends with
    status 1 if something is wrong, 2 if the input is. Nothing of yours is changed: the mended
    recipe is printed, or written to --save.
    """
    from etude import report
    from etude.diagnosis.diagnose import diagnose as look
    from etude.errors import BadValueError

    if save is not None and not repair:
        raise BadValueError(
            f"--save {save} writes the mended recipe, which --repair looks for: give --repair "
            "too, or write the report with --html FILE"
        )
    asked = processes.ProcessOptions(nproc, devices, 0, timeout, find_unused)
    with processes.world(context, asked, recipe.device) as world:
        chosen = choices.choose_task(task, recipe.options, None)
        wanted = recipe.choose(chosen, task)
        found = look(
            chosen,
            wanted,
            repair=repair,
            budget=budget,
            probes=probes,
            device=recipe.device,
            progress=False if json else None,
            world=world,
        )
    if not world.is_main:
        return
    mended = found.repair is not None and found.repair.recommended is not None
    if save is not None and mended:
        assert found.repair is not None
        found.repair.recipe.save(save)
    if page is not None:
        report.write(found, page, task=chosen)
    if json:
        print_json({**found.to_dict(), "html": None if page is None else str(page)})
    else:
        draw(report.present(found, task=chosen))
        if page is not None:
            out.print(f"\n[dim]page[/dim]   [bold]{escape(str(page))}[/bold]")
        if save is not None:
            told = f"[bold]{escape(str(save))}[/bold]" if mended else f"not written: {_why(found)}"
            out.print(f"\n[dim]recipe[/dim] {told}")
    if not found.healthy:
        raise typer.Exit(1)


def _why(found: TaskDiagnosis) -> str:
    """Return why there is no mended recipe."""
    if found.healthy:
        return "nothing is wrong"
    tried = found.repair is not None
    return "no remedy beats the unchanged run" if tried else "no remedy was tried"
