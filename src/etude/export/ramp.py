"""Reads a schedule as a warmup, a constant part and a decay, which configurations of others name.

What was read is compared with the schedule at every update of the run (`difference`), so that a
schedule that only looks like such a ramp is not taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import numpy as np

from etude.errors import BadValueError
from etude.next_step import NearestSchedule
from etude.schedules import Schedule, constant, cosine, linear, polynomial, rsqrt
from etude.schedules.algebra import Join
from etude.schedules.kinds.constant import Constant
from etude.schedules.kinds.cosine import Cosine
from etude.schedules.kinds.inverse import Rsqrt
from etude.schedules.kinds.polynomial import Linear, Polynomial
from etude.schedules.kinds.warmup import Warmup
from etude.schedules.wrappers import Scale

EXACT = 1e-9
"""The largest difference, as a share of the peak, between schedules that count as the same."""


class DecayCurve(StrEnum):
    """The curve by which a rate falls."""

    NONE = "none"
    LINEAR = "linear"
    COSINE = "cosine"
    SQRT = "sqrt"
    POLYNOMIAL = "polynomial"
    RSQRT = "rsqrt"


@dataclass(frozen=True)
class RateRamp:
    """A linear warmup, a constant part, and a decay to a floor that is then kept.

    Attributes:
        peak: The value between warmup and decay.
        warmup: Updates of the warmup.
        start: The share of the peak at which the warmup starts.
        hold: Updates at the peak after the warmup.
        decay: The curve of the decay.
        length: Updates of the decay; for RSQRT its timescale τ.
        floor: The share of the peak at the end.
        power: The power of a polynomial decay.
    """

    peak: float
    warmup: int = 0
    start: float = 0.0
    hold: int = 0
    decay: DecayCurve = DecayCurve.NONE
    length: int = 0
    floor: float = 0.0
    power: float = 1.0

    @property
    def end(self) -> int:
        """The update at which the decay has ended."""
        return self.warmup + self.hold + self.length

    def scaled(self, shape: Schedule) -> Schedule:
        """Return a schedule with a peak of 1 times the peak of this one."""
        return shape if self.peak == 1.0 else self.peak * shape

    @property
    def falling(self) -> Schedule:
        """The decay alone, from 1."""
        match self.decay:
            case DecayCurve.NONE:
                return constant()
            case DecayCurve.LINEAR:
                return linear(self.length, end=self.floor)
            case DecayCurve.COSINE:
                return cosine(self.length, floor=self.floor)
            case DecayCurve.SQRT:
                return polynomial(self.length, end=self.floor, k_decay=0.5)
            case DecayCurve.POLYNOMIAL:
                return polynomial(self.length, power=self.power, end=self.floor)
            case DecayCurve.RSQRT:
                return rsqrt(self.length)


def ramp_of(schedule: Schedule) -> RateRamp | None:
    """Return a bound schedule as a ramp; None if it is no such one.

    >>> from etude.schedules import cosine, warmup
    >>> found = ramp_of(0.5 * (warmup(50) >> cosine(950, floor=0.1)))
    >>> found.peak, found.warmup, found.decay.value, found.length, found.floor
    (0.5, 50, 'cosine', 950, 0.1)
    """
    factor, body = _unscaled(schedule)
    segments = list(body.parts) if isinstance(body, Join) else [body]
    peak, warmup, start, hold = factor, 0, 0.0, 0
    first: Any = segments[0]
    if isinstance(first, Warmup):
        segments.pop(0)
        if first.shape != "linear":
            return None
        warmup, start = _steps(first), first.start
    if not segments:
        return _whole(RateRamp(peak, warmup, start))
    level = 1.0
    factor, body = _unscaled(segments[0])
    if isinstance(body, Constant):
        segments.pop(0)
        level = factor * body.value
        if not segments:
            flat = RateRamp(peak * level, warmup, start)
            return _whole(flat) if level == 1.0 or not warmup else None
        hold = _steps(body)
        factor, body = _unscaled(segments[0])
    if warmup and level != 1.0:
        return None
    found = _decaying(body, RateRamp(peak * level, warmup, start, hold), factor / level)
    if found is None or len(segments) > 2:
        return None
    if len(segments) == 2:
        factor, body = _unscaled(segments[1])
        kept = factor * body.value / level if isinstance(body, Constant) else None
        if kept is None or abs(kept - found.floor) > EXACT:
            return None
    return _whole(found)


def _unscaled(schedule: Schedule) -> tuple[float, Schedule]:
    factor = 1.0
    while isinstance(schedule, Scale):
        factor, schedule = factor * schedule.factor, schedule.body
    return factor, schedule


def _decaying(body: Schedule, ramp: RateRamp, factor: float) -> RateRamp | None:
    """Return a ramp with the decay that a kind gives; None if it is another curve."""
    decay: tuple[DecayCurve, float, float] | None = None
    if isinstance(body, Cosine) and body.exponent == 1.0:
        decay = DecayCurve.COSINE, body.floor, 1.0
    elif isinstance(body, Linear) and body.start * factor:
        factor *= body.start
        decay = DecayCurve.LINEAR, body.end / body.start, 1.0
    elif isinstance(body, Polynomial) and not body.cycle:
        if body.k_decay == 1.0:
            curve = DecayCurve.LINEAR if body.power == 1.0 else DecayCurve.POLYNOMIAL
            decay = curve, body.end, body.power
        elif body.k_decay == 0.5 and body.power == 1.0:
            decay = DecayCurve.SQRT, body.end, 1.0
    elif isinstance(body, Rsqrt):
        decay = DecayCurve.RSQRT, 0.0, 1.0
    if decay is None:
        return None
    curve, floor, power = decay
    peak = ramp.peak
    if not ramp.warmup and not ramp.hold:
        peak, factor = peak * factor, 1.0
    if abs(factor - 1.0) > EXACT or not 0.0 <= floor <= 1.0:
        return None
    length = _steps(body)
    return RateRamp(peak, ramp.warmup, ramp.start, ramp.hold, curve, length, floor, power)


def _steps(kind: Any) -> int:
    """Return the length of a bound kind; of `rsqrt`, which has none, its timescale."""
    return cast(int, kind.timescale if isinstance(kind, Rsqrt) else kind.length)


def _whole(ramp: RateRamp) -> RateRamp | None:
    """Return a ramp whose parts last whole updates, as configurations count them, else None."""
    lengths = (ramp.warmup, ramp.hold, ramp.length)
    if ramp.peak <= 0 or (ramp.decay != DecayCurve.NONE and not ramp.length):
        return None
    return ramp if all(float(n).is_integer() for n in lengths) else None


def difference(ours: Schedule, theirs: Schedule, steps: int) -> tuple[float, int]:
    """Return the largest difference of two schedules over a run, and the update where it is.

    Args:
        ours: A bound schedule.
        theirs: Another.
        steps: The updates of the run.

    Returns:
        The difference as a share of the largest value of `ours`.
    """
    t = np.arange(steps)
    wanted, given = ours(t), theirs(t)
    peak = float(np.abs(wanted).max())
    apart = np.abs(wanted - given)
    place = int((apart >= apart.max() * (1 - EXACT)).argmax())
    return float(apart[place]) / (peak or 1.0), place


def check_same(
    ours: Schedule, theirs: Schedule, steps: int, target: str, nearest: bool
) -> list[str]:
    """Return a comment on what differs between a recipe's schedule and that of a configuration.

    Args:
        ours: The schedule of the recipe, bound to the run.
        theirs: What the configuration gives.
        steps: The updates of the run.
        target: The name of the program, for the message.
        nearest: Whether a difference is allowed, and said.

    Returns:
        One line where they differ; nothing where they are the same.

    Raises:
        BadValueError: If they differ and `nearest` is false; the message gives the schedule that
            the program has.
    """
    apart, place = difference(ours, theirs, steps)
    if apart <= EXACT:
        return []
    told = f"differs by up to {apart:.2g} of the peak, at update {place:,}"
    if nearest:
        return [f"# Not exact: the schedule of {target} {told}."]
    raise BadValueError(
        f"schedule {ours!r}: {target} has no such schedule, and its nearest {told}",
        next_step=NearestSchedule(repr(theirs)),
    )
