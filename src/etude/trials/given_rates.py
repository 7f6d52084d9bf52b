"""Checks learning rates that were given as a list."""

from __future__ import annotations

import math
from collections.abc import Iterable

from etude.errors import BadTypeError, BadValueError, shown

SUCH = "a list of rates, such as [0.001, 0.01, 0.1]"


def checked_rates(lrs: object, name: str = "lrs", such: str = SUCH) -> tuple[float, ...]:
    """Return rates, ascending.

    Args:
        lrs: The rates.
        name: What they are called, as the user gave them.
        such: What to give, for the message.

    Raises:
        BadTypeError: If they are no numbers.
        BadValueError: If there are none, one is out of bounds, or two are equal.

    >>> checked_rates([0.1, 0.01])
    (0.01, 0.1)
    """
    if isinstance(lrs, (str, bytes)) or not isinstance(lrs, Iterable):
        raise BadTypeError(f"{name}={shown(lrs)}: give {such}")
    listed = list(lrs)
    if not listed:
        raise BadValueError(f"{name} is empty: give at least one rate, such as 0.001")
    found = []
    for place, lr in enumerate(listed):
        try:
            value = float(lr)
        except (TypeError, ValueError):
            raise BadTypeError(f"{name}[{place}]={shown(lr)} is not a number") from None
        if isinstance(lr, (bool, str)):
            raise BadTypeError(f"{name}[{place}]={shown(lr)} is not a number")
        if not (math.isfinite(value) and value > 0):
            raise BadValueError(f"{name}[{place}]={value!r} is out of bounds: give a rate above 0")
        found.append(value)
    if len(set(found)) < len(found):
        twice = next(lr for lr in found if found.count(lr) > 1)
        raise BadValueError(f"{name} has {twice:g} twice: give each rate once")
    return tuple(sorted(found))
