"""What the exports share: what no configuration can say, and what a recipe sets besides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from etude.errors import BadValueError
from etude.recipe import Recipe
from etude.schedules import Clock, Schedule

if TYPE_CHECKING:
    from etude.tasks.task import Task

APART = ("optimizer", "lr", "lr_mult", "schedule", "schedules", "steps")
"""Fields that every target applies or refuses."""


def shape_over(recipe: Recipe, steps: int) -> Schedule:
    """Return the recipe's schedule, bound to a run of so many updates."""
    return recipe.bound_schedule(Clock(horizon=steps))


def refuse_beyond_one_rate(recipe: Recipe, target: str, task: Task | None) -> None:
    """Check that a recipe has one rate for all parameters, and constant hyperparameters.

    Raises:
        BadValueError: If it has not; the message names the field and the value.
    """
    if recipe.lr_mult is not None:
        raise BadValueError(
            f"lr_mult={recipe.lr_mult.plain()!r}: {target} has one rate for all parameters here. "
            "Export it as 'torch', or leave lr_mult out"
        )
    if task is not None and task.param_groups is not None:
        raise BadValueError(
            f"the task has param_groups={_name(task.param_groups)}: {target} has one group of "
            "parameters here. Export it as 'torch', or leave param_groups out"
        )
    if recipe.schedules:
        name, schedule = next(iter(recipe.schedules.items()))
        raise BadValueError(
            f"schedules has {name}={repr(schedule)!r}: {target} keeps {name} constant. Export it "
            f"as 'torch', or give {name} as a number of the optimizer"
        )


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__name__))


def refuse_optimizer(recipe: Recipe, target: str, names: Iterable[str], why: str = "") -> None:
    """Check that a target has a recipe's optimizer.

    Raises:
        BadValueError: If it has none that makes the same updates.
    """
    if recipe.optimizer.name not in names:
        raise BadValueError(
            f"optimizer={recipe.optimizer.name!r}: {target} has none that makes the same "
            f"updates{why}. Choose {' or '.join(names)}, or export it as 'torch'"
        )


def refuse_value(recipe: Recipe, name: str, wanted: Any, target: str, why: str) -> None:
    """Check that a hyperparameter of the optimizer has the only value that a target knows.

    Raises:
        BadValueError: If it has another.
    """
    value = recipe.optimizer.value(name)
    if value != wanted:
        raise BadValueError(
            f"optimizer.{name}={value!r}: {target} {why}. Set it to {wanted!r}, or export it as "
            "'torch'"
        )


def refuse_field(recipe: Recipe, name: str, target: str, why: str) -> None:
    """Check that a field of a recipe that changes every update, and has no equal, is not set.

    Raises:
        BadValueError: If it is set.
    """
    value = recipe.plain().get(name)
    if value:
        raise BadValueError(
            f"{name}={value!r}: {target} {why}. Leave it out, or export it as 'torch'"
        )


def remainder(recipe: Recipe, applied: Sequence[str] = ()) -> list[str]:
    """Return a comment with the fields that a target does not apply; nothing if there are none."""
    plain = recipe.plain()
    if plain.get("accumulate") == 1:
        del plain["accumulate"]
    if plain.get("precision") == "float32":
        del plain["precision"]
    left = [
        f"{name}={value!r}"
        for name, value in plain.items()
        if value and name not in (*APART, *applied)
    ]
    if not left:
        return []
    return [f"# The recipe also sets {', '.join(left)}: not applied here."]
