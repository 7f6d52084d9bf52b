"""The schedules of `keras.optimizers.schedules`, by their own names and arguments.

Keras computes in float32, so its values agree to 1e-6; these are computed in float64.
"""

# ruff: noqa: N802 - the functions carry the names of Keras's classes

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.errors import BadValueError
from etude.interop.parity._shapes import between
from etude.schedules import (
    Schedule,
    constant,
    cosine,
    exponential,
    inverse_time,
    linear,
    piecewise_constant,
    polynomial,
    restarts,
)


def ExponentialDecay(
    initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Schedule:
    """Return initial·rate^(t/decay_steps).

    Examples:
        >>> ExponentialDecay(0.1, 10, 0.5, staircase=True)
        0.1 * step(10, 0.5)
    """
    return initial_learning_rate * exponential(decay_rate, every=decay_steps, staircase=staircase)


def PiecewiseConstantDecay(boundaries: Sequence[float], values: Sequence[float]) -> Schedule:
    """Return values[i] for boundaries[i − 1] < t ≤ boundaries[i]: Keras changes one step late.

    Examples:
        >>> s = PiecewiseConstantDecay([100], [1.0, 0.5])
        >>> s(100), s(101)
        (1.0, 0.5)
    """
    if any(b != b or math.isinf(b) for b in boundaries):
        raise BadValueError(f"boundaries is {list(boundaries)!r}; they must be finite")
    edges = tuple(math.floor(b) + 1 for b in boundaries)
    passed = sum(edge <= 0 for edge in edges)
    if passed == len(edges):
        return constant(values[-1])
    return piecewise_constant(edges[passed:], tuple(values[passed:]))


def PolynomialDecay(
    initial_learning_rate: float,
    decay_steps: int,
    end_learning_rate: float = 0.0001,
    power: float = 1.0,
    cycle: bool = False,
) -> Schedule:
    """Return (initial − end)·(1 − t/T)^power + end; with `cycle` T grows to multiples of itself.

    Examples:
        >>> PolynomialDecay(1.0, 100, 0.25, power=2.0)
        0.75 * polynomial(100, power=2.0) + 0.25
    """
    shape = polynomial(decay_steps, power=power, cycle=cycle)
    return between(shape, end_learning_rate, initial_learning_rate)


def InverseTimeDecay(
    initial_learning_rate: float, decay_steps: float, decay_rate: float, staircase: bool = False
) -> Schedule:
    """Return initial/(1 + rate·t/decay_steps).

    Examples:
        >>> InverseTimeDecay(0.1, 10, 0.5)
        0.1 * inverse_time(0.5, every=10)
    """
    return initial_learning_rate * inverse_time(decay_rate, every=decay_steps, staircase=staircase)


def CosineDecay(
    initial_learning_rate: float,
    decay_steps: int,
    alpha: float = 0.0,
    warmup_target: float | None = None,
    warmup_steps: int = 0,
) -> Schedule:
    """Return a cosine to α of its start; with a target, after a line from initial to it.

    `decay_steps` does not include the warmup.

    Examples:
        >>> CosineDecay(0.0, 100, warmup_target=1.0, warmup_steps=5)
        linear(5, start=0.0, end=1.0) >> 1.0 * cosine(100)
    """
    peak = initial_learning_rate if warmup_target is None else warmup_target
    fall = between(cosine(decay_steps), peak * alpha, peak)
    if warmup_target is None or warmup_steps <= 0:
        return fall
    return linear(warmup_steps, start=initial_learning_rate, end=peak) >> fall


def CosineDecayRestarts(
    initial_learning_rate: float,
    first_decay_steps: int,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> Schedule:
    """Return cosines, each t_mul times as long and m_mul times as high as the one before.

    Deviation: Keras finds the cycle through a logarithm in float32 and misses some restarts by a
    step; here they are exact. Cycles that shrink, t_mul < 1, or grow higher, m_mul > 1, are
    refused.

    Examples:
        >>> s = CosineDecayRestarts(1.0, 10, t_mul=2.0, m_mul=0.5)
        >>> s(0), s(10), s(30)
        (1.0, 0.5, 0.25)
    """
    shape = restarts(first_decay_steps, length_mult=t_mul, height_mult=m_mul)
    return between(shape, initial_learning_rate * alpha, initial_learning_rate)
