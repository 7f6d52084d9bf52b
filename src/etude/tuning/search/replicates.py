"""Other seeds, spent only where the best two finished rates cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.recipe import Recipe
from etude.trials.phase import Phase
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial, step_at
from etude.tuning.comparison import ties
from etude.tuning.search.recipe_trials import RecipeTrials

SHARE = 3 / 4
"""How far a run with another seed goes: there the order is that of the end."""

SEEDS = 2
"""Other seeds at most."""


def compare_over_seeds(pool: TrialPool, recipe_trials: RecipeTrials, best: Trial) -> Trial:
    """Return the better of the best and the finished rate that ties with it, over several seeds.

    Both are run with the next seeds, paired, to three quarters of the run, as far as the budget
    goes; the mean score there over all seeds decides. The delivered model is that of the first.

    Args:
        pool: Where they are trained and paid for.
        recipe_trials: The trials of the recipe's own seed.
        best: The finished best.
    """
    goal, untrained = pool.goal, pool.untrained_score
    rivals = [c for c in recipe_trials.trials() if c is not best and c.ended]
    tied = [c for c in rivals if ties(c, best, goal, untrained)]
    if not tied or not best.ended:
        return best
    pair = best, min(tied, key=lambda c: (goal.score(c.last()), c.lr))
    rows = [[trial] for trial in pair]
    for seed in range(best.recipe.seed + 1, best.recipe.seed + 1 + SEEDS):
        recipes = [trial.recipe.replace(seed=seed) for trial in pair]
        if _price(pool, recipe_trials, recipes) > pool.left + 1e-9:
            break
        again = [
            pool.add(recipe, f"{trial.name}-seed-{seed}")
            for trial, recipe in zip(pair, recipes, strict=True)
        ]
        pool.go(again, SHARE, Phase.ANOTHER_SEED)
        for row, trial in zip(rows, again, strict=True):
            row.append(trial)
    if len(rows[0]) == 1:
        return best
    means = [math.fsum(c.score(step_at(c, SHARE)) for c in row) / len(row) for row in rows]
    return pair[1] if means[1] < means[0] else best


def _price(pool: TrialPool, recipe_trials: RecipeTrials, recipes: Sequence[Recipe]) -> float:
    """Return what it costs to compare recipes of one seed; those of an earlier budget are paid."""
    known = [next((c for c in pool.trials if c.recipe == recipe), None) for recipe in recipes]
    return sum(
        recipe_trials.fresh(SHARE) if trial is None else pool.price(trial, SHARE) for trial in known
    )
