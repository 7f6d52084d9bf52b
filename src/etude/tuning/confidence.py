"""The confidence: how sure it is that no other rate ends better than the chosen one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.trials.curve import drop
from etude.trials.score import Goal
from etude.tuning.comparison import last_common
from etude.tuning.judged_trial import J, JudgedTrial
from etude.tuning.search.allowed_rates import EVERY_RATE, AllowedRates
from etude.tuning.seed_evidence import SeedEvidence
from etude.tuning.trial_summary import FOLLOWED
from etude.tuning.untried import EARLY, NEAR, gaps

RESAMPLES = 2000
"""Draws of the validation slices."""

AHEAD = 0.01
"""Share of the drop by which a trial leads the best where it was left, from which it counts as
ahead."""

LEFT_BEHIND = (0.02, 0.01)
"""How often a rate that was left behind the best, or one near it, ends better by 2% of the drop:
left before 3/8 of its run, and later."""

LEFT_AHEAD = (0.1, 0.1)
"""The same of a rate that was left ahead of the best, with a further one tried beyond it."""

LAST_AHEAD = (0.5, 0.5)
"""The same of a rate that was left ahead and is the lowest or highest one tried: it, or one beyond
it, ends better."""


def confidence(
    best: J,
    trials: Sequence[J],
    goal: Goal,
    untrained: float,
    allowed: AllowedRates = EVERY_RATE,
    seeds: SeedEvidence | None = None,
) -> float | None:
    """Return how sure it is that no rate ends better than the best by 2% of the drop.

        P = E[ prod over tried rates (1 - r_i) ] · prod over untried ranges (1 - u_j)

    The risk r_i of a rate that was followed to three quarters of its run is 1 in a draw of the
    validation slices in which it is better by more than 2% of the drop, else 0. That of a rate that
    was left earlier, and the risk u_j of the rates beside the best that were not tried, are how
    often such a rate ended better on other tasks: see `LEFT_BEHIND`, `LEFT_AHEAD`,
    `LAST_AHEAD` and `etude.tuning.untried`. The noise of the seed is not covered, but
    where the rates were trained with several: then the means over seeds are compared, and their
    error is drawn too, from Student's t.

    Args:
        best: The trial that was chosen.
        trials: All of them, ascending by rate; those that are unstable left out or not.
        goal: What is compared.
        untrained: The score before training.
        allowed: The rates that may be tried; others are not asked about.
        seeds: What several seeds say.

    Returns:
        The probability; None where nothing could be compared.

    Source: the bootstrap of the slices, Efron 1979; the frequencies are those of
    `benchmarks.calibration`.
    """
    sure = ahead_of_tried(best, trials, goal, untrained, seeds)
    if sure is None:
        return None
    for gap in gaps(trials, best, goal, fall_of(best, goal, untrained)):
        if allowed.holds_between(gap.low, gap.high):
            sure *= 1 - gap.risk
    return sure


def fall_of(best: JudgedTrial, goal: Goal, untrained: float) -> float:
    """Return the drop of the best's score from the untrained one."""
    final = best.last()
    return drop(untrained, [] if final is None else [goal.score(final)])


def ahead_of_tried(
    best: JudgedTrial,
    trials: Sequence[JudgedTrial],
    goal: Goal,
    untrained: float,
    seeds: SeedEvidence | None = None,
) -> float | None:
    """Return how sure it is that no rate that was tried ends better by 2% of the drop.

    In a draw the slices of the validation data are taken anew with replacement, the same for every
    trial; see `confidence`.
    """
    fall = fall_of(best, goal, untrained)
    rows: list[np.ndarray] = []
    about: list[tuple[float, bool]] = []
    errors: list[tuple[float, int]] = []
    for trial in trials:
        pair = None if trial is best or trial.diverged else last_common(trial, best, seeds)
        if pair is None:
            continue
        mine, mark = (np.array(goal.parts(e)) for e in pair)
        if len(mine) != len(mark):
            continue
        told = np.isfinite(mine) & np.isfinite(mark)  # a slice may hold no answer to score
        if told.sum() > 1:
            rows.append(np.subtract(mine, mark, out=np.zeros(len(mine)), where=told))
            last = trial is trials[0] or trial is trials[-1]
            about.append(((pair[1].step + 1) / best.length, last))
            errors.append((0.0, 0) if seeds is None else seeds.error(trial, best))
    if not rows:
        return None
    rng = np.random.default_rng(0)
    own = np.random.default_rng(1)  # so that the slices drawn do not depend on the seeds
    sure = np.ones(RESAMPLES)
    for count in {len(row) for row in rows}:
        draws = rng.integers(count, size=(RESAMPLES, count))
        for row, (share, last), (error, freedom) in zip(rows, about, errors, strict=True):
            if len(row) == count:
                trailing = row[draws].mean(axis=1)
                if error:
                    trailing = trailing + error * own.standard_t(freedom, RESAMPLES)
                sure *= 1 - _risk(trailing / fall, share, last=last)
    return float(sure.mean())


def _risk(trailing: np.ndarray, share: float, *, last: bool) -> np.ndarray:
    """Return how likely a rate ends better, by how far it trails the best in each draw."""
    if share >= FOLLOWED:
        return (trailing < -NEAR).astype(float)
    later = int(share >= EARLY)
    ahead = (LAST_AHEAD if last else LEFT_AHEAD)[later]
    return np.where(trailing < -AHEAD, ahead, LEFT_BEHIND[later])
