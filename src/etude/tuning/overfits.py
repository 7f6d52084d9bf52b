"""Overfitting that no rate cures: what keeping the best weights would have gained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etude.record import Evaluation, Record, Status
from etude.training.evaluation.evaluation_steps import evenly_spaced
from etude.trials.turn import turn_of_run
from etude.tuning.trial_summary import TrialSummary

PATIENCE = 3
"""The smallest number of evaluations without a lower loss after which stopping is advised."""


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

    Its validation loss turned, see `etude.trials.turn`. Only the recipe's own evaluations count:
    early stopping sees no others.
    """
    kept = record.recipe.early_stopping is not None
    if record.status == Status.DIVERGED or kept or record.extended:
        return None
    steps = evenly_spaced(record.length, record.recipe.evaluations)
    seen = [e for e in record.evaluations if e.step in steps and math.isfinite(e.loss)]
    if len(seen) < 2 or seen[0].step > 0:
        return None
    found = turn_of_run(record, seen)
    if found is None or found.lowest == 0:
        return None
    best, last = seen[found.lowest], seen[-1]
    patience = patience_until(seen, best)
    after = [e.step for e in seen if e.step > best.step]
    stopped = after[patience - 1] if patience <= len(after) else record.length
    return Overfit(best.step, best.loss, last.loss, patience, stopped, record.length)


def patience_until(seen: Sequence[Evaluation], best: Evaluation) -> int:
    """Return a patience of early stopping with which a run goes on until an evaluation.

    Args:
        seen: The evaluations of the recipe, in order.
        best: The one of them with the lowest loss.
    """
    return max(PATIENCE, _longest_wait(seen, best) + 1)


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
