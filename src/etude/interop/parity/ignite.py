"""The parameter schedulers of `ignite.handlers`, by their own names.

Each takes the arguments of ignite's class after the optimizer and the name of the parameter. The
value at step t is the one that event t sets, counted from 0: ignite sets it before the iteration.
"""

# ruff: noqa: N802 - the functions carry the names of ignite's classes

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from etude.errors import BadValueError
from etude.interop.parity._shapes import between, whole
from etude.interop.parity.optax import join_schedules
from etude.schedules import (
    Schedule,
    cosine,
    linear,
    piecewise_interpolate,
    restarts,
    step,
)


def LinearCyclicalScheduler(
    start_value: float,
    end_value: float,
    cycle_size: int,
    cycle_mult: float = 1.0,
    start_value_mult: float = 1.0,
    end_value_mult: float = 1.0,
    warmup_duration: int = 0,
    monotonic: bool = False,
) -> Schedule:
    """Return straight lines from start to end and back, or with `monotonic` from start to end.

    Raises:
        BadValueError: The combination of options has no closed form here; see `_cycles`.

    Examples:
        >>> s = LinearCyclicalScheduler(0.0, 1.0, 4)
        >>> [s(t) for t in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """
    size = whole("cycle_size", cycle_size, at_least=2)
    if monotonic:
        fall: Schedule = linear(size)
    elif warmup_duration > 0:
        raise BadValueError(
            f"warmup_duration is {warmup_duration!r}; it is only possible with monotonic=True"
        )
    else:
        fall = piecewise_interpolate((0, size / 2, size), (1.0, 0.0, 1.0))
    if cycle_mult != 1:
        raise BadValueError(
            f"cycle_mult is {cycle_mult!r}; only 1 has a closed form for straight lines"
        )
    mults = (start_value_mult, end_value_mult)
    return _cycles(fall, size, start_value, end_value, mults, warmup_duration)


def CosineAnnealingScheduler(
    start_value: float,
    end_value: float,
    cycle_size: int,
    cycle_mult: float = 1.0,
    start_value_mult: float = 1.0,
    end_value_mult: float = 1.0,
    warmup_duration: int = 0,
) -> Schedule:
    """Return half cosines from start to end, one after another.

    Raises:
        BadValueError: The combination of options has no closed form here: growing cycles need a
            whole `cycle_mult` and no other option.

    Examples:
        >>> CosineAnnealingScheduler(1.0, 0.0, 10, cycle_mult=2)
        1.0 * restarts(10, length_mult=2.0)
    """
    size = whole("cycle_size", cycle_size, at_least=2)
    mults = (start_value_mult, end_value_mult)
    if cycle_mult == 1:
        return _cycles(cosine(size), size, start_value, end_value, mults, warmup_duration)
    if cycle_mult != cycle_mult // 1 or mults != (1.0, 1.0) or warmup_duration:
        raise BadValueError(
            f"cycle_mult is {cycle_mult!r}; other than 1 it must be whole, with no other option"
        )
    return between(restarts(size, length_mult=cycle_mult), end_value, start_value)


def PiecewiseLinear(milestones_values: Sequence[tuple[int, float]]) -> Schedule:
    """Return straight lines through the points, and the first and last value outside of them.

    Examples:
        >>> PiecewiseLinear([(1, 1.0), (3, 0.5), (5, 0.25)])
        piecewise_interpolate((1, 3, 5), (1.0, 0.5, 0.25))
    """
    if not milestones_values:
        raise BadValueError("milestones_values is empty; give at least one pair")
    points, values = zip(*milestones_values, strict=True)
    return piecewise_interpolate(tuple(points), tuple(values))


def ConcatScheduler(schedulers: Sequence[Schedule], durations: Sequence[int]) -> Schedule:
    """Return one schedule after another; the last one continues.

    Examples:
        >>> ConcatScheduler([PiecewiseLinear([(0, 1.0)]), PiecewiseLinear([(0, 0.5)])], [4])(4)
        0.5
    """
    return join_schedules(schedulers, list(accumulate(durations)))


def create_lr_scheduler_with_warmup(
    lr_scheduler: Schedule,
    warmup_start_value: float,
    warmup_duration: int,
    warmup_end_value: float | None = None,
) -> Schedule:
    """Return a line from start to end in warmup_duration − 1 steps, then the schedule.

    If the schedule begins at the end value, the line stops one step before it, so that the value
    is not set twice; otherwise the schedule begins at step `warmup_duration`.

    Args:
        lr_scheduler: The schedule after the warmup, such as one of this module.
        warmup_start_value: Value at step 0.
        warmup_duration: At least 2.
        warmup_end_value: Value at the end; None takes the schedule's first value.

    Examples:
        >>> s = create_lr_scheduler_with_warmup(CosineAnnealingScheduler(1.0, 0.0, 10), 0.0, 5)
        >>> s(0), s(2), s(4), s(14)
        (0.0, 0.5, 1.0, 1.0)
    """
    whole("warmup_duration", warmup_duration, at_least=2)
    first = lr_scheduler(0)
    end = first if warmup_end_value is None else warmup_end_value
    rise = linear(warmup_duration - 1, start=warmup_start_value, end=end)
    if math.isclose(end, first, rel_tol=1e-12, abs_tol=1e-15):
        return rise >> lr_scheduler
    return rise.take(warmup_duration) >> lr_scheduler


def _cycles(
    fall: Schedule,
    size: int,
    start: float,
    end: float,
    mults: tuple[float, float],
    warmup: int,
) -> Schedule:
    """Return cycles of a shape that falls from 1 (start) towards 0 (end), of equal length.

    In cycle i the value is start·m^i·s + end·n^i·(1 − s), for the multipliers m and n.
    """
    whole("warmup_duration", warmup)
    cycle = fall >> linear(warmup, start=0.0, end=1.0) if warmup else fall
    shape = cycle.repeat()
    if mults == (1.0, 1.0):
        return between(shape, end, start)
    if warmup:
        raise BadValueError(
            f"warmup_duration is {warmup!r} with multipliers {mults!r}: give one or the other"
        )
    high, low = mults
    falling = start * (shape if high == 1.0 else step(size, high) * shape)
    rising = 1.0 - shape
    return falling + end * (rising if low == 1.0 else step(size, low) * rising)
