"""The table of kinds. A file of `kinds/` enters what it holds; nothing else lists the names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

from etude.errors import BadTypeError, BadValueError, unknown_name
from etude.schedules._base import Schedule
from etude.schedules._kind import Kind
from etude.schedules.arguments import Arguments

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
        arguments: The domain of each argument, or several such tables of which one is drawn from;
            the laws are tested on what they give. Empty for a kind that takes no plain values.
    """

    name: str
    make: Callable[..., Schedule]
    examples: tuple[str, ...]
    within: tuple[float, float] | None = None
    arguments: tuple[Arguments, ...] = ()

    @property
    def summary(self) -> str:
        """What it does, in the first line of its docstring."""
        return (self.make.__doc__ or "").strip().partition("\n")[0]


KINDS: dict[str, ScheduleRow] = {}
"""Every kind and every composition, by name."""


def discover(package: str) -> None:
    """Import every file of a package, so that the kinds in it enter the table.

    Args:
        package: Its name, such as 'etude.schedules.kinds'.
    """
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{found.name}")


def kind(
    name: str,
    *examples: str,
    within: tuple[float, float] | None = None,
    arguments: Arguments | tuple[Arguments, ...] = (),
) -> Callable[[K], K]:
    """Enter a class into the table of kinds.

    Args:
        name: What the text form calls it.
        *examples: Texts that parse.
        within: Bounds that its values keep for any valid arguments, if there are any.
        arguments: The domain of each argument, as `etude.schedules.arguments` writes them.
    """

    def enter(cls: K) -> K:
        cls.name = name
        cls.__init__ = _told(cls, name)  # type: ignore[method-assign]
        _enter(ScheduleRow(name, cls, examples, within, _tables(arguments)))
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
    name: str,
    *examples: str,
    within: tuple[float, float] | None = None,
    arguments: Arguments | tuple[Arguments, ...] = (),
) -> Callable[[F], F]:
    """Enter a function whose result is written as what it composes; arguments as for `kind`."""

    def enter(make: F) -> F:
        _enter(ScheduleRow(name, make, examples, within, _tables(arguments)))
        return make

    return enter


def _tables(arguments: Arguments | tuple[Arguments, ...]) -> tuple[Arguments, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _enter(row: ScheduleRow) -> None:
    """Put a row into the table; a name belongs to one file, which may be loaded again."""
    known = KINDS.get(row.name)
    if known is not None and known.make.__module__ != row.make.__module__:
        raise BadValueError(
            f"a schedule is already called {row.name!r}, in {known.make.__module__}: give yours "
            "another name"
        )
    KINDS[row.name] = row
