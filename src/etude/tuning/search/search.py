"""The search: paired trials start, pause, and the better ones go on."""

from __future__ import annotations

import math
from itertools import pairwise

from etude.trials.curve import drop
from etude.trials.guess import Guess
from etude.trials.phase import Phase
from etude.tuning.search.allowed_rates import APART, EVERY_RATE, AllowedRates
from etude.tuning.search.ladder import SPACING, Ladder, Rung
from etude.tuning.search.overfitting import target
from etude.tuning.search.protocol import E, RateTrials
from etude.tuning.search.ranking import Ranking
from etude.tuning.search.refine import (
    FURTHER,
    HIGHEST,
    coming,
    cure,
    fall_back,
    refine,
    runners_up,
)

ALONE = 2.0
"""The budget below which one rate starts alone: its curve tells where the next is tried, and a
start anew at a lower rate stays affordable."""

FALLING = 0.2
"""Share of its drop by which a lone curve must fall over the second half of its way for the next
rate to be higher."""


class Search(Ranking[E]):
    """Decides which rates start, how far each goes, and which is finished.

    Every rate shares the recipe's seed: same initial weights, same batches. All run on the
    recipe's own full-length schedule, so that the winner's past is already paid when it goes on.
    What is compared is the validation score at the same share of the run; where a leader is seen
    to overfit, what its curve foretells (see `etude.tuning.search.overfitting`).

    Args:
        pool: The trials.
        ladder: How many go how far.
        centre: log10 of the rate to begin around.
        final: Whether the best is finished here; folds are finished elsewhere.
        allowed: The rates that may be tried.
    """

    def __init__(
        self,
        pool: RateTrials[E],
        ladder: Ladder,
        centre: float,
        *,
        final: bool = True,
        allowed: AllowedRates = EVERY_RATE,
    ) -> None:
        super().__init__(pool, allowed)
        self.centre, self.final = centre, final
        self.rungs = ladder.rungs if final else ladder.rungs[:-1]
        self.first, self.last = self.rungs[0].share, self.rungs[-1].share
        self.brief = final and len(self.rungs) == 2

    def run(self) -> E:
        """Search, and return the best, finished if any could be."""
        self.start()
        if not self.anew():
            self.climb()
        return self.conclude()

    def go_on(self, ladder: Ladder) -> E:
        """Spend a larger budget on what the search left open, and return the best.

        The first rates are compared where they were: no trial goes back, and none starts anew.

        Args:
            ladder: That of the larger budget.
        """
        rungs = ladder.rungs if self.final else ladder.rungs[:-1]
        later = [rung for rung in rungs if rung.share > self.first]
        self.rungs = (Rung(self.first, rungs[0].keep), *later)
        self.last, self.brief = self.rungs[-1].share, False
        self.climb()
        return self.conclude()

    def conclude(self) -> E:
        """Return the best that is finished, improved on for what is left."""
        if not self.final:  # nothing comes later: the score decides, even if it is no constant's
            return next(iter(self.scored(self.last)), None) or self.furthest()
        best = self.finished() or fall_back(self)
        if best is None:
            return self.furthest()
        best = cure(self, runners_up(self, best))
        return refine(self, best)

    def finish_best(self) -> None:
        """Take the best of those that went furthest to the end."""
        if self.final and self.alive():
            self.pool.go([self.furthest()], 1.0, Phase.FINISH)

    # ---- the first rung ------------------------------------------------------------------------

    def start(self) -> None:
        """Take the first rates to the first rung; one alone where the budget is small."""
        alone = self.final and self.pool.left < ALONE
        count = 1 if alone else self.rungs[0].keep
        rates = self.allowed.start(self.centre, count, SPACING)
        entered = [self.pool.enter(r) for r in rates]
        owed = sum(self.pool.price(trial, self.first) for trial in entered)
        guess = Guess[E, float](new=self.foreseen(sorted(rates), 0, owed))
        self.pool.go(entered, self.first, Phase.toward(self.first), guess=guess)

    def anew(self) -> bool:
        """In a brief search, finish the lower rate that a curve that has turned points to."""
        lr = self.lower(self.first, FURTHER) if self.brief else None
        if lr is None or not self.affords(self.pool.fresh(1.0)):
            return False
        self.pool.go([self.pool.enter(self.allowed.rounded(lr))], 1.0, Phase.ANEW_LOWER)
        return True

    def lower(self, share: float, further: float = 1.0) -> float | None:
        """Return the lower rate that the best of the curves that have turned points to."""
        turned = {curve.lr: curve for curve in self.turned(share)}
        curve = next((turned[c.lr] for c in self.ranked(share) if c.lr in turned), None)
        if curve is None:
            return None
        lr = target(curve, self.pool.exposure, self.pool.untrained_score, further)
        near = math.log10(curve.lr / lr) < SPACING / 2 + APART
        if near or lr < self.pool.lowest:
            return None
        return self.allowed.nearest(lr, below=curve.lr)

    # ---- the ladder ----------------------------------------------------------------------------

    def climb(self) -> None:
        """Climb rung by rung."""
        if self.rungs[0].keep == 2:  # more hold the lower rate already
            self.aim(self.first)
        self.widen(self.first)
        for below, rung in pairwise(self.rungs):
            ranked = self.judged(below.share)
            if not ranked:
                return
            kept = self.kept(ranked, rung)
            next_ones = coming(self, kept[0]) if rung.share == 1 else []
            going = [trial for trial in kept if not self.passed(trial, rung.share)]
            self.pool.go(going, rung.share, Phase.toward(rung.share), next_ones)
            if rung.share < 1:
                self.aim(rung.share)

    def kept(self, ranked: list[E], rung: Rung) -> list[E]:
        """Return the best that go on to a rung, as many as the budget leaves a finish for."""
        chosen: list[E] = []
        cost = 0.0
        for trial in ranked[: rung.keep]:
            cost += self.pool.price(trial, rung.share)
            if chosen and not self.affords(cost, self.finish(rung.share)):
                break
            chosen.append(trial)
        return chosen

    def finish(self, share: float) -> float:
        """Return what one trial costs from a share of its run to the last rung."""
        return max(0.0, self.pool.fresh(self.last) - self.pool.fresh(share))

    def widen(self, share: float) -> None:
        """Add rates beyond an edge while the best stands there, in growing strides.

        A rate that stands alone says by its own curve on which side the next one lies.
        A rate beyond the edge may use up what later rungs would compare: an optimum outside the
        field cannot be ranked inside it. Only the finish of one trial is never spent.
        """
        if not math.isfinite(self.pool.untrained_score) and not self.ranked(share):
            return  # the fault is not the rate
        strides, fresh, after = 0, self.pool.fresh(share), self.finish(share)
        while self.affords(fresh, after):
            rates = sorted(trial.lr for trial in self.pool.trials())
            ranked = self.ranked(share)
            leader = ranked[0].lr if ranked else rates[0]
            exploded = bool(ranked) and self.exploded(ranked[0], share)
            stride = self.stride(strides, exploded=exploded)
            alone = len(rates) == 1 and bool(ranked) and not exploded
            slow = self.slow(ranked[0]) if alone else None
            rate = self.next_to(rates, leader, stride, exploded=exploded, slow=slow)
            if rate is None or not self.tries(rate):
                return
            strides += 1
            trial = self.pool.enter(self.allowed.rounded(rate))
            if trial.share >= share:
                return
            new = self.foreseen(sorted([*rates, trial.lr]), strides, fresh, (trial.lr, leader))
            guess = Guess(self.next_up(share), new)
            self.pool.go([trial], share, Phase.BEYOND_EDGE, guess=guess)

    def tries(self, rate: float) -> bool:
        """Return whether a rate is within the bounds, and the rate can be what breaks training."""
        return self.pool.lowest < rate < HIGHEST and not self.pool.hopeless

    def stride(self, strides: int, *, exploded: bool, owed: float = 0.0) -> float:
        """Return how many decades beyond an edge the next rate is tried.

        A doubled stride leaves a gap: one trial tells on which side the best lies, and one more
        halves it. A brief search has no later rung to tell near rates apart.

        Args:
            strides: How many rates were tried beyond an edge.
            exploded: Whether the best is worse than the untrained network.
            owed: What is already owed, in full runs.
        """
        costs = 3 * self.pool.fresh(self.first) + owed
        far = exploded or (strides > 0 and self.affords(costs, self.finish(self.first)))
        return SPACING * (2 if far else 1.5 if self.brief else 1)

    # ---- what may come next ----------------------------------------------------------------------

    def foreseen(
        self, rates: list[float], strides: int, owed: float, leaders: tuple[float, ...] = ()
    ) -> tuple[float, ...]:
        """Return the rates that `widen` may enter, the likeliest first; see `Guess`.

        Args:
            rates: Those that are there by then, ascending.
            strides: How many were tried beyond an edge by then.
            owed: What the rates of the call cost.
            leaders: Those that may lead then; none given, the highest and the lowest.
        """
        stride = self.stride(strides, exploded=False, owed=owed)
        if len(rates) == 1:
            ways = [self.next_to(rates, rates[0], stride, slow=slow) for slow in (True, False)]
        else:
            ways = [self.next_to(rates, one, stride) for one in leaders or (rates[-1], rates[0])]
        ways.append(
            self.next_to(rates, rates[0], self.stride(strides, exploded=True), exploded=True)
        )
        if strides == 0 and len(rates) > 1:  # the edge that is tried first may lead as well
            wide = self.stride(1, exploded=False, owed=owed + self.pool.fresh(self.first))
            for edge in [rate for rate in ways[:2] if rate is not None]:
                ways.append(
                    self.next_to(
                        sorted([*rates, self.allowed.rounded(edge)]),
                        self.allowed.rounded(edge),
                        wide,
                    )
                )
        found = [self.allowed.rounded(rate) for rate in ways if rate is not None]
        within = (rate for rate in found if self.pool.lowest < rate < HIGHEST)
        return tuple(rate for rate in dict.fromkeys(within) if rate not in rates)

    def next_up(self, share: float) -> tuple[tuple[E, float], ...]:
        """Return those that would go on from a share now, and to which; see `Guess`."""
        rung = next((rung for rung in self.rungs if rung.share > share), None)
        if rung is None:
            return ()
        return tuple((trial, rung.share) for trial in self.judged(share)[: rung.keep])

    def next_to(
        self,
        rates: list[float],
        leader: float,
        stride: float,
        *,
        exploded: bool = False,
        slow: bool | None = None,
    ) -> float | None:
        """Return the rate to try beyond an edge, or in the widest gap beside the best.

        Args:
            rates: Those that were tried, ascending.
            leader: The best of them.
            stride: Decades beyond an edge.
            exploded: Whether even the best is worse than the untrained network.
            slow: Of a rate that stands alone: whether it still falls by much. None for several.

        Returns:
            None where none is left that may be tried.
        """
        nearest, low, high = self.allowed.nearest, rates[0], rates[-1]
        if slow is not None:
            slower = nearest(low * 10**-SPACING, below=low)
            faster = nearest(high * 10**SPACING, above=high)
            first, second = (faster, slower) if slow else (slower, faster)
            return second if first is None else first
        beyond = None
        if leader == low or exploded:
            beyond = nearest(low / 10**stride, below=low)
        elif leader == high:
            beyond = nearest(high * 10**stride, above=high)
        if beyond is not None or exploded or low == high:
            return beyond
        below, above = _widest_gap(rates, leader)
        if math.log10(above / below) < 1.25 * SPACING:
            return None
        return nearest(math.sqrt(below * above), above=below, below=above)

    def slow(self, trial: E) -> bool:
        """Return whether a trial still falls by much over the second half of its way."""
        curve = trial.curve()
        half = [y for x, y in zip(curve.shares, curve.scores, strict=True) if 2 * x <= trial.share]
        fallen = (half[-1] if half else self.pool.untrained_score) - curve.scores[-1]
        return fallen > FALLING * drop(self.pool.untrained_score, curve.scores)

    def aim(self, share: float) -> None:
        """Where a curve has turned, add the lower rate that it points to."""
        lr = self.lower(share)
        if lr is None:
            return
        trial = self.known(lr)
        if trial is not None and self.passed(trial, share):
            return
        cost = self.pool.fresh(share) if trial is None else self.pool.price(trial, share)
        if self.affords(cost, self.finish(share)):
            chosen = trial or self.pool.enter(self.allowed.rounded(lr))
            guess = Guess[E, float](self.next_up(share))
            self.pool.go([chosen], share, Phase.CURVE_TURNED, guess=guess)


def _widest_gap(rates: list[float], leader: float) -> tuple[float, float]:
    """Return the two rates, one of them the leader, that lie furthest apart."""
    beside = [pair for pair in pairwise(rates) if leader in pair]
    return max(beside, key=lambda pair: pair[1] / pair[0])
