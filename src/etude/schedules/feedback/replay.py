"""The base class of feedback schedules: the log is replayed once, then values are looked up."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, ClassVar, NamedTuple

from etude.schedules._base import Schedule
from etude.schedules._kind import Endless
from etude.schedules._numbers import Steps, written
from etude.schedules.feedback.log import Event, EventLog
from etude.schedules.kinds.milestones import look_up


class Replay(NamedTuple):
    """The result of replaying a log: the state after it, and every change of the value.

    A replay that continues an earlier one shares its lists; only the first `size` entries belong
    to this replay.
    """

    state: Any
    steps: list[Steps]
    values: list[float]
    size: int


class Feedback(Endless):
    """A schedule that reacts to metrics: its value changes only at the events of its log.

    A kind defines the first state and how an event changes it. The same log always gives the same
    values, whatever the order in which steps are evaluated.
    """

    __slots__ = ()

    reacts: ClassVar[bool] = True
    by_position: ClassVar[int] = 0

    log: EventLog
    replay: Replay

    @property
    @abstractmethod
    def signal(self) -> str:
        """The signal that it reacts to: 'loss', 'metric' or 'gradient'."""

    @abstractmethod
    def begin(self) -> Any:
        """Return the state before any event: a tuple whose first entry is the value."""

    @abstractmethod
    def react(self, state: Any, metric: float | None) -> Any:
        """Return the state after an event."""

    def begin_replay(self) -> None:
        """Replay the log at construction."""
        log = EventLog.of(self.log)
        state = self.begin()
        done = Replay(state, [], [state[0]], 0)
        for event in log:
            done = self._next(done, event)
        self.put(log=log, replay=done)

    def _next(self, done: Replay, event: Event) -> Replay:
        before, steps, values, size = done
        state = self.react(before, event[1])
        if state[0] == before[0]:
            return Replay(state, steps, values, size)
        if len(steps) != size:
            steps, values = steps[:size], values[: size + 1]
        steps.append(event[0])
        values.append(state[0])
        return Replay(state, steps, values, size + 1)

    def with_events(self, log: EventLog, add: bool) -> Schedule:
        if not add:
            return replace(self, log=log)  # type: ignore[type-var]
        known, done = self.log, self.replay
        for event in log:
            known, done = known.plus(*event), self._next(done, event)
        later = object.__new__(type(self))
        for field in fields(self):  # type: ignore[arg-type]
            object.__setattr__(later, field.name, getattr(self, field.name))
        later.put(log=known, replay=done)
        return later

    def at(self, t: float) -> float:
        _, steps, values, size = self.replay
        return values[bisect_right(steps, t, 0, size)]

    def on(self, t: Any, xp: Any) -> Any:
        _, steps, values, size = self.replay
        if size == 0:
            return xp.full_like(t, values[0])
        return look_up(tuple(steps[:size]), tuple(values[: size + 1]), t, xp)

    def arguments(self) -> Iterator[str]:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.init and field.name != "log" and value != field.default:
                yield f"{self.spelling.get(field.name, field.name)}={written(value)}"
        if len(self.log):
            yield f"log={self.log!r}"
