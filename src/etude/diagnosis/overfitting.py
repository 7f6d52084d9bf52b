"""Overfitting, as a run's evaluations show it."""

from __future__ import annotations

import math

from etude.diagnosis.finding import Finding, Symptom
from etude.record import Evaluation, Record
from etude.tasks.task import Task
from etude.training.state import RunState
from etude.trials.baseline import better
from etude.trials.score import Goal

RISE = 0.1
"""The share of its fall that a validation loss must rise by to count."""

WINDOW = 16
"""Training losses are averaged over 1/WINDOW of the run."""


def overfitting(record: Record | RunState, task: Task) -> tuple[Finding, ...]:
    """Return a finding if a run overfits.

    A run overfits if, from the evaluation with the lowest validation loss to the last one,

    - the validation loss rises by more than three standard errors of the paired differences of
      its slices, and by more than a tenth of its fall from the untrained loss and of the fall of
      the training loss;
    - the mean training loss falls;
    - the metric, if its direction is known, does not become better.

    A validation loss of a classifier may rise while its accuracy still grows: the network becomes
    too sure of itself. That alone does not count.

    Args:
        record: The run, or its state.
        task: Its task.
    """
    seen = [e for e in record.evaluations if math.isfinite(e.loss)]
    if len(seen) < 3:
        return ()
    first, last, goal = seen[0], seen[-1], Goal()
    best = min(seen, key=lambda evaluation: evaluation.loss)
    before, after = _training_loss(record, best.step), _training_loss(record, last.step)
    fall, rise = max(first.loss - best.loss, before - after), last.loss - best.loss
    if not (after < before and rise > RISE * fall and better(best, last, goal)):
        return ()
    if _metric_grew(best, last, task):
        return ()
    return (
        Finding(
            Symptom.OVERFITTING,
            f"The validation loss was lowest after {best.step} updates ({best.loss:.4g}) and rose "
            f"to {last.loss:.4g}, while the training loss fell from {before:.4g} to {after:.4g}.",
            step=best.step,
            evidence={
                "lowest": best.loss,
                "last": last.loss,
                "training_before": before,
                "training_after": after,
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


def _training_loss(record: Record | RunState, step: int) -> float:
    """Return the mean training loss of the sixteenth of the run that ends at an update."""
    losses = record.series["loss"]
    width = max(1, len(losses) // WINDOW)
    end = max(step, width)
    found = [float(loss) for loss in losses[end - width : end] if math.isfinite(loss)]
    return math.fsum(found) / len(found) if found else math.nan
