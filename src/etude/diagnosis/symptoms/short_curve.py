"""A short run whose loss has left its start: the noise is that from before it left."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from etude.diagnosis.history import Floats, History

ENOUGH = 20
"""The fewest losses by which a run is called healthy, and diverging."""

CALM = 3
"""The fewest losses from before the break by which its level and noise are known."""


class Departure(NamedTuple):
    """How far the last losses are above the start.

    Attributes:
        start: The level before: the median of the first 3 losses, or the first loss.
        level: The median of the later half of the losses that are above.
        above: How many losses at the end are all above twice the start.
    """

    start: float
    level: float
    above: int


def too_short(history: History) -> bool:
    """Return whether fewer than 20 losses are known: too few to call a run healthy."""
    return int(np.isfinite(history.loss).sum()) < ENOUGH


def departure(loss: Floats) -> Departure | None:
    """Return how the last losses left the start; None where they did not, or it cannot be told.

    The losses above are those after the last one that is at most start + |start|, a quarter of the
    run and 5 at least. Their later half must

    - not come back: its median is at least nine tenths of that of the earlier half;
    - be above start + max(|start|, 10 σ), with σ = 1.4826/√2 · median |loss_t - loss_{t-1}| of the
      losses before; or, where the loss left within its first three updates, which show no noise, be
      more than ten times the first loss l, and apart from it: l · max < min².

    Args:
        loss: Finite losses, 20 at least.

    >>> departure(np.array([2.0, 2.1, 1.9, 2.0, *np.linspace(3, 30, 20)])).above
    19
    >>> departure(np.linspace(2.0, 1.0, 40)) is None
    True
    """
    if len(loss) < ENOUGH:
        return None
    for first, early in ((float(loss[0]), True), (float(np.median(loss[:CALM])), False)):
        below = np.flatnonzero(loss <= first + abs(first))
        begin = int(below[-1]) + 1 if len(below) else 0
        count = len(loss) - begin
        if count < max(5, len(loss) // 4) or (begin < CALM) != early:
            continue
        high = loss[begin:]
        earlier, later = high[: count // 2], high[count // 2 :]
        if np.median(later) < 0.9 * np.median(earlier):
            continue
        low, top = float(later.min()), float(later.max())
        if not early:
            noise = 1.4826 / math.sqrt(2) * float(np.median(np.abs(np.diff(loss[:begin]))))
            apart = low > first + max(abs(first), 10 * noise)
        else:
            apart = first > 0 and low > 10 * first and first * top < low**2
        if apart:
            return Departure(first, float(np.median(later)), count)
    return None
