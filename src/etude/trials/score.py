"""The score by which trials are compared: the validation loss, or the task's metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etude.errors import BadValueError, TaskError
from etude.record import Evaluation
from etude.tasks.collect import StreamedMetric, WholeMetric
from etude.tasks.direction import unknown_direction
from etude.tasks.task import Task

Objective = Literal["loss", "metric"]


@dataclass(frozen=True)
class Goal:
    """The loss or metric by which trials are compared, as a score: lower is better.

    Attributes:
        name: 'loss', or the metric's name.
        maximize: Whether a larger value is better; the score is then the negative value.

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
        """Return the loss or metric of an evaluation; NaN if there is none."""
        found = evaluation.loss if self.of_loss else evaluation.metric
        return math.nan if found is None else found

    def score(self, evaluation: Evaluation | None) -> float:
        """Return the score of an evaluation: lower is better, infinite if it is not finite."""
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


def refuse_undefined(goal: Goal, seen: Sequence[Evaluation | None]) -> None:
    """Raise if the metric is NaN for every trial, so that they cannot be compared by it.

    Args:
        goal: The loss or metric by which they are compared.
        seen: The last evaluation of each trial; None if there is none.

    Raises:
        TaskError: If the metric is NaN in every evaluation with a finite loss.
    """
    found = [e for e in seen if e is not None and e.step > 0 and math.isfinite(e.loss)]
    if goal.of_loss or not found or not all(math.isnan(goal.value(e)) for e in found):
        return
    raise TaskError(
        f"metric {goal.name!r} is nan on the validation data at every rate that was tried, while "
        f"the losses are finite: the rate is not the cause. Check the metric and the "
        "validation targets (they may have only one class), or tune by the loss"
    )


def goal_for(task: Task, objective: str = "loss", maximize: bool | None = None) -> Goal:
    """Return the goal that a user chose.

    Args:
        task: The task, whose metric may be chosen.
        objective: 'loss', 'metric', or the metric's name.
        maximize: Whether a larger metric is better; None takes the metric's own direction.

    Raises:
        BadValueError: If the task has no such metric, or its direction is unknown, or the loss is
            to be maximised.
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
    better = metric.maximize if maximize is None else maximize
    if better is None:
        raise unknown_direction(metric.name)
    return Goal(metric.name, better)


def judged_by(task: Task, goal: Goal) -> Task:
    """Return the task; if trials are compared by its metric, the metric also returns its noise."""
    if goal.of_loss or not isinstance(task.metric, (WholeMetric, StreamedMetric)):
        return task
    return replace(task, metric=replace(task.metric, noise=True)).known_as(task.ref, task.origin)


def usual_objective(task: Task) -> str:
    """Return the default objective of a task: the loss, or the metric if parts take turns.

    Raises:
        BadValueError: If parts of the model take turns and the task has no metric.
    """
    if not task.alternates:
        return "loss"
    if task.metric is None:
        raise BadValueError(
            "parts of the model take turns, and their losses conflict: give the task metric=, a "
            "function of (model, batch) that measures how good the model is"
        )
    return "metric"


def mean(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Return the mean of evaluations after the same number of updates; their slices are joined.

    The loss is the mean over all targets: each evaluation counts by its weight, if that is known.

    >>> mean([Evaluation(8, 1.0, None, (1.0,)), Evaluation(8, 3.0, None, (3.0,))]).loss
    2.0
    """
    seen = list(evaluations)
    if len(seen) == 1:
        return seen[0]
    metrics = [e.metric for e in seen if e.metric is not None]
    weights = _shares(seen)
    return Evaluation(
        seen[0].step,
        # Without a target the loss is NaN; its weight is 0, and it is left out.
        sum(e.loss * w for e, w in zip(seen, weights, strict=True) if w) / len(seen),
        sum(metrics) / len(metrics) if len(metrics) == len(seen) else None,
        tuple(part * w for e, w in zip(seen, weights, strict=True) for part in e.parts),
        tuple(part for e in seen for part in e.metric_parts),
        None if any(e.weight is None for e in seen) else sum(e.weight or 0.0 for e in seen),
    )


def _shares(evaluations: Sequence[Evaluation]) -> list[float]:
    """Return the weight of each evaluation over the mean weight; all 1 if one is unknown."""
    weights = [e.weight for e in evaluations if e.weight is not None]
    total = sum(weights)
    if len(weights) < len(evaluations) or not total:
        return [1.0] * len(evaluations)
    return [weight * len(weights) / total for weight in weights]
