"""Where the search over rates begins: at the prior, or at a published rule."""

from __future__ import annotations

import math
import warnings

from etude.measure.gradient_scale import scaled
from etude.optimizers.prior import centre_of
from etude.tasks.task import Task
from etude.trials.pool import TrialPool
from etude.tuning.published import Setup, Start
from etude.tuning.tuning_folder import Request


def first_centre(task: Task, pool: TrialPool, request: Request) -> float:
    """Return log10 of the rate around which the first trials start.

    Warns if a published rule is used outside of its domain.
    """
    start = _start(pool, request)
    if start is None:
        targets = task.train.targets()
        return scaled(centre_of(pool.first.model, targets, pool.recipe.optimizer), pool.first)
    if start.outside:
        warnings.warn(
            f"start_from={str(request.start_from)!r} is used outside of its domain: the task has "
            f"{start.outside}; the search begins at {start.lr:.3g} and goes on by what it measures",
            stacklevel=2,
        )
    return math.log10(start.lr)


def begun(pool: TrialPool, request: Request) -> tuple[str, ...]:
    """Return where the search began as a sentence, if a published rule said so."""
    start = _start(pool, request)
    if start is None:
        return ()
    beyond = f", outside of its domain: {start.outside}" if start.outside else ""
    return (f"The search began at {start.lr:.3g}, from {start.source}{beyond}.",)


def _start(pool: TrialPool, request: Request) -> Start | None:
    if request.start_from is None:
        return None
    samples = pool.length * pool.first.batch_size
    return request.start_from.start(Setup(pool.first.model, pool.tasks[0], pool.recipe, samples))
