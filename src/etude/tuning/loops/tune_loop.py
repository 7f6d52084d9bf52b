"""`tune_loop`: the learning rate of a training loop that its user keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from etude.errors import BadTypeError, BadValueError, as_real, check_whole, shown
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.prior import log10_centre
from etude.schedules import Schedule, parse
from etude.trials.score import Goal
from etude.tuning.loops.function import starter_of
from etude.tuning.loops.result import LoopResult
from etude.tuning.loops.search import LoopRequest, search_rates
from etude.tuning.search.ladder import full_runs
from etude.warning_filters import filters_kept

BUDGET = 3.0
"""Full runs that are spent where nothing is said."""

AROUND = 0.01
"""Where the search begins if nothing is known: between the usual rates of Adam and of SGD."""

SHORTEST = 4
"""Reports of a run below which it cannot be paused early."""


@filters_kept()
def tune_loop(
    train: Callable[..., Any],
    steps: int,
    budget: float = BUDGET,
    *,
    around: float | None = None,
    optimizer: str | None = None,
    schedule: Schedule | str | None = None,
    objective: str | None = None,
    maximize: bool = False,
    evaluations: int = 20,
    seed: int = 0,
    name: str | None = None,
    progress: bool | None = None,
) -> LoopResult:
    """Find the learning rate of a training loop of your own, which you keep.

    The search is that of `etude.tune`: a few rates start, are paused, the worse are dropped, the
    better go on, and the best is finished. The loop is a function in one of three forms::

        def train(lr):                      # a generator: paused in memory where it yields
            for step in range(1, 1001):
                ...
                yield step, validation_loss

        def train(lr, report, resume):      # goes on from the state that it passed on
            for step in range(begin_of(resume), 1001):
                ...
                report(step, validation_loss, state=...)

        def train(lr, report):              # cannot be resumed: starts over, and pays for it
            ...

    See `etude.tuning.loops.function.LoopReport` for what `report` takes. `report` ends the function
    where it is paused, by `TrialPaused`. Every rate starts with the same random numbers of Python,
    NumPy and torch, which are put back afterwards, also over pauses.

    It runs in this process, one rate after another, and keeps paused rates in memory. It has no
    run folder, tries no second seed, and cannot know a constant's loss, as `tune` of a Task does.

    Args:
        train: The loop.
        steps: The length of a full run in the unit that the loop reports: updates, or epochs.
        budget: In full runs, the finished one included; at least 1.2, and 1.4 for a loop that
            cannot be resumed.
        around: A rate to begin around, such as the one in use. None takes the usual one of the
            optimizer, or 0.01.
        optimizer: The name of the optimizer, where to begin is taken from; see `etude.optimizers`.
        schedule: What the loop multiplies the rate by over the run, where it is not constant. It
            tells where an overfitting rate points to.
        objective: What is compared: None is 'loss', or 'score' with `maximize`.
        maximize: Whether a larger value is better.
        evaluations: How often a run is evaluated, besides where it is paused, if it reports more
            often.
        seed: Of the random numbers.
        name: What the loop is called in reports; None takes the function's name.
        progress: Whether to draw a bar; None draws it at a terminal.

    Returns:
        The rate, what ties with it, where training breaks, the cost, and what the loop returned.

    Raises:
        BadValueError: If the budget is too small, or a value is out of bounds.
        BadTypeError: If `train` is no function, or takes none of these forms.
        TaskError: If the loop reports nothing.

    >>> def train(lr):
    ...     w = 3.0
    ...     yield 0, (w - 1) ** 2
    ...     for step in range(1, 81):
    ...         w -= lr * 2 * (w - 1)
    ...         yield step, (w - 1) ** 2
    ...     return w
    >>> best = tune_loop(train, steps=80, progress=False)
    >>> 0.1 < best.lr < 1, round(best.value, 3), best.cost <= 3
    (True, 1.0, True)
    """
    seed = check_whole("seed", seed, 0)
    start = starter_of(train, seed)
    request = LoopRequest(
        name=name or str(getattr(train, "__name__", type(train).__name__)),
        steps=checked_steps(steps),
        budget=full_runs(budget),
        centre=centre_for(around, optimizer),
        goal=goal_named(objective, maximize=maximize),
        schedule=parse(schedule) if isinstance(schedule, str) else schedule,
        seed=seed,
        evaluations=check_whole("evaluations", evaluations, 1),
        progress=progress,
    )
    return search_rates(start, request)


def checked_steps(steps: Any) -> int:
    """Return the length of a run.

    Raises:
        BadTypeError: If it is no whole number.
        BadValueError: If it is too short to be paused.
    """
    length = check_whole("steps", steps, 1)
    if length < SHORTEST:
        raise BadValueError(
            f"steps={length} is too short to pause a run: report more often than {length} times, "
            f"such as every update in place of every epoch; give at least {SHORTEST}"
        )
    return length


def centre_for(around: float | None, optimizer: str | None) -> float:
    """Return log10 of the rate to begin around.

    Args:
        around: A rate.
        optimizer: The name of an optimizer; it does not count beside a rate.


    Raises:
        BadTypeError: If the rate is no number.
        BadValueError: If it is not above 0.
        UnknownNameError: If there is no such optimizer.

    >>> centre_for(0.001, None), round(centre_for(None, "adamw"), 2)
    (-3.0, -1.6)
    """
    if around is not None:
        rate = as_real(around)
        if rate is None:
            raise BadTypeError(f"around={shown(around)} is not a number: give a rate, such as 0.01")
        if not (math.isfinite(rate) and rate > 0):
            raise BadValueError(f"around={shown(around)} is out of bounds: give a rate above 0")
        return math.log10(rate)
    if optimizer is not None:
        return log10_centre(OptimizerChoice.of(optimizer), 1, None)
    return math.log10(AROUND)


def goal_named(objective: str | None, *, maximize: bool) -> Goal:
    """Return what is compared.

    Raises:
        BadTypeError: If the name is no text.
        BadValueError: If a loss is to be maximised.

    >>> goal_named(None, maximize=True)
    Goal(name='score', maximize=True)
    """
    if objective is not None and (not isinstance(objective, str) or not objective):
        raise BadTypeError(f"objective={shown(objective)} is no name: give one, such as 'accuracy'")
    if objective == "loss" and maximize:
        raise BadValueError("maximize=True: training lowers a loss; name it objective='accuracy'")
    return Goal(objective or ("score" if maximize else "loss"), bool(maximize))
