"""Overfitting that no rate cures: what keeping the best weights would have gained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etude.record import Evaluation, Record, Status
from etude.training.evaluation_steps import evenly_spaced
from etude.trials.baseline import noise
from etude.trials.score import Goal
from etude.tuning.search.overfitting import FALLEN, RISEN
from etude.tuning.trial_summary import TrialSummary

ERRORS = 3.0
"""Standard errors of the slices by which a rise is more than noise: the lowest of many losses is
low by luck, too."""

PATIENCE = 3
"""The smallest number of evaluations without a lower loss after which stopping is advised."""

PART = 16
"""The training loss is the mean over one of so many parts of a run."""


@dataclass(frozen=True)
class Overfit:
    """A run whose validation loss ended above its own minimum.

    Attributes:
        step: The update after which the loss was lowest.
        lowest: The loss there.
        last: The loss at the end.
        patience: A value of `Recipe.early_stopping` with which the run keeps those weights.
        stopped: The update after which it then stops.
        length: Updates of the full run.
    """

    step: int
    lowest: float
    last: float
    patience: int
    stopped: int
    length: int

    @property
    def gain(self) -> float:
        """By how much the kept weights are better than the last."""
        return self.last - self.lowest


def overfit(record: Record) -> Overfit | None:
    """Return how a run overfitted; None if it did not, beyond noise.

    Its last validation loss is above the lowest by more than three standard errors of the paired
    slices and 2% of the drop, and its training loss fell since then by more than 2% of the
    untrained loss. Only the recipe's own evaluations count: early stopping sees no others.
    """
    kept = record.recipe.early_stopping is not None
    if record.status == Status.DIVERGED or kept or record.extended:
        return None
    steps = evenly_spaced(record.length, record.recipe.evaluations)
    seen = [e for e in record.evaluations if e.step in steps and math.isfinite(e.loss)]
    if len(seen) < 2 or seen[0].step > 0:
        return None
    first, last = seen[0], seen[-1]
    best = min(seen, key=lambda e: e.loss)
    drop, rise = first.loss - best.loss, last.loss - best.loss
    if best.step == 0 or rise <= max(ERRORS * noise(last, best, Goal()), RISEN * drop):
        return None
    part = max(1, record.length // PART)
    fallen = _mean(record, best.step, part) - _mean(record, last.step, part)
    if not fallen > FALLEN * abs(first.loss):
        return None
    patience = max(PATIENCE, _longest_wait(seen, best) + 1)
    after = [e.step for e in seen if e.step > best.step]
    stopped = after[patience - 1] if patience <= len(after) else record.length
    return Overfit(best.step, best.loss, last.loss, patience, stopped, record.length)


def _mean(record: Record, step: int, part: int) -> float:
    """Return the mean training loss before an update; NaN without one."""
    recent = record.series.get("loss", ())[max(0, step - part) : step]
    losses = [loss for loss in recent if math.isfinite(loss)]  # others were skipped
    return math.fsum(losses) / len(losses) if len(losses) else math.nan


def _longest_wait(seen: Sequence[Evaluation], best: Evaluation) -> int:
    """Return the most evaluations in a row, before the best, without a lower loss."""
    lowest, wait, longest = math.inf, 0, 0
    for evaluation in seen:
        if evaluation.loss < lowest:
            lowest, wait = evaluation.loss, 0
        else:
            wait += 1
            longest = max(longest, wait)
        if evaluation is best:
            return longest
    return longest


def said(record: Record, trials: Sequence[TrialSummary], objective: str = "loss") -> str:
    """Say what keeping the best weights would have gained, where every rate followed overfits.

    Args:
        record: The finished run at the chosen rate.
        trials: Every rate tried, ascending.
        objective: What was compared; with a metric, a rising loss is not at issue.
    """
    own = overfit(record) if record.status == Status.FINISHED else None
    lr = record.recipe.lr
    others = [t for t in trials if t.followed and t.lr != lr]
    if own is None or objective != "loss" or not all(overfit(t.record) for t in others):
        return ""
    parts = [
        f"At {lr:g} the validation loss was lowest after update {own.step} of {own.length}, at "
        f"{own.lowest:.4g}, and rose to {own.last:.4g} while the training loss fell"
        f"{_others_said(others)}.",
        f"Recipe(early_stopping={own.patience}) keeps the weights of that update: "
        f"{own.lowest:.4g} in place of {own.last:.4g}, lower by {own.gain:.4g}"
        + (f", and stops after update {own.stopped}." if own.stopped < own.length else "."),
        *_lower_said(others, lr),
        f"More regularisation (weight decay, dropout) and a run of about {own.step} updates were "
        "not tried.",
    ]
    return " ".join(parts)


def _others_said(others: Sequence[TrialSummary]) -> str:
    if not others:
        return ""
    names = ", ".join(f"{t.lr:g}" for t in others)
    return f"; so it did at {names}, followed to three quarters of the run or further"


def _lower_said(trials: Sequence[TrialSummary], lr: float) -> list[str]:
    """Say how the lower rates ended that were finished."""
    lower = [t for t in trials if t.lr < lr and t.record.status == Status.FINISHED]
    return [f"The lower rate {t.lr:g} ended at {t.record.valid_loss:.4g}." for t in lower]
