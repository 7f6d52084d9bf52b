"""The schema of what a record keeps of a watch, against which files of others are validated."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from etude.record_shape import Finite, Number, Step, Text


class FindingShape(TypedDict):
    """One finding; see `Finding.to_dict`."""

    what: Text
    layer: Text | None
    step: Step | None
    text: Text
    fix: Text
    certain: NotRequired[bool]
    evidence: dict[str, Number | Text]


class RankedShape(TypedDict):
    """One of the likeliest causes; see `Verdict.to_dict`."""

    cause: Text
    probability: Number


class VerdictShape(TypedDict):
    """See `Verdict.to_dict`."""

    faulty: bool
    cause: Text | None
    probability: Number
    ranked: list[RankedShape]
    evidence: list[Text]
    follows: list[Text]
    layer: Text | None
    step: Step | None
    reliability: Text


class DiagnosisShape(TypedDict):
    """See `Diagnosis.to_dict`; more keys do no harm."""

    verdict: NotRequired[VerdictShape | None]
    findings: list[FindingShape]
    seen: list[Text]
    unseen: list[Text]


class LayerShape(TypedDict):
    """See `LayerInfo`; more keys do no harm."""

    name: Text
    kind: Text
    depth: Step
    parameters: list[Text]
    units: Step
    activation: Text
    gate: bool
    output: bool


class HistoryShape(TypedDict):
    """See `history_tree.to_plain`."""

    updates: Step
    samples: Step
    period: Step
    steps: list[Step]
    layers: list[LayerShape]
    readings: dict[str, list[list[Number]]]
    run_readings: dict[str, list[Number]]


class ParameterShape(TypedDict):
    """See `ParameterInfo`; more keys do no harm."""

    name: Text
    layer: Step
    optimizer: Step | None
    trainable: bool


class TreeShape(TypedDict):
    """See `history_tree.to_tree`; arrays are looked at where they are read."""

    updates: Step
    layers: list[LayerShape]
    parameters: list[ParameterShape]
    readings: dict[str, Any]
    run_readings: dict[str, Any]
    one_loss: bool
    adaptive: bool
    broken_from: Step | None
    evaluating_layer: Text
    stuck: bool
    period: Annotated[int, Field(ge=1, le=2**53)]
    overhead: float
    ended: NotRequired[bool]
    optimizers: NotRequired[list[Text]]
    loss_name: NotRequired[Text]
    input_layer: NotRequired[Step | None]
    largest_samples: NotRequired[list[Annotated[list[Finite], Field(min_length=3, max_length=3)]]]
    output_fault: NotRequired[tuple[Text, Text, dict[str, Number | Text], Text] | None]


class HealthShape(TypedDict):
    """What `WatchObserver.note` returns."""

    diagnosis: DiagnosisShape
    history: NotRequired[HistoryShape | None]
    tied: NotRequired[list[Number]]
