"""The options that verbs share: which task, which recipe, which run folder."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etude import files
from etude.cli.console import err
from etude.cli.interrupt import raise_again
from etude.cli.kept_task import kept_task
from etude.cli.next_step import quoted
from etude.errors import BadValueError, EtudeError, StorageError

if TYPE_CHECKING:
    from etude.recipe import Recipe
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
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run folder (default: runs/TASK-DATE-TIME)."),
]
Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="DIR", help="Go on with the run in a folder.")
]
TaskOnResume = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="With --resume: the task of the run, as file.py:name, where the folder comes from "
        "another machine or the file has changed.",
        show_default=False,
    ),
]
Accept = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="With --resume: go on although data, model or loss are not those of the run.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]


def pairs(texts: list[str] | None, option: str) -> dict[str, Any]:
    """Return KEY=VALUE texts as a mapping; values are read as TOML, else taken as text.

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
    """Return a run's length as a recipe takes it: '120' is a number.

    >>> length("120"), length("2 epochs")
    (120, '2 epochs')
    """
    value: int | str | None = None if text is None else _value(text)
    return value


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
    """Return the task meant: by name, or the one of the run to resume.

    From here on Ctrl-C is an ordinary KeyboardInterrupt: what is heavy to load is loaded.

    Args:
        name: As it was typed.
        options: KEY=VALUE texts.
        resume: The run folder to go on with, which names a task of its own.
        own: The task of that run, as it was typed.

    Raises:
        BadValueError: If there is neither, or both.
        StorageError: If the folder to resume does not say, or names code that is not known here.
    """
    from etude import tasks

    if resume is not None:
        if name is not None:
            raise BadValueError(
                "--resume goes on with the folder's own task: leave TASK out (--task names it "
                "where the folder's own cannot be used)"
            )
        return _ready(kept_task(resume, own, pairs(options, "--with")))
    if own is not None:
        raise BadValueError(f"--task is for --resume: give the task alone, {own!r}")
    if name is None:
        raise BadValueError("which task? Give a name (`etude tasks` lists them) or file.py:name")
    return _ready(tasks.load(name, **pairs(options, "--with")))


def _ready(task: Task) -> Task:
    raise_again()
    return task


def choose_recipe(
    task: Task,
    file: Path | None,
    changes: list[str] | None,
    *,
    reference: str | None = None,
    spelt: Mapping[str, str] | None = None,
    **named: Any,
) -> Recipe:
    """Return the task's recipe, or the file's, with the changes asked for.

    Args:
        task: Whose defaults to start from where there is no file.
        file: A recipe file.
        reference: Of the task: a Recipe called `recipe` beside it comes before the defaults.
        changes: FIELD=VALUE texts; 'optimizer.momentum=0.9' reaches into the optimizer.
        spelt: The option that each of the named fields was typed as, for errors.
        **named: Fields from options of their own, and the optimizer's `weight_decay`; None changes
            nothing.

    Raises:
        RecipeError: If a field is unknown or out of bounds.
    """
    recipe = _start(task, file, reference)
    try:
        return _changed(recipe, changes, named)
    except EtudeError as error:
        for name, option in (spelt or {}).items():
            if str(error) == _fault(recipe, {name: named[name]}):
                value = shlex.quote(str(named[name]))
                error.args = (f"{option} {value}: {error}",)
                break
        raise


def _fault(recipe: Recipe, named: Mapping[str, Any]) -> str:
    """Return what is wrong with one option alone; empty if nothing is."""
    try:
        _changed(recipe, None, named)
    except EtudeError as error:
        return str(error)
    return ""


def _changed(recipe: Recipe, changes: list[str] | None, named: Mapping[str, Any]) -> Recipe:
    fields = {key: value for key, value in named.items() if value is not None}
    if isinstance(steps := fields.get("steps"), str):
        fields["steps"] = length(steps)
    inner: dict[str, dict[str, Any]] = {}
    if (decay := fields.pop("weight_decay", None)) is not None:
        inner["optimizer"] = {"weight_decay": decay}
    for text in changes or ():
        ((key, value),) = pairs([text], "--set").items()
        outer, dot, name = key.partition(".")
        if dot:
            if decay is not None and (outer, name) == ("optimizer", "weight_decay"):
                raise BadValueError(f"--set {text}: --weight-decay gives it too: leave one out")
            inner.setdefault(outer, {})[_bare(name)] = value
        else:
            _refuse_misplaced(key, text, fields.get("optimizer"), recipe)
            fields[key] = value
    for outer, table in inner.items():
        fields[outer] = {**_table(outer, fields.get(outer), recipe), **table}
    return recipe.replace(**{**_suited(recipe, fields), **fields})


def _start(task: Task, file: Path | None, reference: str | None) -> Recipe:
    from etude.recipe import Recipe
    from etude.tasks.reference import beside

    if file is not None:
        return Recipe.load(file)
    own = None if reference is None else beside(reference, "recipe")
    if not isinstance(own, Recipe):
        return Recipe(**task.defaults)
    assert reference is not None
    err.print(
        f"The recipe is `recipe` of {reference.rpartition(':')[0]}.", style="dim", markup=False
    )
    return own


def _refuse_misplaced(key: str, text: str, optimizer: object, recipe: Recipe) -> None:
    """Say where a hyperparameter of the optimizer lives, if that is what is set.

    Raises:
        BadValueError: If the optimizer, or another one, has it.
    """
    from etude import optimizers
    from etude.optimizers.choice import OptimizerChoice

    if key in type(recipe).model_fields:
        return
    row = optimizers.get(OptimizerChoice.of(optimizer or recipe.optimizer).name)
    spelt = f"--set {shlex.quote(f'optimizer.{text.strip()}')}"
    if key in row.hyperparameters:
        raise BadValueError(f"--set {text}: {key} lives in the optimizer: write {spelt}")
    having = [name for name, one in optimizers.ROWS.items() if key in one.hyperparameters]
    if having:
        raise BadValueError(
            f"--set {text}: {row.name} has no {key}; it has {', '.join(row.hyperparameters)}. "
            f"With {key}, for instance: --optimizer {having[0]} {spelt}"
        )


def refuse_rate(lr: str | None, changes: list[str] | None, task: str | None) -> None:
    """Refuse a rate where the rate is what is looked for.

    Raises:
        BadValueError: If there is one; the message names the verb that takes it.
    """
    given = lr if lr is not None else pairs(changes, "--set").get("lr")
    if given is not None:
        option = f"--lr {given}" if lr is not None else f"--set lr={given}"
        raise BadValueError(
            f"{option}: the rate is what `etude tune` looks for; leave it out. To train at this "
            f"rate: etude train {task or 'TASK'} --lr {given}"
        )


def _suited(recipe: Recipe, fields: dict[str, Any]) -> dict[str, Any]:
    """Return rate and schedule for an optimizer to which the recipe's own mean something else.

    A task's 0.001 is a rate to Adam and next to nothing to Prodigy, whose rate multiplies one it
    finds itself; a cosine is no help to a line search.
    """
    from etude import optimizers

    if "optimizer" not in fields:
        return {}
    usual = type(recipe)(optimizer=fields["optimizer"])
    old, new = (optimizers.get(one.optimizer.name) for one in (recipe, usual))
    suited: dict[str, Any] = {} if old.rate_free == new.rate_free else {"lr": usual.lr}
    if bool(new.closure) != bool(old.closure) or new.schedule_free != old.schedule_free:
        suited["schedule"] = usual.schedule
    return suited


def _table(field: str, given: Any, recipe: Recipe) -> dict[str, Any]:
    """Return the table that FIELD.KEY=VALUE adds to."""
    if field == "optimizer":
        plain = given if given is not None else recipe.optimizer.plain()
        return {"name": plain} if isinstance(plain, str) else dict(plain)
    if field == "schedules":
        return {**recipe.schedules, **(given or {})}
    if field == "lr_mult":
        plain = given if given is not None else recipe.lr_mult and recipe.lr_mult.plain()
        return {"@policy": plain} if isinstance(plain, str) else dict(plain or {})
    raise BadValueError(f"--set {field}.…: only 'optimizer', 'schedules' and 'lr_mult' have parts")


def _bare(name: str) -> str:
    """Return a key without the quotes that TOML writes around one such as "*[forget]"."""
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'" else name


@contextmanager
def run_folder(out: Path | None, resume: Path | None, name: str | None) -> Iterator[RunFolder]:
    """Give the run folder.

    One that was made for nothing, because the run could not begin, is taken away again. One in
    which a run was killed before it began holds nothing to go on with, and is taken over.
    """
    from etude.storage.run_folder import RunFolder

    if resume is not None:
        yield RunFolder(resume)
        return
    assert name is not None
    folder = RunFolder(out or _fresh(name))
    files.make_folder(folder.path)
    if folder.taken:
        raise StorageError(
            f"{str(folder.path)!r} already holds a run: go on with --resume "
            f"{quoted(folder.path)}, or choose another folder"
        )
    folder.refuse_taken()
    try:
        yield folder
    finally:
        if folder.clear_unused() and out is None:
            folder.path.rmdir()


def _fresh(name: str) -> Path:
    """Return a folder under runs/ that does not exist yet."""
    from etude.tasks.ref import title

    short = title(name) or "run"
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    first = Path("runs") / f"{short}-{stamp}"
    folder, count = first, 1
    while folder.exists():
        count += 1
        folder = first.with_name(f"{first.name}-{count}")
    return folder


def refuse_with_resume(typed: list[str], *given: object) -> None:
    """Refuse options that a resumed run, which keeps its own, would silently ignore.

    Args:
        typed: Options of the recipe that were typed.
        *given: What else was given; None was not.
    """
    if typed or any(value is not None for value in given):
        raise BadValueError(
            "--resume goes on with the folder's own recipe: leave other options out (`train` "
            "takes a longer --steps, `tune` a larger --budget)"
        )
