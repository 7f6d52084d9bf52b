"""A rate whose validation loss was lower when it was left than the chosen rate's is at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from etude.record import Evaluation, Record, Status
from etude.training.evaluation.evaluation_steps import evenly_spaced
from etude.trials.baseline import better
from etude.trials.curve import drop
from etude.trials.score import Goal
from etude.tuning.overfits import patience_until
from etude.tuning.trial_summary import TrialSummary

TOLD_APART = 0.01
"""Share of the drop by which the losses must differ."""


@dataclass(frozen=True)
class LeftBetter:
    """A rate that was left, and was better then than the chosen rate is at its end.

    Attributes:
        lr: The rate.
        step: Updates after which it was left.
        loss: Its validation loss there.
        length: Updates of a full run.
        chosen: The chosen rate.
        final: Its validation loss at the end of its run.
        others: How many further rates were left with a loss lower than `final`.
        sure: Whether the difference is larger than half a percent and two standard errors of the
            slices of the validation data.
        kept: The lowest loss at the recipe's own evaluations until then; None if it is not lower
            than `final`, or the recipe stops early itself.
        patience: A value of `Recipe.early_stopping` with which a run at the rate goes on until
            that evaluation.
    """

    lr: float
    step: int
    loss: float
    length: int
    chosen: float
    final: float
    others: int = 0
    sure: bool = True
    kept: float | None = None
    patience: int = 0

    def said(self) -> str:
        """Say it in a sentence."""
        others = f"; {self.others} more were left with a lower loss" if self.others else ""
        noise = "" if self.sure else ", a difference within the noise of the validation data"
        return (
            f"{self.lr:g} was better when it was left, after {self.step} of {self.length} updates, "
            f"than {self.chosen:g} at the end of its run: its validation loss was {self.loss:.4g}, "
            f"that of {self.chosen:g} ended at {self.final:.4g}{noise}{others}."
        )

    def remedy(self) -> str:
        """Say how to get what was left; empty where no evaluation of the recipe shows it."""
        if self.kept is None:
            return ""
        return (
            f"Train at {self.lr:g} with Recipe(early_stopping={self.patience}): that keeps the "
            f"weights of the lowest validation loss, which is {self.kept:.4g} or lower, and costs "
            "at most 1 full run."
        )


def left_better(
    record: Record, trials: Sequence[TrialSummary], untrained: float, *, comparable: bool
) -> LeftBetter | None:
    """Return the rate that was left with the lowest validation loss, if it beats the chosen one's.

    It beats it if the loss is lower by more than 1% of the drop from the untrained loss, the share
    by which `TuneResult.tied` tells rates apart, and as much lower than the untrained loss.

    Args:
        record: The finished run at the chosen rate.
        trials: Every rate tried.
        untrained: The validation loss before training.
        comparable: Whether the losses of all are of the same data, and are what was compared.
    """
    if not comparable or record.status != Status.FINISHED or not record.evaluations:
        return None
    final = record.evaluations[-1]
    lowest = min(final.loss, untrained) if math.isfinite(untrained) else final.loss
    bound = lowest - TOLD_APART * drop(untrained, [final.loss])
    ahead = [(t, last) for t, last in _left(trials, record) if last.loss < bound]
    if not ahead:
        return None
    trial, last = min(ahead, key=lambda pair: pair[1].loss)
    kept, patience = _kept(trial.record, bound)
    return LeftBetter(
        lr=trial.lr,
        step=last.step,
        loss=last.loss,
        length=trial.record.length,
        chosen=record.recipe.lr,
        final=final.loss,
        others=len(ahead) - 1,
        sure=better(last, final, Goal(), errors=2.0),
        kept=kept,
        patience=patience,
    )


def _left(
    trials: Iterable[TrialSummary], record: Record
) -> Iterable[tuple[TrialSummary, Evaluation]]:
    """Yield the rates that were left before their end, with their last evaluation."""
    for trial in trials:
        if trial.lr == record.recipe.lr or trial.record.status in (
            Status.DIVERGED,
            Status.FINISHED,
        ):
            continue
        if trial.record.evaluations and trial.record.evaluations[-1].step > 0:
            yield trial, trial.record.evaluations[-1]


def _kept(record: Record, bound: float) -> tuple[float | None, int]:
    """Return the loss that early stopping keeps at least, and the patience for it."""
    if record.recipe.early_stopping is not None or record.extended:
        return None, 0
    steps = evenly_spaced(record.length, record.recipe.evaluations)
    seen = [e for e in record.evaluations if e.step in steps and math.isfinite(e.loss)]
    best = min(seen, key=lambda e: e.loss, default=None)
    if best is None or best.loss >= bound:
        return None, 0
    return best.loss, patience_until(seen, best)
