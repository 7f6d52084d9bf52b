"""Overfitting, as a run's evaluations show it."""

from __future__ import annotations

import math

from etude.diagnosis.finding import Finding, Symptom
from etude.record import Evaluation, Record
from etude.tasks.task import Task
from etude.training.state.state import RunState
from etude.trials.score import Goal
from etude.trials.turn import turn_of_run

RISEN = 0.1
"""The share of its fall that a validation loss must rise by to count: five times that of a tuning,
which only tries a lower rate for it, while here the run is called ill."""


def overfitting(record: Record | RunState, task: Task) -> tuple[Finding, ...]:
    """Return a finding if a run overfits.

    A run overfits if its validation loss turned up by more than a tenth of its fall, see
    `etude.trials.turn`, and if since then the metric, if its direction is known, did not become
    better.

    A validation loss of a classifier may rise while its accuracy still grows: the network becomes
    too sure of itself. That alone does not count.

    Args:
        record: The run, or its state.
        task: Its task.
    """
    seen = [e for e in record.evaluations if math.isfinite(e.loss)]
    if len(seen) < 3:
        return ()
    turn = turn_of_run(record, seen, RISEN)
    if turn is None:
        return ()
    best, last = seen[turn.lowest], seen[-1]
    if _metric_grew(best, last, task):
        return ()
    return (
        Finding(
            Symptom.OVERFITTING,
            f"The validation loss was lowest after {best.step} updates ({best.loss:.4g}) and rose "
            f"to {last.loss:.4g}, while the training loss fell from {turn.before:.4g} to "
            f"{turn.after:.4g}.",
            step=best.step,
            evidence={
                "lowest": best.loss,
                "last": last.loss,
                "training_before": turn.before,
                "training_after": turn.after,
            },
            fix="Keep the best weights (early_stopping), regularise more, or train for less long.",
        ),
    )


def _metric_grew(best: Evaluation, last: Evaluation, task: Task) -> bool:
    """Return whether the metric is better at the end than where the loss was lowest."""
    metric = task.metric
    if metric is None or metric.maximize is None:
        return False
    goal = Goal(metric.name, metric.maximize)
    return goal.score(last) < goal.score(best)
