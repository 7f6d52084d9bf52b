"""What the findings in a tuning.json must look like: they may come from a stranger."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from etude.record_shape import Finite, Number, Text

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SeedShape(TypedDict):
    """How a rate did with one seed."""

    seed: int
    updates: Annotated[int, Field(ge=0)]
    value: Number | None
    diverged: bool


class TrialShape(TypedDict):
    """One rate that was tried."""

    lr: Rate
    folder: Text
    unstable: bool
    tied: bool
    compared: NotRequired[Number | None]
    seeds: NotRequired[list[SeedShape]]


class TriedShape(TypedDict):
    """One recipe that was tried."""

    values: dict[str, Any]
    lr: Rate
    scores: list[Number]


class SelectionShape(TypedDict):
    """What a recipe was selected from."""

    values: dict[str, Any]
    held: Finite | None
    tried: list[TriedShape]


class ResultShape(TypedDict):
    """The findings; more keys do no harm."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    lr: Rate
    tied: Annotated[list[Rate], Field(min_length=2, max_length=2)]
    stable_below: Rate | None
    cost: Finite
    costs: dict[str, Finite]
    outcome: Text
    untrained_loss: Number
    untrained_metric: Number | None
    budget: Finite
    seconds: Finite
    compute_seconds: NotRequired[Finite | None]
    evaluation_seconds: NotRequired[Finite | None]
    valid_samples: NotRequired[Annotated[int, Field(ge=1)] | None]
    judged_on: NotRequired[Annotated[int, Field(ge=1)] | None]
    seeds: NotRequired[Annotated[int, Field(ge=1)]]
    lr_range: NotRequired[Annotated[list[Rate], Field(min_length=2, max_length=2)] | None]
    lrs: NotRequired[Annotated[list[Rate], Field(min_length=2)] | None]
    sensitivity: Finite | None
    confidence: Finite | None
    objective: Text
    folds: Annotated[int, Field(ge=1)]
    selection: SelectionShape | None
    recipe: dict[str, Any]
    trials: Annotated[list[TrialShape], Field(min_length=1)]


class SpaceShape(TypedDict):
    """What else was to be chosen."""

    choices: dict[str, Annotated[list[Any], Field(min_length=1)]]
    ranges: dict[str, Annotated[list[Finite], Field(min_length=2, max_length=2)]]


class RequestShape(TypedDict):
    """What was asked of a tuning; more keys do no harm."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    recipe: dict[str, Any]
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    objective: NotRequired[Text]
    maximize: NotRequired[bool | None]
    folds: NotRequired[Annotated[int, Field(ge=1)]]
    over: NotRequired[SpaceShape | None]
    valid_samples: NotRequired[Annotated[int, Field(ge=1)] | Literal["auto", "all"] | None]
    seeds: NotRequired[Annotated[int, Field(ge=1)]]
    least_valid_samples: NotRequired[Annotated[int, Field(ge=1)]]
    lr_range: NotRequired[Annotated[list[Rate], Field(min_length=2, max_length=2)] | None]
    lrs: NotRequired[Annotated[list[Rate], Field(min_length=2)] | None]
    start_from: NotRequired[Text | None]
