"""Checks that the arguments of `train`, `tune` and others are a Task and a Recipe."""

from __future__ import annotations

from torch import nn

from etude.errors import BadTypeError, EtudeError, kind_of
from etude.recipe import Recipe
from etude.tasks.table import rows
from etude.tasks.task import Task


def check_given(task: object, recipe: object = None) -> None:
    """Check that the arguments are a task and a recipe.

    Args:
        task: The argument that should be a Task.
        recipe: The argument that should be a Recipe, or None for the task's own.

    Raises:
        BadTypeError: If one is not; the message shows how to create the right object.

    >>> check_given("digits-mlp")
    Traceback (most recent call last):
    etude.errors.BadTypeError: task='digits-mlp' is a name: give etude.tasks.get('digits-mlp')
    """
    if isinstance(task, str):
        if ".py" in task or ":" in task:
            raise BadTypeError(f"task={task!r} is a reference: give etude.tasks.load({task!r})")
        if task in {row.name for row in rows()}:
            raise BadTypeError(f"task={task!r} is a name: give etude.tasks.get({task!r})")
        raise BadTypeError(
            f"task={task!r} is text, and no bundled task: give etude.Task(model, train, loss=...)"
        )
    if not isinstance(task, Task):
        model = "model" if isinstance(task, nn.Module) else "..."
        raise BadTypeError(
            f"task is {kind_of(task)}: give etude.Task({model}, train=(inputs, targets), "
            "loss=...), or a bundled one, such as etude.tasks.get('digits-mlp')"
        )
    if recipe is not None and not isinstance(recipe, Recipe):
        raise BadTypeError(f"recipe is {kind_of(recipe)}: give {_suggestion(recipe)}")


def _suggestion(recipe: object) -> str:
    try:
        if isinstance(recipe, dict) and recipe:
            Recipe(**recipe)
            return "etude.Recipe(**recipe)"
        if isinstance(recipe, str):
            Recipe(optimizer=recipe)
            return f"etude.Recipe(optimizer={recipe!r})"
    except (EtudeError, TypeError):
        pass
    return "an etude.Recipe, such as etude.Recipe(optimizer='adamw', steps=1_000)"
