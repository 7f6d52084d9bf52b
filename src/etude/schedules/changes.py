"""Changes of plan during a run: cool down now, move the end; never with a jump in the rate."""

from __future__ import annotations

from etude.errors import BadValueError
from etude.schedules._base import Schedule
from etude.schedules._numbers import Duration, Steps, duration, steps, written
from etude.schedules.kinds.wsd import falling
from etude.schedules.wrappers import Take


def cooldown(
    schedule: Schedule, at: Steps, length: Duration, floor: float = 0.0, shape: str = "linear"
) -> Schedule:
    """Return the schedule up to step `at`, then a decay from the value reached there."""
    start = steps("at", at)
    reached = schedule(start)
    decay = reached * falling(shape, duration("length", length), floor)
    return decay if start == 0 else Take(schedule, start) >> decay


def extend(schedule: Schedule, at: Steps, horizon: Duration) -> Schedule:
    """Return the schedule with what is left after step `at` fitted to a new end."""
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
    return Take(schedule, start) >> schedule.shift(-start).fit(wanted - start)
