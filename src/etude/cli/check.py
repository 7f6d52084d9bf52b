"""`etude check`: what is wrong with a task, before it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.console import out, print_json, say

if TYPE_CHECKING:
    from etude.diagnosis.finding import Diagnosis

EPILOG = """[bold]Examples[/bold]

  etude check digits-cnn

  etude check my_project.py:task --recipe recipe.toml

  etude check digits-lstm --verbose      with what was looked at

  etude check my_project.py:task --json"""


PLACE = 25
"""Among the verbs of `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("check", epilog=EPILOG, no_args_is_help=True)(check)


@takes_recipe()
def check(
    task: choices.TaskName = None,
    recipe: RecipeOptions = RecipeOptions(),
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say too what was looked at.")
    ] = False,
    json: choices.Json = False,
) -> None:
    """Check TASK before training: data, labels, loss, outputs, gradients, one batch.

    Takes a few seconds; what could not be looked at is listed with the reason. Exit status: 0 if
    nothing is wrong, 1 if something is.
    """
    from etude.diagnosis.check.checks import check as look

    chosen = choices.choose_task(task, recipe.options, None)
    found = look(chosen, recipe.choose(chosen, task), device=recipe.device)
    if json:
        print_json({"task": chosen.name, **found.to_dict()})
    else:
        show(chosen.name, found, verbose=verbose)
    if found.findings:
        raise typer.Exit(1)


def show(name: str, found: Diagnosis, *, verbose: bool = False) -> None:
    """Print a diagnosis for a person.

    Args:
        name: The task's name.
        found: What to print.
        verbose: Whether to print what was looked at as well.
    """
    out.print()
    verdict = "healthy" if found.healthy else f"{len(found.findings)} found"
    if not found.findings and not found.seen:
        verdict = "cannot tell"
    style = "bold green" if found.healthy else "bold red"
    say(Text.assemble((f"{name}: ", "bold"), (verdict, style)))
    for finding in found.findings:
        where = f" in {finding.layer}" if finding.layer else ""
        out.print()
        say(Text(f"{str(finding.what).replace('_', ' ')}{where}", "bold red"))
        say(Text(finding.text))
        if finding.fix:
            say(Text(finding.fix))
    seen = found.seen if verbose else ()
    for title, lines in (("looked at", seen), ("not looked at", found.unseen)):
        if lines:
            out.print()
            say(Text(title, "dim"))
            for line in lines:
                say(Text(f"  {line}", "dim"))
