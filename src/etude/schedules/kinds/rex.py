"""REX: a reflected exponential, which stays high for longer than a linear decay."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, number
from etude.schedules.arguments import LENGTH, SHARE
from etude.schedules.registry import kind


@kind(
    "rex",
    "rex(100)",
    "rex('90%', floor=0.1)",
    "rex()",
    within=(0.0, 1.0),
    arguments={"length": LENGTH, "floor": SHARE},
)
@dataclass(frozen=True, slots=True, repr=False)
class Rex(Kind):
    """Reflected exponential decay: s(t) = floor + (1 − floor)·(1 − u)/(½ + ½(1 − u)), u = t/T.

    Args:
        length: T, in steps or with a unit; None fills the rest of the horizon.
        floor: Value at the end, relative to the peak of 1, in [0, 1].

    Raises:
        BadValueError: The floor is outside [0, 1], or the length is negative.

    Examples:
        >>> s = rex(100)
        >>> s(0), s(50), s(100)
        (1.0, 0.6666666666666666, 0.0)

    Source: Chen et al. 2022, "REX: Revisiting Budgeted Training with an Improved Schedule".
    """

    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)
    floor: float = 0.0

    def __post_init__(self) -> None:
        self.put_length()
        self.put(
            floor=number("floor", self.floor, at_least=0.0, at_most=1.0),
        )

    def at(self, t: float) -> float:
        T: Any = self.length
        if t >= T:
            return self.floor
        left: float = (T - t) / T
        return self.floor + (1.0 - self.floor) * (left / (0.5 + 0.5 * left))

    def on(self, t: Any, xp: Any) -> Any:
        T: Any = self.length
        left = (T - xp.clip(t, 0.0, T)) / (T or 1)
        return self.floor + (1.0 - self.floor) * (left / (0.5 + 0.5 * left))


rex = Rex
