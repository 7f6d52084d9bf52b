"""What is told of several seeds: how each rate did with them, and where they say nothing."""

from __future__ import annotations

from etude.trials.trial import Trial
from etude.tuning.search.seed_budget import LEVELS
from etude.tuning.seed_evidence import SeedEvidence
from etude.tuning.trial_summary import FOLLOWED, SeedRun
from etude.tuning.tuning_folder import Request


def seed_runs(trial: Trial, seeds: SeedEvidence | None) -> tuple[SeedRun, ...]:
    """Return how a rate did with each seed; nothing where it was trained with the first alone."""
    if seeds is None or trial.lr not in seeds.rows:
        return ()
    found = []
    for one in seeds.rows[trial.lr]:
        assert isinstance(one, Trial)
        last = one.last()
        value = None if last is None else one.goal.value(last)
        updates = min(one.steps, one.reached)
        found.append(SeedRun(one.recipe.seed, updates, value, one.diverged))
    return tuple(found)


def seeds_said(request: Request, best: Trial, seeds: SeedEvidence | None) -> tuple[str, ...]:
    """Say where several seeds were asked for and tell less than that.

    Args:
        request: What was asked for.
        best: The trial of the chosen rate.
        seeds: What they say; None where no two rates were compared over them.
    """
    if request.seeds == 1 or best.diverged:
        return ()
    if seeds is None:
        return (
            f"No two rates were compared over {request.seeds} seeds: the search left too little of "
            "the budget, or no second rate. The result holds for the first seed.",
        )
    if seeds.broke(best):
        return (
            f"At {best.lr:g} training diverged with another seed, and no lower rate that was "
            "compared over seeds could be finished: take a lower rate, or give more budget.",
        )
    furthest = max(
        min((one.reached for one in row if not one.diverged), default=0)
        for row in seeds.rows.values()
    )
    if furthest + 1 < FOLLOWED * best.length:
        return (
            f"The budget took the other seeds to {furthest / best.length:.0%} of the run, where "
            f"the order is not always that of the end: the choice is that of the first seed. From "
            f"{LEVELS[2][0]:.0%} on the mean over seeds chooses.",
        )
    return ()
