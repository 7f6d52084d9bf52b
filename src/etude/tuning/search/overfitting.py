"""The turn: validation rises while training still falls, which a prefix tells of the end.

Early on, the rate that is best is often one that will overfit. A run at a high rate passes
through what a run at a lower rate reaches at its end (see `Exposure`); where the first has turned,
the rate to try is the one whose whole run ends there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from etude.trials.curve import Curve, Exposure, drop
from etude.trials.turn import turn

SOUND = 0.15
"""A curve is sound if its lowest score is above the lowest of all by at most this share of the
drop. Scores where the curves end would not do: the more a curve has overfitted, the further it
trails there."""

FLAT = 0.01
"""Scores within this share of the drop of the lowest count as the lowest."""

BEYOND = 0.02
"""Share of the drop by which a forecast may be better than the best that was seen."""


DEEPEST = 2.0
"""Decades below a curve's rate beyond which its turn points to no other: looks before the
schedule has begun to act say nothing."""


def turned(curves: Sequence[Curve], share: float, untrained: float, loss: float) -> list[Curve]:
    """Return the sound curves that have turned up before a share of the run; see `turn`.

    A rise is held against the drop of the best of them: what counts is what it costs.

    Args:
        curves: Those that reached `share`.
        share: Where they are judged.
        untrained: The score before training.
        loss: The magnitude of the loss before training, for the training losses.
    """
    seen = [curve.until(share) for curve in curves]
    seen = [curve for curve in seen if curve.shares and math.isfinite(curve.scores[-1])]
    if not seen:
        return []
    scale = drop(untrained, [curve.scores[-1] for curve in seen])
    return [
        curve
        for curve in sound(seen, untrained)
        if turn(curve.scores, curve.training, scale=scale, loss=loss)
    ]


def sound(curves: Sequence[Curve], untrained: float) -> list[Curve]:
    """Return the curves that came about as low as any, whatever they did afterwards.

    Args:
        curves: What was seen of them; each has a finite score.
        untrained: The score before training.
    """
    lowest = min((min(curve.scores) for curve in curves), default=math.inf)
    reach = lowest + SOUND * drop(untrained, [lowest])
    return [curve for curve in curves if min(curve.scores) <= reach]


def target(curve: Curve, exposure: Exposure, untrained: float, further: float = 1.0) -> float:
    """Return the rate whose whole run ends where a curve was lowest.

        η' = η · (A(s*) / A(1)) ** further

    with s* the (logarithmic) middle of where the score is within 1% of the drop of its lowest.

    Args:
        curve: One that has turned.
        exposure: Of the schedule.
        untrained: The score before training.
        further: Above 1 goes lower: a low rate overfits sooner than a high one that has come
            as far, whose noise regularises.
    """
    scale = drop(untrained, curve.scores)
    near = [
        exposure.log10(curve.lr, share)
        for share, score in zip(curve.shares, curve.scores, strict=True)
        if score <= min(curve.scores) + FLAT * scale
    ]
    shift = math.fsum(near) / len(near) - math.log10(curve.lr)
    return float(10 ** (math.log10(curve.lr) + max(further * shift, -DEEPEST)))


def foretold(
    curve: Curve, curves: Sequence[Curve], share: float, exposure: Exposure, untrained: float
) -> float:
    """Return what the score of a curve will be at its end, as faster sound curves tell it.

    Its own score at `share`, plus what the slowest faster curve that has come as far as it will
    (or the one that has come furthest) changed between here and there.

    Args:
        curve: One that reached `share`.
        curves: All that did.
        share: Where it stands.
        exposure: Of the schedule.
        untrained: The score before training.
    """
    ends = [c.at(share) for c in curves]
    best, scale = min(ends), drop(untrained, ends)
    own = curve.at(share)
    here, there = exposure.log10(curve.lr, share), math.log10(curve.lr)
    forecast = own
    seen = [c.until(share) for c in curves if math.isfinite(c.at(share))]
    for fast in sorted(sound(seen, untrained), key=lambda c: c.lr):
        if fast.lr <= curve.lr:
            continue
        reach = min(there, exposure.log10(fast.lr, share))
        if reach <= here:
            continue
        change = _along(fast, exposure, reach, untrained) - _along(fast, exposure, here, untrained)
        forecast = max(own + change, best - BEYOND * scale)
        if reach >= there:
            break
    return forecast


def _along(curve: Curve, exposure: Exposure, place: float, untrained: float) -> float:
    """Return a curve's score where it had come as far as `place`, between its finite looks."""
    evaluated = zip(curve.shares, curve.scores, strict=True)
    seen = [(exposure.log10(curve.lr, x), y) for x, y in evaluated if math.isfinite(y)]
    first, score = seen[0]
    if place <= first:
        start = untrained if math.isfinite(untrained) else score
        return start + (score - start) * float(10 ** (place - first))
    for (low, below), (high, above) in pairwise(seen):
        if place <= high:
            part = (place - low) / (high - low) if high > low else 1.0
            return below + part * (above - below)
    return seen[-1][1]
