"""Changes of a schedule's values: scale, offset and clip."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from etude.errors import BadValueError
from etude.schedules._base import Schedule, operation
from etude.schedules._numbers import (
    Steps,
    number,
    written,
)
from etude.schedules.algebra import member
from etude.schedules.clock import Clock

if TYPE_CHECKING:
    from etude.schedules.feedback.log import EventLog


class Wrapper(Schedule):
    """A change of one schedule; its length stays the same unless a subclass changes it."""

    __slots__ = ()
    body: Schedule

    @property
    def parts(self) -> tuple[Schedule, ...]:
        return (self.body,)

    @property
    def is_open(self) -> bool:
        return self.body.is_open

    @property
    def is_bound(self) -> bool:
        return self.body.is_bound

    @property
    def length(self) -> Any:
        return self.body.length

    def around(self, body: Schedule) -> Schedule:
        """Return the same change applied to another body."""
        return replace(self, body=body)  # type: ignore[type-var]

    def resolve(self, clock: Clock) -> Schedule:
        return self.around(self.body.resolve(clock))

    def fill(self, room: Steps) -> Schedule:
        return self.around(self.body.fill(room))

    def own_time(self, t: Steps) -> Steps | None:
        """Return step t on the clock of the body, or None if the body has no such step."""
        return t

    def with_events(self, log: EventLog, add: bool) -> Schedule:
        return self.around(self.body.with_events(log.timed(self.own_time), add))


@operation
@dataclass(frozen=True, slots=True, repr=False)
class Scale(Wrapper):
    """A schedule times a number k: `k * s`, k·s(t).

    Args:
        factor: The number k.
        body: The schedule s.
    """

    factor: float
    body: Schedule

    precedence: ClassVar[int] = 3

    def __post_init__(self) -> None:
        self.put(factor=number("factor", self.factor), body=member("body", self.body))

    def at(self, t: float) -> float:
        return self.factor * self.body.at(t)

    def on(self, t: Any, xp: Any) -> Any:
        return self.factor * self.body.on(t, xp)

    def text(self) -> str:
        return f"{written(self.factor)} * {self.body.inside(4)}"


@operation
@dataclass(frozen=True, slots=True, repr=False)
class Offset(Wrapper):
    """A schedule plus a number c: `s + c`, s(t) + c.

    Args:
        body: The schedule s.
        value: The number c.
    """

    body: Schedule
    value: float

    precedence: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self.put(body=member("body", self.body), value=number("value", self.value))

    def at(self, t: float) -> float:
        return self.body.at(t) + self.value

    def on(self, t: Any, xp: Any) -> Any:
        return self.body.on(t, xp) + self.value

    def text(self) -> str:
        sign = "-" if self.value < 0.0 else "+"
        return f"{self.body.inside(2)} {sign} {written(abs(self.value))}"


@operation
@dataclass(frozen=True, slots=True, repr=False)
class Clip(Wrapper):
    """A schedule clipped to bounds: min(max(s(t), low), high).

    Args:
        body: The schedule s.
        low: Lowest value, or None for no bound.
        high: Highest value, or None for no bound.

    Raises:
        BadValueError: Neither bound is given, or low is above high.
    """

    body: Schedule
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if low is None and high is None:
            raise BadValueError("clip has neither low nor high: give at least one bound")
        self.put(
            body=member("body", self.body),
            low=None if low is None else number("low", low),
            high=None if high is None else number("high", high),
        )
        if low is not None and high is not None and low > high:
            raise BadValueError(f"low is {low}, above high, which is {high}: swap them")

    def at(self, t: float) -> float:
        y = self.body.at(t)
        if self.low is not None and y < self.low:
            return self.low
        if self.high is not None and y > self.high:
            return self.high
        return y

    def on(self, t: Any, xp: Any) -> Any:
        return xp.clip(self.body.on(t, xp), self.low, self.high)

    def text(self) -> str:
        low = [] if self.low is None else [written(self.low)]
        high = [] if self.high is None else [written(self.high) if low else f"high={self.high!r}"]
        return f"{self.body.inside(4)}.clip({', '.join(low + high)})"
