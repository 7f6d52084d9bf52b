"""The verdict: what the trials of a finished search say of the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etude.optimizers.prior import nice
from etude.tasks.task import Task
from etude.trials.baseline import better
from etude.trials.curve import Curve
from etude.trials.score import Goal
from etude.tuning.comparison import comparable, learned, peak_of, ties
from etude.tuning.confidence import confidence, fall_of
from etude.tuning.doubts import ahead, alone, left_blind, overfits_alone, steep
from etude.tuning.judged_trial import J, JudgedPool, JudgedTrial
from etude.tuning.outcome import Outcome
from etude.tuning.search.ranking import Ranking
from etude.tuning.seed_evidence import SeedEvidence
from etude.tuning.untried import gaps, reach

SMALL = 2.0
"""A budget below this follows no rate but the best beyond a quarter of its run."""

FACTOR = 2.0
"""The sensitivity is stated for a rate this many times too high or too low."""


@dataclass(frozen=True)
class Assessment:
    """What is said of a finished search; see `TuneResult`.

    Attributes:
        outcome: How it ended.
        tied: The range of rates that may be as good as the best.
        alike: For every rate, ascending, whether it lies in that range.
        unstable: For every rate, whether it diverged or had lost what it learned.
        sensitivity: The share of the drop that is lost at twice or half the rate.
        confidence: How sure it is that no rate ends better by 2% of the drop.
        doubts: What cannot be told, as sentences.
    """

    outcome: Outcome
    tied: tuple[float, float]
    alike: tuple[bool, ...]
    unstable: tuple[bool, ...]
    sensitivity: float | None
    confidence: float | None
    doubts: tuple[str, ...]


def assess(
    pool: JudgedPool,
    search: Ranking[J],
    best: J,
    *,
    edge: bool = True,
    seeds: SeedEvidence | None = None,
) -> Assessment:
    """Say what a finished search shows.

    Args:
        pool: What all trials share.
        search: Its trials are those of the recipe's own seed.
        best: The one that was chosen.
        edge: Whether a rate that broke says something of the rate; not where all broke alike.
        seeds: What several seeds say of the rates that were trained with them.
    """
    trials = sorted(search.pool.trials(), key=lambda c: c.lr)
    rates = [c.lr for c in trials]
    broken = {c.lr for c in trials if seeds is not None and c is not best and seeds.broke(c)}
    unstable = [edge and (search.unstable(c, best) or c.lr in broken) for c in trials]
    sound = [c for c, bad in zip(trials, unstable, strict=True) if not bad]
    peak = peak_of(search.pool.exposure)
    given = pool.goal, pool.untrained_score
    near = {c.lr for c in sound if ties(c, best, *given, trials, peak, seeds)}
    doubts = (
        *alone(trials),
        *overfits_alone(search, best, sound),
        *ahead(sound, best, *given),
    )
    faster = _faster_turned(search, best, sound)
    alike = [c.lr in near for c in sound]
    said = outcome(pool, best, rates, alike, faster_turned=faster, doubtful=bool(doubts))
    low = high = rates.index(best.lr)
    while low > 0 and rates[low - 1] in near:
        low -= 1
    while high < len(rates) - 1 and rates[high + 1] in near:
        high += 1
    small = pool.budget < SMALL
    blind = left_blind(trials, best, pool.goal, peak=peak, small=small)
    found = gaps(trials, best, pool.goal, fall_of(best, *given)) if small else []
    beside = [gap for gap in found if search.allowed.holds_between(gap.low, gap.high)]
    sure = said in (Outcome.FOUND, Outcome.AT_AN_EDGE)
    trains = sure or said == Outcome.TOO_SMALL_TO_TELL
    followed = [c.curve() for c in sound if c is best or comparable(c, best)]
    return Assessment(
        outcome=said,
        tied=search.allowed.within(
            *half_way(rates, low, high, (reach(trials, best, -1), reach(trials, best, 1)))
        ),
        alike=tuple(low <= i <= high for i in range(len(rates))),
        unstable=tuple(unstable),
        sensitivity=sensitivity(best.curve(), followed, pool.untrained_score),
        confidence=confidence(best, trials, *given, search.allowed, seeds),
        doubts=(
            *(blind if sure else ()),
            *(steep(beside) if sure else ()),
            *(doubts if trains else ()),
        ),
    )


def half_way(
    rates: Sequence[float], low: int, high: int, beyond: tuple[float, float]
) -> tuple[float, float]:
    """Return the range of some rates, on each side to half way to the next one.

    Half way is the geometric mean. A single rate has no range.

    Args:
        rates: All rates tried, ascending.
        low: The place of the lowest in the range.
        high: That of the highest.
        beyond: Where there is no next one, the decades below the lowest and above the highest.

    >>> half_way([0.01, 0.03, 0.1, 0.3], 1, 2, (0.2, 0.2))
    (0.0173, 0.173)
    """
    if len(rates) == 1:
        return rates[0], rates[0]
    below = math.sqrt(rates[low] * rates[low - 1]) if low else rates[0] / 10 ** beyond[0]
    last = high == len(rates) - 1
    above = rates[-1] * 10 ** beyond[1] if last else math.sqrt(rates[high] * rates[high + 1])
    return nice(below), nice(above)


def _faster_turned(search: Ranking[J], best: J, sound: Sequence[J]) -> bool:
    """Return whether a faster trial had turned up: then the best is at no edge of what was seen."""
    shares = {c.share for c in sound if c.lr > best.lr}
    return any(curve.lr > best.lr for share in shares for curve in search.turned(share))


def outcome(
    pool: JudgedPool,
    best: JudgedTrial,
    rates: Sequence[float],
    alike: Sequence[bool],
    *,
    faster_turned: bool,
    doubtful: bool,
) -> Outcome:
    """Say how a search ended.

    Args:
        pool: What all trials share.
        best: The one that was chosen.
        rates: Those of the recipe's own seed, ascending.
        alike: Which of those that are sound may be as good as the best.
        faster_turned: Whether a faster trial had turned up: then the best is not at the edge of
            what was looked at, though it may be the lowest rate.
        doubtful: Whether what was seen speaks against the best.
    """
    final = best.last()
    untrained = pool.untrained_score
    if best.diverged or final is None:
        return Outcome.NOTHING_TRAINS
    if not learned(pool.goal.score(final), untrained):
        seen = [score for trial in pool.trials for score in trial.curve().scores]
        constant = pool.constant is not None and like_constant(best, pool.goal)
        fell = any(learned(score, untrained) for score in seen)
        return Outcome.NO_BETTER_THAN_A_CONSTANT if constant and fell else Outcome.NOTHING_TRAINS
    if not best.ended and len(pool.tasks) == 1:
        return Outcome.UNFINISHED
    if pool.constant is not None and like_constant(best, pool.goal, metric_of(pool.tasks[0])):
        return Outcome.NO_BETTER_THAN_A_CONSTANT
    if (
        len(rates) > 2
        and all(alike)
        and math.log10(rates[-1] / rates[0]) > 1
        and pool.budget < SMALL
    ):
        return Outcome.TOO_SMALL_TO_TELL
    if len(rates) > 1 and (best.lr == rates[-1] or (best.lr == rates[0] and not faster_turned)):
        return Outcome.AT_AN_EDGE
    return Outcome.TOO_SMALL_TO_TELL if doubtful else Outcome.FOUND


def like_constant(best: JudgedTrial, goal: Goal, metric: Goal | None = None) -> bool:
    """Return whether the best cannot be shown to be better than a constant output.

    A loss can hang on a few samples that are far off: where the metric is clearly better, so is
    the network.

    Args:
        best: The trial that was chosen.
        goal: What is compared.
        metric: The task's metric, where it has one whose direction is known.
    """
    last = best.last()
    if last is None or best.floor is None or better(last, best.floor, goal, errors=2.0):
        return False
    if metric is None or min(len(metric.parts(e)) for e in (last, best.floor)) < 2:
        return True
    return not better(last, best.floor, metric)


def metric_of(task: Task) -> Goal | None:
    """Return the task's metric as what could be compared; None without a known direction."""
    metric = task.metric
    if metric is None or metric.maximize is None:
        return None
    return Goal(metric.name, metric.maximize)


def sensitivity(best: Curve, curves: Sequence[Curve], untrained: float) -> float | None:
    """Return the share of the drop that is lost at twice or half the rate, the worse of the two.

    Read off straight lines, in the logarithm of the rate, between the trials' scores where
    each was last evaluated together with the best; None where no rate lies on either side.
    """
    found = []
    for side in (1, -1):
        points = [(0.0, 0.0)]
        for curve in curves:
            distance = side * math.log10(curve.lr / best.lr)
            shared = [s for s in curve.shares if math.isfinite(best.at(s))]
            if distance <= 0 or not shared:
                continue
            fall = untrained - best.at(shared[-1])
            if 0 < fall < math.inf and math.isfinite(curve.at(shared[-1])):
                points.append((distance, (curve.at(shared[-1]) - best.at(shared[-1])) / fall))
        points.sort()
        if len(points) > 1:
            xs, ys = zip(*points, strict=True)
            reach = min(math.log10(FACTOR), xs[-1])
            value = float(np.interp(reach, xs, ys))
            found.append(value * math.log10(FACTOR) / reach)
    return max(0.0, *found) if found else None
