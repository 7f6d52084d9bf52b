"""Other seeds, spent only where the best two finished rates cannot be told apart."""

from __future__ import annotations

import math

from etude.trials.phase import Phase
from etude.trials.pool import TrialPool, step_at
from etude.trials.trial import Trial
from etude.tuning.assessment import ties
from etude.tuning.search.recipe_trials import RecipeTrials

SHARE = 3 / 4
"""How far a run with another seed goes: there the order is that of the end."""

SEEDS = 2
"""Other seeds at most."""


def settle(field: TrialPool, arm: RecipeTrials, best: Trial) -> Trial:
    """Return the better of the best and the finished rate that ties with it, over several seeds.

    Both are run with the next seeds, paired, to three quarters of the run, as far as the budget
    goes; the mean score there over all seeds decides. The delivered model is that of the first.

    Args:
        field: Where they are trained and paid for.
        arm: The candidates of the recipe's own seed.
        best: The finished best.
    """
    goal, untrained = field.goal, field.untrained_score
    rivals = [c for c in arm.entrants() if c is not best and c.ended]
    tied = [c for c in rivals if ties(c, best, goal, untrained)]
    if not tied or not best.ended:
        return best
    pair = best, min(tied, key=lambda c: (goal.score(c.last()), c.lr))
    rows = [[one] for one in pair]
    for seed in range(best.recipe.seed + 1, best.recipe.seed + 1 + SEEDS):
        if 2 * arm.fresh(SHARE) > field.left + 1e-9:
            break
        again = [
            field.add(one.recipe.replace(seed=seed), f"{one.name}-seed-{seed}") for one in pair
        ]
        field.go(again, SHARE, Phase.ANOTHER_SEED)
        for row, one in zip(rows, again, strict=True):
            row.append(one)
    if len(rows[0]) == 1:
        return best
    means = [math.fsum(c.score(step_at(c, SHARE)) for c in row) / len(row) for row in rows]
    return pair[1] if means[1] < means[0] else best
