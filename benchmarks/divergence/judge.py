"""What counts as a divergence, when it happens, and whether it has a precursor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AHEAD = 10
"""A warning counts as early if it comes so many updates before the divergence."""

FIRST, BLOCK, HIGH = 10, 5, 5.0
"""The start of a run is the median of its first losses; it explodes where the median of `BLOCK`
losses is above `HIGH` times its start."""

RISEN = 1.5
"""A precursor: a level that has risen by this factor above its lowest until then."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        diverged: Whether it diverged; None where that is undecided: it did not explode, but lost
            most of what it had learned, as a network does that has collapsed to a constant.
        update: The update from which no loss is below the start until it explodes; None without.
        precursor: Whether the divergence can be seen coming at all.
    """

    diverged: bool | None
    update: int | None = None
    precursor: bool = False


def judge(rows: np.ndarray) -> Outcome:
    """Return how a run ended.

    It diverged if a loss is not finite, or if the median of five losses in a row is above five
    times the start. The divergence is at the update from which no loss is below the start until
    then: from there on, anyone sees it.

    Undecided: it ends above half of the way from its lowest level back to its start.

    It has a precursor if at least 30 updates came before, and in the ten updates that end ten
    updates before the divergence the median of the loss, or that of the gradient's norm, is above
    1.5 times its lowest earlier level, a median of ten: what is measured has begun to rise.

    Args:
        rows: (2, updates): the losses and the gradient's norms.
    """
    loss = rows[0]
    start = float(np.median(loss[:FIRST]))
    finite = np.isfinite(loss)
    broken = len(loss) if finite.all() else int(np.argmin(finite))
    medians = [float(np.median(loss[i : i + BLOCK])) for i in range(max(0, broken - BLOCK + 1))]
    high = next((i for i, m in enumerate(medians) if m > start + (HIGH - 1) * abs(start)), broken)
    if high == len(loss):
        lost = float(np.median(loss[-20:])) > (start + min(medians)) / 2
        return Outcome(None if lost else False)
    below = np.flatnonzero(loss[:high] < start)
    update = int(below[-1]) + 1 if len(below) else 0
    return Outcome(True, update, _has_precursor(rows, update))


def _has_precursor(rows: np.ndarray, update: int) -> bool:
    if update < 30:
        return False
    for values in rows:
        before = values[: update - AHEAD]
        levels = [float(np.median(before[i : i + 10])) for i in range(len(before) - 19)]
        if levels and float(np.median(before[-10:])) > RISEN * min(levels):
            return True
    return False
