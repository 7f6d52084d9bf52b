"""`etude tasks`: the tasks that come with Etude."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from etude.cli import choices
from etude.cli.console import facts, out, print_json

EPILOG = """[bold]Examples[/bold]

  etude tasks

  etude tasks digits-cnn          what can be set with --with"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("tasks", epilog=EPILOG)(tasks)


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
                    "recipe": dict(row.factory.defaults),
                    "options": row.factory.options(),
                }
                for row in chosen
            ]
        )
    elif name is None:
        listing = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("task", "what", "network"):
            listing.add_column(column)
        for row in chosen:
            listing.add_row(f"[bold]{row.name}[/bold]", row.summary, row.family)
        out.print(listing)
        out.print("\n[dim]etude tasks NAME shows what can be set; etude tune NAME tunes it.[/dim]")
    else:
        row = chosen[0]
        out.print(f"[bold]{row.name}[/bold]: {row.summary}\n")
        out.print("[dim]recipe[/dim]")
        out.print(facts([(key, str(value)) for key, value in row.factory.defaults.items()]))
        out.print("\n[dim]options, for --with KEY=VALUE[/dim]")
        out.print(facts([(key, str(value)) for key, value in row.factory.options().items()]))
