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
    """Return which rates tried may be as good as the best, and how far they were followed."""
    others = [t for t in result.trials if t.lr != result.lr]
    followed = [t for t in others if t.followed]
    left = [t for t in others if t.left_open]
    parts = [
        (
            [t for t in followed if t.tied],
            f"cannot be told apart from {words.rate(result.lr)} on this validation data "
            f"{words.seeds(result.seeds)}",
            "",
        ),
        ([t for t in followed if not t.tied], "did worse", ""),
        (
            [t for t in left if t.tied],
            "was not followed to the end and may end as well",
            "were not followed to the end and may end as well",
        ),
        (
            [t for t in left if not t.tied],
            "was too far behind when it was dropped, or lies beyond a rate that was",
            "were too far behind when they were dropped, or lie beyond a rate that was",
        ),
    ]
    said = [
        f"{_rates(trials)} {many if many and len(trials) > 1 else one}"
        for trials, one, many in parts
        if trials
    ]
    if not followed:
        said.append("no other rate was followed to three quarters of its run")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def range_said(result: TuneResult) -> str:
    """Return in which range the best rate may lie, and on which side that was not looked for."""
    low, high = result.tied
    if low == high:
        return ""
    below, above = result.open_ends
    first, last = words.rate(result.trials[0].lr), words.rate(result.trials[-1].lr)
    beyond = {
        (True, True): f", and beyond: none lower than {first} or higher than {last} was tried",
        (True, False): f", and below: none lower than {first} was tried",
        (False, True): f", and above: none higher than {last} was tried",
        (False, False): "",
    }[below, above]
    return f"The best rate may lie from {words.rate(low)} to {words.rate(high)}{beyond}."


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
    if trial.broken_seed is not None:
        return (
            f"At {words.rate(rate)} training diverged, at {words.broken_seed(trial.broken_seed)}."
        )
    return f"At {words.rate(rate)} the run lost what it had learned by its end."
