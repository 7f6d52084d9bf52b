"""After a first finish: what the rest of a budget is best spent on."""

from __future__ import annotations

import math

from etude.trials.curve import drop
from etude.trials.phase import Phase
from etude.tuning.search.allowed_rates import APART
from etude.tuning.search.ladder import SPACING
from etude.tuning.search.overfitting import target
from etude.tuning.search.protocol import E
from etude.tuning.search.ranking import Ranking

FURTHER = 1.25
"""How much further down than the turn says a fresh start goes when nothing else is compared."""

REFINEMENTS = (
    *(0.2, -0.2, 0.4, -0.4, 0.1, -0.1, 0.3, -0.3, 0.05, -0.05, 0.15, -0.15),
    *(-0.6, -0.8, -1.0),
)
"""Decades from the best at which a large budget looks for a still better one, in order; at last
well below it, where a second optimum learns too slowly to be seen early."""

PAUSES = ((1 / 2, 0.01), (3 / 4, 0.002))
"""Where a refinement is held against the best, and by what share of the drop it may trail."""

LAST = (3 / 4, 1 / 2)
"""Shares of a run from which a runner-up is finished."""

CURES = 3
"""Fresh starts at a lower rate after a finished run that has turned."""

HIGHEST = 1e15
"""The rate beyond which none is tried."""


def fall_back(ranking: Ranking[E]) -> E | None:
    """Return the first to end of the survivors below the rates that broke, or of a new one."""

    def broken() -> float:
        return min((c.lr for c in ranking.pool.trials() if c.diverged), default=math.inf)

    def ends(trial: E) -> bool:
        if not ranking.affords(ranking.pool.price(trial, 1.0)):
            return False
        ranking.pool.go([trial], 1.0, Phase.AFTER_DIVERGENCE)
        return not trial.diverged

    if ranking.pool.hopeless:
        return None
    survivors = ranking.alive()
    survivors.sort(key=lambda c: (-c.share, c.curve().at(c.share), c.lr))
    for trial in [c for c in survivors if c.lr < broken()]:
        if ends(trial):
            return trial
    fresh = _below(ranking, broken())
    if (
        fresh is not None
        and fresh > ranking.pool.lowest
        and ranking.affords(ranking.pool.fresh(1.0))
    ):
        trial = ranking.pool.enter(fresh)
        if trial.share == 0 and ends(trial):
            return trial
    return next((c for c in survivors if not c.diverged and ends(c)), None)


def _below(ranking: Ranking[E], broken: float) -> float | None:
    """Return a rate below the lowest that broke; None where none broke, or none is allowed."""
    if not math.isfinite(broken):
        return None
    found = ranking.allowed.nearest(broken / 10**SPACING, below=broken)
    return None if found is None else ranking.allowed.rounded(found)


def coming(ranking: Ranking[E], best: E) -> list[E]:
    """Return those that `runners_up` will finish after the best, unless the best diverges."""
    found: list[E] = []
    cost = ranking.pool.price(best, 1.0)
    for trial in [trial for share in LAST for trial in ranking.judged(share)]:
        price = ranking.pool.price(trial, 1.0)
        if trial is not best and trial not in found and ranking.affords(cost, price):
            found.append(trial)
            cost += price
    return found


def runners_up(ranking: Ranking[E], best: E) -> E:
    """Finish those that had come as far as the best before its finish, nearest in score first.

    That is cheap, and what is finished is known: whether it ties, or is better after all.
    """
    for trial in [trial for share in LAST for trial in ranking.judged(share)]:
        if trial.share < 1 and ranking.affords(ranking.pool.price(trial, 1.0)):
            ranking.pool.go([trial], 1.0, Phase.RUNNER_UP)
    return ranking.finished() or best


def cure(ranking: Ranking[E], best: E) -> E:
    """Where the finished run has turned, start anew at the rate that its turn points to."""
    for _ in range(CURES):
        curve = next((c for c in ranking.turned(1.0) if c.lr == best.lr), None)
        if curve is None:
            return best
        lr = target(curve, ranking.pool.exposure, ranking.pool.untrained_score, FURTHER)
        wanted = min(lr, best.lr * 10 ** (-SPACING / 2))
        found = ranking.allowed.nearest(wanted, below=best.lr)
        if found is None:
            return best
        lr, trial = found, ranking.known(found)
        if trial is not None and (trial.diverged or trial.share >= 1):
            return best
        cost = ranking.pool.fresh(1.0) if trial is None else ranking.pool.price(trial, 1.0)
        if not ranking.affords(cost) or lr < ranking.pool.lowest:
            return best
        ranking.pool.go(
            [trial or ranking.pool.enter(ranking.allowed.rounded(lr))], 1.0, Phase.CURVE_TURNED
        )
        best = ranking.finished() or best
    return best


def refine(ranking: Ranking[E], best: E) -> E:
    """Try neighbours of the best for what is left, finishing those that keep up."""
    centre = best
    for rate, shift in ranking.allowed.around(centre.lr, REFINEMENTS):
        trial = ranking.known(rate) if abs(shift) > APART else None
        if trial is not None and (trial.diverged or trial.share >= PAUSES[0][0]):
            continue
        cost = ranking.pool.fresh(1.0) if trial is None else ranking.pool.price(trial, 1.0)
        if not ranking.affords(cost):
            continue
        rival = trial or ranking.pool.enter(rate)
        if keeps_up(ranking, rival, best):
            ranking.pool.go([rival], 1.0, Phase.REFINE)
            best = ranking.finished() or best
    return best


def keeps_up(ranking: Ranking[E], rival: E, best: E) -> bool:
    """Take a rival to the pauses; say whether it never trails the best by much."""
    curve = best.curve()
    scale = drop(ranking.pool.untrained_score, [curve.at(1.0)])
    for share, slack in PAUSES:
        ranking.pool.go([rival], share, Phase.REFINE)
        mark, mine = curve.at(share), rival.curve().at(share)
        if not math.isfinite(mine):
            return False
        if math.isfinite(mark) and mine > mark + slack * scale:
            return False
    return True
