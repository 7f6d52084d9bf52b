"""The schedulers of `timm.scheduler`, by their own names.

Each takes the rate of the optimizer first, then the arguments of timm's class after the optimizer.
The value at step t is the one after `scheduler.step(t)`, or `step_update(t)`. timm's noise is
random and is left out.

By default timm's cosine, polynomial and tanh schedules already run during the warmup, so that the
rate drops to them after it, and a milestone b takes effect at b − 1. Both are reproduced;
`warmup_prefix=True` and `multi_step` are usually what is wanted.

Deviation of all schedules with cycles: timm computes the number of the cycle by a logarithm and
misses some restarts; here they are exact.
"""

# ruff: noqa: N802 - the functions carry the names of timm's classes

from __future__ import annotations

from collections.abc import Callable, Sequence

from etude.errors import BadValueError, unknown_name
from etude.interop.parity._shapes import between, whole
from etude.interop.parity.torch import ReduceLROnPlateau
from etude.schedules import (
    Schedule,
    constant,
    cosine,
    exponential,
    inverse_time,
    linear,
    multi_step,
    polynomial,
    step,
    tanh,
)

MOST_CYCLES = 64
"""The largest number of cycles of different length or height, which are written one by one."""


def CosineLRScheduler(
    lr: float,
    t_initial: int,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
) -> Schedule:
    """Return cosines from lr to lr_min, `cycle_limit` of them, then lr_min.

    timm's `k_decay` of a cosine has no counterpart here; `PolyLRScheduler` has it.

    Examples:
        >>> CosineLRScheduler(1.0, 100, warmup_t=5, warmup_prefix=True)
        linear(5, start=0.0, end=1.0) >> 1.0 * cosine(100)
    """
    cycles = _cycles(cosine, t_initial, lr, lr_min, cycle_mul, cycle_decay, cycle_limit)
    return _after_warmup(cycles, lr, warmup_t, warmup_lr_init, warmup_prefix)


def PolyLRScheduler(
    lr: float,
    t_initial: int,
    power: float = 0.5,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    k_decay: float = 1.0,
) -> Schedule:
    """Return polynomials from lr to lr_min, `cycle_limit` of them, then lr_min.

    Examples:
        >>> PolyLRScheduler(1.0, 100, lr_min=0.25)
        0.75 * polynomial(100, power=0.5) + 0.25
    """

    def shape(length: float) -> Schedule:
        return polynomial(length, power=power, k_decay=k_decay)

    cycles = _cycles(shape, t_initial, lr, lr_min, cycle_mul, cycle_decay, cycle_limit)
    return _after_warmup(cycles, lr, warmup_t, warmup_lr_init, warmup_prefix)


def TanhLRScheduler(
    lr: float,
    t_initial: int,
    lb: float = -7.0,
    ub: float = 3.0,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
) -> Schedule:
    """Return tanh decays from lr towards lr_min, `cycle_limit` of them, then lr_min.

    Examples:
        >>> TanhLRScheduler(1.0, 100, lb=-4.0, ub=4.0)(50)
        0.5
    """

    def shape(length: float) -> Schedule:
        return tanh(length, low=lb, high=ub)

    cycles = _cycles(shape, t_initial, lr, lr_min, cycle_mul, cycle_decay, cycle_limit)
    cycles = cycles >> constant(lr_min) if cycles.length is not None else cycles
    target = lr if warmup_prefix else cycles(warmup_t)
    return _after_warmup(cycles, target, warmup_t, warmup_lr_init, warmup_prefix)


def StepLRScheduler(
    lr: float,
    decay_t: float,
    decay_rate: float = 1.0,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
) -> Schedule:
    """Return lr·rate^⌊t/decay_t⌋.

    Examples:
        >>> StepLRScheduler(0.1, 30, 0.5)
        0.1 * step(30, 0.5)
    """
    decay = lr * step(decay_t, decay_rate)
    return _after_warmup(decay, lr, warmup_t, warmup_lr_init, warmup_prefix)


def MultiStepLRScheduler(
    lr: float,
    decay_t: Sequence[int],
    decay_rate: float = 1.0,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
) -> Schedule:
    """Return lr·rate^(number of milestones ≤ t + 1): each acts one step early.

    Examples:
        >>> MultiStepLRScheduler(0.1, [30, 60], 0.5)
        0.1 * multi_step((29, 59), 0.5)
    """
    milestones = tuple(max(m - 1, 0) for m in decay_t)
    decay = lr * multi_step(milestones, decay_rate) if milestones else constant(lr)
    return _after_warmup(decay, lr, warmup_t, warmup_lr_init, warmup_prefix)


def PlateauLRScheduler(
    lr: float,
    decay_rate: float = 0.1,
    patience_t: int = 10,
    threshold: float = 1e-4,
    cooldown_t: int = 0,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    lr_min: float = 0.0,
    mode: str = "max",
) -> Schedule:
    """Return torch's `ReduceLROnPlateau` after a warmup, during which metrics are ignored.

    Examples:
        >>> s = PlateauLRScheduler(0.5, 0.5, patience_t=0).given([(1, 1.0), (2, 1.0)])
        >>> s(1), s(2)
        (0.5, 0.25)
    """
    plateau = ReduceLROnPlateau(
        lr, mode, decay_rate, patience_t, threshold, "rel", cooldown_t, lr_min
    )
    if not warmup_t:
        return plateau
    return linear(warmup_t, start=warmup_lr_init, end=lr).take(warmup_t + 1) >> plateau


def WSDLRScheduler(
    lr: float,
    t_initial: int,
    decay_t: int,
    lr_min: float = 0.0,
    stable_fn: str = "constant",
    stable_timescale: float | None = None,
    stable_power: float = 0.5,
    decay_fn: str = "1-sqrt",
    decay_power: float = 0.5,
    decay_ratio: float = 0.1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
) -> Schedule:
    """Return warmup, stable, decay; `t_initial` is the length of the last two.

    Examples:
        >>> s = WSDLRScheduler(1.0, 90, 20, decay_fn="linear", warmup_t=10)
        >>> s(10), s(80), s(90), s(100)
        (1.0, 1.0, 0.5, 0.0)
    """
    if not 0 < decay_t <= t_initial:
        raise BadValueError(
            f"decay_t is {decay_t!r}; it must be above 0 and at most t_initial, {t_initial!r}"
        )
    fall = _decay(decay_fn, decay_t, decay_power, decay_ratio)
    timescale = warmup_t if stable_timescale is None else stable_timescale
    match stable_fn:
        case "constant":
            hold = t_initial - decay_t
            late = constant(lr, length=hold) >> between(fall, lr_min, lr)
        case "rsqrt" | "power":
            power = 0.5 if stable_fn == "rsqrt" else stable_power
            stable = (lr * inverse_time(1.0, power=power, every=timescale)).clip(low=lr_min)
            weight = constant(length=t_initial - decay_t) >> fall
            late = (stable - lr_min) * weight + lr_min
        case _:
            raise unknown_name("stable_fn", stable_fn, ("constant", "rsqrt", "power"))
    return _after_warmup(late, lr, warmup_t, warmup_lr_init, True)


def _decay(name: str, length: int, power: float, ratio: float) -> Schedule:
    match name:
        case "linear":
            return linear(length)
        case "1-sqrt":
            return polynomial(length, k_decay=0.5)
        case "cosine":
            return cosine(length)
        case "power":
            return polynomial(length, k_decay=power)
        case "exp":
            fall = exponential(ratio, every=length).take(length)
            return (fall - ratio) / (1.0 - ratio)
    raise unknown_name("decay_fn", name, ("linear", "1-sqrt", "cosine", "power", "exp"))


def _cycles(
    shape: Callable[[float], Schedule],
    length: int,
    lr: float,
    lr_min: float,
    growth: float,
    decay: float,
    limit: int,
) -> Schedule:
    """Return `limit` cycles of a shape that falls from 1 to 0; each may be longer and lower."""
    whole("cycle_limit", limit)
    if limit == 0:
        return constant(lr_min)
    if growth == 1.0 and decay == 1.0:
        body = shape(length)
        return between(body if limit == 1 else body.repeat(limit), lr_min, lr)
    if limit > MOST_CYCLES:
        raise BadValueError(
            f"cycle_limit is {limit}; it must be at most {MOST_CYCLES} for cycles that differ"
        )
    parts = [between(shape(length * growth**i), lr_min, lr * decay**i) for i in range(limit)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined >> part
    return joined


def _after_warmup(body: Schedule, target: float, steps: int, start: float, own: bool) -> Schedule:
    """Return a line to `target`, then the schedule from its start, or from step `steps`."""
    if not steps:
        return body
    return linear(steps, start=start, end=target) >> (body if own else body.shift(-steps))
