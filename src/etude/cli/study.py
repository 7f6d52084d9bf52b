"""`etude study`: trains learning rates × architectures, and shows what is stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from etude.cli.options import choices
from etude.cli.options.study_axes import SPELT, ListedValues, axes_of
from etude.cli.options.unknown_verb import VerbGroup
from etude.cli.terminal.console import out, print_json
from etude.cli.terminal.draw import draw
from etude.cli.terminal.interrupt import raise_on_interrupt

if TYPE_CHECKING:
    from etude.storage.study import StudyDatabase
    from etude.studies.plan import StudyPlan
    from etude.studies.result import StudyResult

PLACE = 45
"""The position in `etude --help`."""

EPILOG = """[bold]Examples[/bold]

  etude study rates.toml

  etude study rates --tasks digits-mlp --lrs 1e-4:1:9 --seeds 0:2

  etude study --preset architectures

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
On = Annotated[
    str,
    typer.Option(
        metavar="WHERE",
        help="Where to train: local, here; ray, on a Ray cluster that is started here; auto or "
        "ray://HOST:PORT, on one that runs.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="How many groups of trials to train at a time."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]

DEFAULT = "studies.db"


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)


class FileOrVerb(VerbGroup):
    """A group of verbs in which a plan, as a file or as options, stands for `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; options of a plan without a verb are given to `run`."""
        if args and _plans(args[:1]):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb; what is none and names a plan, or has options of one, goes to `run`."""
        first = args[0]
        if self.get_command(ctx, first) is None and (
            Path(first).exists() or "." in first or _plans(args)
        ):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


def _plans(args: list[str]) -> bool:
    """Return whether an argument is an option of a plan."""
    return any(word.partition("=")[0] in (*SPELT, "--preset") for word in args)


app = typer.Typer(cls=FileOrVerb, no_args_is_help=True, rich_markup_mode="rich", epilog=EPILOG)
export = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=_examples("etude study export csv rates > rates.csv"),
)
app.add_typer(export, name="export", help="Write a study for other programs.")


def register(program: typer.Typer) -> None:
    """Add the verb to the program."""
    program.add_typer(app, name="study", help="Train learning rates × architectures.")


def _axis(text: str) -> Any:
    return typer.Option(metavar="VALUE…", help=text, show_default=False)


@app.command(
    "run",
    cls=ListedValues,
    epilog=_examples(
        "etude study run rates.toml",
        "etude study rates --tasks digits-mlp digits-cnn --lrs 1e-4:1:9 --seeds 0:2",
        "etude study two --tasks digits-mlp --optimizers adam sgd "
        "--lrs adam=1e-4:0.1:7 sgd=1e-3:1:7",
        "etude study --preset architectures",
        "etude study mine --preset batch-size --seeds 7",
        "etude study run rates.toml --on ray",
    ),
)
def run(
    plan: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE.toml|NAME]",
            help="The plan's file, or the name of a study that the options describe.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="A plan that comes with Etude: architectures, batch-size, instability, width.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[list[str] | None, _axis("Tasks, as for etude train.")] = None,
    models: Annotated[list[str] | None, _axis("Options of the tasks: depth=2,width=64.")] = None,
    optimizers: Annotated[
        list[str] | None, _axis("Optimizers: adam, \"{name = 'sgd', momentum = 0.9}\".")
    ] = None,
    schedules: Annotated[
        list[str] | None, _axis("Schedules: \"warmup('5%') >> cosine()\".")
    ] = None,
    lrs: Annotated[
        list[str] | None,
        _axis("Rates: 0.1 0.01, or FROM:TO:POINTS; adam=… sgd=… gives each optimizer its own."),
    ] = None,
    batch_sizes: Annotated[list[str] | None, _axis("Samples per batch.")] = None,
    clips: Annotated[
        list[str] | None, _axis("Largest norms of the gradient; none does not clip.")
    ] = None,
    seeds: Annotated[list[str] | None, _axis("Seeds: 0 1 2, or 0:2.")] = None,
    steps: Annotated[list[str] | None, _axis("Lengths: updates, or '20 epochs'.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Another field of the recipe, the same for all runs, repeatable: l2=1e-4.",
            show_default=False,
        ),
    ] = None,
    halving: Annotated[
        int | None,
        typer.Option(
            metavar="2|3|4",
            help="Successive halving: at each rung only this share of the rates is trained on.",
            show_default=False,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Optuna's sampler that proposes values within the ranges: tpe, random, gp, cmaes.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="With --sampler: how many proposals, each trained with every seed.",
            show_default=False,
        ),
    ] = None,
    storage: Storage = DEFAULT,
    engine: Engine = "auto",
    on: On = "local",
    workers: Workers = None,
    json: choices.Json = False,
) -> None:
    """Train every combination of a plan; `etude study FILE.toml` does the same.

    A plan is a file, a preset, or what the options say; options replace keys of a file or preset.
    The trials are stored as they end. The same command goes on where an earlier one stopped.
    """
    from etude.studies.study import study

    typed = axes_of(
        {
            "tasks": tasks,
            "models": models,
            "optimizers": optimizers,
            "schedules": schedules,
            "lrs": lrs,
            "batch_sizes": batch_sizes,
            "clips": clips,
            "seeds": seeds,
            "steps": steps,
        }
    )
    once = {"halving": halving, "sampler": sampler, "trials": trials}
    typed |= {key: value for key, value in once.items() if value is not None}
    if changes:
        typed["recipe"] = choices.pairs(changes, "--set")
    chosen = _plan(plan, preset, typed)
    raise_on_interrupt()
    found = study(chosen, storage=storage, engine=engine, on=on, workers=workers)
    _show(found, json)


def _plan(named: str | None, preset: str | None, typed: dict[str, Any]) -> StudyPlan:
    """Return the plan of a file, of a preset, or of options alone."""
    from etude.errors import BadValueError
    from etude.studies.plan import StudyPlan

    is_file = named is not None and (named.endswith(".toml") or Path(named).is_file())
    if preset is not None:
        if is_file:
            raise BadValueError(
                f"{named!r} and --preset {preset}: give a file or a preset; a name before "
                "--preset names the study"
            )
        return StudyPlan.preset(preset, **typed, **({} if named is None else {"name": named}))
    if named is None:
        raise BadValueError(
            "no plan: give FILE.toml, --preset, or a name and options: etude study NAME --tasks …"
        )
    if is_file or not typed:
        return StudyPlan.load(named, **typed)
    return StudyPlan(name=named, **typed)


@app.command("resume", epilog=_examples("etude study resume rates"))
def resume(
    name: Name,
    storage: Storage = DEFAULT,
    engine: Engine = "auto",
    on: On = "local",
    workers: Workers = None,
    json: choices.Json = False,
) -> None:
    """Go on with a stored study."""
    from etude.studies.study import resume as go_on

    raise_on_interrupt()
    found = go_on(name, storage=_existing(storage), engine=engine, on=on, workers=workers)
    _show(found, json)


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
    if "://" not in storage and Path(storage).is_file() and not Path(storage).stat().st_size:
        raise StorageError(
            f"the study database {storage!r} is an empty file: name another with --storage, or "
            "start a study with etude study FILE.toml"
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
