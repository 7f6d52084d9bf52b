"""`etude tasks`: the tasks that come with Etude."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from etude.cli.options import choices
from etude.cli.terminal.console import facts, out, print_json, say
from etude.cli.terminal.draw import print_table

if TYPE_CHECKING:
    from etude.report.document import DataTable
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
        print_table(_listing(chosen))
        say(f"\n[dim]{HUB}[/dim]")
        say("[dim]etude tasks NAME shows its options; etude tune NAME tunes it.[/dim]")
    else:
        row = chosen[0]
        out.print(f"[bold]{row.name}[/bold]: {row.summary}\n")
        if _from_hub(row):
            say(f"[dim]{HUB}[/dim]\n")
        out.print("[dim]recipe[/dim]")
        out.print(facts([(key, str(value)) for key, value in row.factory.defaults.items()]))
        out.print("\n[dim]options, for --with KEY=VALUE[/dim]")
        out.print(facts([(key, str(value)) for key, value in row.factory.options().items()]))


def _listing(rows: list[TaskRow]) -> DataTable:
    from etude.report.document import DataTable, TableColumn, TableRow

    columns = (
        TableColumn("task", whole=True),
        TableColumn("what"),
        TableColumn("network", minor=True),
        TableColumn("data"),
    )
    return DataTable(
        columns,
        tuple(
            TableRow((row.name, row.summary, row.family, "hub" if _from_hub(row) else ""))
            for row in rows
        ),
    )
