"""The length of a recipe on a task: samples per batch, updates per epoch, updates in all."""

from __future__ import annotations

from dataclasses import replace

from etude.errors import BadValueError
from etude.recipe import Recipe
from etude.schedules import Clock
from etude.schedules.clock import updates_per_epoch
from etude.tasks.task import Task


def batch_size_of(task: Task, recipe: Recipe) -> int:
    """Return the number of samples in one batch of a recipe on a task.

    Raises:
        BadValueError: If the data cannot give batches of that size.
    """
    if recipe.batch_size != "all":
        return int(task.train.check(recipe.batch_size))
    if task.train.samples is None:
        raise BadValueError("batch_size='all': the data does not say how many samples it has")
    return int(task.train.check(task.train.samples))


def clock_of(task: Task, recipe: Recipe) -> Clock:
    """Return the clock of a recipe on a task: the number of updates, in all and per epoch.

    Raises:
        BadValueError: If the length has a unit that the data cannot be measured in.
    """
    batch_size = batch_size_of(task, recipe)
    batches = task.train.steps_per_epoch(batch_size)
    if batches is None and isinstance(recipe.steps, str) and "epoch" in recipe.steps:
        raise BadValueError(
            f"steps={recipe.steps!r}, but the training data does not say how long an epoch is: "
            "give steps as a number of updates, or as '1e6 samples', or the dataset a __len__"
        )
    clock = Clock(
        steps_per_epoch=None
        if batches is None
        else updates_per_epoch(
            batches, recipe.accumulate, across_epochs=not task.train.whole_epochs
        ),
        samples_per_step=batch_size * recipe.accumulate,
    )
    if clock.steps(recipe.steps) == 0:
        raise BadValueError(
            f"steps={recipe.steps!r} is less than one update of the training data: give a longer "
            "run, such as 1_000 updates"
        )
    return replace(clock, horizon=recipe.steps)
