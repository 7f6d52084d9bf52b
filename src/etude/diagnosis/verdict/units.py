"""Small functions that take the units out of a number."""

from __future__ import annotations

import math


def ramp(value: float, low: float, high: float) -> float:
    """Return 0 up to `low`, 1 from `high`, and a line between; NaN of NaN.

    >>> ramp(0.5, 0.0, 2.0), ramp(9.0, 0.0, 2.0)
    (0.25, 1.0)
    """
    if math.isnan(value):
        return math.nan
    return min(max((value - low) / (high - low), 0.0), 1.0)
