"""How the candidates of a field stand to each other."""

from __future__ import annotations

import math
from typing import Generic

from etude.trials.curve import Curve
from etude.tuning.search.overfitting import foretold, turned
from etude.tuning.search.protocol import E, RateTrials
from etude.tuning.search.stability import lost, stalls

APART = 0.05
"""Decades within which two rates count as one."""


class Ranking(Generic[E]):
    """Ranks the candidates of a field, by what was seen or by what that foretells.

    Args:
        field: The candidates.
    """

    def __init__(self, field: RateTrials[E]) -> None:
        self.field = field

    def alive(self) -> list[E]:
        """Return those that have not diverged."""
        return [one for one in self.field.entrants() if not one.diverged]

    def here(self, share: float) -> list[E]:
        """Return those that stand soundly at a share of the run, or beyond."""
        return [
            one
            for one in self.field.entrants()
            if one.share >= share - 1e-9 and math.isfinite(one.curve().at(share))
        ]

    def silent(self, share: float) -> bool:
        """Say whether no score at a share of the run is better yet than a constant's.

        What ranks them is then noise: some tasks learn late, others overfit before they do.
        """
        return share < 1 and not any(one.curve().tells(share) for one in self.here(share))

    def ranked(self, share: float) -> list[E]:
        """Return those that got to a share of the run, best first; ties go to the lower rate.

        While the validation scores say nothing yet, it is the training loss that ranks them.
        """
        here = [(one, one.curve()) for one in self.here(share)]
        if self.silent(share):
            ordered = sorted(here, key=lambda pair: (pair[1].trained(share), pair[0].lr))
        else:
            ordered = sorted(here, key=lambda pair: (pair[1].at(share), pair[0].lr))
        return [one for one, _ in ordered]

    def turned(self, share: float) -> list[Curve]:
        """Return the curves that have turned up: of those that had learned something to lose."""
        curves = [c for one in self.here(share) if (c := one.curve()).told == () or any(c.told)]
        return turned(curves, share, self.field.untrained_score, self.field.untrained_loss)

    def judged(self, share: float) -> list[E]:
        """Return them best first: by what is foretold where one has turned, else by the score."""
        if not self.turned(share):
            return self.ranked(share)
        here = self.here(share)
        curves = [one.curve() for one in here]
        scores = {
            one.lr: foretold(curve, curves, share, self.field.exposure, self.field.untrained_score)
            for one, curve in zip(here, curves, strict=True)
        }
        return sorted(here, key=lambda one: (scores[one.lr], one.lr))

    def exploded(self, one: E, share: float) -> bool:
        """Say whether validation and training loss are more than double the untrained ones."""
        curve, loss = one.curve(), self.field.untrained_loss
        return (
            curve.at(share) > self.field.untrained_score + loss and curve.trained(share) > 2 * loss
        )

    def finished(self) -> E | None:
        """Return the best of those that reached the end."""
        return next(iter(self.ranked(1.0)), None)

    def furthest(self) -> E:
        """Return the best of the sound ones that went furthest, if there are any left."""
        alive = self.alive()
        if not alive:
            return min(self.field.entrants(), key=lambda one: one.lr)
        return min(alive, key=lambda one: (-one.share, one.curve().at(one.share), one.lr))

    def affords(self, cost: float, after: float = 0.0) -> bool:
        """Say whether the budget holds a cost and what comes after it."""
        return cost + after <= self.field.left + 1e-9

    def known(self, lr: float) -> E | None:
        """Return the entrant at a rate, or so near that it makes no difference."""
        near = [one for one in self.field.entrants() if abs(math.log10(one.lr / lr)) < APART]
        return min(near, key=lambda one: abs(math.log10(one.lr / lr)), default=None)

    def unstable(self, one: E, best: E) -> bool:
        """Say whether a rate diverged, or, above the best, had lost at its end what it learned."""
        if one.diverged or one.lr <= best.lr:
            return one.diverged
        return lost(one.curve(), best.curve(), self.field.untrained_score)

    def stalls(self, one: E, best: E) -> bool:
        """Say whether a rate diverged, or, above the best, stands still far behind it so far."""
        if one.diverged or one.lr <= best.lr:
            return one.diverged
        return stalls(one.curve(), best.curve(), self.field.untrained_score)
