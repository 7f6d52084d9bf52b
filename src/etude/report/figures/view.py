"""Chooses the range of an axis, without extreme values that would flatten the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

WIDE = 10.0
"""The ratio of the highest to the lowest value above which an axis is logarithmic."""

DEEPEST = 1e9
"""The largest ratio of the reference to the lowest value shown on a logarithmic axis; lower values
are rounding errors."""


@dataclass(frozen=True)
class View:
    """The range of an axis in its own units, and whether it is logarithmic."""

    low: float
    high: float
    log: bool

    def limits(self) -> tuple[float, float]:
        """Return the range for a plotting library: exponents if the axis is logarithmic."""
        if self.log:
            return math.log10(self.low), math.log10(self.high)
        return self.low, self.high


def view(
    values: Iterable[float],
    reference: float = math.nan,
    room: float = 0.25,
    below: float = 0.06,
    log: bool = True,
) -> View:
    """Return a range that shows all values up to some distance above a reference.

    With s the distance from the lowest value to the reference (in decades on a logarithmic axis),
    values more than room * s above the reference are out of range.

    Args:
        values: The values to show; NaN and infinite values are ignored.
        reference: The value of an untrained model; NaN takes the highest value.
        room: The margin above the reference, as a share of s.
        below: The margin below the lowest value, as a share of s.
        log: Whether the axis can be logarithmic; it is if positive values span a decade.

    >>> view([1.0, 2.0, 1e30], reference=2.0)
    View(low=0.94, high=2.25, log=False)
    >>> view([0.01, 2.0], reference=2.0).log
    True
    """
    finite = sorted(v for v in values if math.isfinite(v))
    if not finite:
        return View(0.0, 1.0, False)
    low = finite[0]
    top = reference if math.isfinite(reference) else finite[-1]
    if top <= low:
        top = median(finite)
    if log and low > 0 and top / low > WIDE:
        low = max(low, top / DEEPEST)
        span = math.log10(top / low)
        most = 10 ** min(300.0, math.log10(top) + room * span)
        pad = 10 ** (0.06 * span)
        return View(low / 10 ** (below * span), min(most, max(top, finite[-1]) * pad), True)
    # Equal values also need an axis with a height.
    span = top - low or 0.1 * abs(top) or 1.0
    high = min(top + room * span, max(top, finite[-1]) + 0.06 * span)
    return View(low - below * span, max(high, low + 0.06 * span), False)


def shown_length(length: int, reached: int) -> int:
    """Return the number of updates on an axis: the full run, or those done if far fewer.

    >>> shown_length(100, 3), shown_length(100, 60)
    (3, 100)
    """
    return length if 2 * reached >= length else max(1, reached)


def rates_view(rates: Iterable[float]) -> View:
    """Return the range of a logarithmic axis of learning rates, with a margin on both sides.

    >>> rates_view([0.01]).log
    True
    """
    known = list(rates)
    margin = 10**0.25 if max(known) > min(known) else 10**0.6
    return View(min(known) / margin, max(known) * margin, True)
