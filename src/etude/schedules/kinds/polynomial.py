"""Polynomial and linear decay."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from etude.errors import BadValueError
from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, flag, number
from etude.schedules.arguments import FACTOR, LENGTH, POWER, SHARE, SPAN, OneOf
from etude.schedules.registry import kind


@kind(
    "polynomial",
    "polynomial(100, power=2.0)",
    "polynomial('50%', power=0.5, end=0.1)",
    "polynomial(100, power=2.0, cycle=True)",
    "polynomial(100, power=1.0, k_decay=1.5)",
    within=(0.0, 1.0),
    arguments=(
        {"length": LENGTH, "power": POWER, "end": SHARE, "k_decay": POWER},
        {"length": SPAN, "power": POWER, "end": SHARE, "cycle": OneOf((True,))},
    ),
)
@dataclass(frozen=True, slots=True, repr=False)
class Polynomial(Kind):
    """Polynomial decay: s(t) = (1 − end)·(1 − (t/T)^k)^p + end, then end.

    With `cycle` it does not stop at T: the curve is stretched to the next multiple of T each
    time it reaches its end, s(t) = (1 − end)·(1 − t/(T·max(1, ⌈t/T⌉)))^p + end.

    Args:
        length: T, in steps or with a unit; None fills the rest of the horizon.
        power: p > 0.
        end: Value at the end, relative to the first value of 1, in [0, 1].
        cycle: Whether the value rises again instead of staying at `end`.
        k_decay: k > 0; above 1 the value stays high for longer.

    Raises:
        BadValueError: A number is out of bounds, or a cycle has length 0.

    Examples:
        >>> s = polynomial(100, power=2.0)
        >>> s(0), s(50), s(100)
        (1.0, 0.25, 0.0)

    Source: Chen et al. 2017, "DeepLab"; cycle as in Keras `PolynomialDecay`; k as in Zhang and Li
    2020, "k-decay", and timm `PolyLRScheduler`.
    """

    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)
    power: float = 1.0
    end: float = 0.0
    cycle: bool = False
    k_decay: float = 1.0

    def __post_init__(self) -> None:
        above = 0.0 if flag("cycle", self.cycle) else None
        self.put_length(above=above)
        self.put(
            power=number("power", self.power, above=0.0),
            end=number("end", self.end, at_least=0.0, at_most=1.0),
            k_decay=number("k_decay", self.k_decay, above=0.0),
        )
        if self.cycle and self.k_decay != 1.0:
            raise BadValueError(
                f"cycle with k_decay={self.k_decay} is not defined: use only one of the two"
            )

    def at(self, t: float) -> float:
        T: Any = self.length
        if self.cycle:
            T *= max(1, -(-t // T))
        if t >= T:
            return self.end
        left: float = (T - t) / T if self.k_decay == 1.0 else 1.0 - (t / T) ** self.k_decay
        return (1.0 - self.end) * math.pow(left, self.power) + self.end

    def on(self, t: Any, xp: Any) -> Any:
        T: Any = self.length
        if self.cycle:
            T = T * xp.clip(-(-t // T), 1.0, None)
        else:
            t, T = xp.clip(t, 0.0, T), T or 1
        left = (T - t) / T if self.k_decay == 1.0 else 1.0 - (t / T) ** self.k_decay
        if self.length == 0:
            left = xp.zeros_like(left)
        return (1.0 - self.end) * left**self.power + self.end


@kind(
    "linear",
    "linear(100)",
    "linear(100, start=0.1, end=1.0)",
    "linear()",
    "linear(0)",
    arguments={"length": LENGTH, "start": FACTOR, "end": FACTOR},
)
@dataclass(frozen=True, slots=True, repr=False)
class Linear(Kind):
    """A straight line: s(t) = start + (end − start)·t/T, then end.

    Args:
        length: T, in steps or with a unit; None fills the rest of the horizon.
        start: Value at step 0.
        end: Value at step T and after it.

    Raises:
        BadValueError: A number is not finite, or the length is negative.

    Examples:
        >>> s = linear(10)
        >>> s(0), s(5), s(10), s(11)
        (1.0, 0.5, 0.0, 0.0)
    """

    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        self.put_length()
        self.put(
            start=number("start", self.start),
            end=number("end", self.end),
        )

    def at(self, t: float) -> float:
        T: Any = self.length
        if t >= T:
            return self.end
        left: float = (T - t) / T
        return self.end + (self.start - self.end) * left

    def on(self, t: Any, xp: Any) -> Any:
        T: Any = self.length
        return self.end + (self.start - self.end) * ((T - xp.clip(t, 0.0, T)) / (T or 1))


polynomial = Polynomial
linear = Linear
