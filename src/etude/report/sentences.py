"""Sentences about the rates of a tuning, which claim no more than was observed."""

from __future__ import annotations

from collections.abc import Sequence

from etude.record import Status
from etude.report import words
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import TrialSummary


def _rates(trials: Sequence[TrialSummary]) -> str:
    """Return the rates of some trials, separated by commas."""
    return ", ".join(words.rate(trial.lr) for trial in trials)


def tie_said(result: TuneResult) -> str:
    """Return which rates cannot be distinguished from the best, and for which this is unknown."""
    others = [t for t in result.trials if t.lr != result.lr]
    tied = [t for t in others if t.tied]
    followed = [t for t in others if t.followed and not t.tied]
    left = [t for t in others if t.left_open]
    parts = []
    if tied:
        parts.append(
            f"{_rates(tied)} cannot be told apart from it on this validation data with this seed"
        )
    if followed:
        parts.append(f"{_rates(followed)} did worse")
    if left:
        parts.append(
            f"{_rates(left)} {'was' if len(left) == 1 else 'were'} not followed to the end: "
            "whether they tie is not known"
        )
    said = "; ".join(parts)
    return f"{said}." if said else "No other rate was followed to three quarters of its run."


def broken_said(result: TuneResult) -> str:
    """Return at which rate above the best training broke, and at which update, if one did."""
    rate = result.stable_below
    if rate is None and result.common_break is not None:
        update = words.count(result.common_break)
        return f"The higher rates that diverged did so at update {update}: no edge is known."
    if rate is None:
        return "No higher rate diverged, as far as they were followed."
    trial = next(t for t in result.trials if t.lr == rate)
    if trial.record.status == Status.DIVERGED:
        step = words.count(trial.record.cost.steps)
        return f"At {words.rate(rate)} training diverged, at update {step}."
    return f"At {words.rate(rate)} the run lost what it had learned by its end."
