"""A task and a recipe, as they were read from a trainer of another library."""

from __future__ import annotations

from typing import NamedTuple

from etude.recipe import Recipe
from etude.tasks.task import Task


class TaskAndRecipe(NamedTuple):
    """What a trainer learns, and how.

    Attributes:
        task: What to learn.
        recipe: How, at the trainer's own rate.
    """

    task: Task
    recipe: Recipe
