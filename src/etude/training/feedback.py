"""Schedules that react: they hear the validation loss, at the recipe's own evaluations alone."""

from __future__ import annotations

from collections.abc import Iterable

from etude.schedules import Schedule
from etude.training.record import Evaluation


def after(schedule: Schedule, evaluations: Iterable[Evaluation]) -> Schedule:
    """Return a schedule as it goes on after these evaluations.

    The evaluation before training is no news, and a loss that is not finite has ended the run.

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
        for evaluation in evaluations:
            if evaluation.step > 0:
                schedule = schedule.record(evaluation.step, evaluation.loss)
    return schedule
