"""The trials of a study: each is a task reference and a recipe, as plain values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from etude import tasks
from etude.errors import BadValueError, EtudeError, StorageError, shown
from etude.recipe import Recipe
from etude.studies.plan import NONE, RECIPE_AXES, StudyPlan
from etude.studies.recipes import recipe_of, ref_of
from etude.tasks.ref import TaskRef

FIELDS: Mapping[str, str] = {
    "optimizers": "optimizer",
    "schedules": "schedule",
    "lrs": "lr",
    "batch_sizes": "batch_size",
    "clips": "clip_norm",
    "seeds": "seed",
    "steps": "steps",
}
"""The field of a recipe that each axis sets."""


@dataclass(frozen=True)
class PlannedTrial:
    """What one trial trains. A worker on any machine can build it.

    Attributes:
        ref: The task.
        recipe: How to learn it.
    """

    ref: TaskRef
    recipe: Recipe

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {"task": self.ref.plain(), "recipe": self.recipe.plain()}

    @classmethod
    def from_plain(cls, table: Mapping[str, Any], where: str) -> PlannedTrial:
        """Read what `plain` returned; it may come from a stranger, and runs nothing.

        Raises:
            StorageError: If it is anything else.
        """
        fields = table.get("recipe")
        if not isinstance(fields, Mapping) or set(table) != {"task", "recipe"}:
            raise StorageError(f"{where} is damaged: it is no task and recipe")
        try:
            return cls(ref_of(table["task"], where), recipe_of(fields))
        except StorageError:
            raise
        except (EtudeError, TypeError) as error:
            raise StorageError(f"{where} is damaged: {error}") from error


def planned_trials(plan: StudyPlan) -> list[PlannedTrial]:
    """Return every trial of a plan, in order; the axes named last change fastest.

    The order of the axes is that of the plan's attributes. Each task is loaded, and each recipe
    checked, before anything is trained.

    Raises:
        UnknownNameError: If a task, or an option of it, is unknown.
        TaskError: If a task cannot be built, or nothing names it outside this process.
        BadValueError: If a value is out of bounds, or all trials of a task would be equal.
    """
    found: list[PlannedTrial] = []
    for reference, options in itertools.product(plan.tasks, plan.models):
        task = tasks.load(reference, **options)
        if task.ref is None:
            raise BadValueError(
                f"the options of {reference!r} cannot be stored: {shown(dict(options))}; give "
                "numbers, text, true or false"
            )
        found += (PlannedTrial(task.ref, recipe) for recipe in _recipes(plan, task.defaults))
    return found


def _recipes(plan: StudyPlan, defaults: Mapping[str, Any]) -> Iterator[Recipe]:
    given = {axis: values for axis in RECIPE_AXES if (values := getattr(plan, axis)) is not None}
    for values in itertools.product(*given.values()):
        fields = dict(defaults)
        for axis, value in zip(given, values, strict=True):
            fields[FIELDS[axis]] = None if axis == "clips" and value == NONE else value
        yield recipe_of(fields)


def groups_of(trials: list[PlannedTrial], size: int) -> list[list[int]]:
    """Return the numbers of trials that are trained together.

    The trials of a group have one task, length and batch size. The groups follow from the plan
    alone: a group that is repeated gives the same bits.

    Args:
        trials: All trials of a study, in order.
        size: The largest number of trials in a group.
    """
    alike: dict[Any, list[int]] = {}
    for number, one in enumerate(trials):
        key = (one.ref.key, one.recipe.steps, one.recipe.batch_size)
        alike.setdefault(key, []).append(number)
    return [
        numbers[i : i + size] for numbers in alike.values() for i in range(0, len(numbers), size)
    ]
