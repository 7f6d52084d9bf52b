"""Schedules that react: what they hear, at the recipe's own evaluations alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from etude.errors import BadValueError
from etude.record import Evaluation
from etude.schedules import Schedule
from etude.tasks.metrics import Metric
from etude.tasks.task import Task


def after(schedule: Schedule, evaluations: Iterable[Evaluation]) -> Schedule:
    """Return a schedule as it goes on after these evaluations.

    It is told the validation loss, or the task's metric where it `hears` that. The evaluation
    before training is no news, and a loss that is not finite has ended the run.

    Args:
        schedule: Bound to the run.
        evaluations: In order; only those that the recipe asks for, so that looking more often
            at a run changes nothing in it.

    >>> from etude.schedules import plateau
    >>> s = plateau(factor=0.5, patience=0)
    >>> after(s, [Evaluation(10, 1.0), Evaluation(20, 1.0)])(20)
    0.5
    """
    if schedule.has_feedback:
        of_metric = "metric" in schedule.signals
        for evaluation in evaluations:
            if evaluation.step > 0:
                heard = evaluation.metric if of_metric else evaluation.loss
                schedule = schedule.record(evaluation.step, heard)
    return schedule


def check(schedules: Mapping[str, Schedule], task: Task) -> None:
    """Refuse a schedule that waits for a metric which a task does not have, or the wrong way.

    Args:
        schedules: By the name of what they move.
        task: What is to be trained.

    Raises:
        BadValueError: With the way out.
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
        return  # one without a direction of its own has that of the schedule
    better, right = ("larger", "max") if larger else ("smaller", "min")
    raise BadValueError(
        f"{name} {node!r} waits for a {'larger' if mode == 'max' else 'smaller'} metric, but "
        f"{metric.name!r} is better when it is {better}: write plateau(on='metric', "
        f"mode={right!r})"
    )
