"""Searches the rates of a loop, and says what was found."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.errors import BadValueError
from etude.optimizers.prior import grid, nice
from etude.progress import bar
from etude.recipe import Recipe
from etude.record import Evaluation, Record
from etude.schedules import Clock, Schedule, constant
from etude.trials.curve import Exposure
from etude.trials.phase import Phase
from etude.trials.score import Goal
from etude.tuning.assessment import assess
from etude.tuning.loops.driver import StartDriver
from etude.tuning.loops.reports import RunReports
from etude.tuning.loops.result import LoopResult
from etude.tuning.loops.trials import JudgedLoops, LoopTrial, LoopTrials
from etude.tuning.outcome import Outcome
from etude.tuning.result import RungCost
from etude.tuning.search.ladder import LADDERS, SPACING, Ladder, ladder_for
from etude.tuning.search.refine import REFINEMENTS, cure, fall_back, runners_up
from etude.tuning.search.search import ALONE, Search
from etude.tuning.trial_summary import TrialSummary

NO_START = (
    "What the loss was before training is not known, since the loop does not report step 0: "
    "whether the best rate learned anything cannot be told."
)
UNUSED = (
    "All rates gave the same losses after the same updates, to the last digit: look whether the "
    "loop uses the rate that it is given."
)
REPEATED = (
    "The loop saves no state where it is paused, so a rate that goes on starts over: {runs:.2f} of "
    "the {cost:.2f} runs repeated what had been done. Pass report(..., state=) and take resume=, "
    "or make it a generator."
)


@dataclass(frozen=True)
class LoopRequest:
    """What is asked of a loop's tuning.

    Attributes:
        name: What the loop is called.
        steps: Updates, or epochs, of a full run: the unit in which the loop reports.
        budget: In full runs.
        centre: log10 of the rate to begin around.
        goal: What is compared.
        schedule: Shape of the rate over the run; None takes it for constant.
        seed: Of the random numbers that the loop draws.
        evaluations: How often a run is evaluated.
        folds: Runs of one trial; with more than one, the best is finished elsewhere.
        progress: Whether to draw a bar.
    """

    name: str
    steps: int
    budget: float
    centre: float
    goal: Goal
    schedule: Schedule | None = None
    seed: int = 0
    evaluations: int = 20
    folds: int = 1
    progress: bool | None = None


class RepeatingSearch(Search[LoopTrial]):
    """A search over loops that start over: every rung costs its whole share again."""

    def finish(self, share: float) -> float:
        """Return what one trial costs from a rung through all that come after it."""
        return math.fsum(self.pool.fresh(rung.share) for rung in self.rungs if rung.share > share)

    def conclude(self) -> LoopTrial:
        """Return the best that is finished; neighbours are run to their end at once."""
        if not self.final:
            return super().conclude()
        best = self.finished() or fall_back(self)
        if best is None:
            return self.furthest()
        best = centre = cure(self, runners_up(self, best))
        for shift in REFINEMENTS:
            rate = nice(centre.lr * 10**shift)
            if self.known(rate) is None and self.affords(self.pool.fresh(1.0)):
                self.pool.go([self.pool.enter(rate)], 1.0, Phase.REFINE)
                best = self.finished() or best
        return best


def search_rates(start: StartDriver, request: LoopRequest) -> LoopResult:
    """Look for the best rate of a loop with the search that `tune` uses, and finish it.

    Args:
        start: Starts a run at a rate.
        request: What is asked.

    Returns:
        What was found.
    """
    started = time.perf_counter()
    ladder = ladder_for(request.budget, request.folds, request.steps)
    rates = shape_over(request.schedule, request.steps)

    def runs(lr: float) -> tuple[list[Any], list[RunReports]]:
        made = [start(lr, fold) for fold in range(request.folds)]
        return made, [RunReports(request.steps, request.evaluations, request.goal) for _ in made]

    with bar(request.progress, request.name) as show:
        pool = LoopTrials(
            runs,
            request.steps,
            request.budget - (request.folds > 1),
            request.goal,
            Exposure.of(request.schedule or constant(), request.steps),
            folds=request.folds,
            show=show,
        )
        try:
            search = _search(pool, ladder, request)
            best = search.run()
            seconds = max(0.0, time.perf_counter() - started)
            return _said(pool, search, best, request, rates, seconds)
        finally:
            pool.close()


def _search(pool: LoopTrials, ladder: Ladder, request: LoopRequest) -> Search[LoopTrial]:
    """Return the search, once a first rate has shown whether the loop can be paused."""
    final = request.folds == 1
    alone = final and pool.left < ALONE
    first = ladder.rungs[0]
    rates = grid(request.centre, 1 if alone else first.keep, SPACING)
    part = Phase.toward(first.share).at(first.share)
    if pool.probe(rates[(len(rates) - 1) // 2], part):
        return Search(pool, ladder, request.centre, final=final)
    fitting = [one for one in LADDERS if repeating(one, request.folds) <= pool.left]
    if not fitting:
        least = repeating(LADDERS[0], request.folds) + (not final)
        raise BadValueError(
            f"budget={request.budget!r} is too small for a loop that cannot be resumed: what is "
            f"paused starts over, and comparing two rates takes {least:g} full runs and the first "
            "report. Save a state where it is paused, or give a larger budget"
        )
    return RepeatingSearch(pool, fitting[-1], request.centre, final=final)


def repeating(ladder: Ladder, folds: int = 1) -> float:
    """Return what a ladder costs in full runs where every rung starts over.

    Args:
        ladder: The ladder.
        folds: Runs of one trial; with more than one, its finish is not counted.

    >>> repeating(LADDERS[0])
    1.375
    """
    rungs = ladder.rungs if folds == 1 else ladder.rungs[:-1]
    return folds * math.fsum(rung.keep * rung.share for rung in rungs)


def shape_over(schedule: Schedule | None, steps: int) -> NDArray[np.float64] | None:
    """Return a schedule's value at each update; None without one."""
    if schedule is None:
        return None
    shape = schedule.over(Clock(horizon=steps))
    return np.asarray(shape(np.arange(steps)), dtype=np.float64)


def _said(
    pool: LoopTrials,
    search: Search[LoopTrial],
    best: LoopTrial,
    request: LoopRequest,
    rates: NDArray[np.float64] | None,
    seconds: float,
) -> LoopResult:
    """Turn a finished search into what it says."""
    trials = sorted(pool.trials(), key=lambda c: c.lr)
    common = pool.common_break
    cause = ""
    if pool.hopeless:
        cause = (
            f"Every rate that came to update {common} broke there, and the rate is not the cause: "
            "rates six decades apart break there. Look at the data of that update, and at what "
            "model and loss make of it."
        )
    found = assess(JudgedLoops(pool), search, best, edge=common is None)
    kept = list(zip(trials, found.unstable, found.alike, strict=True))
    trains = not cause and found.outcome != Outcome.NOTHING_TRAINS
    recipe = Recipe(
        optimizer="sgd", lr=best.lr, schedule=request.schedule or constant(), steps=request.steps,
        seed=request.seed, evaluations=request.evaluations,
    )  # fmt: skip
    records = {c.lr: c.record(request.name, recipe, rates) for c in trials}
    cost = pool.spent
    return LoopResult(
        recipe=recipe,
        lr=best.lr,
        tied=found.tied if trains else (best.lr, best.lr),
        stable_below=min((c.lr for c, bad, _ in kept if bad and c.lr > best.lr), default=None),
        sensitivity=found.sensitivity,
        confidence=found.confidence,
        cost=cost,
        costs=tuple(RungCost(name, spent) for name, spent in pool.costs.items()),
        outcome=Outcome.NOTHING_TRAINS if cause else found.outcome,
        untrained=pool.untrained or Evaluation(0, math.nan),
        record=records[best.lr],
        trials=tuple(
            TrialSummary(c.lr, records[c.lr], bad, tied if trains else c is best)
            for c, bad, tied in kept
        ),
        budget=request.budget,
        seconds=seconds,
        objective=request.goal.name,
        folds=request.folds,
        cause=cause,
        doubts=found.doubts,
        notes=(*_unused(list(records.values())), *_untold(pool, cost)),
        compute_seconds=math.fsum(r.cost.seconds for r in records.values()),
        evaluation_seconds=math.fsum(r.cost.evaluation_seconds or 0.0 for r in records.values()),
        model=best.drivers[0].value,
    )


def _unused(records: Sequence[Record]) -> list[str]:
    """Say that the rate has changed nothing, where that is so."""
    losses: dict[int, list[float]] = defaultdict(list)
    for record in records:
        for one in record.evaluations:
            if one.step:
                losses[one.step].append(one.loss)
    shared = [found for found in losses.values() if len(found) > 1]
    alike = all(loss == found[0] for found in shared for loss in found)
    return [UNUSED] if shared and alike else []


def _untold(pool: LoopTrials, cost: float) -> list[str]:
    """Say what the loop did not report, and what that hides or cost."""
    said = []
    repeated = pool.costs.get(str(Phase.REPEATED), 0.0)
    if repeated:
        said.append(REPEATED.format(runs=repeated, cost=cost))
    if pool.untrained is None:
        said.append(NO_START)
    return said
