"""The search: paired candidates start, pause, and the better ones go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from etude.tuning.curve import Curve, Exposure, drop
from etude.tuning.ladder import SPACING, Ladder, Rung
from etude.tuning.prior import grid, nice
from etude.tuning.stability import stands_still
from etude.tuning.turning import foretold, target, turned

FURTHER = 1.25
"""How much further down than the turn says a fresh start goes when nothing else is compared."""

LOOK = 1 / 4
"""Where the leader of a small budget is looked at for a turn."""

REFINEMENTS = (0.2, -0.2, 0.4, -0.4, 0.1, -0.1, 0.3, -0.3, 0.05, -0.05, 0.15, -0.15)
"""Decades from the best at which a large budget looks for a still better one, in order."""

PAUSES = ((1 / 2, 0.01), (3 / 4, 0.002))
"""Where a refinement is held against the best, and by what share of the drop it may trail."""

CURES = 3
"""Fresh starts at a lower rate after a finished run that has turned."""

APART = 0.05
"""Decades within which two rates count as one."""

LOWEST, HIGHEST = 1e-15, 1e15
"""Rates beyond which none is tried: single precision sees no difference any more."""

STRIDE, GAP = 0.8, 0.5
"""Decades between looks for the edge of stability, and the gap at which looking ends."""


class Entrant(Protocol):
    """One rate in the field."""

    @property
    def lr(self) -> float:
        """Its rate."""

    @property
    def share(self) -> float:
        """How far of its run it was asked to go."""

    @property
    def diverged(self) -> bool:
        """Whether a NaN or Inf had ended it by then."""

    def curve(self) -> Curve:
        """Return what was seen of it."""


E = TypeVar("E", bound=Entrant)


class Starters(Protocol[E]):
    """What the search asks of the field: enter rates, take them further, say what is left."""

    @property
    def untrained_score(self) -> float:
        """The score before training."""

    @property
    def untrained_loss(self) -> float:
        """The magnitude of the loss before training."""

    @property
    def exposure(self) -> Exposure:
        """How much of the schedule's area lies behind at each share of the run."""

    @property
    def left(self) -> float:
        """What may still be spent, in full runs."""

    def enter(self, lr: float) -> E:
        """Enter a rate, or return the one that is there."""

    def entrants(self) -> Sequence[E]:
        """Return all that are in the field."""

    def go(self, entrants: Sequence[E], share: float, part: str) -> None:
        """Take some to a share of their runs, and pay for it."""

    def price(self, entrant: E, share: float) -> float:
        """Return the cost of taking one to a share of its run."""

    def fresh(self, share: float) -> float:
        """Return the cost of taking a new one to a share of its run."""


class Search(Generic[E]):
    """Decides which rates start, how far each goes, and which is finished.

    Every rate shares the recipe's seed: same initial weights, same batches. All run on the
    recipe's own full-length schedule, so that the winner's past is already paid when it goes on.
    What is compared is the validation score at the same share of the run; where a leader is seen
    to overfit, what its curve foretells (see `etude.tuning.turning`).

    Args:
        field: The candidates.
        ladder: How many go how far.
        centre: log10 of the rate to begin around.
        final: Whether the best is finished here; folds are finished elsewhere.
    """

    def __init__(
        self, field: Starters[E], ladder: Ladder, centre: float, *, final: bool = True
    ) -> None:
        self.field, self.centre, self.final = field, centre, final
        self.rungs = ladder.rungs if final else ladder.rungs[:-1]
        self.first = self.rungs[0].share

    def run(self) -> E:
        """Search, and return the best, finished if any could be."""
        count = self.rungs[0].keep
        small = self.final and len(self.rungs) <= 3
        if small and len(self.rungs) == 2:
            self.tiny()
        elif small:
            self.start(count)
            self.short()
        else:
            self.start(count)
            self.climb()
        return self.conclude()

    def conclude(self) -> E:
        """Return the best that is finished, improved on for what is left."""
        if not self.final:
            return next(iter(self.ranked(self.rungs[-1].share)), None) or self.furthest()
        best = self.finished() or self.fall_back()
        if best is None:
            return self.furthest()
        best = self.cure(best)
        self.find_edge(best)
        return self.refine(best)

    def finish_best(self) -> None:
        """Take the best of those that went furthest to the end."""
        if self.final and self.alive():
            self.field.go([self.furthest()], 1.0, name_of(1.0))

    # ---- standing ------------------------------------------------------------------------------

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

    def ranked(self, share: float) -> list[E]:
        """Return those that got to a share of the run, best first; ties go to the lower rate."""
        return sorted(self.here(share), key=lambda one: (one.curve().at(share), one.lr))

    def turned(self, share: float) -> list[Curve]:
        """Return the curves that have turned up."""
        curves = [one.curve() for one in self.here(share)]
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

    # ---- small budgets -------------------------------------------------------------------------

    def start(self, count: int) -> None:
        """Take the first rates to the first rung."""
        rates = grid(self.centre, count, SPACING)
        self.field.go([self.field.enter(r) for r in rates], self.first, name_of(self.first))

    def tiny(self) -> None:
        """One rate, looked at for a turn; else a rival on the side that its curve points to."""
        here, look = self.first, min(LOOK, self.field.left - 1)
        one = self.field.enter(nice(10**self.centre))
        self.field.go([one], here, name_of(here))
        self.widen(here)
        leader = next(iter(self.ranked(here)), None)
        if leader is None:
            return
        spare = self.field.left - self.field.price(leader, 1.0)
        if spare >= look - here - 1e-9:
            self.field.go([leader], look, name_of(look))
            if self.anew(leader, look):
                return
        if len(self.field.entrants()) == 1 and self.affords(self.field.fresh(1.0)):
            curve = leader.curve()
            scale = drop(self.field.untrained_score, curve.scores)
            slow = curve.at(here) - curve.scores[-1] > 0.1 * scale
            rival = self.field.enter(nice(leader.lr * 10 ** (SPACING if slow else -SPACING)))
            self.field.go([rival], here, name_of(here))
        best = self.ranked(here)[0]
        self.field.go([best], 1.0, name_of(1.0))

    def short(self) -> None:
        """The leader goes ahead and is looked at for a turn; then the next is held against it."""
        here = self.first
        if not self.ranked(here):
            self.widen(here)
        ranked = self.ranked(here)
        if not ranked:
            return
        leader, share = ranked[0], LOOK
        if self.affords(self.field.price(leader, share), self.field.fresh(1.0)):
            self.field.go([leader], share, name_of(share))
            if self.anew(leader, share):
                return
        self.widen(here)
        for one in self.ranked(here)[:2]:
            finish = self.field.price(one, 1.0)
            if one.share < share and self.affords(finish):
                self.field.go([one], share, name_of(share))
        best = next(iter(self.ranked(share) or self.ranked(here)), None)
        if best is not None:
            self.field.go([best], 1.0, name_of(1.0))

    def anew(self, leader: E, share: float) -> bool:
        """Start anew at the lower rate that a turned leader points to, and finish it."""
        found = self.turned(share)
        curve = next((c for c in found if c.lr == leader.lr), found[0] if found else None)
        if curve is None or not self.affords(self.field.fresh(1.0)):
            return False
        lr = target(curve, self.field.exposure, self.field.untrained_score, FURTHER)
        if math.log10(curve.lr / lr) < 2 * APART:
            return False
        self.field.go([self.field.enter(nice(lr))], 1.0, "anew, lower")
        return True

    # ---- the ladder ----------------------------------------------------------------------------

    def climb(self) -> None:
        """Climb rung by rung."""
        self.widen(self.first)
        self.aim(self.first)
        for below, rung in pairwise(self.rungs):
            ranked = self.judged(below.share)
            if not ranked:
                return
            self.field.go(self.kept(ranked, rung), rung.share, name_of(rung.share))
            if rung.share < 1:
                self.widen(rung.share)
                self.aim(rung.share)

    def kept(self, ranked: list[E], rung: Rung) -> list[E]:
        """Return the best that go on to a rung, as many as the budget leaves a finish for."""
        chosen: list[E] = []
        cost = 0.0
        for one in ranked[: rung.keep]:
            cost += self.field.price(one, rung.share)
            if chosen and not self.affords(cost, self.finish(rung.share)):
                break
            chosen.append(one)
        return chosen

    def finish(self, share: float) -> float:
        """Return what the finish of one candidate costs from a share of its run on."""
        return self.field.fresh(1.0) - self.field.fresh(share) if self.final else 0.0

    def widen(self, share: float) -> None:
        """Add rates beyond an edge while the best stands there, in growing strides.

        A rate beyond the edge may use up what later rungs would compare: an optimum outside the
        field cannot be ranked inside it. Only the finish of one candidate is never spent.
        """
        if not math.isfinite(self.field.untrained_score):
            return  # the fault is not the rate
        strides = 0
        while self.affords(self.field.fresh(share), self.finish(share)):
            rates = sorted(one.lr for one in self.field.entrants())
            ranked = self.ranked(share)
            leader = ranked[0].lr if ranked else rates[0]
            stride = SPACING * (1 if strides == 0 else 2)
            if len(rates) == 1 and ranked:
                return
            if leader == rates[0]:
                rate = leader / 10**stride
            elif leader == rates[-1]:
                rate = leader * 10**stride
            else:
                return self.fill(share, leader)
            if not LOWEST < rate < HIGHEST:
                return
            strides += 1
            one = self.field.enter(nice(rate))
            if one.share >= share:
                return
            self.field.go([one], share, "beyond an edge")

    def fill(self, share: float, leader: float) -> None:
        """Halve a wide gap beside the leader, if the ladder can still be climbed in full."""
        while self.affords(self.field.fresh(share), self.plan(share)):
            rates = sorted(one.lr for one in self.field.entrants())
            place = rates.index(leader)
            gaps = [
                (math.log10(b / a), math.sqrt(a * b))
                for a, b in pairwise(rates)
                if leader in (a, b)
            ]
            if place in (0, len(rates) - 1) or max(gaps)[0] < 1.5 * SPACING:
                return
            one = self.field.enter(nice(max(gaps)[1]))
            if one.share >= share:
                return
            self.field.go([one], share, "beyond an edge")
            leader = self.ranked(share)[0].lr

    def plan(self, share: float) -> float:
        """Return what the rungs beyond a share of the run cost."""
        return sum(
            rung.keep * (self.field.fresh(rung.share) - self.field.fresh(below.share))
            for below, rung in pairwise(self.rungs)
            if below.share >= share - 1e-9
        )

    def aim(self, share: float) -> None:
        """Where a curve has turned, add the lower rate that it points to."""
        found = self.turned(share)
        if not found:
            return
        leader = self.judged(share)[0]
        curve = next((c for c in found if c.lr == leader.lr), min(found, key=lambda c: c.lr))
        lr = target(curve, self.field.exposure, self.field.untrained_score)
        if math.log10(curve.lr / lr) < SPACING / 2 + APART or lr < LOWEST:
            return
        one = self.known(lr)
        cost = self.field.fresh(share) if one is None else self.field.price(one, share)
        if self.affords(cost, self.finish(share)):
            self.field.go([one or self.field.enter(nice(lr))], share, "where a curve turned")

    # ---- after the finish ----------------------------------------------------------------------

    def fall_back(self) -> E | None:
        """Resume the furthest surviving lower rates until one reaches the end."""
        for one in sorted(self.alive(), key=lambda c: (-c.share, c.curve().at(c.share), c.lr)):
            if not self.affords(self.field.price(one, 1.0)):
                continue
            self.field.go([one], 1.0, "after a divergence")
            if not one.diverged:
                return one
        return None

    def cure(self, best: E) -> E:
        """Where the finished run has turned, start anew at the rate that its turn points to."""
        for _ in range(CURES):
            curve = next((c for c in self.turned(1.0) if c.lr == best.lr), None)
            if curve is None:
                return best
            lr = target(curve, self.field.exposure, self.field.untrained_score, FURTHER)
            lr = min(lr, best.lr * 10 ** (-SPACING / 2))
            one = self.known(lr)
            if one is not None and (one.diverged or one.share >= 1):
                return best
            cost = self.field.fresh(1.0) if one is None else self.field.price(one, 1.0)
            if not self.affords(cost) or lr < LOWEST:
                return best
            self.field.go([one or self.field.enter(nice(lr))], 1.0, "where a curve turned")
            best = self.finished() or best
        return best

    def refine(self, best: E) -> E:
        """Try neighbours of the best for what is left, finishing those that keep up."""
        centre = best
        for shift in REFINEMENTS:
            rate = nice(centre.lr * 10**shift)
            one = self.known(rate) if abs(shift) > APART else None
            if one is not None and (one.diverged or one.share >= PAUSES[0][0]):
                continue
            cost = self.field.fresh(1.0) if one is None else self.field.price(one, 1.0)
            if not self.affords(cost):
                continue
            rival = one or self.field.enter(rate)
            if self.keeps_up(rival, best):
                self.field.go([rival], 1.0, "refine")
                best = self.finished() or best
        return best

    def keeps_up(self, rival: E, best: E) -> bool:
        """Take a rival to the pauses; say whether it never trails the best by much."""
        curve = best.curve()
        scale = self.field.untrained_score - curve.at(1.0)
        for share, slack in PAUSES:
            self.field.go([rival], share, "refine")
            mark, mine = curve.at(share), rival.curve().at(share)
            if not math.isfinite(mine):
                return False
            if math.isfinite(mark) and mine > mark + slack * scale:
                return False
        return True

    def find_edge(self, best: E) -> None:
        """Look for the rate at which training breaks, for what is left of the budget.

        Rates go up by 0.8 decades until one is unstable; then the gap below it is halved down to
        half a decade.
        """
        share = self.first
        while self.affords(self.field.fresh(share)):
            above = {one.lr: one for one in self.field.entrants() if one.lr >= best.lr}
            broken = min((r for r, one in above.items() if self.unstable(one, best)), default=None)
            stable = max(r for r in above if broken is None or r < broken)
            if broken is None:
                rate = stable * 10**STRIDE
            elif math.log10(broken / stable) > GAP:
                rate = math.sqrt(broken * stable)
            else:
                return
            if rate > HIGHEST:
                return
            one = self.field.enter(nice(rate))
            if one.share > 0:
                return
            self.field.go([one], share, "edge of stability")

    def unstable(self, one: E, best: E) -> bool:
        """Say whether a rate diverged, or, above the best, stands still far behind it."""
        if one.diverged or one.lr <= best.lr:
            return one.diverged
        return stands_still(one.curve(), best.curve(), self.field.untrained_score)


def name_of(share: float) -> str:
    """Return what a part of the cost is called."""
    return "finish" if share >= 1 else f"to {100 * share:g}%"
