"""A rate whose validation loss was lower when it was left than the chosen rate's is at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
        final: Its validation loss at the end of its run; with folds, where it was left in them.
        others: How many further rates were left with a loss lower than `final`.
        sure: Whether the difference is larger than half a percent and two standard errors of the
            slices of the validation data.
        kept: The lowest loss at the recipe's own evaluations until then; None if it is not lower
            than `final`, or the recipe stops early itself.
        patience: A value of `Recipe.early_stopping` with which a run at the rate goes on until
            that evaluation.
        until: With folds, the update after which the chosen rate was left in them; else None.
            Losses are then means over the folds.
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
    until: int | None = None

    def said(self) -> str:
        """Say it in a sentence."""
        others = f"; {self.others} more were left with a lower loss" if self.others else ""
        noise = "" if self.sure else ", a difference within the noise of the validation data"
        if self.until is not None:
            return (
                f"{self.lr:g} was better when it was left in the folds, after {self.step} of "
                f"{self.length} updates, than {self.chosen:g} after {self.until}: its mean loss on "
                f"the parts held out was {self.loss:.4g}, that of {self.chosen:g} "
                f"{self.final:.4g}{noise}{others}."
            )
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
    found = _lowest(record, record.evaluations[-1], trials, untrained)
    if found is None:
        return None
    left, bound, trial = found
    kept, patience = _kept(trial.record, bound)
    return replace(left, kept=kept, patience=patience)


def left_better_in_folds(
    chosen: TrialSummary, trials: Sequence[TrialSummary], objective: str
) -> LeftBetter | None:
    """Return the rate that was left in the folds with a lower mean loss than the chosen one.

    No rate is finished in the folds, and the loss of the model that is trained on all data is of
    other validation data. So the chosen rate counts as far as it was followed in the folds.

    Args:
        chosen: The chosen rate, with the mean evaluations over the folds.
        trials: Every rate tried.
        objective: What was compared; None is returned for a metric.
    """
    seen = chosen.record.evaluations
    if (
        objective != "loss"
        or not seen
        or seen[0].step > 0
        or chosen.record.status == Status.DIVERGED
    ):
        return None
    found = _lowest(chosen.record, seen[-1], trials, seen[0].loss)
    return None if found is None else replace(found[0], until=seen[-1].step)


def _lowest(
    record: Record, final: Evaluation, trials: Sequence[TrialSummary], untrained: float
) -> tuple[LeftBetter, float, TrialSummary] | None:
    """Return what was left with the lowest loss, below which loss it counts, and its trial."""
    lowest = min(final.loss, untrained) if math.isfinite(untrained) else final.loss
    bound = lowest - TOLD_APART * drop(untrained, [final.loss])
    ahead = [(t, last) for t, last in _left(trials, record) if last.loss < bound]
    if not ahead:
        return None
    trial, last = min(ahead, key=lambda pair: pair[1].loss)
    found = LeftBetter(
        lr=trial.lr,
        step=last.step,
        loss=last.loss,
        length=trial.record.length,
        chosen=record.recipe.lr,
        final=final.loss,
        others=len(ahead) - 1,
        sure=better(last, final, Goal(), errors=2.0),
    )
    return found, bound, trial


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
