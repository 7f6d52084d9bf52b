"""Which arguments a kind of schedule takes, as data: the tests draw from it, and need no list.

A kind names the domain of each argument beside its formula, `@kind(..., arguments={"floor":
SHARE})`; `etude.schedules.testing` turns domains into hypothesis' strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WholeIn:
    """Whole numbers from `low` to `high`."""

    low: int
    high: int


@dataclass(frozen=True)
class RealIn:
    """Numbers from `low` to `high`, `low` itself left out where `above`, rounded to `digits`."""

    low: float
    high: float
    digits: int | None = 6
    above: bool = False


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Either:
    """Anything that lies in one of several domains."""

    domains: tuple[Domain, ...]


@dataclass(frozen=True)
class Rising:
    """From `least` to 6 whole steps, in rising order."""

    least: int = 1


@dataclass(frozen=True)
class AsMany:
    """As many values of a domain as another argument has, and `more`."""

    domain: Domain
    other: str
    more: int = 0


@dataclass(frozen=True)
class Events:
    """A log of (step, metric or None), in the order of steps."""


Domain = WholeIn | RealIn | OneOf | Either | Rising | AsMany | Events

Arguments = Mapping[str, Domain]


def maybe(domain: Domain) -> Either:
    """Return a domain that has None too."""
    return Either((OneOf((None,)), domain))


WHOLE = WholeIn(1, 5_000)
SPAN = Either((WHOLE, RealIn(0.5, 500.0, 3)))
LENGTH = Either((WHOLE, OneOf((0,)), RealIn(0.5, 500.0, 3)))
SHARE = RealIn(0.0, 1.0)
PART = RealIn(0.01, 1.0)
POWER = RealIn(0.25, 4.0, 3)
FACTOR = RealIn(-3.0, 3.0)
FLAG = OneOf((False, True))
EVENTS = Events()
