"""Changes of a schedule's time: repeat, stretch, fit, shift and take."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.schedules._base import Schedule, is_steps, operation
from etude.schedules._kind import Kind
from etude.schedules._numbers import (
    LAST_STEP,
    Duration,
    Steps,
    count,
    duration,
    exact,
    number,
    steps,
    written,
)
from etude.schedules.algebra import member
from etude.schedules.clock import Clock, in_steps
from etude.schedules.wrappers import Wrapper

if TYPE_CHECKING:
    from etude.schedules.feedback.log import EventLog


ROUNDING = 2.0**-50
"""The share of a length by which rounding its parts may change it."""


@operation
@dataclass(frozen=True, slots=True, repr=False)
class Repeat(Wrapper):
    """A schedule that restarts each time it ends: s(t mod L).

    After the last repeat it keeps the final value, s(L). An open body that is repeated n times
    gets an n-th of the rest of the horizon each time.

    Args:
        body: The schedule s, of length L > 0.
        times: The number of repeats; None repeats endlessly.

    Raises:
        BadValueError: The body has no length to repeat.
    """

    body: Schedule
    times: int | None = None
    period: Steps = field(init=False, compare=False)
    end: Steps = field(init=False, compare=False)

    def __post_init__(self) -> None:
        body = member("body", self.body)
        times = self.times if self.times is None else count("times", self.times)
        if times is None and body.is_open:
            raise BadValueError(
                f"{body!r} has no length and cannot be repeated endlessly: give it a length, or a "
                "number of repeats, such as .repeat(3)"
            )
        period = body.length
        if period == 0:
            raise BadValueError(f"{body!r} has length 0 and cannot be repeated: give it a length")
        end = LAST_STEP + 1 if times is None or period is None else unrounded(period * times)
        self.put(body=body, times=times, period=period, end=end)

    def at(self, t: float) -> float:
        return self.body.at(t % self.period if t < self.end else self.period)

    def on(self, t: Any, xp: Any) -> Any:
        u = t % float(self.period)
        if self.times is not None:
            u = xp.where(t < self.end, u, xp.full_like(u, float(self.period)))
        return self.body.on(u, xp)

    def with_events(self, log: EventLog, add: bool) -> Schedule:
        if not self.has_feedback:
            return self
        raise BadValueError(
            f"{self!r} restarts its feedback each time, so it cannot follow one log: repeat only "
            "the parts that do not react, and multiply them with those that do"
        )

    @property
    def is_open(self) -> bool:
        return self.times is None or self.body.is_open

    @property
    def is_bound(self) -> bool:
        return self.body.is_bound and not self.body.is_open

    @property
    def length(self) -> Steps | None:
        return None if self.times is None or self.period is None else self.end

    def fill(self, room: Steps) -> Schedule:
        if self.times is None:
            return Take(self, room)
        share = room // self.times if room % self.times == 0 else room / self.times
        return replace(self, body=self.body.fill(share))

    def text(self) -> str:
        times = "" if self.times is None else written(self.times)
        return f"{self.body.inside(4)}.repeat({times})"


@operation
@dataclass(frozen=True, slots=True, repr=False)
class Stretch(Wrapper):
    """A schedule slowed down by a factor σ: s(t/σ).

    Args:
        body: The schedule s.
        factor: σ > 0; 2 makes it twice as long.

    Raises:
        BadValueError: The factor is not positive.
    """

    body: Schedule
    factor: float

    def __post_init__(self) -> None:
        self.put(body=member("body", self.body), factor=number("factor", self.factor, above=0.0))

    def at(self, t: float) -> float:
        u = t / self.factor
        return self.body.at(u if u < LAST_STEP else LAST_STEP)

    def on(self, t: Any, xp: Any) -> Any:
        return self.body.on(xp.clip(t / self.factor, None, float(LAST_STEP)), xp)

    def own_time(self, t: Steps) -> Steps:
        return t / self.factor

    @property
    def length(self) -> Steps | None:
        inner = self.body.length
        return None if inner is None else unrounded(float(exact(inner) * exact(self.factor)))

    def fill(self, room: Steps) -> Schedule:
        return self.around(self.body.fill(whole(float(exact(room) / exact(self.factor)))))

    def text(self) -> str:
        return f"{self.body.inside(4)}.stretch({written(self.factor)})"


@operation
@dataclass(frozen=True, slots=True, repr=False)
class Fit(Wrapper):
    """A schedule of length L, stretched to last N steps: s(t·L/N).

    Args:
        body: The schedule s, of length L > 0.
        length: The duration N > 0.

    Raises:
        BadValueError: The body is endless, or a length is 0.
    """

    body: Schedule
    length: Duration
    wanted: str | None = field(init=False, default=None)

    durations: ClassVar[tuple[str, ...]] = ("length",)

    def __post_init__(self) -> None:
        body = member("body", self.body)
        if body.is_open and body.is_bound:
            raise BadValueError(
                f"{body!r} is endless and cannot be fitted: .take(length) it first, or .stretch it"
            )
        if body.length == 0:
            raise BadValueError(f"{body!r} has length 0 and cannot be fitted: give it a length")
        self.put(body=body)
        self.put_length(above=0.0)

    def at(self, t: float) -> float:
        u = float(t) * float(self.body.length) / float(self.length)
        return self.body.at(u if u < LAST_STEP else LAST_STEP)

    def on(self, t: Any, xp: Any) -> Any:
        u = t * float(self.body.length) / float(self.length)
        return self.body.on(xp.clip(u, None, float(LAST_STEP)), xp)

    def own_time(self, t: Steps) -> Steps:
        return float(t) * float(self.body.length) / float(self.length)

    @property
    def is_open(self) -> bool:
        return False

    @property
    def is_bound(self) -> bool:
        return self.body.is_bound and is_steps(self.length)

    def resolve(self, clock: Clock) -> Schedule:
        length = in_steps(clock, "length of fit", self.argument("length"))
        body = self.body.resolve(clock)
        return Fit(body if body.is_bound else body.fill(length), length)

    def text(self) -> str:
        return f"{self.body.inside(4)}.fit({written(self.argument('length'))})"


@operation
@dataclass(frozen=True, slots=True, repr=False)
class Shift(Wrapper):
    """A schedule delayed by d: s(max(t − d, 0)); with d < 0 it skips its first steps.

    Args:
        body: The schedule s.
        by: The delay d: a duration, or a negative number of steps.

    Raises:
        BadValueError: The delay is not finite.
    """

    body: Schedule
    by: Duration

    durations: ClassVar[tuple[str, ...]] = ("by",)

    def __post_init__(self) -> None:
        ahead = not isinstance(self.by, str) and number("by", self.by) < 0.0
        by = -steps("by", -self.by) if ahead else duration("by", self.by)  # type: ignore[operator]
        self.put(body=member("body", self.body), by=by)

    def at(self, t: float) -> float:
        u: float = t - self.by  # type: ignore[operator]
        return self.body.at(u if u > 0 else 0)

    def on(self, t: Any, xp: Any) -> Any:
        return self.body.on(xp.clip(t - self.by, 0.0, None), xp)

    def own_time(self, t: Steps) -> Steps | None:
        u: Steps = t - self.by  # type: ignore[operator]
        return u if u >= 0 else None

    @property
    def is_bound(self) -> bool:
        return self.body.is_bound and is_steps(self.by)

    @property
    def length(self) -> Steps | None:
        inner: Steps | None = self.body.length
        if inner is None or isinstance(self.by, str):
            return None
        return max(inner + self.by, 0)

    def resolve(self, clock: Clock) -> Schedule:
        by = in_steps(clock, "by of shift", self.by) if isinstance(self.by, str) else self.by
        return Shift(self.body.resolve(clock), by)

    def fill(self, room: Steps) -> Schedule:
        assert not isinstance(self.by, str)
        if self.by > room:
            raise BadValueError(
                f"the shift of {self!r} is longer than the {written(room)} steps that it may take"
            )
        return self.around(self.body.fill(room - self.by))

    def text(self) -> str:
        return f"{self.body.inside(4)}.shift({written(self.by)})"


@operation
@dataclass(frozen=True, slots=True, repr=False)
class Take(Wrapper):
    """The first part of a schedule: s(min(t, L)).

    Args:
        body: The schedule s.
        length: The duration L of the part.
    """

    body: Schedule
    length: Duration
    wanted: str | None = field(init=False, default=None)

    durations: ClassVar[tuple[str, ...]] = ("length",)

    def __post_init__(self) -> None:
        self.put(body=member("body", self.body))
        self.put_length()

    def at(self, t: float) -> float:
        L: Any = self.length
        return self.body.at(t if t < L else L)

    def on(self, t: Any, xp: Any) -> Any:
        return self.body.on(xp.clip(t, 0.0, float(self.length)), xp)

    def own_time(self, t: Steps) -> Steps | None:
        return t if t <= self.length else None  # type: ignore[operator]

    @property
    def is_open(self) -> bool:
        return False

    @property
    def is_bound(self) -> bool:
        return self.body.is_bound and is_steps(self.length)

    def resolve(self, clock: Clock) -> Schedule:
        return take(
            self.body.resolve(clock), in_steps(clock, "length of take", self.argument("length"))
        )

    def text(self) -> str:
        return f"{self.body.inside(4)}.take({written(self.argument('length'))})"


@operation
def take(body: Schedule, length: Duration) -> Schedule:
    """Return the first `length` steps of a schedule.

    A body without a length gets this one, so `cosine().take(100)` is `cosine(100)`.
    """
    if not isinstance(body, Schedule):
        raise BadTypeError(f"body is {body!r}; it must be a schedule")
    wanted = duration("length", length)
    steps_known = not isinstance(wanted, str) and not body.has_units
    if body.is_open and steps_known and (isinstance(body, Kind) or not body.is_bound):
        return body.fill(wanted)  # type: ignore[arg-type]
    return body if body.length == wanted else Take(body, wanted)


def whole(x: float) -> Steps:
    """Return `x`, as an int if it is whole."""
    return int(x) if x.is_integer() else x


def unrounded(length: Steps) -> Steps:
    """Return the whole number that a length was before its parts were rounded, if there is one.

    A run of 15 steps that is divided by 7 and multiplied by it has 15.000000000000002.

    >>> unrounded(15 / 7 * 7.000000000000001), unrounded(2.5)
    (15, 2.5)
    """
    nearest_whole = round(length)
    return nearest_whole if abs(length - nearest_whole) <= ROUNDING * length else length
