"""The table of kinds: the one place that knows every name of the text form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

from etude.errors import BadTypeError, unknown_name
from etude.schedules._base import Schedule
from etude.schedules._kind import Kind

K = TypeVar("K", bound=type[Kind])
F = TypeVar("F", bound=Callable[..., Schedule])


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One name of the text form.

    Args:
        name: The name that text and JSON use.
        make: What builds the schedule: the class of a kind, or a function that composes kinds.
        examples: Texts that parse; the tests evaluate every one of them.
        within: Bounds that values keep for any valid arguments, where the kind promises them.
    """

    name: str
    make: Callable[..., Schedule]
    examples: tuple[str, ...]
    within: tuple[float, float] | None = None


KINDS: dict[str, ScheduleRow] = {}
"""Every kind and every composition, by name."""


def kind(name: str, *examples: str, within: tuple[float, float] | None = None) -> Callable[[K], K]:
    """Enter a class into the table of kinds."""

    def enter(cls: K) -> K:
        cls.name = name
        cls.__init__ = _told(cls, name)  # type: ignore[method-assign]
        KINDS[name] = ScheduleRow(name, cls, examples, within)
        return cls

    return enter


def _told(cls: type[Kind], name: str) -> Callable[..., None]:
    """Return the class's `__init__`, which now says in words what is wrong with a call."""
    init = cls.__init__

    @wraps(init)
    def told(self: Kind, *args: Any, **named: Any) -> None:
        try:
            init(self, *args, **named)
        except TypeError as error:
            within = error.__traceback__ and error.__traceback__.tb_next
            if within is not None:
                raise
            known = list(signature(init).parameters)[1:]
            for one in named:
                if one in ("steps", "epochs") and "length" in known:
                    value = named[one] if one == "steps" else f"{named[one]} epochs"
                    raise BadTypeError(
                        f"{name} has no argument {one!r}: write {name}(length={value!r})"
                    ) from None
                if one not in known:
                    raise unknown_name(f"argument of {name}", one, known) from None
            said = str(error).replace(f"{cls.__name__}.__init__()", name)
            raise BadTypeError(f"{said}. Its arguments: {', '.join(known)}") from None

    return told


def composition(
    name: str, *examples: str, within: tuple[float, float] | None = None
) -> Callable[[F], F]:
    """Enter a function into the table whose result is written as what it composes."""

    def enter(make: F) -> F:
        KINDS[name] = ScheduleRow(name, make, examples, within)
        return make

    return enter
