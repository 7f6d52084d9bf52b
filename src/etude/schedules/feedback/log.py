"""The log of events that feedback schedules replay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from etude.errors import BadTypeError, BadValueError
from etude.schedules._numbers import Steps, steps, written

Event: TypeAlias = tuple[Steps, float | None]
"""A step, and the metric measured after that many updates; None if it was not finite."""


class EventLog:
    """An immutable sequence of (step, metric), in the order of steps.

    A log with one more event shares the earlier events, so that building a log of n events takes
    O(n) time and memory. A NaN or infinite metric is stored as None and is never an improvement.

    Examples:
        >>> log = EventLog.of([(100, 0.5)]).plus(200, float("nan"))
        >>> log, log == EventLog.of([(100, 0.5), (200, None)])
        (((100, 0.5), (200, None)), True)
    """

    __slots__ = ("_events", "_size")

    _events: list[Event]
    _size: int

    def __init__(self) -> None:
        self._events, self._size = [], 0

    @classmethod
    def of(cls, events: Any) -> EventLog:
        """Return a log of the given pairs."""
        if isinstance(events, EventLog):
            return events
        if not isinstance(events, Iterable) or isinstance(events, str | bytes):
            raise BadTypeError(f"log is {events!r}; give pairs, such as [(100, 0.5)]")
        log = cls()
        for event in events:
            if not isinstance(event, tuple | list) or len(event) != 2:
                raise BadTypeError(
                    f"log has {event!r}; give pairs (step, metric), such as (100, 0.5)"
                )
            log = log.plus(*event)
        return log

    def plus(self, step: Steps, metric: float | None) -> EventLog:
        """Return the log with one more event at its end."""
        when = steps("step of an event", step)
        if self._size and when < self._events[self._size - 1][0]:
            raise BadValueError(
                f"the step of an event is {when}, before the last one at "
                f"{self._events[self._size - 1][0]}: give events in the order of steps"
            )
        events = self._events
        if len(events) != self._size:  # another log extended the list: do not change its events
            events = events[: self._size]
        events.append((when, _finite(metric)))
        return _view(events, self._size + 1)

    def since(self, start: Steps) -> EventLog:
        """Return the events from step `start` on, with steps counted from `start`."""
        if start == 0:
            return self
        return self.timed(lambda t: t - start if t >= start else None)

    def timed(self, own_time: Callable[[Steps], Steps | None]) -> EventLog:
        """Return the events on another clock, without those at steps that it does not have."""
        moved = [(own_time(t), metric) for t, metric in self]
        kept: list[Event] = [(t, metric) for t, metric in moved if t is not None]
        return self if kept == list(self) else _view(kept, len(kept))

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events[: self._size])

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EventLog) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return written(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return EventLog.of, (tuple(self),)


def _view(events: list[Event], size: int) -> EventLog:
    log = EventLog()
    log._events, log._size = events, size
    return log


def _finite(metric: Any) -> float | None:
    if metric is None:
        return None
    if isinstance(metric, bool | str | bytes):
        raise BadTypeError(f"a metric is {metric!r}; it must be a number")
    try:
        x = float(metric)
    except (TypeError, ValueError):
        raise BadTypeError(f"a metric is {metric!r}; it must be a number, such as 0.5") from None
    except OverflowError:
        return None
    return x if math.isfinite(x) else None
