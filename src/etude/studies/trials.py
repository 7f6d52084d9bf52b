"""The trials of a study: each is a task reference and a recipe, as plain values."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etude import tasks
from etude.errors import BadValueError, EtudeError, StorageError, shown
from etude.optimizers.choice import OptimizerChoice
from etude.recipe import Recipe
from etude.studies.axes import FIELDS, NONE, Axes
from etude.studies.halving import factor_of
from etude.studies.plan import StudyPlan
from etude.studies.recipes import recipe_of, ref_of
from etude.tasks.references.ref import TaskRef

STOPPED_AT = "stopped_at"
"""The further value of a trial that successive halving stopped: the updates that it did."""

MOST = 1_000_000
"""The largest number of trials of a study."""


@dataclass(frozen=True)
class PlannedTrial:
    """What one trial trains. A worker on any machine can build it.

    Attributes:
        ref: The task.
        recipe: How to learn it.
        halving: The factor of successive halving; None to train it to the end.
    """

    ref: TaskRef
    recipe: Recipe
    halving: int | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        found = {"task": self.ref.plain(), "recipe": self.recipe.plain()}
        return found if self.halving is None else {**found, "halving": self.halving}

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the other trials of a study."""
        return self.ref.key, self.recipe.digest

    @property
    def kind(self) -> str:
        """What it is besides its rate and seed, as text: those of one kind compete."""
        recipe = {k: v for k, v in self.recipe.plain().items() if k not in ("lr", "seed")}
        return json.dumps([self.ref.key, recipe], sort_keys=True)

    @classmethod
    def from_plain(cls, table: Mapping[str, Any], where: str) -> PlannedTrial:
        """Read what `plain` returned; it may come from a stranger, and runs nothing.

        Raises:
            StorageError: If it is anything else.
        """
        fields = table.get("recipe")
        known = set(table) - {"halving"} == {"task", "recipe"}
        if not isinstance(fields, Mapping) or not known:
            raise StorageError(f"{where} is damaged: it is no task and recipe")
        halving = table.get("halving")
        try:
            factor = None if halving is None else factor_of(halving)
            return cls(ref_of(table["task"], where), recipe_of(fields), factor)
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
    found: dict[Any, PlannedTrial] = {}
    count = sum(_count(part) for part in plan.parts())
    if count > MOST:
        raise BadValueError(
            f"the plan has {count:,} combinations: give fewer values, at most {MOST:,} trials"
        )
    for part in plan.parts():
        for one in planned_part(part):
            halved = replace(one, halving=plan.halving)
            found.setdefault(one.key, halved)
    return list(found.values())


def _count(part: Axes) -> int:
    """Return the number of combinations of a block."""
    values = (getattr(part, axis) for axis in ("tasks", "models", *FIELDS) if axis != "lrs")
    if isinstance(part.lrs, Mapping):
        choices = part.optimizers or ()
        rates = sum(len(part.rates(OptimizerChoice.of(one).name) or ()) for one in choices)
        return math.prod(len(one) for one in values if one is not None) * rates // len(choices)
    return math.prod(len(one) for one in (*values, part.lrs) if one is not None)


def planned_part(part: Axes) -> Iterator[PlannedTrial]:
    """Yield every combination of one block of a plan."""
    for reference, options in itertools.product(part.tasks or (), part.models or ({},)):
        task = tasks.load(reference, **options)
        if task.ref is None:
            raise BadValueError(
                f"the options of {reference!r} cannot be stored: {shown(dict(options))}; give "
                "numbers, text, true or false"
            )
        for recipe in _recipes(part, task.defaults):
            yield PlannedTrial(task.ref, recipe)


def _recipes(part: Axes, defaults: Mapping[str, Any]) -> Iterator[Recipe]:
    own = {**defaults, **(part.recipe or {})}
    for optimizer, schedule in itertools.product(
        part.optimizers or (own.get("optimizer"),), part.schedules or (None,)
    ):
        given = {"optimizers": part.optimizers and (optimizer,), "schedules": (schedule,)}
        name = None if optimizer is None else OptimizerChoice.of(optimizer).name
        given |= {"lrs": part.rates(name)}
        given |= {axis: getattr(part, axis) for axis in FIELDS if axis not in given}
        yield from _combined(own, {k: v for k, v in given.items() if v not in (None, (None,))})


def _combined(own: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Recipe]:
    for values in itertools.product(*given.values()):
        fields = dict(own)
        for axis, value in zip(given, values, strict=True):
            fields[FIELDS[axis]] = None if axis == "clips" and value == NONE else value
        yield recipe_of(fields)


def groups_of(trials: Sequence[PlannedTrial], size: int) -> list[list[int]]:
    """Return the numbers of trials that are trained together.

    The trials of a group have one task, length, batch size and number of evaluations; where rates
    compete, they are one kind of run. The groups follow from the plan alone: a group that is
    repeated gives the same bits.

    Args:
        trials: All trials of a study, in order.
        size: The largest number of trials in a group.
    """
    alike: dict[Any, list[int]] = {}
    for number, one in enumerate(trials):
        recipe = one.recipe
        key: object = (one.ref.key, recipe.steps, recipe.batch_size, recipe.evaluations)
        alike.setdefault(one.kind if one.halving is not None else key, []).append(number)
    found = []
    for numbers in alike.values():
        # A competition is never divided: it would have several winners.
        most = size if trials[numbers[0]].halving is None else len(numbers)
        found += [numbers[i : i + most] for i in range(0, len(numbers), most)]
    return found
