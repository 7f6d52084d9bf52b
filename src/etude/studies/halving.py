"""Successive halving: the rates of one kind of run compete, and only the best are trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.engines import Engine, prepare_runs
from etude.errors import BadTypeError, BadValueError, as_whole, shown
from etude.recipe import Recipe
from etude.record import Record
from etude.tasks.task import Task
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState

FACTORS = (2, 3, 4)
"""The factors by which the number of rates can be divided at a rung."""


def factor_of(value: object) -> int:
    """Return the factor of a plan's `halving`.

    Raises:
        BadTypeError: If it is no whole number.
        BadValueError: If it is none of the factors.

    >>> factor_of(3)
    3
    """
    factor = as_whole(value)
    if factor is None:
        raise BadTypeError(f"halving={shown(value)} is not a whole number: give 2, 3 or 4")
    if factor not in FACTORS:
        raise BadValueError(f"halving={factor} is out of bounds: give 2, 3 or 4")
    return factor


def rungs(rates: int, length: int, factor: int) -> list[tuple[int, int]]:
    """Return how many rates are trained to how many updates, from the first rung to the last.

    With s = floor(log_factor(rates)), rung k of 0 ... s trains floor(rates / factor^k) rates to
    ceil(length / factor^(s - k)) updates. Rungs at the same number of updates become one.

    Args:
        rates: The number of rates.
        length: The updates of a whole run.
        factor: By how much the number of rates is divided at each rung.

    Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification".

    >>> rungs(9, 900, 3)
    [(9, 100), (3, 300), (1, 900)]
    >>> rungs(2, 900, 3)
    [(2, 900)]
    """
    last = 0
    while factor ** (last + 1) <= rates:
        last += 1
    found: dict[int, int] = {}
    for k in range(last + 1):
        # The first rung at a length decides who is trained to it.
        found.setdefault(math.ceil(length / factor ** (last - k)), rates // factor**k)
    return [(count, updates) for updates, count in found.items()]


def compete(
    task: Task, recipes: Sequence[Recipe], engine: Engine, factor: int, evaluations: int
) -> list[Record]:
    """Train recipes that differ in rate and seed, and stop the rates that fall behind.

    At each rung the rates are ranked by the mean validation loss over their seeds; a run that
    diverged counts as infinite. What is trained to the end has the bits of an undisturbed run, and
    is evaluated at the rungs too.

    Args:
        task: What to learn.
        recipes: How; each rate with the same seeds.
        engine: The engine.
        factor: By how much the number of rates is divided at each rung.
        evaluations: The number of evaluations in a run, besides the one before training.

    Returns:
        One record per recipe, in order; that of a rate that was stopped has the status 'stopped'.
    """
    runs = prepare_runs(task, recipes, engine)
    lrs = list(dict.fromkeys(recipe.lr for recipe in recipes))
    plan = rungs(len(lrs), runs[0].length, factor)
    steps = {updates for _, updates in plan}

    def evaluated(state: RunState) -> set[int]:
        return state.evenly_spaced(evaluations) | steps

    for i, (count, updates) in enumerate(plan):
        if i:
            lrs = _best(runs, lrs, count)
        alive = [run for run in runs if run.recipe.lr in lrs]
        engine.advance(alive, AdvanceRequest(until=updates, evaluation_steps=evaluated))
    for run in runs:
        run.release()
    return [run.record() for run in runs]


def _best(runs: Sequence[Run], lrs: Sequence[float], count: int) -> list[float]:
    """Return the rates with the least mean loss, in their order; of equal ones the first."""
    ranked = sorted(lrs, key=lambda lr: _score([run for run in runs if run.recipe.lr == lr]))
    return [lr for lr in lrs if lr in ranked[:count]]


def _score(runs: Sequence[Run]) -> float:
    """Return the mean of the last losses of runs; infinite if it is not finite."""
    last = [run.state.evaluations[-1].loss for run in runs if run.state.evaluations]
    if len(last) < len(runs) or any(run.state.diverged for run in runs):
        return math.inf
    mean = math.fsum(last) / len(last)
    return mean if math.isfinite(mean) else math.inf
