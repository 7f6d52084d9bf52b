"""`Axes`: lists of values, every combination of which is trained."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError
from pydantic import ValidationInfo as Info

from etude.errors import BadTypeError, BadValueError, EtudeError, shown, unknown_name
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.table import ROWS
from etude.recipe import Recipe
from etude.studies.ranges import is_range, plain_of, values_of

NONE = "none"
"""In `clips`: a run without clipping. TOML has no word for it."""

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "optimizers": "optimizer",
        "schedules": "schedule",
        "lrs": "lr",
        "batch_sizes": "batch_size",
        "clips": "clip_norm",
        "seeds": "seed",
        "steps": "steps",
    }
)
"""The field of a recipe that each axis sets."""

Rates = tuple[Any, ...] | Mapping[str, tuple[Any, ...]]


def _axis(value: object, info: Info) -> tuple[Any, ...]:
    return values_of(str(info.field_name), value)


def _optimizers(value: object) -> tuple[Any, ...]:
    """Return optimizers as their plain form, checked; a table is one optimizer, not a range."""
    listed = [value] if isinstance(value, (str, Mapping, OptimizerChoice)) else value
    if not isinstance(listed, (list, tuple)):
        raise BadTypeError(f"optimizers={shown(value)}: give a list of names or tables")
    return values_of("optimizers", [OptimizerChoice.of(one).plain() for one in listed])


def _rates(value: object) -> Rates:
    """Return the rates, for all optimizers or by the name of each."""
    if not isinstance(value, Mapping) or is_range(value):
        return values_of("lrs", value)
    if not value:
        raise BadValueError("lrs is empty: give at least one value, or leave lrs out")
    for name in value:
        if name not in ROWS:
            raise unknown_name("optimizer in lrs", name, ROWS)
    return MappingProxyType({name: values_of(f"lrs.{name}", one) for name, one in value.items()})


def _models(value: object) -> tuple[Any, ...]:
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, (list, tuple)):
        raise BadTypeError(f"models={shown(value)}: give a list of tables, such as {{depth = 2}}")
    for one in listed:
        if not isinstance(one, Mapping):
            raise BadTypeError(f"models holds {shown(one)}: give a table, such as {{depth = 2}}")
    return tuple(MappingProxyType(dict(one)) for one in values_of("models", listed))


def _recipe(value: object) -> Mapping[str, Any]:
    """Return fields of the recipe that are the same for all runs."""
    if not isinstance(value, Mapping):
        raise BadTypeError(f"recipe={shown(value)}: give a table, such as {{l2 = 1e-4}}")
    axes = {field: axis for axis, field in FIELDS.items()}
    free = [name for name in Recipe.model_fields if name not in axes]
    for name in value:
        if name in axes:
            raise BadValueError(f"recipe.{name}: give {axes[name]}, which is an axis of its own")
        if name not in free:
            raise unknown_name("field in recipe", name, free)
    Recipe(**value)
    return MappingProxyType(dict(value))


Values = Annotated[tuple[Any, ...] | None, PlainValidator(_axis)]


class Axes(BaseModel):
    """Values that are combined: each with each. What is None keeps what a task's recipe says.

    The attributes are those of `StudyPlan`.

    >>> Axes(tasks="cancer-mlp", lrs={"sgd": [0.1, 1.0], "adam": 0.01}).rates("adam")
    (0.01,)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    tasks: Values = None
    models: Annotated[tuple[Mapping[str, Any], ...] | None, PlainValidator(_models)] = None
    optimizers: Annotated[tuple[Any, ...] | None, PlainValidator(_optimizers)] = None
    schedules: Values = None
    lrs: Annotated[Rates | None, PlainValidator(_rates)] = None
    batch_sizes: Values = None
    clips: Values = None
    seeds: Values = None
    steps: Values = None
    recipe: Annotated[Mapping[str, Any] | None, PlainValidator(_recipe)] = None

    def __init__(self, **fields: Any) -> None:
        given = {name: value for name, value in fields.items() if value is not None}
        try:
            super().__init__(**given)
        except ValidationError as error:
            mistakes = error.errors(include_url=False)
            raise BadValueError("; ".join(self._explain(one) for one in mistakes)) from None

    def rates(self, optimizer: str | None) -> tuple[Any, ...] | None:
        """Return the rates of an optimizer, by its name; None if the plan gives none."""
        if isinstance(self.lrs, Mapping):
            return self.lrs[cast(str, optimizer)]
        return self.lrs

    def check(self) -> None:
        """Check what several axes decide together.

        Raises:
            BadValueError: If there is no task, or the optimizers and the rates do not fit.
        """
        if not self.tasks:
            raise BadValueError("tasks is missing: give it")
        if self.optimizers is not None and self.lrs is None:
            raise BadValueError(
                "optimizers without lrs: each optimizer needs rates of its own kind, so give lrs, "
                "such as lrs = {from = 1e-4, to = 1.0, points = 9}, or a table of rates by "
                "optimizer"
            )
        if isinstance(self.lrs, Mapping):
            self._check_table(self.lrs)

    def _check_table(self, lrs: Mapping[str, Any]) -> None:
        if self.optimizers is None:
            raise BadValueError("lrs gives rates by optimizer: give optimizers too")
        names = {OptimizerChoice.of(one).name for one in self.optimizers}
        for missing in sorted(names - lrs.keys()):
            raise BadValueError(f"lrs has no rates for {missing!r}: give lrs.{missing}")
        for extra in sorted(lrs.keys() - names):
            raise BadValueError(
                f"lrs has rates for {extra!r}, which is not among the optimizers: add it there, "
                "or leave its rates out"
            )

    def plain_axes(self, *, ranges: bool = False) -> dict[str, Any]:
        """Return the axes that are given as values that JSON can hold.

        Args:
            ranges: Whether to keep ranges as such, instead of their values.
        """
        found: dict[str, Any] = {}
        for name in Axes.model_fields:
            value = getattr(self, name)
            if name == "models" and value is not None:
                found[name] = [dict(one) for one in value]
            elif isinstance(value, Mapping):
                found[name] = {key: plain_of(one, ranges=ranges) for key, one in value.items()}
            elif value is not None:
                found[name] = plain_of(value, ranges=ranges)
        return found

    @classmethod
    def _explain(cls, mistake: Any) -> str:
        """Return one mistake that pydantic found, with its fix."""
        key = ".".join(str(part) for part in mistake["loc"])
        cause = mistake.get("ctx", {}).get("error")
        if isinstance(cause, EtudeError):
            return str(cause) if str(cause).startswith(key) else f"{key}: {cause}"
        if mistake["type"] == "missing":
            return f"{key} is missing: give it"
        if mistake["type"] == "extra_forbidden":
            return str(unknown_name("key of a plan", key, cls.model_fields))
        return f"{key}={shown(mistake['input'])} is out of bounds: {mistake['msg'].lower()}"
