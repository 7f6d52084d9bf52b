"""`etude study`: trains learning rates × architectures, and shows what is stored."""

from __future__ import annotations

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
    from etude.storage.study import StudyDatabase
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


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)


class FileOrVerb(TyperGroup):
    """A group of verbs in which the name of a file stands for `run FILE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb; what is none and names a plan is given to `run`."""
        first = args[0]
        if self.get_command(ctx, first) is None and (Path(first).exists() or "." in first):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=FileOrVerb, no_args_is_help=True, rich_markup_mode="rich", epilog=EPILOG)
export = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=_examples("etude study export csv rates > rates.csv"),
)
app.add_typer(export, name="export", help="Write a study for other programs.")


def register(program: typer.Typer) -> None:
    """Add the verb to the program."""
    program.add_typer(app, name="study", help="Train learning rates × architectures.")


@app.command("run", epilog=_examples("etude study run rates.toml"))
def run(
    plan: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The plan.")],
    storage: Storage = DEFAULT,
    engine: Engine = "auto",
    json: choices.Json = False,
) -> None:
    """Train every combination of a plan; `etude study FILE.toml` does the same.

    The trials are stored as they end. The same command goes on where an earlier one stopped.
    """
    from etude.studies.plan import StudyPlan
    from etude.studies.study import study

    raise_on_interrupt()
    _show(study(StudyPlan.load(plan), storage=storage, engine=engine), json)


@app.command("resume", epilog=_examples("etude study resume rates"))
def resume(
    name: Name, storage: Storage = DEFAULT, engine: Engine = "auto", json: choices.Json = False
) -> None:
    """Go on with a stored study."""
    from etude.studies.study import resume as go_on

    raise_on_interrupt()
    _show(go_on(name, storage=_existing(storage), engine=engine), json)


@app.command("show", epilog=_examples("etude study show rates --json"))
def show(name: Name, storage: Storage = DEFAULT, json: choices.Json = False) -> None:
    """Show what a study has shown so far."""
    _show(_stored(name, storage), json)


@app.command("ls", epilog=_examples("etude study ls --storage studies.db"))
def ls(storage: Storage = DEFAULT, json: choices.Json = False) -> None:
    """List the studies of a database."""
    with _opened(storage) as database:
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


@export.command("csv", epilog=_examples("etude study export csv rates > rates.csv"))
def export_csv(name: Name, storage: Storage = DEFAULT) -> None:
    """Write one row for each trial on standard output."""
    from etude.storage.study.tables import write_csv

    with _opened(storage) as database:
        write_csv(database.resume(name), sys.stdout)


@export.command("parquet", epilog=_examples("etude study export parquet rates rates.parquet"))
def export_parquet(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    storage: Storage = DEFAULT,
) -> None:
    """Write one row for each trial as a parquet file."""
    from etude.storage.study.tables import write_parquet

    with _opened(storage) as database:
        count = write_parquet(database.resume(name), file)
    out.print(f"{count:,} trials written: {file}", markup=False)


@export.command("optuna", epilog=_examples("etude study export optuna rates sqlite:///optuna.db"))
def export_optuna(
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="Optuna's database.")],
    storage: Storage = DEFAULT,
) -> None:
    """Write the study into a database that Optuna and its dashboard read."""
    from etude.interop.optuna import to_optuna

    with _opened(storage) as database:
        count = to_optuna(database.resume(name), url)
    out.print(f"{count:,} trials written: {url}", markup=False)


@app.command("report", epilog=_examples("etude study report rates --html rates.html"))
def report(
    name: Name,
    storage: Storage = DEFAULT,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page to write (default: NAME.html)."),
    ] = None,
) -> None:
    """Print what a study has found, and write its figures as one HTML page.

    The page needs no network. Every sentence is computed from the trials that it names.
    """
    from etude.report import present
    from etude.report.page import write_report

    told = present(_stored(name, storage))
    place = write_report(told, html or Path(f"{name}.html"))
    draw(told)
    out.print(f"\nwritten: {place}", markup=False)


def _stored(name: str, storage: str) -> StudyResult:
    from etude.studies.result import StudyResult

    with _opened(storage) as database:
        return StudyResult.of(database.resume(name))


def _opened(storage: str) -> StudyDatabase:
    from etude.storage.study import StudyDatabase

    return StudyDatabase(_existing(storage))


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
        from etude.studies.rows import table_of

        trials = [_plain(row) for row in table_of(result.rows)]
        print_json({"name": result.name, "trials": trials})
        return
    from etude.report import present

    draw(present(result))


def _plain(row: Any) -> dict[str, Any]:
    from etude.record import to_json

    return {k: to_json(v) if isinstance(v, float) else v for k, v in row.items()}
