"""The options `--observe`, observers by reference with their options, and `--watch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from etude.cli.options import choices
from etude.errors import BadTypeError, kind_of

if TYPE_CHECKING:
    from pathlib import Path

    from etude.diagnosis.health.observer import WatchObserver
    from etude.recipe import Recipe
    from etude.record import Record
    from etude.tasks.task import Task
    from etude.training.observer import Observer

Observe = Annotated[
    list[str] | None,
    typer.Option(
        "--observe",
        help="An observer of the run, as module:name or file.py:name; with options, as "
        "'file.py:name every=10'. Repeat it for several.",
        show_default=False,
    ),
]

Watch = Annotated[
    bool,
    typer.Option(
        "--watch/--no-watch",
        help="Watch what each layer does, and say in the report what is wrong; the results are "
        "the same to the bit.",
    ),
]


LogTo = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="LOGGER",
        help="Show the run in wandb, mlflow, tensorboard or aim too.",
        show_default=False,
    ),
]


def health(record: Record) -> dict[str, Any]:
    """Return what a watch has found in a run, for JSON; nothing if the run was not watched."""
    from etude.diagnosis.health.read import health_of

    found = health_of(record)
    return {} if found is None else {"health": found.to_dict()}


def watcher(
    wanted: bool, task: Task, recipe: Recipe | None, file: Path | None
) -> bool | WatchObserver:
    """Return what watches a run; a recipe from the folder of a tuning brings its tied range.

    Args:
        wanted: Whether to watch.
        task: The task.
        recipe: The recipe of a new run; None if a run goes on.
        file: The file that the recipe is from.
    """
    from etude.diagnosis.health.observer import WatchObserver
    from etude.diagnosis.health.tuned_before import tied_in

    if not wanted or recipe is None or file is None:
        return wanted
    return WatchObserver(tied=tied_in(file.parent, task, recipe))


def observers(texts: list[str] | None) -> list[Observer]:
    """Return the observers that the texts name: instances, classes, or functions that return one.

    Raises:
        TaskError: If the file or module is missing or fails.
        BadTypeError: If an object is not an observer, or does not take an option.
    """
    return [_observer(text) for text in texts or ()]


def _observer(text: str) -> Observer:
    from etude.tasks.references.reference import find
    from etude.training.observer import Observer

    reference, *words = text.split()
    options = choices.pairs(words, f"--observe {reference}:")
    found: Any = find(reference, "observer")
    if callable(found) and not isinstance(found, Observer):
        try:
            found = found(**options)
        except TypeError as error:
            raise BadTypeError(f"--observe {text}: {error}") from error
    elif options:
        raise BadTypeError(
            f"--observe {text}: {reference} is an observer already, and takes no options: name "
            "its class"
        )
    if not isinstance(found, Observer):
        raise BadTypeError(
            f"--observe {text}: {reference} is {kind_of(found)}, not an etude.Observer: "
            "name a subclass of it, an instance, or a function that returns one"
        )
    return found
