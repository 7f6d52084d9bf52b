"""`etude study`: trains learning rates × architectures, and shows what is stored."""

from __future__ import annotations

import csv as tables
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from etude.cli import choices
from etude.cli.console import out, print_json
from etude.cli.draw import draw
from etude.cli.interrupt import raise_on_interrupt

if TYPE_CHECKING:
    from etude.studies.result import StudyResult

PLACE = 45
"""The position in `etude --help`."""

EPILOG = """[bold]Examples[/bold]

  etude study rates.toml

  etude study ls

  etude study resume rates

  etude study export csv rates > rates.csv

[bold]A plan[/bold]

  tasks = ["digits-mlp", "digits-cnn"]
  optimizers = ["adam", {name = "sgd", momentum = 0.9}]
  lrs = {from = 1e-4, to = 1.0, points = 9}
  seeds = [0, 1, 2]"""

Storage = Annotated[
    str,
    typer.Option(
        metavar="FILE|URL",
        help="The database: a SQLite file, or postgresql://USER@HOST/NAME.",
    ),
]
Engine = Annotated[str, typer.Option(help="auto, pool, loop or vmap.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]

DEFAULT = "studies.db"


class FileOrVerb(TyperGroup):
    """A group of verbs in which the name of a file stands for `run FILE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb; what is none and names a plan is given to `run`."""
        first = args[0]
        if self.get_command(ctx, first) is None and (Path(first).exists() or "." in first):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=FileOrVerb, no_args_is_help=True, rich_markup_mode="rich", epilog=EPILOG)


def register(program: typer.Typer) -> None:
    """Add the verb to the program."""
    program.add_typer(app, name="study", help="Train learning rates × architectures.")


@app.command("run")
def run(
    plan: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The plan.")],
    storage: Storage = DEFAULT,
    engine: Engine = "auto",
    json: choices.Json = False,
) -> None:
    """Train every combination of a plan; `etude study FILE.toml` does the same.

    The trials are stored as they end. The same command goes on where an earlier one stopped.
    """
    from etude.studies.plan import Plan
    from etude.studies.study import study

    raise_on_interrupt()
    _show(study(Plan.load(plan), storage=storage, engine=engine), json)


@app.command("resume")
def resume(
    name: Name, storage: Storage = DEFAULT, engine: Engine = "auto", json: choices.Json = False
) -> None:
    """Go on with a stored study."""
    from etude.studies.study import resume as go_on

    raise_on_interrupt()
    _show(go_on(name, storage=_existing(storage), engine=engine), json)


@app.command("show")
def show(name: Name, storage: Storage = DEFAULT, json: choices.Json = False) -> None:
    """Show what a study has shown so far."""
    _show(_stored(name, storage), json)


@app.command("ls")
def ls(storage: Storage = DEFAULT, json: choices.Json = False) -> None:
    """List the studies of a database."""
    from etude.storage.study import StudyDatabase

    with StudyDatabase(_existing(storage)) as database:
        found = database.studies()
    if json:
        print_json(
            [
                {
                    "name": one.name,
                    "waiting": one.counts.waiting,
                    "running": one.counts.running,
                    "done": one.counts.done,
                    "failed": one.counts.failed,
                }
                for one in found
            ]
        )
        return
    table = Table("study", "done", "waiting", "running", "failed", box=None)
    for one in found:
        counts = one.counts
        numbers = (counts.done, counts.waiting, counts.running, counts.failed)
        table.add_row(one.name, *(f"{n:,}" for n in numbers))
    out.print(table if found else f"no study in {storage}")


@app.command("export")
def export(
    kind: Annotated[str, typer.Argument(metavar="csv", help="The format: csv.")],
    name: Name,
    storage: Storage = DEFAULT,
) -> None:
    """Write one row for each trial on standard output."""
    from etude.errors import unknown_name
    from etude.storage.study import StudyDatabase
    from etude.storage.study.columns import columns_of, rows_of

    if kind != "csv":
        raise unknown_name("format", kind, ["csv"])
    with StudyDatabase(_existing(storage)) as database:
        stored = database.resume(name)
        columns = columns_of(stored)
        writer = tables.DictWriter(sys.stdout, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows_of(stored, columns))


@app.command("report")
def report(
    name: Name,
    storage: Storage = DEFAULT,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page to write (default: NAME.html)."),
    ] = None,
) -> None:
    """Write a study's figures and tables as one HTML page that needs no network."""
    from etude.report import write

    place = write(_stored(name, storage), html or Path(f"{name}.html"))
    out.print(f"written: {place}", markup=False)


def _stored(name: str, storage: str) -> StudyResult:
    from etude.storage.study import StudyDatabase
    from etude.studies.result import StudyResult

    with StudyDatabase(_existing(storage)) as database:
        return StudyResult.of(database.resume(name))


def _existing(storage: str) -> str:
    """Return the storage, if it is a URL or a file that exists: a reader creates none."""
    from etude.errors import StorageError

    if "://" not in storage and not Path(storage).exists():
        raise StorageError(
            f"there is no study database {storage!r}: name it with --storage, or start a study "
            "with etude study FILE.toml"
        )
    return storage


def _show(result: StudyResult, json: bool) -> None:
    if json:
        from etude.studies.result import table_of

        print_json({"name": result.name, "trials": [_plain(row) for row in table_of(result)]})
        return
    from etude.report import present

    draw(present(result))


def _plain(row: Any) -> dict[str, Any]:
    from etude.record import to_json

    return {k: to_json(v) if isinstance(v, float) else v for k, v in row.items()}
