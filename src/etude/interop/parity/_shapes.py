"""Helpers of the parity constructors."""

from __future__ import annotations

from etude.errors import BadTypeError, BadValueError
from etude.schedules import Schedule, constant, cosine, warmup
from etude.schedules._numbers import number


def between(shape: Schedule, low: float, high: float) -> Schedule:
    """Return low + (high − low)·s(t): a schedule with values in [0, 1], scaled to two bounds.

    Examples:
        >>> between(cosine(10), 0.25, 1.25)
        1.0 * cosine(10) + 0.25
        >>> between(cosine(10), 0.0, 0.5)
        0.5 * cosine(10)
    """
    if low == 0.0:
        return high * shape
    return (high - low) * shape + low


def wave(half: float) -> Schedule:
    """Return ½(1 + cos(πt/H)) without an end: it falls for H steps and rises for H steps.

    Examples:
        >>> s = wave(10)
        >>> s(0), s(10), s(20), s(30)
        (1.0, 0.0, 1.0, 0.0)
    """
    return (cosine(half) >> warmup(half, shape="cosine")).repeat()


def delayed(begin: float, value: float, then: Schedule) -> Schedule:
    """Return a value for `begin` steps, then a schedule."""
    return constant(value, length=begin) >> then if begin > 0 else then


def divisors(div_factor: float, final_div_factor: float) -> None:
    """Raise for a factor by which no rate of a one-cycle schedule can be divided.

    Raises:
        BadTypeError: If one is not a number.
        BadValueError: If one is not above 0.
    """
    number("div_factor", div_factor, above=0.0)
    number("final_div_factor", final_div_factor, above=0.0)


def whole(name: str, value: object, *, at_least: int = 0) -> int:
    """Return a count of steps, which other libraries require to be a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadTypeError(f"{name} is {value!r}; it must be a whole number of steps")
    if not value >= at_least or value != value // 1:
        raise BadValueError(f"{name} is {value!r}; it must be a whole number, at least {at_least}")
    return int(value)
