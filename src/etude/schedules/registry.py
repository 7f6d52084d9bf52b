"""The table of kinds: the one place that knows every name of the text form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from etude.schedules._base import Schedule
from etude.schedules._kind import Kind

K = TypeVar("K", bound=type[Kind])
F = TypeVar("F", bound=Callable[..., Schedule])


@dataclass(frozen=True, slots=True)
class Row:
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


KINDS: dict[str, Row] = {}
"""Every kind and every composition, by name."""


def kind(name: str, *examples: str, within: tuple[float, float] | None = None) -> Callable[[K], K]:
    """Enter a class into the table of kinds."""

    def enter(cls: K) -> K:
        cls.name = name
        KINDS[name] = Row(name, cls, examples, within)
        return cls

    return enter


def composition(
    name: str, *examples: str, within: tuple[float, float] | None = None
) -> Callable[[F], F]:
    """Enter a function into the table whose result is written as what it composes."""

    def enter(make: F) -> F:
        KINDS[name] = Row(name, make, examples, within)
        return make

    return enter
