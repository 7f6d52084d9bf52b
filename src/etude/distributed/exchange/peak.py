"""Where a schedule is at its largest."""

from __future__ import annotations

import numpy as np

from etude.schedules import Schedule

POINTS = 100_001
"""The most updates at which a schedule is looked at for its largest rate."""


def peak_update(schedule: Schedule, length: int) -> int:
    """Return the update at which a schedule is at its largest: where a warmup ends.

    A schedule that rises for more than half of the run counts as warming up for half of it.

    Args:
        schedule: A schedule bound to a run.
        length: The updates of the run.

    >>> from etude.schedules import Clock, parse
    >>> peak_update(parse("warmup('5%') >> cosine()").over(Clock(horizon=200)), 200)
    10
    """
    at = np.unique(np.linspace(0, length - 1, min(length, POINTS)).round())
    return min(int(at[np.argmax(schedule(at))]), length // 2)
