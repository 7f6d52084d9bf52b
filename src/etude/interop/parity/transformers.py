"""The schedules of `transformers.optimization`, by their own names.

Each takes the rate of the optimizer first, then the arguments of the function of transformers after
the optimizer. The value at step t is the rate after t calls of `scheduler.step()`.

Deviation of all functions: a floor such as `min_lr` or `lr_end` is the floor of the given rate.
transformers computes it from the optimizer's default rate, so that a group with another rate has
another floor.
"""

from __future__ import annotations

from etude.errors import BadValueError, unknown_name
from etude.interop.parity._shapes import between, wave
from etude.interop.parity.torch import ReduceLROnPlateau
from etude.schedules import (
    Schedule,
    constant,
    cosine,
    linear,
    polynomial,
    restarts,
    rsqrt,
    warmup,
)

TYPES = ("linear", "cosine", "1-sqrt")
"""The values of `warmup_type` and `decay_type` of `get_wsd_schedule`."""


def get_constant_schedule(lr: float) -> Schedule:
    """Return lr at every step.

    Examples:
        >>> get_constant_schedule(0.1)
        constant(0.1)
    """
    return constant(lr)


def get_constant_schedule_with_warmup(lr: float, num_warmup_steps: int) -> Schedule:
    """Return a linear warmup from 0, then lr.

    Examples:
        >>> get_constant_schedule_with_warmup(0.1, 500)
        0.1 * warmup(500)
    """
    return lr * warmup(num_warmup_steps)


def get_linear_schedule_with_warmup(
    lr: float, num_warmup_steps: int, num_training_steps: int
) -> Schedule:
    """Return a linear warmup from 0, then a straight line to 0 at `num_training_steps`.

    Examples:
        >>> get_linear_schedule_with_warmup(0.1, 500, 10_000)
        0.1 * (warmup(500) >> linear(9_500))
    """
    left = max(0, num_training_steps - num_warmup_steps)
    return lr * (warmup(num_warmup_steps) >> linear(left))


def get_cosine_schedule_with_warmup(
    lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> Schedule:
    """Return a linear warmup, then a cosine of `num_cycles` waves, which continues after the end.

    Use `warmup(...) >> cosine(...)` for a cosine that stays at its floor.

    Examples:
        >>> s = get_cosine_schedule_with_warmup(0.5, 10, 110)
        >>> s(10), s(110), s(210)
        (0.5, 0.0, 0.5)
    """
    return lr * (
        warmup(num_warmup_steps) >> _waves(num_warmup_steps, num_training_steps, num_cycles)
    )


def get_cosine_with_hard_restarts_schedule_with_warmup(
    lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 1
) -> Schedule:
    """Return a linear warmup, then `num_cycles` cosines from lr to 0, then 0.

    Examples:
        >>> s = get_cosine_with_hard_restarts_schedule_with_warmup(0.5, 10, 40, num_cycles=3)
        >>> s(10), s(20), s(30), s(40)
        (0.5, 0.5, 0.5, 0.0)
    """
    left = _left(num_warmup_steps, num_training_steps)
    if not num_cycles > 0:
        raise BadValueError(f"num_cycles is {num_cycles!r}; it must be above 0")
    # Cycles of whole steps, stretched to the remaining steps: rounding misses no restart.
    cycles = restarts(left).take(left * num_cycles).fit(left)
    return lr * (warmup(num_warmup_steps) >> cycles >> constant(0.0))


def get_polynomial_decay_schedule_with_warmup(
    lr: float,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
) -> Schedule:
    """Return a linear warmup, then a polynomial from lr to lr_end.

    Deviation: with as many warmup steps as training steps transformers divides by zero; here the
    rate is lr_end after the warmup.

    Examples:
        >>> get_polynomial_decay_schedule_with_warmup(0.5, 10, 110, lr_end=0.25)
        0.5 * (warmup(10) >> polynomial(100, end=0.5))
    """
    if not lr > lr_end:
        raise BadValueError(f"lr_end is {lr_end!r}; it must be below lr, {lr!r}")
    left = max(0, num_training_steps - num_warmup_steps)
    return lr * (warmup(num_warmup_steps) >> polynomial(left, power=power, end=lr_end / lr))


def get_inverse_sqrt_schedule(
    lr: float, num_warmup_steps: int, timescale: int | None = None
) -> Schedule:
    """Return a linear warmup, then lr·√(τ/(τ + t − W)); τ is W, or 10,000 without a warmup.

    Examples:
        >>> get_inverse_sqrt_schedule(0.1, 500)
        0.1 * (warmup(500) >> rsqrt(500))
    """
    tau = (num_warmup_steps or 10_000) if timescale is None else timescale
    return lr * (warmup(num_warmup_steps) >> rsqrt(tau))


def get_cosine_with_min_lr_schedule_with_warmup(
    lr: float,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Schedule:
    """Return a linear warmup, then a cosine with a floor, which continues after the end.

    Examples:
        >>> s = get_cosine_with_min_lr_schedule_with_warmup(1.0, 10, 110, min_lr=0.25)
        >>> s(10), s(110)
        (1.0, 0.25)
    """
    floor = _floor(lr, min_lr, min_lr_rate)
    waves = _waves(num_warmup_steps, num_training_steps, num_cycles)
    return lr * (warmup(num_warmup_steps) >> between(waves, floor, 1.0))


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    lr: float,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Schedule:
    """Return a warmup that reaches the full rate at its last step, then a cosine with a floor.

    The warmup starts at lr/W, or at lr·warmup_lr_rate.

    Examples:
        >>> s = get_cosine_with_min_lr_schedule_with_warmup_lr_rate(1.0, 4, 104, min_lr=0.25)
        >>> s(0), s(3), s(103)
        (0.25, 1.0, 0.25)
    """
    floor = _floor(lr, min_lr, min_lr_rate)
    W = num_warmup_steps
    waves = between(_waves(W, num_training_steps, num_cycles), floor, 1.0)
    if warmup_lr_rate is None:
        return lr * (warmup(W) >> waves).shift(-1)
    if W == 0:
        return lr * waves.shift(-1)
    if W == 1:
        return lr * (constant(warmup_lr_rate, length=1) >> waves.shift(-1))
    rise = linear(W - 1, start=warmup_lr_rate, end=1.0).take(W)
    return lr * (rise >> waves.shift(-1))


def get_wsd_schedule(
    lr: float,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Schedule:
    """Return warmup, stable, decay; then lr·min_lr_ratio.

    Examples:
        >>> s = get_wsd_schedule(1.0, 10, 20, num_training_steps=100, decay_type="linear")
        >>> s
        1.0 * (warmup(10) >> constant(length=70) >> linear(20))
    """
    stable = num_stable_steps
    if stable is None:
        if num_training_steps is None:
            raise BadValueError(
                "num_training_steps and num_stable_steps are both None: give one of them"
            )
        stable = num_training_steps - num_warmup_steps - num_decay_steps
    rise = _rise(warmup_type, num_warmup_steps, min_lr_ratio)
    fall = _fall(decay_type, num_decay_steps, min_lr_ratio, num_cycles)
    if stable < 0:  # the decay began during the warmup
        return lr * (rise >> fall.shift(stable))
    return lr * (rise >> constant(length=stable) >> fall)


def get_reduce_on_plateau_schedule(
    lr: float,
    mode: str = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> Schedule:
    """Return torch's `ReduceLROnPlateau`, which transformers uses too.

    Examples:
        >>> get_reduce_on_plateau_schedule(0.1, patience=2)(0)
        0.1
    """
    return ReduceLROnPlateau(
        lr, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps
    )


def _left(num_warmup_steps: int, num_training_steps: int) -> int:
    return max(1, num_training_steps - num_warmup_steps)


def _waves(num_warmup_steps: int, num_training_steps: int, num_cycles: float) -> Schedule:
    if num_cycles == 0:
        return constant()
    half = _left(num_warmup_steps, num_training_steps) / abs(2.0 * num_cycles)
    return wave(int(half) if half.is_integer() else half)


def _floor(lr: float, min_lr: float | None, min_lr_rate: float | None) -> float:
    if (min_lr is None) == (min_lr_rate is None):
        raise BadValueError(
            f"min_lr is {min_lr!r} and min_lr_rate {min_lr_rate!r}: give exactly one of them"
        )
    return min_lr_rate if min_lr is None else min_lr / lr  # type: ignore[return-value]


def _rise(shape: str, length: int, floor: float) -> Schedule:
    match shape:
        case "linear" | "cosine":
            return warmup(length, start=floor, shape=shape)
        case "1-sqrt":
            return between(polynomial(length, power=0.5), 1.0, floor)
    raise unknown_name("warmup_type", shape, TYPES)


def _fall(shape: str, length: int, floor: float, num_cycles: float) -> Schedule:
    match shape:
        case "linear":
            return linear(length, end=floor)
        case "cosine" if num_cycles == 0.5:
            return cosine(length, floor=floor)
        case "cosine":
            waves = between(_waves(0, length, num_cycles), floor, 1.0)
            return waves.take(length) >> constant(floor)
        case "1-sqrt":
            return polynomial(length, end=floor, k_decay=0.5)
    raise unknown_name("decay_type", shape, TYPES)
