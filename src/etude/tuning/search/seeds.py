"""The finalists of a search, trained with other seeds too: the mean over seeds decides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.errors import BadTypeError, BadValueError, shown
from etude.recipe import Recipe
from etude.trials.phase import Phase
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial, step_at
from etude.tuning.comparison import common, peak_of, ties
from etude.tuning.search.ladder import LEAST
from etude.tuning.search.ranking import Ranking
from etude.tuning.search.recipe_trials import RecipeTrials
from etude.tuning.seed_evidence import SeedEvidence
from etude.tuning.trial_summary import FOLLOWED

LEVELS = ((1 / 4, 4), (1 / 2, 3), (3 / 4, 2), (1.0, 2))
"""Shares of a run to which the finalists are trained with every seed, and how many at most."""

MOST = 100
"""The largest number of seeds."""


def checked_seeds(seeds: object) -> int:
    """Return the number of seeds.

    Raises:
        BadTypeError: If it is no whole number.
        BadValueError: If it is out of bounds.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int):
        raise BadTypeError(f"seeds={shown(seeds)} is not a whole number: give one, such as 3")
    if not 1 <= seeds <= MOST:
        raise BadValueError(f"seeds={seeds} is out of bounds: give 1 to {MOST}")
    return seeds


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
            f"budget={budget!r} is too small for seeds={seeds}: comparing two rates with each seed "
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
    (1.2, 2.2)
    """
    return LEAST + _compared(seeds)


def searched(budget: float, seeds: int) -> float:
    """Return the part of a budget that the search with the first seed may spend.

    It is half, but at least what a search needs; what it leaves goes to the other seeds too.

    >>> searched(3.0, 1), searched(3.0, 3), searched(10.0, 3), searched(2.2, 3)
    (3.0, 1.5, 5.0, 1.2)
    """
    if seeds == 1:
        return budget
    return max(LEAST, min(budget / 2, budget - _compared(seeds)))


def _compared(seeds: int) -> float:
    """Return what two rates cost with the other seeds, at the first level."""
    return 2 * (seeds - 1) * LEVELS[0][0]


def compare_with_seeds(
    pool: TrialPool, trials: RecipeTrials, search: Ranking[Trial], best: Trial, seeds: int
) -> tuple[Trial, SeedEvidence | None]:
    """Return the rate that is best over seeds, and what the seeds say of the finalists.

    The finalists are the best and those that tie with it, those followed furthest first. They are
    trained with every seed to a quarter of the run, the better ones to a half, three quarters and
    the end, as far as the budget goes for two at least. Another rate than the best is chosen only
    from three quarters on, where the order is that of the end. Its model is that of the first seed.

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
    for share, most in LEVELS:
        step = _evaluated_before(best, share)
        if step <= reached:
            continue
        able = [c for c in kept if c.reached < step or math.isfinite(c.score(step))][:most]
        going = _affordable(pool, trials, able, step, seeds)
        if len(going) < 2:
            continue
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
    evidence = SeedEvidence({lr: tuple(row) for lr, row in rows.items()}, pool.goal)
    tells = reached + 1 >= FOLLOWED * best.length
    return _chosen(pool, kept, means, best, tells=tells), evidence


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
        if not one.ended and pool.price(one, 1.0) <= pool.left + 1e-9:
            pool.go([one], 1.0, Phase.FINISH)
        if one.ended and not one.diverged:
            return one
    return best


def _rivals(
    pool: TrialPool, trials: RecipeTrials, search: Ranking[Trial], best: Trial
) -> list[Trial]:
    """Return the other finalists: those that tie first, of these those followed furthest."""
    goal, untrained, peak = pool.goal, pool.untrained_score, peak_of(trials.exposure)
    every = trials.trials()

    def order(trial: Trial) -> tuple[bool, float, float, float]:
        pair = common(trial, best)
        gap = math.inf if pair is None else goal.score(pair[0]) - goal.score(pair[1])
        tied = ties(trial, best, goal, untrained, every, peak)
        return not tied, -trial.share, gap, trial.lr

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


def _affordable(
    pool: TrialPool, trials: RecipeTrials, able: Sequence[Trial], step: int, seeds: int
) -> list[Trial]:
    """Return the first of some trials that the budget holds with every seed, to some updates.

    From three quarters of the run on, one that is not finished may be chosen: its finish must be
    affordable too.
    """
    found: list[Trial] = []
    cost = finish = 0.0
    for one in able:
        share = step / one.length
        known = {c.recipe: c for c in pool.trials}
        again = [known.get(recipe) for recipe, _ in _again(one, seeds)]
        cost += pool.price(one, share)
        cost += sum(trials.fresh(share) if c is None else pool.price(c, share) for c in again)
        if step + 1 >= FOLLOWED * one.length and not one.ended:
            finish = max(finish, pool.price(one, 1.0) - pool.price(one, share))
        if cost + finish > pool.left + 1e-9:
            break
        found.append(one)
    return found


def _mean(row: Sequence[Trial], step: int) -> float:
    return math.fsum(trial.score(step) for trial in row) / len(row)
