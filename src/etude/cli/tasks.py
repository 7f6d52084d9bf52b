"""`etude tasks`: the tasks that come with Etude."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from etude.cli.options import choices
from etude.cli.terminal.console import facts, out, print_json

if TYPE_CHECKING:
    from etude.tasks import TaskRow

HUB = escape(
    "hub: downloaded when first used, or read from --with source=FOLDER; "
    "needs pip install 'etude[hub]'"
)

EPILOG = """[bold]Examples[/bold]

  etude tasks

  etude tasks digits-cnn          its options for --with"""


PLACE = 30
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("tasks", epilog=EPILOG)(tasks)


def _from_hub(row: TaskRow) -> bool:
    return row.factory.data.startswith("etude.tasks.images.hub:")


def tasks(
    name: Annotated[
        str | None, typer.Argument(metavar="[TASK]", help="Show one task and its options.")
    ] = None,
    json: choices.Json = False,
) -> None:
    """List the bundled tasks, each on real data; or one of them with its options."""
    from etude.errors import unknown_name
    from etude.tasks import rows

    table = {row.name: row for row in rows()}
    if name is not None and name not in table:
        raise unknown_name("task", name, table)
    chosen = list(table.values()) if name is None else [table[name]]
    if json:
        print_json(
            [
                {
                    "name": row.name,
                    "summary": row.summary,
                    "data": row.data,
                    "family": row.family,
                    "hub": _from_hub(row),
                    "recipe": dict(row.factory.defaults),
                    "options": row.factory.options(),
                }
                for row in chosen
            ]
        )
    elif name is None:
        listing = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("task", "what", "network", "data"):
            listing.add_column(column)
        for row in chosen:
            origin = "[magenta]hub[/magenta]" if _from_hub(row) else ""
            listing.add_row(f"[bold]{row.name}[/bold]", row.summary, row.family, origin)
        out.print(listing)
        out.print(f"\n[dim]{HUB}[/dim]")
        out.print("[dim]etude tasks NAME shows its options; etude tune NAME tunes it.[/dim]")
    else:
        row = chosen[0]
        out.print(f"[bold]{row.name}[/bold]: {row.summary}\n")
        if _from_hub(row):
            out.print(f"[dim]{HUB}[/dim]\n")
        out.print("[dim]recipe[/dim]")
        out.print(facts([(key, str(value)) for key, value in row.factory.defaults.items()]))
        out.print("\n[dim]options, for --with KEY=VALUE[/dim]")
        out.print(facts([(key, str(value)) for key, value in row.factory.options().items()]))
