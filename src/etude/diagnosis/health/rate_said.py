"""Where the rate of a run lies, without units, in sentences."""

from __future__ import annotations

import math

import numpy as np

from etude.diagnosis.history import History, RunQuantity
from etude.errors import BadValueError, StorageError, shown
from etude.record import Record

Tied = tuple[float, float]
"""The lowest and the highest rate that a tuning could not tell from the best one."""


def checked_tied(tied: object) -> Tied | None:
    """Return a tied range; None for None.

    Raises:
        BadValueError: If it is not two positive numbers in order.
    """
    if tied is None:
        return None
    try:
        low, high = map(float, tied)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 < low <= high < math.inf:
        raise BadValueError(
            f"tied is {shown(tied)}: give the lowest and the highest rate, such as best.tied"
        )
    return low, high


def tied_of(record: Record) -> Tied | None:
    """Return the tied range that the watch of a run was given; None if it was given none.

    Raises:
        StorageError: If the note is damaged.
    """
    note = record.notes.get("watch") or {}
    try:
        return checked_tied(note.get("tied"))
    except BadValueError as error:
        raise StorageError(f"what the watch noted is damaged: {error}") from error


def place_said(rate: float, tied: Tied) -> str:
    """Say where a rate lies in the tied range of a tuning, or how far beside it.

    >>> place_said(0.2, (0.1, 0.4))[:56]
    "The rate 0.2 lies within the tied range of the recipe's "
    >>> place_said(1, (0.1, 0.4))
    "The rate 1 lies above the tied range of the recipe's tuning, 0.1 to 0.4, 2.5 times as high."
    """
    low, high = tied
    if low == high == rate:
        return f"No other rate tied with {rate:g} in the recipe's tuning."
    named = f"the tied range of the recipe's tuning, {low:g} to {high:g}"
    if rate > high:
        return f"The rate {rate:g} lies above {named}, {rate / high:.2g} times as high."
    if rate < low:
        return f"The rate {rate:g} lies below {named}, {low / rate:.2g} times lower."
    share = math.log(rate / low) / math.log(high / low)
    return (
        f"The rate {rate:g} lies within {named}: {share:.0%} of the way from its lowest to its "
        "highest rate, on a logarithmic scale."
    )


def critical_said(history: History) -> str:
    """Say what η/η_c was; empty if it was not read."""
    over = history.of_run(RunQuantity.RATE_OVER_CRITICAL)
    over = over[~np.isnan(over)]
    if not len(over):
        return ""
    low, middle, high = (_number(v) for v in np.quantile(over, (0, 0.5, 1), method="lower"))
    read = f"in the median of {len(over)} readings, from {low} to {high}"
    text = (
        f"The rate over the critical rate, η/η_c, was {middle} "
        f"{read if len(over) > 1 else 'in the one reading'}. The critical rate is the smallest at "
        "which the step raises the loss of its own batch."
    )
    risen = int(np.sum(over > 1))
    if risen and len(over) > 1:
        text += f" In {risen} of the readings the step has raised it."
    if (over == 0).any():
        text += " Where it is 0, no length of the step that was tried raised it."
    return text


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2g}"
