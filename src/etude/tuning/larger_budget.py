"""The next larger budget of a tuning, and what it pays for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etude.tuning.search.ladder import MOST, Ladder, ladder_for
from etude.tuning.search.seed_budget import searched

STEP = 0.5
"""Budgets are stated in multiples of it, in full runs."""


@dataclass(frozen=True)
class LargerBudget:
    """A budget that pays for what a tuning could not.

    Attributes:
        runs: The budget, in full runs.
        more: By how much it is larger than what the tuning cost.
        keep: How many rates it pays to follow to `share`, where that is more than the tuning's own
            budget paid for; 0 where the tuning had the longest ladder, or none.
        share: The share of the run before the finish.
    """

    runs: float
    more: float
    keep: int = 0
    share: float = 0.0

    def said(self) -> str:
        """Say it in a sentence."""
        pays = "one full run more than this tuning cost, for rates that were left or not tried"
        if self.keep:
            pays = f"following the best {self.keep} rates to {self.share:.0%} of their runs"
        return f"A budget of {self.runs:g} pays for {pays} ({self.more:.3g} more than it cost)."


def larger_budget(
    budget: float,
    cost: float,
    length: int,
    *,
    folds: int = 1,
    seeds: int = 1,
    climbs: bool = True,
) -> LargerBudget | None:
    """Return the next larger budget; None if there is none to be looked through.

    Below the budget of the longest ladder it is the least multiple of .5 that pays for that one,
    from there on the least that is larger by a full run than what was spent.

    Args:
        budget: What was allowed.
        cost: What was spent.
        length: Updates of a full run.
        folds: Runs of one trial.
        seeds: Over how many the best rates are compared.
        climbs: Whether a longer ladder is what lacks.

    >>> larger_budget(1.3, 1.25, 200)
    LargerBudget(runs=3.0, more=1.75, keep=2, share=0.75)
    >>> larger_budget(3.0, 2.68, 200).said()
    'A budget of 4 pays for one full run more than this tuning cost, for rates that were left or \
not tried (1.32 more than it cost).'
    """

    def ladder(runs: float) -> Ladder:
        return ladder_for(searched(runs, seeds), folds, length)

    longest = ladder(MOST)
    if climbs and ladder(budget) != longest:
        tried = (STEP * count for count in range(math.floor(budget / STEP) + 1, int(MOST / STEP)))
        runs = next(one for one in tried if ladder(one) == longest)
        last = longest.rungs[-2]
        return LargerBudget(runs, runs - cost, last.keep, last.share)
    runs = max(STEP * math.ceil((cost + 1) / STEP), STEP * (math.floor(budget / STEP) + 1))
    return None if runs > MOST else LargerBudget(runs, runs - cost)
