"""The values of one axis of a plan: one value, a list, or a range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from etude.errors import BadTypeError, BadValueError, as_whole, check_real, shown

MOST = 10_000
"""The largest number of values of one axis."""


KEYS = {"from", "to", "points", "by"}
"""The keys of a range."""


class Span(tuple[Any, ...]):
    """The values of a range, and the range itself, inside which a sampler proposes others.

    Without `points` and `by` the values are its two ends alone.

    Attributes:
        table: The range as it was given.

    >>> Span((1, 2, 4), {"from": 1, "to": 4, "points": 3})
    (1, 2, 4)
    """

    table: Mapping[str, Any]

    def __new__(cls, values: Sequence[Any], table: Mapping[str, Any]) -> Self:
        """Return the span."""
        span = super().__new__(cls, values)
        span.table = MappingProxyType(dict(table))
        return span

    def __reduce__(self) -> tuple[Any, ...]:
        return Span, (tuple(self), dict(self.table))

    @property
    def open(self) -> bool:
        """Whether it has no values between its ends, so that it needs a sampler."""
        return not {"points", "by"} & self.table.keys()


def is_range(value: object) -> bool:
    """Return whether a value of a plan is a range."""
    return isinstance(value, Mapping) and bool(KEYS & value.keys())


def plain_of(values: object, *, ranges: bool = False) -> Any:
    """Return the values of an axis as JSON holds them.

    Args:
        values: The values.
        ranges: Whether to return a range as its table.

    >>> plain_of((0.1, 1.0)), plain_of("cosine()")
    ([0.1, 1.0], 'cosine()')
    """
    if ranges and isinstance(values, Span):
        return dict(values.table)
    return list(values) if isinstance(values, tuple) else values


def values_of(axis: str, given: object) -> tuple[Any, ...]:
    """Return the values of an axis.

    A range is a table of `from`, `to`, both included, and either `points`, whose values have
    equal ratios (of whole ends, they are rounded), or `by`, whose values have equal distances.

    Args:
        axis: The name of the axis, for error messages.
        given: One value, a list, or a range.

    Raises:
        BadValueError: If there is no value, a value is there twice, or the range has an end, a
            number or a key that it cannot have.

    >>> values_of("lrs", {"from": 0.001, "to": 1.0, "points": 4})
    (0.001, 0.01, 0.1, 1.0)
    >>> values_of("seeds", {"from": 0, "to": 4, "by": 2}), values_of("seeds", 3)
    ((0, 2, 4), (3,))
    """
    found: tuple[Any, ...]
    if isinstance(given, Mapping) and is_range(given):
        found = _range(axis, given)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        found = tuple(given)
    else:
        found = (given,)
    if not found:
        raise BadValueError(f"{axis} is empty: give at least one value, or leave {axis} out")
    if len(found) > MOST:
        raise BadValueError(f"{axis} has {len(found):,} values: give at most {MOST:,}")
    for i, value in enumerate(found):
        if value in found[:i]:
            raise BadValueError(f"{axis} has {shown(value)} twice: give each value once")
    return found


def no_range(axis: str, table: Mapping[str, Any]) -> BadValueError:
    """Return the error for a table that is no range."""
    return BadValueError(
        f"{axis}={shown(dict(table))} is no range: give from, to, and either points or by"
    )


def _range(axis: str, table: Mapping[str, Any]) -> Span:
    steps = {"points", "by"} & table.keys()
    if table.keys() - KEYS or not {"from", "to"} <= table.keys() or len(steps) > 1:
        raise no_range(axis, table)
    low, high = (_end(axis, name, table[name]) for name in ("from", "to"))
    if low > high:
        raise BadValueError(f"{axis} goes from {low} to {high}: give the smaller end first")
    whole = isinstance(low, int) and isinstance(high, int)
    if "by" in table:
        by = _end(axis, "by", table["by"])
        if by <= 0:
            raise BadValueError(f"{axis}.by={by} is out of bounds: give a distance above 0")
        count = math.floor((high - low) / by + 1e-9) + 1
        return Span(tuple(low + i * by for i in range(min(count, MOST + 1))), table)
    points = as_whole(table.get("points", 2))
    if points is None:
        raise BadTypeError(
            f"{axis}.points={shown(table['points'])} is not a whole number: give one"
        )
    if not 2 <= points <= MOST:
        raise BadValueError(f"{axis}.points={points} is out of bounds: give 2 to {MOST:,}")
    if low <= 0:
        raise BadValueError(
            f"{axis}.from={low} is out of bounds: points have equal ratios, so it must be above 0; "
            "give by= for equal distances"
        )
    decades = math.log10(high / low) / (points - 1)
    inner = (low * 10 ** (i * decades) for i in range(1, points - 1))
    rounded = (round(v) if whole else float(f"{v:.6g}") for v in inner)
    return Span(tuple(dict.fromkeys((low, *rounded, high))), table)


def _end(axis: str, name: str, value: object) -> float | int:
    whole = as_whole(value)
    number = check_real(f"{axis}.{name}", value, "one") if whole is None else whole
    if not math.isfinite(number):
        raise BadValueError(f"{axis}.{name}={number} is not finite: give a number")
    return number
