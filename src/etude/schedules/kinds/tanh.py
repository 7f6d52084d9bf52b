"""Hyperbolic tangent decay."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from etude.errors import BadValueError
from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, number
from etude.schedules.arguments import LENGTH, SHARE
from etude.schedules.registry import kind


@kind(
    "tanh",
    "tanh(100)",
    "tanh('90%', low=-4.0, high=4.0, floor=0.1)",
    within=(0.0, 1.0),
    arguments={"length": LENGTH, "floor": SHARE},
)
@dataclass(frozen=True, slots=True, repr=False)
class Tanh(Kind):
    """Hyperbolic tangent decay: s(t) = floor + (1 − floor)·½(1 − tanh(l + (h − l)·t/T)).

    It starts just below 1 and ends just above the floor; after T it keeps its last value.

    Args:
        length: T, in steps or with a unit; None fills the rest of the horizon.
        low: l, the argument of tanh at the start.
        high: h > l, the argument of tanh at the end.
        floor: The value that it approaches, relative to the peak, in [0, 1].

    Raises:
        BadValueError: A number is out of bounds, or high is not above low.

    Examples:
        >>> s = tanh(100, low=-4.0, high=4.0)
        >>> s(50), s(100) == s(200)
        (0.5, True)

    Source: Hsueh et al. 2019, "Stochastic Gradient Descent with Hyperbolic-Tangent Decay"; the
    defaults are those of timm `TanhLRScheduler`.
    """

    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)
    low: float = -7.0
    high: float = 3.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        self.put_length()
        self.put(
            low=number("low", self.low),
            high=number("high", self.high),
            floor=number("floor", self.floor, at_least=0.0, at_most=1.0),
        )
        if not self.low < self.high:
            raise BadValueError(f"high is {self.high}; it must be above low, {self.low}")

    def at(self, t: float) -> float:
        T: Any = self.length
        u: float = t / T if t < T else 1.0
        return self.floor + (1.0 - self.floor) * _down(self.low + (self.high - self.low) * u)

    def on(self, t: Any, xp: Any) -> Any:
        T: Any = self.length
        u = xp.clip(t, 0.0, T) / T if T else xp.ones_like(t)
        x = self.low + (self.high - self.low) * u
        return self.floor + (1.0 - self.floor) / (1.0 + xp.exp(xp.clip(2.0 * x, None, 700.0)))


def _down(x: float) -> float:
    """Return ½(1 − tanh x) as 1/(1 + e^2x), which is more precise for large x."""
    return 1.0 / (1.0 + math.exp(min(2.0 * x, 700.0)))


tanh = Tanh
