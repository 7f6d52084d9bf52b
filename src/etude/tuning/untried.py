"""Rates that were not tried: how often the best lies among them, and how far beyond the last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etude.trials.score import Goal
from etude.tuning.comparison import common
from etude.tuning.judged_trial import J, JudgedTrial
from etude.tuning.search.ladder import SPACING
from etude.tuning.trial_summary import FOLLOWED

NEAR = 0.02
"""Share of the drop within which a final loss counts as as good as the best."""

EARLY = 3 / 8
"""A trial that was left before this share of its run tells little of the end."""

TRAILING = (0.05, 0.2)
"""Shares of the drop that divide how far a trial trailed the best where both were last compared."""


@dataclass(frozen=True)
class Risk:
    """How often the best rate of a task was somewhere, and better than the chosen one by 2%.

    Each has three values: for a trial beside that trailed by less than 5% of the drop, by less than
    20%, and by more.

    Attributes:
        early: Where that trial was left before 3/8 of its run.
        later: Where it went further.
    """

    early: tuple[float, float, float]
    later: tuple[float, float, float]

    def at(self, share: float, trailing: float) -> float:
        """Return it for a trial that was compared at a share, where it trailed by so much."""
        place = sum(trailing >= bound for bound in TRAILING)
        return (self.early if share < EARLY else self.later)[place]


BETWEEN = Risk((0.02, 0.06, 0.12), (0.02, 0.04, 0.08))
"""Of rates between the best and the next one tried. The steeper the loss is there, the narrower is
the range of good rates, and the more is missed."""

FAR_APART = 0.4
"""The same where the two are more than .8 decades apart."""

BEYOND = Risk((0.09, 0.39, 0.47), (0.05, 0.12, 0.4))
"""Of rates beyond the best, where it is the lowest or highest one tried: the further the trial on
its other side trails, the further the optimum lies beyond."""


@dataclass(frozen=True)
class Gap:
    """The rates beside the best, on one side of it, that were not tried.

    Attributes:
        low: The lower bound: a rate that was tried, or 0.
        high: The upper bound: a rate that was tried, or infinite.
        share: Where the nearest other trial was last compared with the best, in shares of the run.
        trailing: By how much it trailed there, in shares of the drop; infinite if it diverged.
    """

    low: float
    high: float
    share: float
    trailing: float

    @property
    def beyond(self) -> bool:
        """Whether the best is the lowest or highest rate tried, so that the gap has no end."""
        return not (self.low > 0 and math.isfinite(self.high))

    @property
    def risk(self) -> float:
        """How often the best rate lies there, and is better by more than 2% of the drop."""
        if self.beyond:
            return BEYOND.at(self.share, self.trailing)
        far = math.log10(self.high / self.low) > 2.25 * SPACING
        return FAR_APART if far else BETWEEN.at(self.share, self.trailing)


def gaps(trials: Sequence[J], best: J, goal: Goal, fall: float) -> list[Gap]:
    """Return the gaps below and above the best; none where no other rate was tried.

    Args:
        trials: All of them, ascending by rate.
        best: One of them.
        goal: What is compared.
        fall: The drop of the best's score from the untrained one.
    """
    place = next(i for i, trial in enumerate(trials) if trial is best)
    if len(trials) < 2:
        return []
    found = []
    for step in (-1, 1):
        inside = 0 <= place + step < len(trials)
        other = trials[place + step if inside else place - step]
        share, trailing = compared(other, best, goal, fall)
        edge = other.lr if inside else (0.0 if step < 0 else math.inf)
        low, high = sorted((best.lr, edge))
        found.append(Gap(low, high, share, trailing))
    return found


def compared(trial: JudgedTrial, best: JudgedTrial, goal: Goal, fall: float) -> tuple[float, float]:
    """Return where a trial was last compared with the best, and by how much it trailed there.

    Returns:
        The share of the run, and the difference as a share of the drop: infinite if the trial
        diverged, or was compared nowhere.
    """
    pair = None if trial.diverged else common(trial, best)
    if pair is None:
        return 0.0, math.inf
    mine, mark = pair
    trailing = (goal.score(mine) - goal.score(mark)) / fall
    return mark.step / best.length, trailing if math.isfinite(trailing) else math.inf


def reach(trials: Sequence[J], best: J, side: int) -> float:
    """Return how far beyond the last rate tried the tied range goes, in decades, where it is open.

    It is half the distance at which the search tries a next rate where the last comparison was at
    three quarters of a run or later, and one such distance before. It is two where the best is
    itself the last one tried, and the next was left before 3/8 of its run. `benchmarks.calibration`
    shows how often the range then holds the best rate.

    Args:
        trials: All of them, ascending by rate.
        best: One of them.
        side: -1 below the lowest, 1 above the highest.
    """
    last = trials[0 if side < 0 else -1]
    other = last
    if last is best and len(trials) > 1:
        other = trials[1 if side < 0 else -2]
    pair = None if other is best or other.diverged else common(other, best)
    share = pair[1].step / best.length if pair is not None else 0.0
    if share >= FOLLOWED - 1 / best.length:
        return SPACING / 2
    return 2 * SPACING if last is best and share < EARLY else SPACING
