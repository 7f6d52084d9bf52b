"""The evaluation of the finished model on all validation data, and what a part of it can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from etude.tasks.task import Task
from etude.training.run import Run
from etude.trials.baseline import noise
from etude.trials.pool import TrialPool
from etude.trials.trial import Trial
from etude.trials.valid_samples import leaves_room
from etude.tuning.comparison import common, comparable
from etude.tuning.confidence import fall_of
from etude.tuning.result import TuneResult
from etude.tuning.search.ranking import Ranking
from etude.tuning.tuning_folder import Request

ENOUGH = 0.005
"""Share of the drop that a standard error may be: two of them are the 1% within which rates tie."""


def affords_all(pools: Sequence[TrialPool], run: Run, task: Task, request: Request) -> bool:
    """Return whether the finished model is evaluated on all validation samples.

    It is where the user said how many are compared. With 'auto' it must fit, together with the
    evaluations of all trials, into a fifth of the whole work; both are counted, not timed.

    Args:
        pools: All trials of the tuning.
        run: The run whose model is returned.
        task: The task with all validation data.
        request: What was asked for.
    """
    samples = task.valid.samples
    if request.valid_samples != "auto" or samples is None or run.task.valid.samples == samples:
        return True
    evaluated, gradients = 0, 0.0
    for pool in dict.fromkeys(pools):
        held = sum(one.valid.samples or 0 for one in pool.tasks)
        evaluated += held * (1 + sum(trial.evaluation_count() for trial in pool.trials))
        gradients += pool.spent * pool.unit
    return leaves_room(gradients, evaluated, samples)


def on_all(result: TuneResult, run: Run, task: Task) -> TuneResult:
    """Return a result whose record ends with an evaluation on all validation samples.

    Args:
        result: As the trials gave it, perhaps on a part of the validation data.
        run: The run whose model is returned.
        task: The task with all validation data.
    """
    if run.task.valid.samples == task.valid.samples or run.diverged or not run.evaluations:
        return result
    before = run.state.evaluation_seconds
    # Its slices are others than those of the evaluations before it.
    found = replace(run.evaluate_on(task.on(run.device)), parts=(), metric_parts=())
    seconds = run.state.evaluation_seconds - before
    record = run.record().without_model()
    earlier = [e for e in record.evaluations if e.step < found.step]
    return replace(
        result,
        record=replace(record, evaluations=(*earlier, found)),
        seconds=result.seconds + seconds,
        compute_seconds=(result.compute_seconds or 0.0) + seconds,
        evaluation_seconds=(result.evaluation_seconds or 0.0) + seconds,
    )


def noise_said(
    pool: TrialPool, search: Ranking[Trial], best: Trial, samples: int | None
) -> tuple[str, ...]:
    """Say where the samples that a fifth of the work allows are too few to tell rates apart.

        s(d) / sqrt(n) > 0.5% of the drop

    with d the paired differences, over the n slices, to the rate that came nearest of those that
    were followed to three quarters of the run.

    Args:
        pool: The trials.
        search: Ranks those of the recipe's own seed.
        best: The one that was chosen.
        samples: All validation samples, or those of each fold.
    """
    goal = pool.goal
    others = [one for one in search.pool.trials() if one is not best and not one.diverged]
    pairs = [pair for one in others if comparable(one, best) and (pair := common(one, best))]
    if best.diverged or not pairs:
        return ()
    nearest = min(pairs, key=lambda pair: abs(goal.score(pair[0]) - goal.score(pair[1])))
    fall = fall_of(best, goal, pool.untrained_score)
    error = noise(*nearest, goal) / fall
    if not ENOUGH < error < math.inf:
        return ()
    count = pool.tasks[0].valid.samples
    return (
        f"Rates were compared on {count:,} of {samples:,} validation samples, for more would cost "
        "too much of so short a run. They tell the chosen rate from the nearest to "
        f"{2 * error:.1%} of the drop (two standard errors); valid_samples='all' compares on all.",
    )
