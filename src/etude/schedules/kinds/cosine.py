"""Cosine annealing."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, number
from etude.schedules.arguments import LENGTH, POWER, SHARE
from etude.schedules.registry import kind

_QUARTER = 0.5 * math.pi


@kind(
    "cosine",
    "cosine()",
    "cosine(9_500, floor=0.01)",
    "cosine('2 epochs', exponent=2.0)",
    "cosine(0, floor=0.5)",
    within=(0.0, 1.0),
    arguments={"length": LENGTH, "floor": SHARE, "exponent": POWER},
)
@dataclass(frozen=True, slots=True, repr=False)
class Cosine(Kind):
    """Cosine decay: s(t) = floor + (1 − floor)·(½(1 + cos(πt/T)))^p, then floor.

    It is computed as sin(π(T − t)/2T)^2p, which is equal but more precise near the end.

    Args:
        length: T, in steps or with a unit; None fills the rest of the horizon.
        floor: Value at the end, relative to the peak of 1, in [0, 1].
        exponent: p > 0, the power of the cosine term.

    Raises:
        BadValueError: The floor is outside [0, 1], or the exponent is not positive.

    Examples:
        >>> s = cosine(100, floor=0.01)
        >>> s(0), round(s(50), 12), s(100), s(1_000)
        (1.0, 0.505, 0.01, 0.01)

    Source: Loshchilov and Hutter 2017, "SGDR"; the exponent as in optax `cosine_decay_schedule`.
    """

    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)
    floor: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        self.put_length()
        self.put(
            floor=number("floor", self.floor, at_least=0.0, at_most=1.0),
            exponent=number("exponent", self.exponent, above=0.0),
        )

    def at(self, t: float) -> float:
        T: Any = self.length
        if t >= T:
            return self.floor
        wave = math.sin(_QUARTER * ((T - t) / T)) ** 2
        if self.exponent != 1.0:
            wave **= self.exponent
        return self.floor + (1.0 - self.floor) * wave

    def on(self, t: Any, xp: Any) -> Any:
        T: Any = self.length
        root = xp.sin(_QUARTER * ((T - xp.clip(t, 0.0, T)) / (T or 1)))
        wave = root * root
        if self.exponent != 1.0:
            wave = wave**self.exponent
        return self.floor + (1.0 - self.floor) * wave


cosine = Cosine
