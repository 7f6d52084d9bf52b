"""Cosine annealing with warm restarts (SGDR).

Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts".
"""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

from etude.errors import BadValueError
from etude.schedules._arrays import table
from etude.schedules._base import is_steps
from etude.schedules._kind import Kind
from etude.schedules._numbers import LAST_STEP, Duration, Steps, count, duration, exact, number
from etude.schedules.arguments import PART, SHARE, SPAN, OneOf, WholeIn, maybe
from etude.schedules.kinds.exponential import power
from etude.schedules.kinds.milestones import below, pick
from etude.schedules.registry import kind

_QUARTER = 0.5 * math.pi
_LEAST_GROWTH = 1.01
"""The least growth factor: with it, all starts up to 2**53 need less than 4,000 table entries."""

_LONGEST = Fraction(10**36)
"""The longest cycle in steps; a longer cycle would give the same values. Within the first 2**53
steps, u/T is then below the precision of float64 at 1. float32 can represent this length."""


@kind(
    "restarts",
    "restarts(100)",
    "restarts(100, length_mult=2.0)",
    "restarts(10, length_mult=1.5, height_mult=0.8, floor=0.1)",
    "restarts('10%', cycles=4)",
    "restarts(10, length_mult=3.0, cycles=3, height_mult=0.5)",
    within=(0.0, 1.0),
    arguments={
        "period": SPAN,
        "length_mult": OneOf((1.0, 1.01, 1.5, 2.0, 3.0)),
        "height_mult": PART,
        "floor": SHARE,
        "cycles": maybe(WholeIn(1, 20)),
    },
)
@dataclass(frozen=True, slots=True, repr=False)
class Restarts(Kind):
    """A cosine with restarts: s(t) = floor + (1 − floor)·h^i·½(1 + cos(πu/T_i)).

    i is the number of the cycle, T_i = T·m^i its length and u the step within it. The starts
    T·(m^i − 1)/(m − 1) are computed exactly, so no restart is a step too early or too late.

    Args:
        period: T > 0, the length of the first cycle, in steps or with a unit.
        length_mult: m, the factor from one cycle's length to the next: 1, or at least 1.01.
        height_mult: h in (0, 1], the factor from one peak to the next.
        floor: Value at the end of a cycle, relative to the first peak, in [0, 1].
        cycles: The number of cycles, after which the value stays at the floor; None is endless.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> s = restarts(10, length_mult=2.0)
        >>> s(0), s(10), s(30), s(70)
        (1.0, 1.0, 1.0, 1.0)
        >>> round(s(9), 3), round(s(29), 3)
        (0.024, 0.006)
    """

    period: Duration
    length_mult: float = 1.0
    height_mult: float = 1.0
    floor: float = 0.0
    cycles: int | None = None
    starts: tuple[float, ...] | None = field(init=False, compare=False)
    lengths: tuple[float, ...] | None = field(init=False, compare=False)
    length: Steps | None = field(init=False, compare=False)

    durations: ClassVar[tuple[str, ...]] = ("period",)

    def __post_init__(self) -> None:
        self.put(
            period=duration("period", self.period, above=0.0),
            length_mult=number("length_mult", self.length_mult, at_least=1.0),
            height_mult=number("height_mult", self.height_mult, above=0.0, at_most=1.0),
            floor=number("floor", self.floor, at_least=0.0, at_most=1.0),
            cycles=None if self.cycles is None else count("cycles", self.cycles),
        )
        if 1.0 < self.length_mult < _LEAST_GROWTH:
            raise BadValueError(
                f"length_mult is {self.length_mult}; it must be 1 or at least {_LEAST_GROWTH}"
            )
        self.put(starts=None, lengths=None, length=None)
        if not isinstance(self.period, str):
            self._lay_out(exact(self.period))

    def _lay_out(self, period: Fraction) -> None:
        m = exact(self.length_mult)
        if m == 1:
            end = None if self.cycles is None else period * self.cycles
        else:
            starts, lengths = [Fraction(0)], [period]
            while starts[-1] + lengths[-1] <= LAST_STEP and len(starts) != self.cycles:
                starts.append(starts[-1] + lengths[-1])
                lengths.append(_at_most(lengths[-1] * m))
            end = None if self.cycles is None else starts[-1] + lengths[-1]
            self.put(starts=tuple(map(_number, starts)), lengths=tuple(map(_number, lengths)))
        self.put(length=None if end is None else _number(end))

    def at(self, t: float) -> float:
        T: Any = self.period
        if self.length is not None and t >= self.length:
            return self.floor
        if self.length_mult == 1.0:
            i, u = divmod(t, T)
        else:
            i = bisect_right(self.starts, t) - 1  # type: ignore[arg-type]
            u, T = t - self.starts[i], self.lengths[i]  # type: ignore[index]
        wave = math.sin(_QUARTER * ((T - u) / T)) ** 2
        if self.height_mult != 1.0:
            wave *= power(self.height_mult, i)
        return self.floor + (1.0 - self.floor) * wave

    def on(self, t: Any, xp: Any) -> Any:
        T: Any = self.period
        if self.length_mult == 1.0:
            i, u = t // float(T), t % float(T)
        else:
            i = below(table(self.starts or (), t, xp), t, xp) - 1
            u = t - pick(table(self.starts or (), t, xp), i, xp)
            T = pick(table(self.lengths or (), t, xp), i, xp)
        root = xp.sin(_QUARTER * ((T - u) / T))
        wave = root * root
        if self.height_mult != 1.0:
            wave = wave * self.height_mult ** xp.astype(i, t.dtype)
        if self.length is not None:
            wave = xp.where(t < self.length, wave, xp.zeros_like(wave))
        return self.floor + (1.0 - self.floor) * wave

    @property
    def is_open(self) -> bool:
        return self.cycles is None

    @property
    def is_bound(self) -> bool:
        return is_steps(self.period)

    def fill(self, room: Steps) -> Any:
        from etude.schedules.timing import Take

        return Take(self, room)


def _number(x: Fraction) -> Steps:
    return int(x) if x.denominator == 1 else float(x)


def _at_most(x: Fraction) -> Fraction:
    """Round a cycle's length to float64 and bound it, so that exact sums keep few digits."""
    x = min(x, _LONGEST)
    return x if x.denominator == 1 else Fraction(float(x))


restarts = Restarts
