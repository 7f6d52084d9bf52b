"""The schema of what a record keeps of a watch, against which files of others are validated."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from etude.record_shape import Number, Step, Text


class FindingShape(TypedDict):
    """One finding; see `Finding.to_dict`."""

    what: Text
    layer: Text | None
    step: Step | None
    text: Text
    fix: Text
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


class HealthShape(TypedDict):
    """What `WatchObserver.note` returns."""

    diagnosis: DiagnosisShape
    history: NotRequired[HistoryShape | None]
