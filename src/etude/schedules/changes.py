"""Changes of a schedule during a run: an early cooldown or a new end, without a jump."""

from __future__ import annotations

from bisect import bisect_left

from etude.errors import BadValueError
from etude.schedules._base import Schedule, operation
from etude.schedules._numbers import Duration, Steps, duration, steps, written
from etude.schedules.algebra import Join
from etude.schedules.kinds.wsd import falling
from etude.schedules.wrappers import Scale


@operation
def cooldown(
    schedule: Schedule, at: Steps, length: Duration, floor: float = 0.0, shape: str = "linear"
) -> Schedule:
    """Return the schedule up to step `at`, followed by a decay from the value reached there."""
    start = steps("at", at)
    decay = schedule(start) * falling(shape, duration("length", length), floor)
    return decay if start == 0 else split(schedule, start)[0] >> decay


@operation
def extend(schedule: Schedule, at: Steps, horizon: Duration) -> Schedule:
    """Return the schedule with the part after step `at` stretched to a new end."""
    start = steps("at", at)
    schedule(start)
    end, wanted = schedule.length, duration("horizon", horizon)
    if end is None:
        return schedule
    if isinstance(wanted, str):
        raise BadValueError(
            f"horizon is {wanted!r}; give it in steps: Clock(...).steps({wanted!r}) converts it"
        )
    if not start < min(end, wanted):
        raise BadValueError(
            f"at is {written(start)}; it must be before the old end {written(end)} and the new "
            f"end {written(wanted)}"
        )
    if wanted == end:
        return schedule
    if start == 0:
        return schedule.fit(wanted)
    before, after = split(schedule, start)
    return before >> after.fit(wanted - start)


def split(schedule: Schedule, at: Steps) -> tuple[Schedule, Schedule]:
    """Return a bound schedule before and after step `at` > 0; the second part starts at 0.

    Only the segment that contains the step is split, so that the text of a schedule grows
    slowly when it is changed repeatedly.
    """
    if isinstance(schedule, Scale):
        before, after = split(schedule.body, at)
        return schedule.factor * before, schedule.factor * after
    if not isinstance(schedule, Join) or schedule.starts is None:
        return schedule.take(at), schedule.shift(-at)
    i = bisect_left(schedule.starts, at) - 1
    own = at - schedule.starts[i]
    part, rest = schedule.segments[i], schedule.segments[i + 1 :]
    if rest and own == part.length:
        return _joined(schedule.segments[: i + 1]), _joined(rest)
    before, after = split(part, own)
    return _joined((*schedule.segments[:i], before)), _joined((after, *rest))


def _joined(segments: tuple[Schedule, ...]) -> Schedule:
    return segments[0] if len(segments) == 1 else Join(segments)
