"""Step decay and exponential decay."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from etude.schedules._base import Schedule
from etude.schedules._kind import Endless
from etude.schedules._numbers import Duration, duration, flag, number, written
from etude.schedules.arguments import FLAG, PART, SPAN, RealIn
from etude.schedules.registry import composition, kind


def power(base: float, exponent: float) -> float:
    """Return base^exponent, or infinity if float64 overflows, as for arrays."""
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf


@kind(
    "exponential",
    "exponential(0.95)",
    "exponential(0.5, every=10)",
    "exponential(0.5, every='1 epoch', staircase=True)",
    arguments={"gamma": RealIn(0.5, 1.0, None, above=True), "every": SPAN, "staircase": FLAG},
)
@dataclass(frozen=True, slots=True, repr=False)
class Exponential(Endless):
    """A factor γ every E steps: s(t) = γ^(t/E), with `staircase` γ^⌊t/E⌋.

    Args:
        gamma: γ > 0; below 1 it decays, above 1 it grows.
        every: E, in steps or with a unit.
        staircase: Whether the value changes only at multiples of E.

    Raises:
        BadValueError: γ or E is not positive.

    Examples:
        >>> exponential(0.5, every=10)(20), exponential(0.5, every=10, staircase=True)(29)
        (0.25, 0.25)
    """

    gamma: float
    every: Duration = 1
    staircase: bool = False

    durations: ClassVar[tuple[str, ...]] = ("every",)

    def __post_init__(self) -> None:
        self.put(
            gamma=number("gamma", self.gamma, above=0.0),
            every=duration("every", self.every, above=0.0),
            staircase=flag("staircase", self.staircase),
        )

    def at(self, t: float) -> float:
        E: Any = self.every
        return power(self.gamma, t // E if self.staircase else t / E)

    def on(self, t: Any, xp: Any) -> Any:
        return self.gamma ** (t // self.every if self.staircase else t / self.every)

    def text(self) -> str:
        if self.staircase:
            return f"step({written(self.every)}, {written(self.gamma)})"
        return Endless.text(self)


@composition(
    "step",
    "step(30, 0.1)",
    "step('30 epochs', 0.5)",
    arguments={"every": SPAN, "gamma": PART},
)
def step(every: Duration, gamma: float = 0.1) -> Schedule:
    """Return step decay: s(t) = γ^⌊t/E⌋, the staircase of `exponential`.

    Args:
        every: E, in steps or with a unit.
        gamma: γ > 0, the factor at each step.

    Returns:
        The schedule; it is endless.

    Raises:
        BadValueError: E or γ is not positive.

    Examples:
        >>> s = 0.1 * step(10, 0.5)
        >>> s(9), s(10), s(20), s(30)
        (0.1, 0.05, 0.025, 0.0125)
    """
    return Exponential(gamma, every, True)


exponential = Exponential
