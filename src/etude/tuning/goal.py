"""What candidates are compared by: the validation loss, or the task's metric."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from etude.errors import BadValueError
from etude.tasks.task import Task
from etude.training.record import Evaluation

Objective = Literal["loss", "metric"]


@dataclass(frozen=True)
class Goal:
    """What is compared, as a score of which less is better.

    Attributes:
        name: 'loss', or the metric's name.
        maximize: Whether the value is better when larger; the score is then its negative.

    >>> Goal("accuracy", maximize=True).score(Evaluation(9, 0.3, 0.9))
    -0.9
    """

    name: str = "loss"
    maximize: bool = False

    @property
    def of_loss(self) -> bool:
        """Whether it is the validation loss."""
        return self.name == "loss"

    def value(self, evaluation: Evaluation) -> float:
        """Return the loss or metric of an evaluation as it is; NaN where there is none."""
        found = evaluation.loss if self.of_loss else evaluation.metric
        return math.nan if found is None else found

    def score(self, evaluation: Evaluation | None) -> float:
        """Return what is compared: less is better, infinite where it is not finite."""
        if evaluation is None or not math.isfinite(evaluation.loss):
            return math.inf
        value = self.value(evaluation)
        if not math.isfinite(value):
            return math.inf
        return -value if self.maximize else value

    def parts(self, evaluation: Evaluation) -> tuple[float, ...]:
        """Return the score of each slice of the validation data."""
        if self.of_loss:
            return evaluation.parts
        sign = -1 if self.maximize else 1
        return tuple(sign * part for part in evaluation.metric_parts)


def goal_for(task: Task, objective: str = "loss", maximize: bool | None = None) -> Goal:
    """Return the goal that a user named.

    Args:
        task: Whose metric may be meant.
        objective: 'loss', 'metric', or the metric's name.
        maximize: Whether a larger metric is better; None takes the metric's own direction.

    Raises:
        BadValueError: If the task has no such metric, or its loss cannot be compared.
    """
    metric = task.metric
    names = ["loss"] if metric is None else ["loss", "metric", metric.name]
    if objective not in names:
        fix = "" if metric is not None else "; give the task metric= for another one"
        raise BadValueError(f"objective={objective!r}: give {' or '.join(map(repr, names))}{fix}")
    if objective == "loss":
        if maximize:
            raise BadValueError("maximize=True: training lowers the loss; give objective='metric'")
        return Goal()
    assert metric is not None
    return Goal(metric.name, metric.maximize if maximize is None else maximize)


def usual_objective(task: Task) -> str:
    """Return what a task is judged by when nobody says: the loss, or the metric of a GAN.

    Raises:
        BadValueError: If parts of the model take turns and the task has no metric.
    """
    if not task.alternates:
        return "loss"
    if task.metric is None:
        raise BadValueError(
            "parts of the model take turns, and their losses pull against each other: give the "
            "task metric=, a number of (model, batch) that says how good the model is"
        )
    return "metric"


def mean(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Return the mean of evaluations after the same number of updates, their slices in a row.

    >>> mean([Evaluation(8, 1.0, None, (1.0,)), Evaluation(8, 3.0, None, (3.0,))]).loss
    2.0
    """
    seen = list(evaluations)
    if len(seen) == 1:
        return seen[0]
    metrics = [e.metric for e in seen if e.metric is not None]
    return Evaluation(
        seen[0].step,
        sum(e.loss for e in seen) / len(seen),
        sum(metrics) / len(metrics) if len(metrics) == len(seen) else None,
        tuple(part for e in seen for part in e.parts),
        tuple(part for e in seen for part in e.metric_parts),
    )
