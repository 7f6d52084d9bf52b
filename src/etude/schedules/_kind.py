"""The leaves of an expression: schedules with a formula of their own."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, ClassVar, NoReturn, Self

from etude.errors import BadTypeError
from etude.schedules._base import Schedule, build, is_steps
from etude.schedules._numbers import Steps, written
from etude.schedules.clock import Clock, in_steps


def _uncalled(cls: Any, other: object) -> NoReturn:
    raise BadTypeError(
        f"{cls.name} is a kind of schedule, not yet a schedule: call it, {cls.name}(...)"
    )


class KindType(ABCMeta):
    """The type of kinds: `0.1 * cosine`, without the call, is answered in words."""

    __mul__ = __rmul__ = __truediv__ = __add__ = __radd__ = __rshift__ = __rrshift__ = _uncalled


class Kind(Schedule, metaclass=KindType):
    """A schedule with a formula of its own: a leaf of the expression.

    A kind is a frozen dataclass. Its fields are its arguments; those without a default, and a
    leading `length`, are written by position.
    """

    __slots__ = ()

    name: ClassVar[str]
    """Its name in text, set by the registry."""

    durations: ClassVar[tuple[str, ...]] = ("length",)

    spelling: ClassVar[dict[str, str]] = {}
    """Fields whose argument has another name, because a method has that one."""

    by_position: ClassVar[int] = 1
    """How many fields are written without their name."""

    warms_up: ClassVar[bool] = False
    """Whether it is a rise to the full rate: `lint` then says if it is too short or too long."""

    @property
    def jumps(self) -> tuple[Any, ...]:
        """Steps at which the value is meant to jump: `lint` names those that are never reached."""
        return ()

    @property
    def is_open(self) -> bool:
        return self.argument("length") is None

    @property
    def is_bound(self) -> bool:
        return all(is_steps(getattr(self, name)) for name in self.durations)

    def resolve(self, clock: Clock) -> Self:
        changed = {
            name: _resolved(clock, f"{name} of {self.name}", value)
            for name in self.durations
            if (value := self.argument(name)) is not None
        }
        return replace(self, **changed)  # type: ignore[type-var]

    def fill(self, room: Steps) -> Schedule:
        return replace(self, length=room)  # type: ignore[type-var]

    def text(self) -> str:
        return f"{self.name}({', '.join(self.arguments())})"

    def arguments(self) -> Iterator[str]:
        """Yield its arguments as text, those at their default left out."""
        skipped = False
        for i, field in enumerate(f for f in fields(self) if f.init):  # type: ignore[arg-type]
            value = self.argument(field.name)
            if value == field.default and type(value) is type(field.default):
                skipped = True
            elif i < self.by_position and not skipped:
                yield written(value)
            else:
                yield f"{field.name}={written(value)}"


class Endless(Kind):
    """A kind without a length: it goes on for ever, or until another segment follows."""

    __slots__ = ()

    durations: ClassVar[tuple[str, ...]] = ()

    @property
    def length(self) -> None:
        return None

    def fill(self, room: Steps) -> Schedule:
        return build("Take", self, room)


def _resolved(clock: Clock, name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(in_steps(clock, name, v) for v in value)
    return in_steps(clock, name, value)
