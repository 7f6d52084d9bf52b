"""Trains one group of planned trials by an engine, without a database."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from etude import tasks
from etude.engines import Engine, engine_for, train_many
from etude.errors import BadValueError, where
from etude.randomness import random_state_kept
from etude.record import Record, Status
from etude.storage.study import Claim, TrialResult
from etude.studies.halving import compete
from etude.studies.trials import STOPPED_AT, PlannedTrial
from etude.tasks.references.ref import TaskRef
from etude.tasks.task import Task
from etude.training.train import train


@dataclass(frozen=True)
class TrainedTrial:
    """What came of one trial: a Record, or an error.

    Attributes:
        record: What happened, without the model; None if the trial raised.
        error: The kind and text of the error; '' without one.
        place: Where it was raised, as ' (file.py:LINE)', or ''.
    """

    record: Record | None = None
    error: str = ""
    place: str = ""

    @classmethod
    def failed(cls, error: BaseException) -> TrainedTrial:
        """Return what came of a trial that raised."""
        return cls(error=f"{type(error).__name__}: {error}", place=where(error))

    def result(self, claim: Claim, measured: Mapping[str, float] | None = None) -> TrialResult:
        """Return what the database stores of a record under a claim.

        Args:
            claim: The claim.
            measured: Further values, such as the curvature before training.

        Raises:
            BadValueError: If there is none, since the trial raised.
        """
        if self.record is None:
            raise BadValueError(f"trial {claim.number} raised: {self.error}")
        return TrialResult.of(
            claim, self.record, values={**values_of(self.record), **(measured or {})}
        )


class GroupTrainer:
    """Trains groups of trials, one after the other.

    The last task and the engine are kept, so that groups of one task load, compile and start
    processes once.

    Args:
        engine: The engine that trains a group, by name, or an Engine, which is left open.

    >>> from etude.studies.plan import StudyPlan
    >>> from etude.studies.trials import planned_trials
    >>> plan = StudyPlan(name="rates", tasks="cancer-mlp", lrs=[0.01, 0.1], steps=5)
    >>> with GroupTrainer("loop") as trainer:
    ...     [str(one.record.status) for one in trainer.train(planned_trials(plan))]
    ['finished', 'finished']
    """

    def __init__(self, engine: str | Engine = "auto") -> None:
        self._given = engine
        self._engine: Engine | None = None
        self._loaded: tuple[str, Task] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the task, and the engine's processes and memory."""
        engine, self._engine, self._loaded = self._engine, None, None
        if engine is not None and engine is not self._given:
            engine.close()

    def train(self, trials: Sequence[PlannedTrial]) -> list[TrainedTrial]:
        """Train a group of trials of one task, and return what came of each, in order.

        If the group raises, each trial is trained alone by the plain loop, to see which of them
        raise; the others keep their records. Where rates compete, all others are then trained to
        the end.

        Args:
            trials: The trials, as `groups_of` puts them together.
        """
        try:
            task = self._task(trials[0].ref)
        except Exception as error:  # noqa: BLE001  (the user's own code can raise anything)
            return [TrainedTrial.failed(error)] * len(trials)
        if self._engine is None:
            self._engine = engine_for(self._given)
        try:
            records = _records(task, trials, self._engine)
        except Exception:  # noqa: BLE001
            return [_alone(task, one) for one in trials]
        return [TrainedTrial(record.without_model()) for record in records]

    def _task(self, ref: TaskRef) -> Task:
        if self._loaded is not None and self._loaded[0] == ref.key:
            return self._loaded[1]
        self.close()  # what an engine compiled for the task before would stay in memory
        # A file may build its model's weights as it is loaded: in every process the same.
        with random_state_kept(0):
            task = tasks.load(ref.reference, **ref.options)
        self._loaded = ref.key, task
        return task


def _records(task: Task, trials: Sequence[PlannedTrial], engine: Engine) -> list[Record]:
    recipes, factor = [one.recipe for one in trials], trials[0].halving
    evaluations = recipes[0].evaluations
    if factor is None:
        return train_many(task, recipes, engine, evaluations=evaluations)
    return compete(task, recipes, engine, factor, evaluations)


def _alone(task: Task, one: PlannedTrial) -> TrainedTrial:
    try:
        return TrainedTrial(train(task, one.recipe).without_model())
    except Exception as error:  # noqa: BLE001
        return TrainedTrial.failed(error)


def values_of(record: Record) -> Mapping[str, float]:
    """Return what the summaries of a study need of a record, besides its final loss and metric.

    `untrained_loss` is the validation loss before training; `half_loss` that of the last
    evaluation in the first half of the run; `stopped_at` how many updates a run did that lost its
    competition. One that is not finite is left out.
    """
    seen = record.evaluations
    half = [one.loss for one in seen if one.step <= record.length / 2]
    values = {
        "untrained_loss": seen[0].loss if seen and seen[0].step == 0 else math.nan,
        "half_loss": half[-1] if half else math.nan,
        STOPPED_AT: record.cost.steps if record.status == Status.STOPPED else math.nan,
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}
