"""Joins, products and sums of schedules."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, pairwise
from operator import add, mul
from typing import TYPE_CHECKING, Any, ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.schedules._base import Schedule, operation
from etude.schedules._numbers import Steps, written
from etude.schedules.clock import Clock

if TYPE_CHECKING:
    from etude.schedules.feedback.log import EventLog


def member(name: str, value: object) -> Schedule:
    """Return `value` if it is a schedule, or raise."""
    if not isinstance(value, Schedule):
        if isinstance(value, type) and issubclass(value, Schedule):
            called = getattr(value, "name", value.__name__)
            raise BadTypeError(f"{name} has {called}, which is not called: {called}(...)")
        raise BadTypeError(
            f"{name} is {value!r}; it must be a schedule, such as constant(0.1) or cosine(1_000)"
        )
    return value


def members(name: str, kind: type[Schedule], values: object) -> tuple[Schedule, ...]:
    """Return the schedules in `values`; parts of the same associative operation are merged."""
    if not isinstance(values, tuple | list):
        raise BadTypeError(f"{name} is {values!r}; it must be a tuple of schedules")
    flat: list[Schedule] = []
    for value in values:
        schedule = member(name, value)
        flat.extend(schedule.parts if type(schedule) is kind else (schedule,))
    if len(flat) < 2:
        raise BadValueError(f"{name} has {len(flat)} schedules; it must have at least 2")
    return tuple(flat)


@dataclass(frozen=True, slots=True, repr=False)
class Join(Schedule):
    """One schedule after another, each with its own clock: `a >> b`.

    s(t) = a_i(t − b_i) for b_i ≤ t < b_{i+1}, where b_i is the sum of the lengths before segment
    i. Segments are half-open: in `a(500) >> b` update 500 is b's first. At most one segment may
    be open; unless it is the last and endless, it fills the rest of the horizon.

    Args:
        segments: Two or more schedules.

    Raises:
        BadValueError: Two segments are open.
    """

    segments: tuple[Schedule, ...]
    starts: tuple[Steps, ...] | None = field(init=False, compare=False)
    inner: tuple[Steps, ...] | None = field(init=False, compare=False)

    precedence: ClassVar[int] = 1

    def __post_init__(self) -> None:
        flat = members("segments", Join, self.segments)
        openly = [s for s in flat if s.is_open]
        if len(openly) > 1:
            raise BadValueError(
                f"both {openly[0]!r} and {openly[1]!r} have no length; at most one segment of a "
                "join may fill the rest of the horizon: give a length, or .take(length)"
            )
        self.put(segments=flat, starts=None, inner=None)
        if self.is_bound:
            starts = tuple(accumulate((s.length for s in flat[:-1]), initial=0))
            self.put(starts=starts, inner=starts[1:])

    def at(self, t: float) -> float:
        i = bisect_right(self.inner, t)  # type: ignore[arg-type]
        return self.segments[i].at(t - self.starts[i])  # type: ignore[index]

    def on(self, t: Any, xp: Any) -> Any:
        from array_api_compat import is_numpy_namespace

        if is_numpy_namespace(xp) and t.ndim == 1 and bool((t[1:] >= t[:-1]).all()):
            return self._on_rising(t, xp)
        y = None
        last = len(self.segments) - 1
        for i, (segment, start) in enumerate(zip(self.segments, self.starts or (), strict=True)):
            if segment.length == 0 and i < last:
                continue
            end = float(segment.length) if i < last else None
            own = segment.on(xp.clip(t - start, 0.0, end), xp)
            y = own if y is None else xp.where(t >= start, own, y)
        return y

    def _on_rising(self, t: Any, xp: Any) -> Any:
        """Evaluate each segment at its own steps only, which are contiguous in a rising array."""
        y = xp.empty_like(t)
        starts = self.starts or ()
        cuts = [0, *xp.searchsorted(t, xp.asarray(starts[1:], dtype=t.dtype)).tolist(), len(t)]
        for segment, start, own in zip(self.segments, starts, pairwise(cuts), strict=True):
            if own[0] < own[1]:
                y[slice(*own)] = segment.on(t[slice(*own)] - start, xp)
        return y

    @property
    def parts(self) -> tuple[Schedule, ...]:
        return self.segments

    @property
    def is_open(self) -> bool:
        return any(s.is_open for s in self.segments)

    @property
    def is_bound(self) -> bool:
        return all(s.is_bound for s in self.segments) and not any(
            s.is_open for s in self.segments[:-1]
        )

    @property
    def length(self) -> Steps | None:
        return _sum_or_none([s.length for s in self.segments])

    def resolve(self, clock: Clock) -> Schedule:
        return Join(tuple(s.resolve(clock) for s in self.segments))

    def fill(self, room: Steps) -> Schedule:
        taken = sum(s.length for s in self.segments if not s.is_open)
        if taken > room:
            raise BadValueError(
                f"the segments of {self!r} take {written(taken)} steps, but there are only "
                f"{written(room)}: shorten them or lengthen the horizon"
            )
        return Join(tuple(s.fill(room - taken) if s.is_open else s for s in self.segments))

    def with_events(self, log: EventLog, add: bool) -> Schedule:
        starts = self.starts or ()
        return Join(
            tuple(
                s.with_events(log.since(start), add) if s.has_feedback else s
                for s, start in zip(self.segments, starts, strict=True)
            )
        )

    def text(self) -> str:
        return " >> ".join(s.inside(2) for s in self.segments)


@dataclass(frozen=True, slots=True, repr=False)
class Pointwise(Schedule):
    """Schedules that are combined step by step: the base class of products and sums.

    The result is as long as the longest member, and open if a member is open.

    Args:
        members: Two or more schedules.
    """

    members: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        self.put(members=members("members", type(self), self.members))

    @property
    def parts(self) -> tuple[Schedule, ...]:
        return self.members

    @property
    def is_open(self) -> bool:
        return any(s.is_open for s in self.members)

    @property
    def is_bound(self) -> bool:
        return all(s.is_bound for s in self.members)

    @property
    def length(self) -> Steps | None:
        lengths = [s.length for s in self.members]
        return None if None in lengths else max(lengths)

    def resolve(self, clock: Clock) -> Schedule:
        return type(self)(tuple(s.resolve(clock) for s in self.members))

    def fill(self, room: Steps) -> Schedule:
        bound = type(self)(tuple(s if s.is_bound else s.fill(room) for s in self.members))
        return bound.take(room)

    def with_events(self, log: EventLog, add: bool) -> Schedule:
        return type(self)(tuple(s.with_events(log, add) for s in self.members))


class Product(Pointwise):
    """The product of schedules, step by step: `a * b`, (a·b)(t) = a(t)·b(t)."""

    __slots__ = ()
    precedence: ClassVar[int] = 3

    def at(self, t: float) -> float:
        y = 1.0
        for s in self.members:
            y *= s.at(t)
        return y

    def on(self, t: Any, xp: Any) -> Any:
        return reduce(mul, [s.on(t, xp) for s in self.members])

    def text(self) -> str:
        first, *rest = self.members
        return " * ".join([first.inside(3), *(s.inside(4) for s in rest)])


class Sum(Pointwise):
    """The sum of schedules, step by step: `a + b`, (a+b)(t) = a(t) + b(t)."""

    __slots__ = ()
    precedence: ClassVar[int] = 2

    def at(self, t: float) -> float:
        y = 0.0
        for s in self.members:
            y += s.at(t)
        return y

    def on(self, t: Any, xp: Any) -> Any:
        return reduce(add, [s.on(t, xp) for s in self.members])

    def text(self) -> str:
        first, *rest = self.members
        return " + ".join([first.inside(2), *(s.inside(3) for s in rest)])


@operation
def join(*segments: Schedule) -> Schedule:
    """Return the schedules joined one after another."""
    return Join(segments)


@operation
def product(*members: Schedule) -> Schedule:
    """Return the product of schedules."""
    return Product(members)


@operation
def total(*members: Schedule) -> Schedule:
    """Return the sum of schedules."""
    return Sum(members)


def _sum_or_none(lengths: list[Steps | None]) -> Steps | None:
    return None if None in lengths else sum(n for n in lengths if n is not None)
