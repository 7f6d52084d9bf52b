"""The area under a schedule: the sum of its values over the updates of a run."""

from __future__ import annotations

import math

from etude.errors import BadValueError
from etude.schedules._base import Schedule
from etude.schedules._numbers import count

_CHUNK = 1_000_000
_MOST = 1_000_000_000


def area(schedule: Schedule, start: int, stop: int) -> float:
    """Return the sum of the values used for updates start, …, stop − 1: Σ s(t).

    Two schedules of equal area move the parameters equally far under a constant gradient.

    Args:
        schedule: A bound schedule.
        start: The first step, counted from 0.
        stop: The step after the last one.

    Returns:
        The sum, in the schedule's units times steps.

    Raises:
        BadValueError: The steps are out of order, or more than 10⁹.

    Examples:
        >>> from etude.schedules import linear
        >>> area(linear(10), 0, 10)
        5.5
    """
    first = count("start", start, at_least=0)
    last = count("stop", stop, at_least=0)
    if last < first:
        raise BadValueError(f"stop is {stop}; it must be at least start, which is {start}")
    if last - first > _MOST:
        raise BadValueError(f"stop − start is {last - first}; at most 10**9 steps are summed")
    if last - first <= 10_000:
        return math.fsum(schedule(t) for t in range(first, last))
    import numpy as np

    chunks = range(first, last, _CHUNK)
    return math.fsum(
        float(schedule(np.arange(t, min(t + _CHUNK, last))).sum(dtype=np.float64)) for t in chunks
    )
