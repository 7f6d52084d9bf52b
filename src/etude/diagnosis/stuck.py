"""A network that has learned no more than the best constant output."""

from __future__ import annotations

from collections.abc import Sequence

from etude.diagnosis.finding import Finding, Symptom
from etude.record import Evaluation
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.trials.baseline import better, constant_score
from etude.trials.score import Goal, goal_for


def no_better_than_a_constant(run: Run | RunState) -> tuple[Finding, ...]:
    """Return a finding if a run that has ended is no better than the best constant output.

    The constant is fitted on the training data; see `etude.trials.baseline`. Both are compared on
    the validation data by the loss and, if its direction is known, by the metric: one that is
    better by more than three standard errors is enough. A run whose loss still falls, beyond noise
    from half of the run to its end, is not done, and no finding.

    Args:
        run: The run, or its state, at its end.
    """
    last = run.evaluations[-1] if run.evaluations else None
    floor = None if run.diverged or last is None else constant_score(run)
    if floor is None or last is None or last.step == 0:
        return ()
    goals = [Goal()]
    metric = run.task.metric
    if metric is not None and metric.maximize is not None:
        goals.append(goal_for(run.task, "metric"))
    if any(better(last, floor, goal) for goal in goals) or _falls(run.evaluations):
        return ()
    return (
        Finding(
            Symptom.STALLED,
            f"After {last.step} updates the validation loss is {last.loss:.4g}, not better than "
            f"the {floor.loss:.4g} of the best constant output by more than noise.",
            step=last.step,
            evidence={"loss": last.loss, "constant": floor.loss},
        ),
    )


def _falls(evaluations: Sequence[Evaluation]) -> bool:
    """Return whether the last evaluation is better by more than noise than that at half way."""
    last = evaluations[-1]
    half = [one for one in evaluations if 2 * one.step <= last.step]
    return bool(half) and better(last, half[-1], Goal())
