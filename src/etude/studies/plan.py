"""`StudyPlan`: what a study trains, as lists of values that are combined."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from etude import files
from etude.errors import BadTypeError, BadValueError, EtudeError, shown, unknown_name
from etude.optimizers.choice import OptimizerChoice
from etude.recipe_text import LARGEST, toml_table
from etude.studies.ranges import values_of

NONE = "none"
"""In `clips`: a run without clipping. TOML has no word for it."""


def _axis(value: object, info: ValidationInfo) -> object:
    return None if value is None else values_of(str(info.field_name), value)


def _optimizers(value: object) -> object:
    """Return optimizers as their plain form, checked; a table is one optimizer, not a range."""
    if value is None:
        return None
    listed = [value] if isinstance(value, (str, Mapping, OptimizerChoice)) else value
    if not isinstance(listed, (list, tuple)):
        raise BadTypeError(f"optimizers={shown(value)}: give a list of names or tables")
    return values_of("optimizers", [OptimizerChoice.of(one).plain() for one in listed])


def _models(value: object) -> object:
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, (list, tuple)):
        raise BadTypeError(f"models={shown(value)}: give a list of tables, such as {{depth = 2}}")
    for one in listed:
        if not isinstance(one, Mapping):
            raise BadTypeError(f"models holds {shown(one)}: give a table, such as {{depth = 2}}")
    return tuple(MappingProxyType(dict(one)) for one in values_of("models", listed))


Values = Annotated[tuple[Any, ...] | None, BeforeValidator(_axis)]


class StudyPlan(BaseModel):
    r"""What a study trains: every combination of the values of its axes.

    An axis is one value, a list, or a range `{from, to, points}` (equal ratios) or
    `{from, to, by}` (equal distances). An axis that is left out keeps what each task's own recipe
    says.

    Attributes:
        name: The study's name.
        tasks: Task references: 'digits-cnn', 'file.py:task', 'module:task'.
        models: Tables of the tasks' options: depth, width, activation, normalisation, residual,
            initialisation and what else the tasks have.
        optimizers: Names, or tables of a name and hyperparameters.
        schedules: Texts such as "warmup('5%') >> cosine()".
        lrs: Learning rates.
        batch_sizes: Samples per batch.
        clips: Largest norms of the gradient (`clip_norm`); 'none' does not clip.
        seeds: Seeds of the runs.
        steps: Lengths: updates, or text such as '20 epochs'.

    Raises:
        BadValueError: If a key is unknown, or a value is out of bounds; the message gives the fix.

    >>> lrs = {"from": 0.01, "to": 1.0, "points": 3}
    >>> plan = StudyPlan(name="rates", tasks=["cancer-mlp"], lrs=lrs)
    >>> plan.lrs, plan.seeds
    ((0.01, 0.1, 1.0), (0,))
    >>> StudyPlan.from_toml('name = "rates"\ntasks = "cancer-mlp"').tasks
    ('cancer-mlp',)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: Annotated[str, Field(min_length=1, max_length=200)]
    tasks: Annotated[tuple[str, ...], BeforeValidator(_axis)]
    models: Annotated[tuple[Mapping[str, Any], ...], BeforeValidator(_models)] = Field(
        default_factory=lambda: (MappingProxyType({}),)
    )
    optimizers: Annotated[tuple[Any, ...] | None, BeforeValidator(_optimizers)] = None
    schedules: Values = None
    lrs: Values = None
    batch_sizes: Values = None
    clips: Values = None
    seeds: Annotated[tuple[Any, ...], BeforeValidator(_axis)] = (0,)
    steps: Values = None

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise BadValueError("; ".join(map(_explain, error.errors(include_url=False)))) from None

    def model_post_init(self, _: Any) -> None:
        """Check what several axes decide together."""
        if self.optimizers is not None and self.lrs is None:
            raise BadValueError(
                "optimizers without lrs: each optimizer needs rates of its own kind, so give lrs, "
                "such as lrs = {from = 1e-4, to = 1.0, points = 9}"
            )

    def plain(self) -> dict[str, Any]:
        """Return the plan as values that JSON can hold, those that are left out as None.

        >>> StudyPlan(**StudyPlan(name="a", tasks=["digits-cnn"]).plain()).tasks
        ('digits-cnn',)
        """
        return {
            "name": self.name,
            "tasks": list(self.tasks),
            "models": [dict(one) for one in self.models],
            **{
                axis: None if (values := getattr(self, axis)) is None else list(values)
                for axis in RECIPE_AXES
            },
        }

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a plan from TOML.

        Raises:
            BadValueError: If the text is damaged, or not a plan.
        """
        return cls(**toml_table(text))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a plan from a .toml file; its name is the file's where it gives none.

        Raises:
            StorageError: If the file cannot be read.
            BadValueError: If its content is not a plan; the message names the file.
        """
        path = Path(path)
        text = files.read_text(path, "the study's plan", LARGEST)
        try:
            return cls(**{"name": path.stem, **toml_table(text)})
        except EtudeError as error:
            message = str(error).replace("the recipe", "the plan")
            raise BadValueError(f"{path}: {message}") from error


RECIPE_AXES = ("optimizers", "schedules", "lrs", "batch_sizes", "clips", "seeds", "steps")
"""The axes that become fields of the recipes."""


def _explain(mistake: Any) -> str:
    """Return one mistake that pydantic found, with its fix."""
    key = ".".join(str(part) for part in mistake["loc"])
    cause = mistake.get("ctx", {}).get("error")
    if isinstance(cause, EtudeError):
        return str(cause) if str(cause).startswith(key) else f"{key}: {cause}"
    if mistake["type"] == "missing":
        return f"{key} is missing: give it"
    if mistake["type"] == "extra_forbidden":
        return str(unknown_name("key of a plan", key, StudyPlan.model_fields))
    return f"{key}={shown(mistake['input'])} is out of bounds: {mistake['msg'].lower()}"
