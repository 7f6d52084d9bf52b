"""How the trials of a pool stand to each other."""

from __future__ import annotations

import math
from typing import Generic

from etude.trials.curve import Curve
from etude.tuning.search.allowed_rates import APART, EVERY_RATE, AllowedRates
from etude.tuning.search.overfitting import foretold, turned
from etude.tuning.search.protocol import E, RateTrials
from etude.tuning.search.stability import lost

EARLY = 1 / 4
"""Share of a run before which no forecast is made. At 3/16, forecasts cost .1% of the drop on the
mean of the open tasks of `benchmarks.fresh_regret` at 3 runs, .4% on that of the bundled ones."""


class Ranking(Generic[E]):
    """Ranks the trials of a pool, by what was seen or by what that foretells.

    Args:
        pool: The trials.
        allowed: The rates that may be tried.
    """

    def __init__(self, pool: RateTrials[E], allowed: AllowedRates = EVERY_RATE) -> None:
        self.pool, self.allowed = pool, allowed

    def alive(self) -> list[E]:
        """Return those that have not diverged."""
        return [trial for trial in self.pool.trials() if not trial.diverged]

    def here(self, share: float) -> list[E]:
        """Return those that stand soundly at a share of the run, or beyond."""
        return [
            trial
            for trial in self.pool.trials()
            if trial.share >= share - 1e-9 and math.isfinite(trial.curve().at(share))
        ]

    def silent(self, share: float) -> bool:
        """Return whether no score at a share of the run is better yet than a constant's.

        What ranks them is then noise: some tasks learn late, others overfit before they do.
        """
        return share < 1 and not any(
            trial.curve().beats_constant(share) for trial in self.here(share)
        )

    def ranked(self, share: float) -> list[E]:
        """Return those that got to a share of the run, best first; ties go to the lower rate.

        While the validation scores say nothing yet, it is the training loss that ranks them.
        """
        if not self.silent(share):
            return self.scored(share)
        return sorted(self.here(share), key=lambda c: (c.curve().trained(share), c.lr))

    def scored(self, share: float) -> list[E]:
        """Return those that got to a share of the run by their scores there, best first."""
        return sorted(self.here(share), key=lambda c: (c.curve().at(share), c.lr))

    def turned(self, share: float) -> list[Curve]:
        """Return the curves that have turned up: of those that had learned something to lose."""
        curves = [c for trial in self.here(share) if (c := trial.curve()).told == () or any(c.told)]
        return turned(curves, share, self.pool.untrained_score, self.pool.untrained_loss)

    def judged(self, share: float) -> list[E]:
        """Return them best first: by what is foretold where one has turned, else by the score.

        Before `EARLY` the score alone counts: what has turned so soon often comes back.
        """
        if share < EARLY or not self.turned(share):
            return self.ranked(share)
        here = self.here(share)
        curves = [trial.curve() for trial in here]
        scores = {
            trial.lr: foretold(curve, curves, share, self.pool.exposure, self.pool.untrained_score)
            for trial, curve in zip(here, curves, strict=True)
        }
        return sorted(here, key=lambda trial: (scores[trial.lr], trial.lr))

    def exploded(self, trial: E, share: float) -> bool:
        """Return whether validation and training loss are more than double the untrained ones."""
        curve, loss = trial.curve(), self.pool.untrained_loss
        return (
            curve.at(share) > self.pool.untrained_score + loss and curve.trained(share) > 2 * loss
        )

    def finished(self) -> E | None:
        """Return the best of those that reached the end."""
        return next(iter(self.ranked(1.0)), None)

    def furthest(self) -> E:
        """Return the best of the sound ones that went furthest, if there are any left."""
        alive = self.alive()
        if not alive:
            return min(self.pool.trials(), key=lambda trial: trial.lr)
        return min(alive, key=lambda trial: (-trial.share, trial.curve().at(trial.share), trial.lr))

    def affords(self, cost: float, after: float = 0.0) -> bool:
        """Return whether the budget holds a cost and what comes after it."""
        return cost + after <= self.pool.left + 1e-9

    def passed(self, trial: E, share: float) -> bool:
        """Return whether a trial is past a share of the run at which it was not evaluated.

        It cannot be compared there without being trained again.
        """
        return trial.share > share + 1e-9 and not math.isfinite(trial.curve().at(share))

    def known(self, lr: float) -> E | None:
        """Return the trial at a rate, or so near that it makes no difference."""
        near = [trial for trial in self.pool.trials() if abs(math.log10(trial.lr / lr)) < APART]
        return min(near, key=lambda trial: abs(math.log10(trial.lr / lr)), default=None)

    def unstable(self, trial: E, best: E) -> bool:
        """Return whether a rate diverged, or, above the best, lost what it had learned."""
        if trial.diverged or trial.lr <= best.lr:
            return trial.diverged
        return lost(trial.curve(), best.curve(), self.pool.untrained_score)
