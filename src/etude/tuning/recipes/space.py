"""The space of recipes that `tune(..., over=...)` searches, besides the rate."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from etude import optimizers
from etude.errors import BadTypeError, BadValueError
from etude.optimizers.choice import OptimizerChoice
from etude.recipe import Recipe, usual
from etude.schedules import Schedule, warmup
from etude.schedules.algebra import Join
from etude.schedules.kinds.warmup import Warmup

NOT_HERE = ("lr", "seed", "steps", "evaluations", "schedules")
"""Fields that are looked for otherwise, or on which losses cannot be compared."""


@dataclass(frozen=True)
class Space:
    """What is varied, and how.

    Attributes:
        base: The recipe that everything else stays at.
        choices: By name, the values to choose from; a range is a pair (low, high) of numbers
            above zero, searched evenly in its logarithm.
    """

    base: Recipe
    choices: Mapping[str, tuple[Any, ...]]
    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, base: Recipe, over: Mapping[str, Any]) -> Space:
        """Check what a user gave.

        Args:
            base: The recipe.
            over: By name, a list of values, or a pair (low, high) as a tuple. Names are fields of
                Recipe, hyperparameters as 'optimizer.weight_decay', or 'warmup'.

        Raises:
            BadTypeError: If `over` is no mapping of names to values.
            BadValueError: If a name or value does not fit; the message names it.
        """
        if not isinstance(over, Mapping) or not over:
            raise BadTypeError(
                f"over={over!r}: give a table of names and values, such as "
                "{'optimizer': ['adamw', 'sgd'], 'batch_size': [32, 128]}"
            )
        choices: dict[str, tuple[Any, ...]] = {}
        ranges: dict[str, tuple[float, float]] = {}
        for name, values in over.items():
            if name in NOT_HERE:
                raise BadValueError(
                    f"over[{name!r}]: it is not varied: the rate is looked for anyway, and the "
                    "rest must be the same for losses to be compared"
                )
            if isinstance(values, tuple):
                ranges[name] = _range(name, values)
            elif isinstance(values, list) and values:
                choices[name] = tuple(values)
            else:
                raise BadTypeError(
                    f"over[{name!r}]={values!r}: give a list of values, or a pair (low, high)"
                )
        space = cls(base, choices, ranges)
        for name in over:
            for value in (*choices.get(name, ()), *ranges.get(name, ())):
                space.check(name, value)
        return space

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that fits no recipe of the space.

        Raises:
            BadValueError: With the reason.
        """
        own = name.partition(".")[2]
        if not name.startswith("optimizer."):
            self.recipe({name: value})
            return
        tried = [{"optimizer": o} for o in self.choices.get("optimizer", ())] or [{}]
        fits = [o for o in tried if own in _hyperparameters(self.recipe(o))]
        if not fits:
            names = [self.recipe(o).optimizer.name for o in tried]
            known = sorted({h for o in tried for h in _hyperparameters(self.recipe(o))})
            raise BadValueError(
                f"over[{name!r}]: {' and '.join(names)} have no {own!r}; known: {', '.join(known)}"
            )
        for optimizer in fits:
            self.recipe({**optimizer, name: value})

    def plain(self) -> dict[str, Any]:
        """Return what is varied as values that JSON can hold."""
        return {
            "choices": {name: [plain(v) for v in vs] for name, vs in self.choices.items()},
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
        }

    @classmethod
    def from_plain(cls, base: Recipe, table: Mapping[str, Any]) -> Space:
        """Undo `plain`."""
        ranges = {name: tuple(pair) for name, pair in table["ranges"].items()}
        return cls.of(base, {**table["choices"], **ranges})

    def size(self) -> float:
        """Return how many recipes there are, infinite with a range."""
        return math.inf if self.ranges else math.prod(len(v) for v in self.choices.values())

    def all(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of the choices."""
        for values in product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))

    def listening(self) -> list[Recipe]:
        """Return recipes of the space whose evaluations may change the run."""
        return [
            self.recipe({name: value})
            for name in ("schedule", "early_stopping")
            for value in (*self.choices.get(name, ()), *self.ranges.get(name, ()))
        ]

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """Return the base recipe with some values put in.

        Raises:
            BadValueError: If a value does not fit.
        """
        return with_values(self.base, values)


def with_values(base: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some values put in.

    Another optimizer brings its usual schedule. A hyperparameter that the optimizer does not have
    is left out: it belongs to another one that may be chosen.

    >>> with_values(Recipe(), {"warmup": "10%"}).schedule
    warmup('10%') >> cosine()
    """
    changes: dict[str, Any] = {}
    if "optimizer" in values:
        changes["optimizer"] = values["optimizer"]
        changes |= {"lr": base.lr, **usual(values["optimizer"])}
    for name, value in values.items():
        if name not in ("optimizer", "warmup") and not name.startswith("optimizer."):
            changes[name] = value
    recipe = base.replace(**changes)
    given = {n.partition(".")[2]: v for n, v in values.items() if n.startswith("optimizer.")}
    own = {n: v for n, v in given.items() if n in _hyperparameters(recipe)}
    if own:
        choice = recipe.optimizer
        table = {"name": choice.name, **choice.hyperparameters, **own}
        recipe = recipe.replace(optimizer=OptimizerChoice.of(table))
    if "warmup" in values:
        recipe = recipe.replace(schedule=with_warmup(recipe.schedule, values["warmup"]))
    return recipe


def with_warmup(schedule: Schedule, length: Any) -> Schedule:
    """Return a schedule with a warmup of another length in front; 0 takes it away.

    >>> from etude.schedules import parse
    >>> with_warmup(parse("cosine()"), "5%")
    warmup('5%') >> cosine()
    >>> with_warmup(parse("warmup('5%') >> cosine()"), 0)
    cosine()
    """
    body = schedule
    if isinstance(schedule, Join) and isinstance(schedule.segments[0], Warmup):
        rest = schedule.segments[1:]
        body = rest[0] if len(rest) == 1 else Join(rest)
    if length in (0, "0", "0%"):
        return body
    return warmup(length) >> body


def plain(value: Any) -> Any:
    """Return a value as text or number, as it is written down."""
    if isinstance(value, Schedule):
        return repr(value)
    if isinstance(value, OptimizerChoice):
        return value.plain()
    return value


def _hyperparameters(recipe: Recipe) -> Collection[str]:
    return optimizers.get(recipe.optimizer.name).hyperparameters


def rate_free(recipe: Recipe) -> bool:
    """Whether the optimizer sizes its own step, so that its rate is a factor of about one."""
    return optimizers.get(recipe.optimizer.name).rate_free


def _range(name: str, values: tuple[Any, ...]) -> tuple[float, float]:
    good = len(values) == 2 and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    )
    if not good or not 0 < values[0] < values[1] < math.inf:
        raise BadValueError(
            f"over[{name!r}]={values!r}: a range is a pair (low, high) with 0 < low < high; "
            "give a list for single values"
        )
    return float(values[0]), float(values[1])
