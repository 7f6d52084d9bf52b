"""Checks of the options of models and data: each error names the value, the bound and the fix."""

from __future__ import annotations

import math

from etude.errors import BadTypeError, BadValueError, as_real, as_whole, kind_of, shown

LARGEST = 2**31


def whole(name: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """Return `value` if it is a whole number within [least, most].

    Args:
        name: The option's name, for the message.
        value: The value to check; a bool is refused.
        least: The smallest value allowed.
        most: The largest value allowed; None for 2³¹, since no larger size fits in memory.

    Raises:
        BadTypeError: If it is not a whole number.
        BadValueError: If it is outside the bounds.

    >>> whole("depth", 2)
    2
    """
    bound = f"at least {least}" if most is None else f"from {least} to {most}"
    found = as_whole(value)
    if found is None:
        raise BadTypeError(f"{name}={value!r} is {kind_of(value)}: give a whole number, {bound}")
    if most is None and found > LARGEST:
        bound = f"from {least} to {LARGEST}"
    if not least <= found <= (LARGEST if most is None else most):
        raise BadValueError(f"{name}={shown(value)} is out of bounds: give a whole number, {bound}")
    return found


def share(name: str, value: object, *, open_low: bool = False) -> float:
    """Return `value` as a float if it lies in [0, 1), or in (0, 1) with `open_low`.

    Raises:
        BadTypeError: If it is not a number.
        BadValueError: If it is NaN or outside the interval.

    >>> share("dropout", 0.5)
    0.5
    """
    bound = "above 0 and below 1" if open_low else "at least 0 and below 1"
    number = real(name, value, bound)
    if not (0 < number < 1 or (number == 0 and not open_low)):
        raise BadValueError(f"{name}={value} is out of bounds: give a number {bound}")
    return number


def amount(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number of at least 0.

    Raises:
        BadTypeError: If it is not a number.
        BadValueError: If it is negative, NaN or infinite.

    >>> amount("noise", 1)
    1.0
    """
    bound = "that is finite and at least 0"
    number = real(name, value, bound)
    if not (math.isfinite(number) and number >= 0):
        raise BadValueError(f"{name}={value} is out of bounds: give a number {bound}")
    return number


def real(name: str, value: object, bound: str) -> float:
    """Return `value` as a float if it is a number; `bound` describes the bound in the message.

    Raises:
        BadTypeError: If it is not a number.
    """
    found = as_real(value)
    if found is None:
        raise BadTypeError(f"{name}={value!r} is {kind_of(value)}: give a number {bound}")
    return found


def flag(name: str, value: object) -> bool:
    """Return `value` if it is True or False.

    Raises:
        BadTypeError: If it is anything else. 1 and 'yes' are refused too: they may be mistakes.

    >>> flag("residual", True)
    True
    """
    if not isinstance(value, bool):
        raise BadTypeError(
            f"{name}={value!r} is {kind_of(value)}: give true or false (True, False)"
        )
    return value
