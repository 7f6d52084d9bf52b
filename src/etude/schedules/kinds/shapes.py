"""The shapes of a ramp from one value to another."""

from __future__ import annotations

import math
from typing import Any

from etude.errors import BadValueError
from etude.schedules._numbers import choice

SHAPES = ("linear", "cosine", "exponential", "constant")
"""Map progress u in [0, 1] to a value, from a at u = 0 to b at u = 1.

linear: a + (b − a)·u. cosine: a + (b − a)·sin²(πu/2). exponential: a·(b/a)^u. constant: a.
"""


def shape_name(shape: object, start: float, end: float) -> str:
    """Return the name of a shape, or raise if it is unknown or cannot connect `start` and `end`."""
    name = choice("shape", shape, SHAPES)
    if name == "exponential" and not start * end > 0.0:
        raise BadValueError(
            f"an exponential shape from {start} to {end} is impossible: both must be above 0, "
            "such as start=0.01"
        )
    return name


def shape_at(shape: str, start: float, end: float, u: float) -> float:
    """Return the value at progress u, 0 ≤ u < 1."""
    if shape == "linear":
        return start + (end - start) * u
    if shape == "cosine":
        return start + (end - start) * math.sin(0.5 * math.pi * u) ** 2
    if shape == "exponential":
        return float(start * (end / start) ** u)
    return start


def shape_on(shape: str, start: Any, end: Any, u: Any, xp: Any) -> Any:
    """Return the values at an array of progress u; start and end may be arrays of its shape."""
    if shape == "linear":
        return start + (end - start) * u
    if shape == "cosine":
        s = xp.sin(0.5 * math.pi * u)
        return start + (end - start) * (s * s)
    if shape == "exponential":
        return start * (end / start) ** u
    return start + xp.zeros_like(u)
