"""The finalists of a search, trained with other seeds too: the mean over seeds decides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.errors import BadTypeError, BadValueError, as_whole, shown
from etude.recipe import Recipe
from etude.trials.phase import Phase
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial, step_at
from etude.tuning.comparison import common, peak_of, ties
from etude.tuning.confidence import fall_of
from etude.tuning.search.ladder import LEAST, SPACING
from etude.tuning.search.ranking import Ranking
from etude.tuning.search.recipe_trials import RecipeTrials
from etude.tuning.seed_evidence import SeedEvidence
from etude.tuning.trial_summary import FOLLOWED

LEVELS = ((1 / 4, 4), (1 / 2, 3), (3 / 4, 2), (1.0, 2))
"""Shares of a run to which the finalists are trained with every seed, and how many at most."""

NEAR = 0.1
"""Share of the drop by which a rate may trail the best with the first seed and be a finalist."""

MOST = 100
"""The largest number of seeds."""

EXACT = 1e-9
"""Full runs by which rounding may let a cost exceed what is left."""


def checked_seeds(seeds: object) -> int:
    """Return the number of seeds.

    Raises:
        BadTypeError: If it is no whole number.
        BadValueError: If it is out of bounds.
    """
    count = as_whole(seeds)
    if count is None:
        raise BadTypeError(f"seeds={shown(seeds)} is not a whole number: give one, such as 3")
    if not 1 <= count <= MOST:
        raise BadValueError(f"seeds={count} is out of bounds: give 1 to {MOST}")
    return count


def check_budget(budget: float, seeds: int, folds: int) -> None:
    """Refuse a budget that compares no two rates over seeds, and seeds of folds.

    Raises:
        BadValueError: If it is too small, or both are asked for.
    """
    if seeds > 1 and folds > 1:
        raise BadValueError(
            f"seeds={seeds} and folds={folds} both train every rate anew: give one of them"
        )
    least = least_budget(seeds)
    if budget < least:
        raise BadValueError(
            f"budget={budget:g} is too small for seeds={seeds}: comparing two rates with each seed "
            f"takes at least {least:g} full runs, the finished model included"
        )


def least_for(part: float, seeds: int) -> float:
    """Return the smallest budget of which the search may spend a part.

    >>> least_for(1.5, 1), least_for(1.5, 3)
    (1.5, 3.0)
    """
    return part if seeds == 1 else max(2 * part, part + _compared(seeds))


def least_budget(seeds: int) -> float:
    """Return the smallest budget with which two rates are compared over seeds.

    >>> least_budget(1), least_budget(3)
    (1.2, 2.45)
    """
    return LEAST + _compared(seeds)


def searched(budget: float, seeds: int) -> float:
    """Return the part of a budget that the search with the first seed may spend.

    It is half, but at least what a search needs; what it leaves goes to the other seeds too.

    >>> searched(3.0, 1), searched(3.0, 3), searched(10.0, 3)
    (3.0, 1.5, 5.0)
    """
    if seeds == 1:
        return budget
    return max(LEAST, min(budget / 2, budget - _compared(seeds)))


def _compared(seeds: int) -> float:
    """Return what two rates cost at the first level, the second of them with every seed."""
    return 0.0 if seeds == 1 else (2 * seeds - 1) * LEVELS[0][0]


def compare_with_seeds(
    pool: TrialPool, trials: RecipeTrials, search: Ranking[Trial], best: Trial, seeds: int
) -> tuple[Trial, SeedEvidence | None]:
    """Return the rate that is best over seeds, and what the seeds say of the finalists.

    The finalists are the best and those near it, those followed furthest first. They are trained
    with every seed to a quarter of the run, the better ones to a half, three quarters and the end.
    How far two of them can go is what the budget is for first; what it holds beside that goes to
    more finalists. Another rate than the best is chosen only from three quarters on, where the
    order is that of the end, or if the best diverges with another seed: where all do, lower rates
    are tried. Its model is that of the first seed.

    Args:
        pool: Where they are trained and paid for.
        trials: The trials of the recipe's own seed.
        search: The finished search.
        best: What it found.
        seeds: How many seeds, the recipe's own included.

    Returns:
        The trial of the chosen rate, and the evidence; None where no two rates were compared.
    """
    if best.diverged or not best.ended:
        return best, None
    kept = [best, *_rivals(pool, trials, search, best)]
    rows: dict[float, list[Trial]] = {}
    reached, means = 0, {best.lr: pool.goal.score(best.last())}
    steps = [_evaluated_before(best, share) for share, _ in LEVELS]
    for (_, most), step in zip(LEVELS, steps, strict=True):
        if step <= reached:
            continue
        able = [c for c in kept if c.reached < step or math.isfinite(c.score(step))][:most]
        going = able[:2]
        if len(going) < 2 or _price(pool, trials, going, step, seeds) > pool.left + EXACT:
            continue
        deep = (s for s in reversed(steps) if s >= step)
        deepest = next(
            s for s in deep if _price(pool, trials, going, s, seeds) <= pool.left + EXACT
        )
        for one in able[2:]:
            two = _price(pool, trials, going[:2], deepest, seeds)
            more = _price(pool, trials, [*going[2:], one], step, seeds)
            if two + more > pool.left + EXACT:
                break
            going.append(one)
        for one in going:
            rows[one.lr] = [one, *(pool.add(*again) for again in _again(one, seeds))]
        behind = [t for c in going for t in rows[c.lr] if t.reached < step]
        pool.go(behind, step / best.length, Phase.OTHER_SEEDS)
        reached = step
        means = {c.lr: _mean(rows[c.lr], step) for c in going}
        kept = sorted(going, key=lambda c: (c is not best, means[c.lr], c.lr))
        if not math.isfinite(means.get(best.lr, math.inf)):
            kept.sort(key=lambda c: (means[c.lr], c.lr))
    if not rows:
        return best, None
    if not any(math.isfinite(mean) for mean in means.values()):
        kept = _lower(pool, trials, search, rows, seeds)
        means = {one.lr: one.score(one.length) for one in kept}
    evidence = SeedEvidence({lr: tuple(row) for lr, row in rows.items()}, pool.goal)
    tells = reached + 1 >= FOLLOWED * best.length
    return _chosen(pool, kept, means, best, tells=tells), evidence


def _lower(
    pool: TrialPool,
    trials: RecipeTrials,
    search: Ranking[Trial],
    rows: dict[float, list[Trial]],
    seeds: int,
) -> list[Trial]:
    """Return a lower rate that trains with every seed, where all that were compared diverged.

    It is trained to three quarters with the other seeds, then to the end with the first.

    Args:
        pool: Where it is trained and paid for.
        trials: The trials of the recipe's own seed.
        search: The finished search.
        rows: The trials that were compared, by rate; those of lower rates are added.
        seeds: How many seeds.
    """
    while True:
        lowest = min(rows)
        tried = [c for c in trials.trials() if c.lr < lowest and not c.diverged]
        lr = search.allowed.nearest(lowest / 10**SPACING, below=lowest)
        one = max(tried, key=lambda c: c.lr, default=None)
        cost = (seeds - 1) * trials.fresh(FOLLOWED)
        cost += trials.fresh(1.0) if one is None else pool.price(one, 1.0)
        if cost > pool.left + EXACT or (one is None and (lr is None or lr < trials.lowest)):
            return []
        one = one or trials.enter(search.allowed.rounded(lr or lowest))
        again = [pool.add(*recipe) for recipe in _again(one, seeds)]
        rows[one.lr] = [one, *again]
        pool.go(again, FOLLOWED, Phase.OTHER_SEEDS)
        if any(trial.diverged for trial in again):
            continue
        pool.go([one], 1.0, Phase.OTHER_SEEDS)
        if not one.diverged:
            return [one]


def _chosen(
    pool: TrialPool, kept: Sequence[Trial], means: dict[float, float], best: Trial, *, tells: bool
) -> Trial:
    """Return the rate that is best over seeds and is finished, or can be.

    Args:
        pool: Where one is finished.
        kept: Those that were compared last.
        means: Their mean scores; infinite where one diverged.
        best: That of the first seed.
        tells: Whether they were compared so late that another one may be chosen.
    """
    if not tells and math.isfinite(means.get(best.lr, math.inf)):
        return best
    for one in sorted(kept, key=lambda c: (means[c.lr], c.lr)):
        if not math.isfinite(means[one.lr]):
            break
        if not one.ended and pool.price(one, 1.0) <= pool.left + EXACT:
            pool.go([one], 1.0, Phase.FINISH)
        if one.ended and not one.diverged:
            return one
    return best


def _rivals(
    pool: TrialPool, trials: RecipeTrials, search: Ranking[Trial], best: Trial
) -> list[Trial]:
    """Return the other finalists: those near the best first, of these those followed furthest."""
    goal, untrained, peak = pool.goal, pool.untrained_score, peak_of(trials.exposure)
    every, fall = trials.trials(), fall_of(best, goal, untrained)

    def order(trial: Trial) -> tuple[bool, float, float, float]:
        pair = common(trial, best)
        gap = math.inf if pair is None else goal.score(pair[0]) - goal.score(pair[1])
        near = gap <= NEAR * fall or ties(trial, best, goal, untrained, every, peak)
        return not near, -trial.share, gap, trial.lr

    sound = [c for c in every if c is not best and not search.unstable(c, best)]
    return sorted(sound, key=order)


def _evaluated_before(best: Trial, share: float) -> int:
    """Return the last update up to a share of the run after which the best was evaluated."""
    until = step_at(best, share)
    return max((e.step for e in best.evaluated() if e.step <= until), default=0)


def _again(trial: Trial, seeds: int) -> list[tuple[Recipe, str]]:
    """Return the recipe of a trial with every other seed, and the name of its trial."""
    first = trial.recipe.seed
    return [
        (trial.recipe.replace(seed=seed), f"{trial.name}-seed-{seed}")
        for seed in range(first + 1, first + seeds)
    ]


def _price(
    pool: TrialPool, trials: RecipeTrials, going: Sequence[Trial], step: int, seeds: int
) -> float:
    """Return what some rates cost with every seed, to some updates.

    From three quarters of the run on, one that is not finished may be chosen: its finish counts.
    """
    known = {c.recipe: c for c in pool.trials}
    cost = finish = 0.0
    for one in going:
        share = step / one.length
        cost += pool.price(one, share)
        for recipe, _ in _again(one, seeds):
            there = known.get(recipe)
            cost += trials.fresh(share) if there is None else pool.price(there, share)
        if step + 1 >= FOLLOWED * one.length and not one.ended:
            finish = max(finish, pool.price(one, 1.0) - pool.price(one, share))
    return cost + finish


def _mean(row: Sequence[Trial], step: int) -> float:
    return math.fsum(trial.score(step) for trial in row) / len(row)
