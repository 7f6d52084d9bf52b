"""Cyclical rates: triangular, triangular2 and exp_range.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks".
"""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from etude.schedules._base import Schedule
from etude.schedules._kind import Endless
from etude.schedules._numbers import Duration, duration, number
from etude.schedules.arguments import PART, SHARE, SPAN, Arguments, RealIn, maybe
from etude.schedules.kinds.exponential import power
from etude.schedules.registry import composition, kind

_CYCLE: Arguments = {"up": SPAN, "down": maybe(SPAN), "floor": SHARE}


@kind(
    "triangular",
    "triangular(100)",
    "triangular(100, 300, floor=0.1)",
    "triangular('1 epoch', per_cycle=0.5)",
    "triangular(10, per_step=0.999)",
    within=(0.0, 1.0),
    arguments={**_CYCLE, "per_cycle": PART, "per_step": RealIn(0.99, 1.0, None)},
)
@dataclass(frozen=True, slots=True, repr=False)
class Triangular(Endless):
    """Linear rise and fall in cycles: s(t) = floor + (1 − floor)·g^c·γ^t·Λ(t).

    Λ rises from 0 to 1 in `up` steps and falls to 0 in `down` steps; c counts finished cycles.

    Args:
        up: Steps from the floor to the peak, above 0, or a duration with a unit.
        down: Steps from the peak to the floor; None for as many as `up`.
        floor: The lowest value, relative to the first peak, in [0, 1].
        per_cycle: g in (0, 1], the factor of the amplitude at each cycle.
        per_step: γ in (0, 1], the factor of the amplitude at each step.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> s = triangular(100, floor=0.1)
        >>> s(0), s(50), s(100), s(200)
        (0.1, 0.55, 1.0, 0.1)

    Source: as torch `CyclicLR`.
    """

    up: Duration
    down: Duration | None = None
    floor: float = 0.0
    per_cycle: float = 1.0
    per_step: float = 1.0

    durations: ClassVar[tuple[str, ...]] = ("up", "down")

    def __post_init__(self) -> None:
        up = duration("up", self.up, above=0.0)
        self.put(
            up=up,
            down=up if self.down is None else duration("down", self.down, above=0.0),
            floor=number("floor", self.floor, at_least=0.0, at_most=1.0),
            per_cycle=number("per_cycle", self.per_cycle, above=0.0, at_most=1.0),
            per_step=number("per_step", self.per_step, above=0.0, at_most=1.0),
        )

    def at(self, t: float) -> float:
        up: Any = self.up
        down: Any = self.down
        c, u = divmod(t, up + down)
        height: float = u / up if u < up else (up + down - u) / down
        if self.per_cycle != 1.0:
            height *= power(self.per_cycle, c)
        if self.per_step != 1.0:
            height *= power(self.per_step, t)
        return self.floor + (1.0 - self.floor) * height

    def on(self, t: Any, xp: Any) -> Any:
        up: Any = self.up
        down: Any = self.down
        u = t % float(up + down)
        height = xp.where(u < up, u / up, (up + down - u) / down)
        if self.per_cycle != 1.0:
            height = height * self.per_cycle ** (t // float(up + down))
        if self.per_step != 1.0:
            height = height * self.per_step**t
        return self.floor + (1.0 - self.floor) * height

    def arguments(self) -> Iterator[str]:
        shown = Endless.arguments(self)
        return (a for a in shown if self.down != self.up or not a.startswith("down="))


@composition(
    "triangular2",
    "triangular2(100)",
    "triangular2(100, 50, floor=0.2)",
    arguments=_CYCLE,
)
def triangular2(up: Duration, down: Duration | None = None, floor: float = 0.0) -> Schedule:
    """Return triangular cycles whose amplitude halves each time.

    Args:
        up: Steps from the floor to the peak, or a duration with a unit.
        down: Steps from the peak to the floor; None for as many as `up`.
        floor: The lowest value, relative to the first peak.

    Returns:
        The schedule; it is endless.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> s = triangular2(10)
        >>> s(10), s(30), s(50)
        (1.0, 0.5, 0.25)
    """
    return Triangular(up, down, floor, per_cycle=0.5)


@composition(
    "exp_range",
    "exp_range(100, 0.999)",
    "exp_range(100, 0.99, down=20, floor=0.1)",
    arguments={**_CYCLE, "gamma": RealIn(0.99, 1.0, None)},
)
def exp_range(
    up: Duration, gamma: float, down: Duration | None = None, floor: float = 0.0
) -> Schedule:
    """Return triangular cycles whose amplitude shrinks by γ at every step.

    Args:
        up: Steps from the floor to the peak, or a duration with a unit.
        gamma: γ in (0, 1].
        down: Steps from the peak to the floor; None for as many as `up`.
        floor: The lowest value, relative to the first peak.

    Returns:
        The schedule; it is endless.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> exp_range(1, 0.5)(1)
        0.5
    """
    return Triangular(up, down, floor, per_step=gamma)


triangular = Triangular
