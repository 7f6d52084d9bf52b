"""The options that several verbs share: the task, the run folder, JSON output."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etude import files
from etude.cli.options.kept_task import kept_task
from etude.cli.options.whole_numbers import digits
from etude.cli.terminal.interrupt import raise_on_interrupt
from etude.cli.terminal.next_step import quoted
from etude.errors import BadValueError, StorageError

if TYPE_CHECKING:
    from etude.engines import Engine
    from etude.storage.run_folder import RunFolder
    from etude.tasks import Task

TaskName = Annotated[
    str | None,
    typer.Argument(
        metavar="TASK",
        help="A bundled task (`etude tasks` lists them), or your own as file.py:name or "
        "module:name.",
        show_default=False,
    ),
]
TypedRate = Annotated[str | None, typer.Option("--lr", hidden=True)]
"""The rate of a verb that searches for it, which `refuse_rate` refuses."""

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "--folder",
        metavar="DIR",
        help="The run folder (default: runs/TASK-DATE-TIME).",
    ),
]
Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="DIR", help="Continue the run in a folder.")
]
TaskOnResume = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="With --resume: the task of the run, as file.py:name, if the folder comes from "
        "another machine or the file has changed.",
        show_default=False,
    ),
]
Accept = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="With --resume: continue even if data, model or loss differ from those of the run.",
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(help="Compare rates by 'loss' or 'metric' (default: loss, for a GAN the metric)."),
]
Maximize = Annotated[
    bool | None, typer.Option("--maximize/--minimize", help="Whether a larger metric is better.")
]
Folds = Annotated[
    int | None, typer.Option(help="Compare by k-fold cross-validation on the training data.")
]
EngineName = Annotated[
    str | None,
    typer.Option(help="loop, pool, vmap, 'vmap pool', ray or auto; default: loop or pool."),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="CLUSTER",
        help="The Ray cluster to train on: ray starts one here; auto and ray://HOST:PORT use one "
        "that runs.",
    ),
]
Page = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write the report as a page.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]


def pairs(texts: list[str] | None, option: str) -> dict[str, Any]:
    """Return KEY=VALUE texts as a mapping; a value that is not valid TOML is a text.

    Raises:
        BadValueError: If a text has no '='.

    >>> pairs(["width=64", "residual=true", "activation=relu"], "--with")
    {'width': 64, 'residual': True, 'activation': 'relu'}
    """
    table: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise BadValueError(f"{option} {text!r}: write KEY=VALUE")
        table[key.strip()] = _value(value.strip())
    return table


def length(text: str | None) -> int | str | None:
    """Return a run's length as in a recipe: '120' and '1.2e2' become a number.

    >>> length("120"), length("1.2e2"), length("2 epochs")
    (120, 120, '2 epochs')
    """
    value: int | str | None = None if text is None else _value(digits(text))
    return value


def batch_size(text: str | None) -> int | str | None:
    """Return a batch size as in a recipe: '64' and '1e3' become a number.

    >>> batch_size("64"), batch_size("1e3"), batch_size("all"), batch_size("1.5")
    (64, 1000, 'all', '1.5')
    """
    value = None if text is None else length(text)
    return value if isinstance(value, int) else text


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def choose_task(
    name: str | None,
    options: list[str] | None,
    resume: Path | None,
    own: str | None = None,
) -> Task:
    """Return the task: by name, or that of the run to resume.

    When this returns, all large modules are loaded, and Ctrl-C raises KeyboardInterrupt.

    Args:
        name: The name or reference that the user typed.
        options: KEY=VALUE texts.
        resume: The run folder to continue, which names its own task.
        own: The reference of that task that the user typed, if any.

    Raises:
        BadValueError: If neither `name` nor `resume` is given, or both are.
        StorageError: If the folder does not name its task, or names code that is not trusted here.
    """
    from etude import tasks

    if resume is not None:
        if name is not None:
            raise BadValueError(
                "--resume continues with the folder's own task: leave TASK out (--task names it "
                "if the folder's own cannot be used)"
            )
        return _ready(kept_task(resume, own, pairs(options, "--with")))
    if own is not None:
        raise BadValueError(f"--task is for --resume: give the task alone, {own!r}")
    if name is None:
        raise BadValueError("no task: give a name (`etude tasks` lists them) or file.py:name")
    return _ready(tasks.load(name, **pairs(options, "--with")))


def _ready(task: Task) -> Task:
    raise_on_interrupt()
    return task


def refuse_rate(
    lr: str | None, changes: list[str] | None, task: str | None, verb: str = "tune"
) -> None:
    """Check that no rate was typed for a verb that searches for the rate.

    Raises:
        BadValueError: If one was; the message names the verb that takes it.
    """
    given = lr if lr is not None else pairs(changes, "--set").get("lr")
    if given is not None:
        option = f"--lr {given}" if lr is not None else f"--set lr={given}"
        raise BadValueError(
            f"{option}: `etude {verb}` searches for the rate; leave it out. To train at this "
            f"rate: etude train {task or 'TASK'} --lr {given}"
        )


@contextmanager
def run_folder(out: Path | None, resume: Path | None, name: str | None) -> Iterator[RunFolder]:
    """Yield the run folder.

    A new folder is deleted again if the run could not begin. A folder whose run was killed before
    it began contains nothing to continue, and is used for the new run.
    """
    from etude.storage.run_folder import RunFolder

    if resume is not None:
        yield RunFolder(resume)
        return
    assert name is not None
    folder = RunFolder(out or fresh_folder(name))
    files.make_folder(folder.path)
    if folder.taken:
        raise StorageError(
            f"{str(folder.path)!r} already holds a run: continue it with --resume "
            f"{quoted(folder.path)}, or choose another folder"
        )
    folder.refuse_taken()
    try:
        yield folder
    finally:
        if folder.clear_unused() and out is None:
            folder.path.rmdir()


def fresh_folder(name: str) -> Path:
    """Return a folder under runs/ that does not exist yet."""
    from etude.tasks.references.ref import title

    short = title(name) or "run"
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    first = Path("runs") / f"{short}-{stamp}"
    folder, count = first, 1
    while folder.exists():
        count += 1
        folder = first.with_name(f"{first.name}-{count}")
    return folder


@contextmanager
def engine_on(engine: str | None, on: str | None) -> Iterator[str | Engine | None]:
    """Yield the engine: a name, or the Ray engine on a cluster, which is left afterwards.

    Args:
        engine: The name that was typed, if any.
        on: The address of the cluster that was typed, if any.

    Raises:
        BadValueError: If a cluster was typed with another engine.
    """
    if on is None:
        yield engine
        return
    if engine not in (None, "ray"):
        raise BadValueError(f"--on {on} names a Ray cluster: give --engine ray, not {engine!r}")
    from etude.engines import RayEngine

    with RayEngine(on) as found:
        yield found


def refuse_with_resume(typed: list[str], *given: object) -> None:
    """Check that no options were typed that a resumed run, which keeps its own, would ignore.

    Args:
        typed: Options of the recipe that were typed.
        *given: The values of other options; None if an option was not typed.
    """
    if typed or any(value is not None for value in given):
        raise BadValueError(
            "--resume continues with the folder's own recipe: leave other options out (`train` "
            "takes a longer --steps, `tune` a larger --budget)"
        )
