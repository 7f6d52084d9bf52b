"""Schedules that react to the loss or the metric at the recipe's own evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from etude.errors import BadValueError
from etude.record import Evaluation
from etude.schedules import Schedule
from etude.tasks.metrics import Metric
from etude.tasks.task import Task


def record_evaluations(schedule: Schedule, evaluations: Iterable[Evaluation]) -> Schedule:
    """Return a schedule that has recorded these evaluations.

    It records the validation loss, or the task's metric if that is among its `signals`. The
    evaluation before training is not recorded.

    Args:
        schedule: The schedule, bound to the run.
        evaluations: The evaluations at the recipe's own evaluation steps, in order. Others are left
            out, so that additional evaluations do not change a run.

    >>> from etude.schedules import plateau
    >>> s = plateau(factor=0.5, patience=0)
    >>> record_evaluations(s, [Evaluation(10, 1.0), Evaluation(20, 1.0)])(20)
    0.5
    """
    if schedule.has_feedback:
        of_metric = "metric" in schedule.signals
        for evaluation in evaluations:
            if evaluation.step > 0:
                signal = evaluation.metric if of_metric else evaluation.loss
                schedule = schedule.record(evaluation.step, signal)
    return schedule


def check(schedules: Mapping[str, Schedule], task: Task) -> None:
    """Check that the task has the metric that a schedule reacts to, with the same direction.

    Args:
        schedules: The schedules, by the name of the value that they set.
        task: The task.

    Raises:
        BadValueError: If it does not; the message says how to correct it.
    """
    for name, schedule in schedules.items():
        if "metric" not in schedule.signals:
            continue
        if task.metric is None:
            raise BadValueError(
                f"{name} {schedule!r} reacts to the task's metric, and the task has none: give it "
                "one, such as Task(..., metric='accuracy'), or use plateau(), which reacts to the "
                "validation loss"
            )
        for node in schedule.walk():
            if node.reacts:
                _check_direction(name, node, task.metric)


def _check_direction(name: str, node: Schedule, metric: Metric) -> None:
    larger, mode = metric.maximize, getattr(node, "mode", None)
    if larger is None or (mode == "max") == larger:
        return  # a metric without a direction gets that of the schedule
    better, right = ("larger", "max") if larger else ("smaller", "min")
    raise BadValueError(
        f"{name} {node!r} waits for a {'larger' if mode == 'max' else 'smaller'} metric, but "
        f"{metric.name!r} is better when it is {better}: write plateau(on='metric', "
        f"mode={right!r})"
    )
