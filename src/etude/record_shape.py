"""The schema of record.json, against which files, possibly untrusted, are validated."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from etude.errors import StorageError, shown

Step = Annotated[int, Field(ge=0, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Finite | Literal["nan", "inf", "-inf"]
Text = Annotated[str, StringConstraints(max_length=100_000)]


class EvaluationShape(TypedDict):
    """One evaluation."""

    step: Step
    loss: Number
    metric: Number | None


class CostShape(TypedDict):
    """The cost of a run."""

    steps: Step
    gradients: Step
    seconds: Finite
    evaluation_seconds: NotRequired[Finite | None]


class TaskRefShape(TypedDict):
    """What names a task outside a process; see `TaskRef`."""

    reference: Text
    options: dict[str, Any]
    digest: Text
    built: NotRequired[Text]


class RecordShape(TypedDict):
    """All of record.json; more keys do no harm."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    task: Text
    recipe: dict[str, Any]
    status: Text
    reason: Text
    length: Step
    metric: Text | None
    evaluations: list[EvaluationShape]
    cost: CostShape
    environment: dict[str, Text | Finite | bool | None]
    extended: NotRequired[list[Step]]
    task_ref: NotRequired[TaskRefShape | None]


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def refuse_other(plain: Mapping[str, Any], shape: Any = RecordShape) -> None:
    """Raise for values that do not match a schema.

    Raises:
        StorageError: If a part is missing or of another type; the message names the first one.
    """
    try:
        _adapter(shape).validate_python(plain, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][:4]))
        what = "is missing" if first["type"] == "missing" else f"is {shown(first['input'], 60)}"
        raise StorageError(f"its {shown(place)} {what}") from None
