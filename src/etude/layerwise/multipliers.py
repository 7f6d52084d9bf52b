"""A multiplier is a number or a schedule of numbers, never negative."""

from __future__ import annotations

import math

from etude.errors import BadTypeError, BadValueError
from etude.schedules import Schedule, parse

Multiplier = float | Schedule
"""A multiplier of the rate: a constant, or a schedule over the steps."""


def multiplier(name: str, value: object) -> Multiplier:
    """Return a valid multiplier from a number, a Schedule or a schedule's text.

    Raises:
        BadTypeError: If it is of another type.
        BadValueError: If it is negative, NaN or infinite, or the text is not a schedule.

    >>> multiplier("conv*", 2), multiplier("head", "warmup('10%') >> constant(1)")
    (2.0, warmup('10%') >> constant())
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadTypeError(
            f"the multiplier of {name!r} is {value!r}: give a number >= 0, or a schedule's text"
        )
    return checked(name, float(value))


def checked(name: str, value: float, step: int | None = None) -> float:
    """Return a multiplier's value if it is finite and not negative.

    Raises:
        BadValueError: If it is not; the message names the rule, and the step if one is given.
    """
    if math.isfinite(value) and value >= 0:
        return value + 0.0  # turns -0.0 into 0.0: equal rules have equal texts
    when = "" if step is None else f" at update {step}"
    raise BadValueError(
        f"the multiplier of {name!r} is {value!r}{when}: give a finite number >= 0; "
        "0 freezes, 1 leaves the rate as it is"
    )


def times(first: Multiplier, second: Multiplier) -> Multiplier:
    """Return the product of two multipliers.

    >>> times(2.0, 0.5), times(1.0, parse("warmup(10)"))
    (1.0, warmup(10))
    """
    if 0.0 in (first, second):
        return 0.0
    if first == 1.0:
        return second
    if second == 1.0:
        return first
    return first * second


def plain(value: Multiplier) -> float | str:
    """Return a multiplier as a number or text."""
    return repr(value) if isinstance(value, Schedule) else value
