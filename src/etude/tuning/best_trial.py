"""Searches for what a request asks for, the rate or the whole recipe, and compares over seeds."""

from __future__ import annotations

from etude.errors import BadValueError
from etude.tasks.task import Task
from etude.trials.phase import Phase
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial
from etude.tuning.beginning import first_centre
from etude.tuning.recipes.selection import HORIZONS, Selection
from etude.tuning.recipes.selector import RecipeSelector
from etude.tuning.search.ladder import Ladder, Rung, ladder_for
from etude.tuning.search.recipe_trials import RecipeTrials
from etude.tuning.search.replicates import compare_over_seeds
from etude.tuning.search.search import Search
from etude.tuning.search.seed_budget import least_for, searched
from etude.tuning.search.seeds import compare_with_seeds
from etude.tuning.seed_evidence import SeedEvidence
from etude.tuning.tuning_folder import Request

LEAST_SELECTING = 1.5
"""Full runs below which less than half a run is left for comparing recipes."""

LEAST_EXPLORED = 5 / 8
"""Runs of each fold that comparing two recipes, and following the better to its half, costs."""


def selector_for(task: Task, pool: TrialPool, request: Request) -> RecipeSelector | None:
    """Return what chooses the recipe, where more than the rate is asked for."""
    if request.space is None:
        return None
    least = LEAST_SELECTING if request.folds == 1 else 1 + LEAST_EXPLORED * request.folds
    least = least_for(least, request.seeds)
    if request.budget < least:
        raise BadValueError(
            f"budget={request.budget!r} is too small to choose a recipe: with over=, give at "
            f"least {least:g}"
        )
    selector = RecipeSelector(task, pool, request.space, pool.recipe.seed, request.rates)
    selector.check()
    return selector


def best_trial(
    task: Task, pool: TrialPool, selector: RecipeSelector | None, request: Request
) -> tuple[Search[Trial], Trial, Selection | None, SeedEvidence | None]:
    """Search for the rate, or for the whole recipe; return the search and the best trial."""
    final = len(pool.tasks) == 1
    if selector is None:
        search, best, seeds = _found_rate(task, pool, request)
        return search, best, None, seeds
    pool.budget = searched(pool.budget, request.seeds)
    recipe_trials, selection = selector.run(reserve=1.0 if final else 0.0)
    rungs = (*(Rung(share, 1) for share in HORIZONS), Rung(1.0, 1))
    centre = selector.centre(recipe_trials.recipe)
    search = Search(recipe_trials, Ladder(rungs), centre, final=final, allowed=request.rates)
    search.finish_best()
    best, seeds = _over_seeds(pool, search, search.conclude(), request, request.budget)
    return search, best, selection, seeds


def _found_rate(
    task: Task, pool: TrialPool, request: Request
) -> tuple[Search[Trial], Trial, SeedEvidence | None]:
    """Search for the rate, once for each budget to which the tuning was or is to be finished.

    What an earlier budget decided is decided again, from the evaluations that are kept; what the
    larger one adds begins where those trials stand.
    """
    recipe, final, length = pool.recipe, len(pool.tasks) == 1, pool.length
    centre = first_centre(task, pool, request)
    parts = [searched(budget, request.seeds) for budget in request.budgets]
    ladders = [ladder_for(part, request.folds, length) for part in parts]
    search = Search(
        RecipeTrials(pool, recipe), ladders[0], centre, final=final, allowed=request.rates
    )
    best: Trial | None = None
    seeds: SeedEvidence | None = None
    for budget, part, ladder in zip(request.budgets, parts, ladders, strict=True):
        others = pool.costs.get(str(Phase.OTHER_SEEDS), 0.0)
        pool.budget = min(budget, part + others) - (request.folds > 1)
        best = search.run() if best is None else search.go_on(ladder)
        best, seeds = _over_seeds(pool, search, best, request, budget)
    assert best is not None
    return search, best, seeds


def _over_seeds(
    pool: TrialPool, search: Search[Trial], best: Trial, request: Request, budget: float
) -> tuple[Trial, SeedEvidence | None]:
    """Return the best, or what ties with it and is better over seeds, and what the seeds say.

    Without `seeds`, others are tried only where a tie is left; folds have no such trials.
    """
    if len(pool.tasks) > 1:
        return best, None
    trials = RecipeTrials(pool, best.recipe)
    if request.seeds == 1:
        return compare_over_seeds(pool, trials, best), None
    part, pool.budget = pool.budget, budget
    found = compare_with_seeds(pool, trials, search, best, request.seeds)
    pool.budget = part  # the budget of the search, by which its result is judged
    return found
