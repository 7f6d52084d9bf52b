"""How many seeds a tuning may compare over, and which part of its budget that takes."""

from __future__ import annotations

from etude.errors import BadTypeError, BadValueError, as_whole, shown
from etude.tuning.search.ladder import LEAST

LEVELS = ((1 / 4, 4), (1 / 2, 3), (3 / 4, 2), (1.0, 2))
"""Shares of a run to which the finalists are trained with every seed, and how many at most."""

MOST = 100
"""The largest number of seeds."""


def checked_seeds(seeds: object) -> int:
    """Return the number of seeds.

    Raises:
        BadTypeError: If it is no whole number.
        BadValueError: If it is out of bounds.
    """
    count = as_whole(seeds)
    if count is None:
        raise BadTypeError(f"seeds={shown(seeds)} is not a whole number: give one, such as 3")
    if not 1 <= count <= MOST:
        raise BadValueError(f"seeds={count} is out of bounds: give 1 to {MOST}")
    return count


def check_budget(budget: float, seeds: int, folds: int) -> None:
    """Refuse a budget that compares no two rates over seeds, and seeds of folds.

    Raises:
        BadValueError: If it is too small, or both are asked for.
    """
    if seeds > 1 and folds > 1:
        raise BadValueError(
            f"seeds={seeds} and folds={folds} both train every rate anew: give one of them"
        )
    least = least_budget(seeds)
    if budget < least:
        raise BadValueError(
            f"budget={budget:.15g} is too small for seeds={seeds}: comparing two rates with each "
            f"seed takes at least {least:g} full runs, the finished model included"
        )


def least_for(part: float, seeds: int) -> float:
    """Return the smallest budget of which the search may spend a part.

    >>> least_for(1.5, 1), least_for(1.5, 3)
    (1.5, 3.0)
    """
    return part if seeds == 1 else max(2 * part, part + _compared(seeds))


def least_budget(seeds: int) -> float:
    """Return the smallest budget with which two rates are compared over seeds.

    >>> least_budget(1), least_budget(3)
    (1.2, 2.45)
    """
    return LEAST + _compared(seeds)


def searched(budget: float, seeds: int) -> float:
    """Return the part of a budget that the search with the first seed may spend.

    It is half, but at least what a search needs; what it leaves goes to the other seeds too.

    >>> searched(3.0, 1), searched(3.0, 3), searched(10.0, 3)
    (3.0, 1.5, 5.0)
    """
    if seeds == 1:
        return budget
    return max(LEAST, min(budget / 2, budget - _compared(seeds)))


def _compared(seeds: int) -> float:
    """Return what two rates cost at the first level, the second of them with every seed."""
    return 0.0 if seeds == 1 else (2 * seeds - 1) * LEVELS[0][0]
