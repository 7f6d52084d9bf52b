"""What a finished search cannot tell, as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.trials.baseline import better
from etude.trials.curve import drop
from etude.trials.score import Goal
from etude.tuning.comparison import common, comparable, silent
from etude.tuning.judged_trial import J, JudgedTrial
from etude.tuning.pause_error import pause_error
from etude.tuning.result import tie
from etude.tuning.search.ranking import Ranking
from etude.tuning.untried import EARLY, TRAILING, Gap

BEFORE_PEAK = (
    "At update {step}, before the schedule reached its peak, {rates} {was} not followed further: "
    "whether a rate left there ends better cannot be told."
)
NONE_LEARNED = (
    "At update {step}, when no rate was better yet than a constant output, {rates} {was} not "
    "followed further: whether a rate left there ends better cannot be told."
)
NEXT_TO_BEST = (
    "At update {step}, {rates}, next to the best, {was} no better yet than a constant output and "
    "not followed further: whether it would have learned later cannot be told."
)

STEEP = (
    "No rate between {low:g} and {high:g} was tried, and the loss there changed by {change:.0%} of "
    "its drop from one to the other: whether a rate between ends better cannot be told."
)


def alone(trials: Sequence[JudgedTrial]) -> list[str]:
    """Say that one rate alone was tried with the chosen recipe, where that is so.

    Rates of other recipes, among which it was chosen, say nothing of the rates of this one.
    """
    if len(trials) != 1:
        return []
    return [
        f"{trials[0].lr:g} is the only rate that was tried with this recipe: whether another one "
        "ends better cannot be told."
    ]


def overfits_alone(search: Ranking[J], best: J, sound: Sequence[J]) -> list[str]:
    """Say that the finished best overfits and no lower rate was followed, where that is so."""
    followed = any(c.lr < best.lr and comparable(c, best) for c in sound)
    if followed or not any(curve.lr == best.lr for curve in search.turned(1.0)):
        return []
    return [
        f"At {best.lr:g} the validation score rises before the end while the training loss falls, "
        "and no lower rate was followed to three quarters of its run: whether one ends better "
        "cannot be told."
    ]


def ahead(sound: Sequence[J], best: J, goal: Goal, untrained: float) -> list[str]:
    """Say which rates led the best by more than noise when they were left."""
    final, found = best.last(), []
    for trial in sound:
        pair = None if trial is best or trial.ended else common(trial, best)
        if final is None or pair is None:
            continue
        mine, mark = pair
        fall = drop(untrained, [goal.score(final)])
        if not tie(mark, mine, fall, goal, pause_error(mark.step / best.length) * fall):
            found.append(
                f"At update {mine.step}, where {trial.lr:g} was left, it stood ahead of "
                f"{best.lr:g} by more than noise: whether it ends better cannot be told."
            )
    return found


def steep(beside: Sequence[Gap]) -> list[str]:
    """Say between which rates the loss changed so much early on that a better one may lie there.

    Args:
        beside: What was not tried below and above the best.
    """
    return [
        STEEP.format(low=gap.low, high=gap.high, change=gap.trailing)
        for gap in beside
        if not gap.beyond and gap.share < EARLY and TRAILING[-1] <= gap.trailing < math.inf
    ]


def left_blind(
    trials: Sequence[JudgedTrial],
    best: JudgedTrial,
    goal: Goal,
    *,
    peak: float = 0.0,
    small: bool = False,
) -> tuple[str, ...]:
    """Say which rates were left where nothing told yet which is better: some tasks learn late.

    That is before the schedule's peak, or where no rate was better yet than a constant output;
    with a small budget, of the best's neighbours also where they alone were not, and no worse
    either.

    Args:
        trials: All of them, ascending by rate.
        best: The best.
        goal: What is compared.
        peak: The share of the run at which the schedule reaches its peak.
        small: Whether the budget is below 2 runs: then one rival at most was followed.
    """
    curves = [trial.curve() for trial in trials]
    place = next(i for i, trial in enumerate(trials) if trial is best)
    left: dict[tuple[int, str], list[float]] = {}
    for i, (trial, curve) in enumerate(zip(trials, curves, strict=True)):
        if trial is best or trial.diverged or not curve.shares or comparable(trial, best):
            continue
        share = curve.shares[-1]
        if share < peak:
            why = BEFORE_PEAK
        elif silent(share, curves):
            why = NONE_LEARNED
        elif small and abs(i - place) == 1 and _at_constant(trial, goal):
            why = NEXT_TO_BEST
        else:
            continue
        left.setdefault((min(trial.steps, trial.reached), why), []).append(trial.lr)
    return tuple(
        why.format(
            step=step,
            rates=", ".join(f"{lr:g}" for lr in sorted(rates)),
            was="was" if len(rates) == 1 else "were",
        )
        for (step, why), rates in sorted(left.items())
    )


def _at_constant(trial: JudgedTrial, goal: Goal) -> bool:
    """Return whether a trial was last neither better nor worse than a constant, beyond noise."""
    last, floor = trial.last(), trial.floor
    if last is None or floor is None:
        return False
    return not better(last, floor, goal) and not better(floor, last, goal)
