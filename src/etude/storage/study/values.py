"""What goes into the study database and comes out of it: claims, results, trials, counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import nn

from etude.record import Record, Status


class TrialState(StrEnum):
    """How a trial of a study stands; each is equal to the word in the database."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Acceptance(StrEnum):
    """What became of a result that was handed in.

    ACCEPTED is now the trial's result. SAME was already stored by the same claim, as when a result
    is sent again after a lost connection. LATE is not stored: the lease had expired, and another
    worker has the trial, or had finished it.
    """

    ACCEPTED = "accepted"
    SAME = "same"
    LATE = "late"


@dataclass(frozen=True)
class Claim:
    """A trial that one worker may train until its lease expires.

    It is plain data, which can be sent to another process or machine and back.

    Attributes:
        number: Of the trial in its study, from 0.
        parameters: What to train.
        lease: The name of this claim. A result counts only with the trial's last lease.
        worker: Who has it.
        attempt: How often the trial has been claimed, this time included.
    """

    number: int
    parameters: Mapping[str, Any]
    lease: str
    worker: str
    attempt: int


@dataclass(frozen=True)
class TrialResult:
    """What came of a claimed trial.

    Attributes:
        claim: The claim.
        loss: The final validation loss; infinite if the run diverged, None if unknown. NaN is
            stored as None.
        metric: The final metric, None if there is none.
        diverged: Whether a NaN or Inf ended the run.
        seconds: What it took.
        values: Further numbers by name, for tables and exports.
        record: The whole Record, which becomes a file; None to store the values alone.
        model: The trained network, whose weights become a file; None to store none.
    """

    claim: Claim
    loss: float | None
    metric: float | None = None
    diverged: bool = False
    seconds: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    record: Record | None = field(default=None, repr=False)
    model: nn.Module | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        claim: Claim,
        record: Record,
        *,
        values: Mapping[str, float] | None = None,
        weights: bool = False,
    ) -> TrialResult:
        """Return the result that a Record tells.

        Args:
            claim: The claim.
            record: What happened.
            values: Further numbers by name.
            weights: Whether to store the weights of the record's model.
        """
        return cls(
            claim,
            record.valid_loss,
            record.valid_metric,
            record.status == Status.DIVERGED,
            record.cost.seconds,
            values or {},
            record.without_model(),
            record.model if weights else None,
        )


@dataclass(frozen=True)
class StoredTrial:
    """A trial as the database has it.

    Attributes:
        number: In its study, from 0.
        parameters: What is trained.
        state: Waiting, running, done or failed.
        attempts: How often it was claimed.
        lost: How often its worker was lost: killed, or silent for longer than its lease.
        worker: Who claimed it last.
        loss: See `TrialResult`, as for `metric`, `diverged` and `seconds`.
        metric: The final metric.
        diverged: Whether it diverged; None before it is done.
        seconds: What it took.
        values: Further numbers by name.
        record: The digest that names its Record's file, None without one.
        weights: The digest that names the file of its weights, None without one.
        error: Why it failed.
        place: Where it failed, such as 'model.py:12'.
        finished: When it was done or failed, in seconds since 1970 by the clock of the process
            that stored it.
    """

    number: int
    parameters: Mapping[str, Any]
    state: TrialState
    attempts: int
    lost: int
    worker: str | None
    loss: float | None
    metric: float | None
    diverged: bool | None
    seconds: float | None
    values: Mapping[str, float]
    record: str | None
    weights: str | None
    error: str | None
    place: str | None
    finished: float | None


@dataclass(frozen=True)
class Counts:
    """How many trials of a study are in each state.

    >>> Counts(waiting=3, done=1).total, Counts(waiting=3, done=1).finished
    (4, False)
    """

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """The number of trials."""
        return self.waiting + self.running + self.done + self.failed

    @property
    def finished(self) -> bool:
        """Whether no trial is left to train."""
        return not self.waiting and not self.running


@dataclass(frozen=True)
class StudySummary:
    """One line about a study.

    Attributes:
        name: Its name.
        digest: Of its plan.
        created: In seconds since 1970.
        counts: Of its trials.
    """

    name: str
    digest: str
    created: float
    counts: Counts


@dataclass(frozen=True)
class StoredWorker:
    """Who works on a study, or did.

    Attributes:
        name: As it called itself.
        since: When it claimed its first trial, in seconds since 1970 by its own clock.
        seen: When it last claimed a trial or sent a heartbeat, likewise.
    """

    name: str
    since: float
    seen: float


def number_or_none(value: float | None) -> float | None:
    """Return a float, None for NaN: the two databases do not agree on what NaN is.

    >>> number_or_none(3), number_or_none(float("nan")), number_or_none(float("inf"))
    (3.0, None, inf)
    """
    return None if value is None or math.isnan(value) else float(value)
