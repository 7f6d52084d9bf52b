"""A loss that has left its start: the noise is that from before it left."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from etude.diagnosis.history import Floats, History
from etude.diagnosis.symptoms.curve import EARLY, LossCurve

ENOUGH = 20
"""The fewest losses by which a run is called healthy, and diverging."""

FEWEST, MOST = 5, 20
"""The fewest last losses that have to be above the start, and the most that are asked for."""


class Departure(NamedTuple):
    """How far the last losses are above the start.

    Attributes:
        start: The level before: that of the curve, or the first loss.
        level: The median of the later half of the losses that are above, of at most 20.
        above: How many losses at the end are all above twice the start.
    """

    start: float
    level: float
    above: int


def too_short(history: History) -> bool:
    """Return whether fewer than 20 losses are known: too few to call a run healthy."""
    return int(np.isfinite(history.loss).sum()) < ENOUGH


def departure(curve: LossCurve) -> Departure | None:
    """Return how the last losses left the start; None where they did not, or it cannot be told.

    The losses above are those after the last one that is at most start + |start|. They must be a
    quarter of the run, 5 at least; from 80 losses on 20 are enough. Their later half, the last 20
    where it is longer, must

    - not come back, which it does where its median is below that of as many before by a tenth, and
      by four standard errors of the two;
    - be above start + max(|start|, 10 σ), with σ = 1.4826/√2 · median |loss_t - loss_{t-1}| of the
      losses before; or, where the loss left within its first three updates, which show no noise, be
      more than ten times the first loss l, and apart from it: l · max < min².

    The noise after the loss has left its start, which may be far larger than the start, does not
    count.

    >>> from etude.diagnosis.symptoms.curve import loss_curve
    >>> def of(loss):
    ...     return departure(loss_curve(History(len(loss), loss, loss, np.arange(0))))
    >>> of(np.array([2.0, 2.1, 1.9, 2.0, *np.linspace(3, 30, 20)])).above
    19
    >>> of(np.linspace(2.0, 1.0, 40)) is None
    True
    """
    loss = curve.loss
    if len(loss) < ENOUGH:
        return None
    needed = int(np.clip(len(loss) // 4, FEWEST, MOST))
    for start, at_once in ((float(loss[0]), True), (curve.start, False)):
        below = np.flatnonzero(loss <= start + abs(start))
        begin = int(below[-1]) + 1 if len(below) else 0
        count = len(loss) - begin
        if count < needed or (begin < EARLY) != at_once:
            continue
        half = min((count + 1) // 2, MOST)
        high, later = loss[max(begin, len(loss) - 2 * half) :], loss[-half:]
        before = float(np.median(high[:-half]))
        error = 1.25 * _noise(high) * math.sqrt(2 / half)
        if before - np.median(later) > max(0.1 * before, 4 * error):
            continue
        low, top = float(later.min()), float(later.max())
        if at_once:
            apart = start > 0 and low > 10 * start and start * top < low**2
        else:
            apart = low > start + max(abs(start), 10 * _noise(loss[:begin]))
        if apart:
            return Departure(start, float(np.median(later)), count)
    return None


def _noise(loss: Floats) -> float:
    return 1.4826 / math.sqrt(2) * float(np.median(np.abs(np.diff(loss))))
