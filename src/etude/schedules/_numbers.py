"""Numbers and durations: checks of arguments, and their canonical text."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, TypeAlias

from etude.errors import BadTypeError, BadValueError, shown, unknown_name

Steps: TypeAlias = int | float
"""A number of optimizer updates; whole numbers are stored as `int`, so boundaries are exact."""

Duration: TypeAlias = int | float | str
"""Steps, or text with a unit: `'5%'`, `'2 epochs'`, `'1e6 samples'`, `'1e9 tokens'`."""

LAST_STEP = 2**53
"""The last step; beyond it float64 cannot represent every step."""

UNITS = {
    "%": "%",
    "percent": "%",
    "step": "steps",
    "steps": "steps",
    "epoch": "epochs",
    "epochs": "epochs",
    "sample": "samples",
    "samples": "samples",
    "token": "tokens",
    "tokens": "tokens",
}
_DURATION = re.compile(
    r"\s*([0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9]{1,3})?)\s*(%|[A-Za-z]+)\s*"
)


def number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return `value` as a finite float within the bounds, or raise.

    >>> number("floor", 1, at_least=0.0)
    1.0
    >>> number("floor", -1, at_least=0.0)
    Traceback (most recent call last):
    etude.errors.BadValueError: floor is -1; it must be at least 0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadTypeError(f"{name} is {shown(value)}; it must be a number, such as 0.1")
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    if not math.isfinite(x):
        raise BadValueError(f"{name} is {shown(value)}; it must be a finite number")
    if at_least is not None and x < at_least:
        raise BadValueError(f"{name} is {shown(value)}; it must be at least {at_least:g}")
    if above is not None and x <= above:
        raise BadValueError(f"{name} is {shown(value)}; it must be above {above:g}")
    if at_most is not None and x > at_most:
        raise BadValueError(f"{name} is {shown(value)}; it must be at most {at_most:g}")
    return x + 0.0  # turns -0.0 into 0.0, so equal schedules have equal texts


def count(name: str, value: Any, *, at_least: int = 1, at_most: int = LAST_STEP) -> int:
    """Return `value` as an int within the bounds, or raise."""
    x = number(name, value, at_least=at_least, at_most=at_most)
    if not x.is_integer():
        raise BadValueError(f"{name} is {shown(value)}; it must be a whole number")
    return int(x)


def flag(name: str, value: Any) -> bool:
    """Return `value` if it is a bool."""
    if not isinstance(value, bool):
        raise BadTypeError(f"{name} is {shown(value)}; it must be True or False")
    return value


def choice(name: str, value: Any, known: Any) -> str:
    """Return `value` if it is one of the `known` names."""
    if not isinstance(value, str):
        raise BadTypeError(f"{name} is {shown(value)}; it must be one of {', '.join(known)}")
    if value not in known:
        raise unknown_name(name, value, known)
    return value


def steps(name: str, value: Any, *, above: float | None = None) -> Steps:
    """Return `value` as a number of steps, an `int` if it is whole."""
    x = number(name, value, at_least=0.0, above=above, at_most=LAST_STEP)
    if isinstance(value, Integral):
        return int(value)
    return int(x) if x.is_integer() else x


def duration(name: str, value: Any, *, above: float | None = None) -> Duration:
    """Return a duration in canonical form: steps as a number, other units as text.

    >>> duration("length", "500 steps"), duration("length", "1e6 samples")
    (500, '1_000_000 samples')
    """
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise BadTypeError(
                f"{name} is {shown(value)}; it must be a number of steps, or text with a unit, "
                "such as 500, '5%' or '2 epochs'"
            )
        return steps(name, value, above=above)
    amount, unit = split(name, value)
    if unit == "steps":
        return steps(name, amount, above=above)
    if above is not None and amount <= above:
        raise BadValueError(f"{name} is {value!r}; it must be above {above:g}")
    if unit == "%":
        if amount > 100:
            raise BadValueError(f"{name} is {value!r}; a share of the horizon is at most 100%")
        return f"{written(amount)}%"
    return f"{written(amount)} {unit[:-1] if amount == 1 else unit}"


def split(name: str, text: str) -> tuple[int | float, str]:
    """Split `'2 epochs'` into `(2, 'epochs')`."""
    found = _DURATION.fullmatch(text) if len(text) <= 64 else None
    if found is None and _plain(text):
        raise BadValueError(
            f"{name} is {text!r}; it has no unit: did you mean {float(text):.0f} or "
            f"'{text.strip()} steps'?"
        )
    if found is None:
        raise BadValueError(
            f"{name} is {shown(text)}; a duration reads like '5%', '2 epochs', '500 steps', "
            "'1e6 samples' or '1e9 tokens'"
        )
    amount, unit = found.groups()
    if unit.lower() not in UNITS:
        raise unknown_name("unit", unit, sorted(set(UNITS.values())))
    try:
        x = float(amount)
    except ValueError:
        raise BadValueError(f"{name} is {shown(text)}; {amount!r} is not a number") from None
    if not x <= LAST_STEP:
        raise BadValueError(f"{name} is {shown(text)}; the number must be at most 2**53")
    return (int(x) if x.is_integer() else x), UNITS[unit.lower()]


def _plain(text: str) -> bool:
    """Return whether a text is a whole number without a unit."""
    try:
        value = float(text)
    except ValueError:
        return False
    return len(text) <= 64 and 0 < value <= LAST_STEP and value.is_integer()


def nearest(x: Fraction) -> int:
    """Return the nearest whole number without rounding errors; halves are rounded up."""
    return math.floor(x + Fraction(1, 2))


def exact(x: Steps) -> Fraction:
    """Return the exact decimal value that `x` was written as: 0.1 is 1/10."""
    return Fraction(repr(x))


def written(value: object) -> str:
    """Return a value as Python text, the shortest that reads back equal.

    >>> written(9500), written(0.01), written("5%"), written(True), written((1, 2.5))
    ('9_500', '0.01', "'5%'", 'True', '(1, 2.5)')
    """
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))}{',' if len(value) == 1 else ''})"
    return repr(value)
