"""`Evidence`: all that is known of a run when a verdict is made; parts of it may be missing."""

from __future__ import annotations

from dataclasses import dataclass

from etude.diagnosis.finding import Finding
from etude.diagnosis.history import History
from etude.diagnosis.verdict.measures import Measures
from etude.diagnosis.verdict.probes import Probes
from etude.record import Evaluation


@dataclass(frozen=True)
class Evidence:
    """What was seen of a run.

    Attributes:
        findings: What the rules found; their order does not matter.
        history: The readings of the run; None if nothing was trained.
        measures: The numbers before training; None without a task.
        evaluations: The evaluations on the validation data, in order; empty without a task.
        probes: What the probes have shown; None if none was trained.
    """

    findings: tuple[Finding, ...] = ()
    history: History | None = None
    measures: Measures | None = None
    evaluations: tuple[Evaluation, ...] = ()
    probes: Probes | None = None
