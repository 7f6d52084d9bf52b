"""The verdict: what the trials of a finished search say of the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from etude.record import Evaluation
from etude.tasks.task import Task
from etude.trials.baseline import better
from etude.trials.curve import Curve, drop
from etude.trials.pool import TrialPool
from etude.trials.score import Goal
from etude.trials.trial import Trial
from etude.tuning.outcome import Outcome
from etude.tuning.result import tie
from etude.tuning.trial_summary import FOLLOWED

RESAMPLES = 2000
"""Draws of the validation slices from which the confidence is counted."""

LOOKED = 1 / 4
"""Share of a run from which a small budget may say that it shows no difference."""

FACTOR = 2.0
"""The sensitivity is stated for a rate this many times too high or too low."""


def outcome(
    pool: TrialPool,
    best: Trial,
    rates: Sequence[float],
    tied: Sequence[bool],
    turned: bool,
) -> Outcome:
    """Say how a search ended.

    Args:
        pool: The trials.
        best: The one that was chosen.
        rates: Those of the recipe's own seed, ascending.
        tied: Which of them cannot be told apart from the best where both were looked at.
        turned: Whether the best was started because a faster one had turned up: then it is not
            at the edge of what was looked at, though it is the lowest rate.
    """
    final = best.last()
    untrained = pool.untrained_score
    if best.diverged or final is None:
        return Outcome.NOTHING_TRAINS
    if not learned(pool.goal.score(final), untrained):
        seen = [score for trial in pool.trials for score in trial.curve().scores]
        alike = pool.constant is not None and like_constant(best, pool.goal)
        fell = any(learned(score, untrained) for score in seen)
        return Outcome.NO_BETTER_THAN_A_CONSTANT if alike and fell else Outcome.NOTHING_TRAINS
    if not best.ended and len(pool.tasks) == 1:
        return Outcome.UNFINISHED
    if pool.constant is not None and like_constant(best, pool.goal, metric_of(pool.tasks[0])):
        return Outcome.NO_BETTER_THAN_A_CONSTANT
    if len(rates) > 2 and all(tied) and math.log10(rates[-1] / rates[0]) > 1 and pool.budget < 2:
        return Outcome.TOO_SMALL_TO_TELL
    if len(rates) > 1 and (best.lr == rates[-1] or (best.lr == rates[0] and not turned)):
        return Outcome.AT_AN_EDGE
    return Outcome.FOUND


def learned(score: float, untrained: float) -> bool:
    """Say whether a score is lower than the untrained one by more than rounding.

    A metric may be undefined before training: then any score that is a number is.
    """
    if not math.isfinite(untrained):
        return math.isfinite(score)
    return score < untrained - 1e-3 * abs(untrained)


def common(trial: Trial, best: Trial) -> tuple[Evaluation, Evaluation] | None:
    """Return the last two evaluations after the same share of the run, None without one."""
    for look in reversed(trial.evaluated()):
        step = round(look.step * best.length / trial.length)
        if look.step > 0 and (mark := best.at(step)) is not None:
            return look, mark
    return None


def comparable(trial: Trial, best: Trial, told: float = FOLLOWED) -> bool:
    """Say whether a trial was followed so far that its score tells which is better at the end.

    Args:
        trial: The trial.
        best: The best.
        told: The share of a run from which on it does: a rate may come back until then.
    """
    mark = best.curve()
    share = max((s for s in trial.curve().shares if math.isfinite(mark.at(s))), default=0.0)
    return share >= told - 1 / trial.length


def left_blind(trials: Sequence[Trial], best: Trial) -> tuple[str, ...]:
    """Say which rates were left where no rate was better yet than a constant output.

    What chose among them there was the training loss, or noise: some tasks learn late.
    """
    curves = {trial.lr: trial.curve() for trial in trials}
    left: dict[int, list[float]] = {}
    for trial in trials:
        shares = curves[trial.lr].shares
        if trial is best or trial.diverged or not shares or comparable(trial, best):
            continue
        if not any(curve.tells(shares[-1]) for curve in curves.values()):
            left.setdefault(min(trial.steps, trial.reached), []).append(trial.lr)
    return tuple(
        f"At update {step}, when no rate was better yet than a constant output, "
        f"{', '.join(f'{lr:g}' for lr in sorted(rates))} {'was' if len(rates) == 1 else 'were'} "
        "not followed further: whether a rate left there ends better cannot be told. Give a "
        "larger budget."
        for step, rates in sorted(left.items())
    )


def like_constant(best: Trial, goal: Goal, metric: Goal | None = None) -> bool:
    """Say whether the best cannot be shown to be better than a constant output.

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


def ties(trial: Trial, best: Trial, goal: Goal, untrained: float) -> bool:
    """Say whether a trial cannot be told apart from the best where both were last looked at."""
    if trial is best:
        return True
    last = trial.last()
    if trial.diverged or last is None or not learned(goal.score(last), untrained):
        return False  # whatever it had been before: it stands no better than untrained
    if (pair := common(trial, best)) is None:
        return False
    mine, mark = pair
    return tie(mine, mark, drop(untrained, [goal.score(mark)]), goal)


def confidence(best: Trial, others: Sequence[Trial], goal: Goal) -> float | None:
    """Return how sure the choice is: the share of resampled validation sets that repeat it.

    Only trials that are `comparable` belong among the others.

    The slices of the validation data are drawn anew with replacement, the same for every
    trial; a draw repeats the choice if no other trial has a lower mean score than the
    best where both were last looked at. It covers the noise of the validation data, not that of
    the seed, nor that an earlier look may foretell the end wrongly.

    Source: the bootstrap, Efron 1979.
    """
    rows = []
    for trial in others:
        pair = None if trial is best or trial.diverged else common(trial, best)
        if pair is None:
            continue
        mine, mark = (np.array(goal.parts(e)) for e in pair)
        if len(mine) != len(mark):
            continue
        told = np.isfinite(mine) & np.isfinite(mark)  # a slice may hold no answer to score
        if told.sum() > 1:
            rows.append(np.subtract(mine, mark, out=np.zeros(len(mine)), where=told))
    if not rows:
        return None
    rng = np.random.default_rng(0)
    wins = np.ones(RESAMPLES, dtype=bool)
    for count in {len(row) for row in rows}:
        draws = rng.integers(count, size=(RESAMPLES, count))
        for row in rows:
            if len(row) == count:
                wins &= row[draws].sum(axis=1) >= 0
    return float(wins.mean())


def sensitivity(best: Curve, curves: Sequence[Curve], untrained: float) -> float | None:
    """Return the share of the drop that is lost at twice or half the rate, the worse of the two.

    Read off straight lines, in the logarithm of the rate, between the trials' scores where
    each was last looked at together with the best; None where no rate lies on either side.
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
