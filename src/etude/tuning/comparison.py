"""How two trials of a search compare where both were last evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from etude.record import Evaluation
from etude.trials.curve import Curve, Exposure, drop
from etude.trials.score import Goal
from etude.tuning.judged_trial import JudgedTrial
from etude.tuning.pause_error import pause_error
from etude.tuning.result import tie
from etude.tuning.seed_evidence import SeedEvidence
from etude.tuning.trial_summary import FOLLOWED


def learned(score: float, untrained: float) -> bool:
    """Return whether a score is lower than the untrained one by more than rounding.

    A metric may be undefined before training: then any score that is a number is.
    """
    if not math.isfinite(untrained):
        return math.isfinite(score)
    return score < untrained - 1e-3 * abs(untrained)


def common(trial: JudgedTrial, best: JudgedTrial) -> tuple[Evaluation, Evaluation] | None:
    """Return the last two evaluations after the same share of the run, None without one."""
    for look in reversed(trial.evaluated()):
        step = round(look.step * best.length / trial.length)
        if look.step > 0 and (mark := best.at(step)) is not None:
            return look, mark
    return None


def last_common(
    trial: JudgedTrial, best: JudgedTrial, seeds: SeedEvidence | None
) -> tuple[Evaluation, Evaluation] | None:
    """Return what `common` does, but the means over seeds where both were trained with all."""
    found = None if seeds is None else seeds.pair(trial, best)
    return found or common(trial, best)


def comparable(trial: JudgedTrial, best: JudgedTrial) -> bool:
    """Return whether a trial was followed so far that its score tells which is better at the end.

    Args:
        trial: The trial.
        best: The best.
    """
    mark = best.curve()
    share = max((s for s in trial.curve().shares if math.isfinite(mark.at(s))), default=0.0)
    return share >= FOLLOWED - 1 / trial.length


def silent(share: float, curves: Sequence[Curve]) -> bool:
    """Return whether no score beats a constant output's yet at a share of the run."""
    return share < FOLLOWED and not any(curve.beats_constant(share) for curve in curves)


def ties(
    trial: JudgedTrial,
    best: JudgedTrial,
    goal: Goal,
    untrained: float,
    trials: Sequence[JudgedTrial] = (),
    peak: float = 0.0,
    seeds: SeedEvidence | None = None,
) -> bool:
    """Return whether a trial may be as good as the best, by what was last seen of both.

    Its paired difference there is within two standard errors, of the slices and of a pause as a
    forecast of the end (see `pause_error`), or within 1% of the drop. Where no trial was better
    yet than a constant, or the schedule had not reached its peak, nothing tells.

    Args:
        trial: The trial.
        best: The best.
        goal: What is compared.
        untrained: The score before training.
        trials: All of them.
        peak: The share of the run at which the schedule reaches its peak.
        seeds: What several seeds say: their means are compared, and their noise is counted.
    """
    if trial is best:
        return True
    last, final = trial.last(), best.last()
    if trial.diverged or last is None or final is None:
        return False
    if comparable(trial, best) and not learned(goal.score(last), untrained):
        return False  # whatever it had been before: it stands no better than untrained
    if (pair := last_common(trial, best, seeds)) is None:
        return not comparable(trial, best)
    share = pair[1].step / best.length
    if share < peak or silent(share, [one.curve() for one in (*trials, trial, best)]):
        return True
    fall = drop(untrained, [goal.score(final)])
    error = pause_error(share) * fall
    if seeds is not None:
        error = math.hypot(error, seeds.half_error(trial, best))
    return tie(*pair, fall, goal, error)


def peak_of(exposure: Exposure) -> float:
    """Return the share of the run at which a schedule first reaches its peak.

    >>> from etude.schedules import cosine, warmup
    >>> peak_of(Exposure.of(warmup(400) >> cosine(), 1_000))
    0.4
    """
    rates = [later - sooner for sooner, later in pairwise(exposure.sums)]
    top = max(rates) * (1 - 1e-6)
    return next(i for i, rate in enumerate(rates) if rate >= top) / len(rates)
