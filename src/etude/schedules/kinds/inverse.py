"""Endless decays: natural exponential, inverse time, inverse square root."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from etude.errors import BadValueError
from etude.schedules._base import Schedule
from etude.schedules._kind import Endless
from etude.schedules._numbers import Duration, count, duration, flag, number
from etude.schedules.arguments import FLAG, POWER, SHARE, SPAN, WholeIn, maybe
from etude.schedules.kinds.exponential import power
from etude.schedules.kinds.warmup import warmup as warmup_kind
from etude.schedules.registry import composition, kind


@kind(
    "natural_exponential",
    "natural_exponential(0.1)",
    "natural_exponential(0.5, every='1 epoch')",
    within=(0.0, 1.0),
    arguments={"k": SHARE, "every": SPAN},
)
@dataclass(frozen=True, slots=True, repr=False)
class NaturalExponential(Endless):
    """Natural exponential decay: s(t) = e^(−kt/E).

    Args:
        k: The rate of decay, k ≥ 0, per E steps.
        every: E, in steps or with a unit.

    Raises:
        BadValueError: k is negative, or E is not positive.

    Examples:
        >>> round(natural_exponential(0.1)(10), 6)
        0.367879

    Source: Paddle `NaturalExpDecay`.
    """

    k: float
    every: Duration = 1

    durations: ClassVar[tuple[str, ...]] = ("every",)

    def __post_init__(self) -> None:
        self.put(
            k=number("k", self.k, at_least=0.0), every=duration("every", self.every, above=0.0)
        )

    def at(self, t: float) -> float:
        E: Any = self.every
        return math.exp(-self.k * (t / E))

    def on(self, t: Any, xp: Any) -> Any:
        return xp.exp(-self.k * (t / self.every))


@kind(
    "inverse_time",
    "inverse_time(0.1)",
    "inverse_time(0.5, power=0.75, every=10)",
    "inverse_time(0.5, every='1 epoch', staircase=True)",
    within=(0.0, 1.0),
    arguments={"k": SHARE, "power": POWER, "every": SPAN, "staircase": FLAG},
)
@dataclass(frozen=True, slots=True, repr=False)
class InverseTime(Endless):
    """Inverse-time power decay: s(t) = (1 + kt/E)^(−p), with `staircase` (1 + k⌊t/E⌋)^(−p).

    Args:
        k: The rate of decay, k ≥ 0, per E steps.
        power: p > 0.
        every: E, in steps or with a unit.
        staircase: Whether the value changes only at multiples of E.

    Raises:
        BadValueError: A number is out of bounds.

    Examples:
        >>> s = inverse_time(0.5)
        >>> s(0), s(2), s(6)
        (1.0, 0.5, 0.25)

    Source: Robbins and Monro 1951; p = 1 is Keras `InverseTimeDecay`.
    """

    k: float
    power: float = 1.0
    every: Duration = 1
    staircase: bool = False

    durations: ClassVar[tuple[str, ...]] = ("every",)

    def __post_init__(self) -> None:
        self.put(
            k=number("k", self.k, at_least=0.0),
            power=number("power", self.power, above=0.0),
            every=duration("every", self.every, above=0.0),
            staircase=flag("staircase", self.staircase),
        )

    def at(self, t: float) -> float:
        E: Any = self.every
        return power(1.0 + self.k * (t // E if self.staircase else t / E), -self.power)

    def on(self, t: Any, xp: Any) -> Any:
        u = t // self.every if self.staircase else t / self.every
        return (1.0 + self.k * u) ** -self.power


@kind(
    "rsqrt",
    "rsqrt(4_000)",
    "rsqrt('5%')",
    within=(0.0, 1.0),
    arguments={"timescale": SPAN},
)
@dataclass(frozen=True, slots=True, repr=False)
class Rsqrt(Endless):
    """Inverse square root decay: s(t) = √(τ/(τ + t)).

    After a warmup of the same length τ it is √(τ/t) on the clock of the run.

    Args:
        timescale: τ > 0, in steps or with a unit.

    Raises:
        BadValueError: τ is not positive.

    Examples:
        >>> from etude.schedules import warmup
        >>> s = warmup(100) >> rsqrt(100)
        >>> s(100), s(400)
        (1.0, 0.5)

    Source: Zhai et al. 2022, "Scaling Vision Transformers"; transformers
    `get_inverse_sqrt_schedule`.
    """

    timescale: Duration

    durations: ClassVar[tuple[str, ...]] = ("timescale",)

    def __post_init__(self) -> None:
        self.put(timescale=duration("timescale", self.timescale, above=0.0))

    def at(self, t: float) -> float:
        tau: Any = self.timescale
        return math.sqrt(tau / (tau + t))

    def on(self, t: Any, xp: Any) -> Any:
        return xp.sqrt(self.timescale / (self.timescale + t))


@composition(
    "noam",
    "noam(4_000)",
    "noam(4_000, d_model=512)",
    "noam('5%')",
    within=(0.0, 1.0),
    arguments={"warmup": SPAN, "d_model": maybe(WholeIn(1, 999))},
)
def noam(warmup: Duration, d_model: int | None = None) -> Schedule:
    """Return the schedule of the Transformer paper.

    s(t) = d^(−½)·min(n^(−½), n·W^(−3/2)) with n = t + 1, the paper's step number. Without `d_model`
    it is scaled to a peak of 1: min(n/W, √(W/n)).

    Args:
        warmup: W > 0, in steps or with a unit; with `d_model` it must be in steps.
        d_model: d, the width of the model.

    Returns:
        The schedule; it is endless.

    Raises:
        BadValueError: W or d is not positive.

    Examples:
        >>> s = noam(4_000)
        >>> s(0), s(3_999), s(15_999)
        (0.00025, 1.0, 0.5)

    Source: Vaswani et al. 2017, "Attention Is All You Need".
    """
    W = duration("warmup", warmup, above=0.0)
    shape = (warmup_kind(W) >> Rsqrt(W)).shift(-1)
    if d_model is None:
        return shape
    if isinstance(W, str):
        raise BadValueError(
            f"warmup is {W!r}, but with d_model the peak depends on its number of steps: give "
            "warmup in steps, or leave d_model out and multiply the schedule"
        )
    return shape * math.pow(count("d_model", d_model) * W, -0.5)


natural_exponential = NaturalExponential
inverse_time = InverseTime
rsqrt = Rsqrt
