"""The schedules of optax, by their own names and with their own arguments.

optax computes in float32, so its values agree to 1e-6; these are computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from operator import mul

from etude.errors import BadValueError, unknown_name
from etude.interop.parity._shapes import between, delayed, divisors
from etude.schedules import (
    Schedule,
    constant,
    cosine,
    exponential,
    linear,
    piecewise_constant,
    piecewise_interpolate,
    plateau,
    polynomial,
)


def constant_schedule(value: float) -> Schedule:
    """Return the same value at every step.

    Examples:
        >>> constant_schedule(0.1)
        constant(0.1)
    """
    return constant(value)


def polynomial_schedule(
    init_value: float,
    end_value: float,
    power: float,
    transition_steps: int,
    transition_begin: int = 0,
) -> Schedule:
    """Return (init − end)·(1 − (t − begin)/T)^power + end; constant init if T ≤ 0, as documented.

    Examples:
        >>> polynomial_schedule(1.0, 0.25, power=2, transition_steps=100)
        0.75 * polynomial(100, power=2.0) + 0.25
    """
    if transition_steps <= 0 or power == 0:
        return constant(init_value)
    curve = between(polynomial(transition_steps, power=power), end_value, init_value)
    return delayed(transition_begin, init_value, curve)


def linear_schedule(
    init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """Return a straight line from init to end; constant init if T ≤ 0, as documented.

    Examples:
        >>> linear_schedule(1.0, 0.1, 100, transition_begin=5)
        constant(length=5) >> linear(100, end=0.1)
    """
    if transition_steps <= 0:
        return constant(init_value)
    line = linear(transition_steps, start=init_value, end=end_value)
    return delayed(transition_begin, init_value, line)


def piecewise_constant_schedule(
    init_value: float, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """Return init times the product of all scales whose boundary is ≤ t.

    Examples:
        >>> piecewise_constant_schedule(1.0, {100: 0.5, 200: 0.5})
        piecewise_constant((100, 200), (1.0, 0.5, 0.25))
    """
    boundaries, values = _accumulated(init_value, boundaries_and_scales)
    passed = sum(b <= 0 for b in boundaries)
    boundaries, values = boundaries[passed:], values[passed:]
    return piecewise_constant(boundaries, values) if boundaries else constant(values[0])


def exponential_decay(
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """Return init·rate^((t − begin)/T), bounded by `end_value`.

    Examples:
        >>> exponential_decay(1.0, 10, 0.5, staircase=True, end_value=0.1)
        (1.0 * step(10, 0.5)).clip(0.1)
    """
    if transition_steps <= 0 or decay_rate == 0:
        return constant(init_value)
    decay = init_value * exponential(decay_rate, every=transition_steps, staircase=staircase)
    curve = delayed(transition_begin, init_value, decay)
    if end_value is None:
        return curve
    return curve.clip(low=end_value) if decay_rate < 1.0 else curve.clip(high=end_value)


def cosine_decay_schedule(
    init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0
) -> Schedule:
    """Return init·((1 − α)·(½(1 + cos(πt/T)))^p + α), then init·α.

    Examples:
        >>> cosine_decay_schedule(1.0, 100, alpha=0.25)
        0.75 * cosine(100) + 0.25
    """
    if not decay_steps > 0:
        raise BadValueError(f"decay_steps is {decay_steps!r}; it must be above 0")
    return between(cosine(decay_steps, exponent=exponent), init_value * alpha, init_value)


def warmup_constant_schedule(init_value: float, peak_value: float, warmup_steps: int) -> Schedule:
    """Return a straight line from init to peak, then peak.

    Deviation: with `warmup_steps=0` optax always returns init; here the value is the peak.

    Examples:
        >>> warmup_constant_schedule(0.0, 0.1, 500)
        linear(500, start=0.0, end=0.1)
    """
    return linear(max(warmup_steps, 0), start=init_value, end=peak_value)


def warmup_cosine_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """Return a line from init to peak, then a cosine to end; `decay_steps` includes the warmup.

    Examples:
        >>> warmup_cosine_decay_schedule(0.0, 1.0, 500, 10_000, end_value=0.25)
        linear(500, start=0.0, end=1.0) >> 0.75 * cosine(9_500) + 0.25
    """
    left = decay_steps - warmup_steps
    if not left > 0:
        raise BadValueError(
            f"decay_steps is {decay_steps!r}, which includes the warmup of {warmup_steps!r} steps; "
            "it must be longer than that"
        )
    fall = cosine(left, exponent=exponent)
    # With a peak of 0 optax's ratio end/peak is undefined, and its value stays at 0.
    curve = between(fall, end_value if peak_value else 0.0, peak_value)
    return _after_warmup(init_value, peak_value, warmup_steps, curve)


def warmup_exponential_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """Return a line from init to peak, then `exponential_decay` from peak.

    Examples:
        >>> warmup_exponential_decay_schedule(0.0, 1.0, 5, 10, 0.5)
        linear(5, start=0.0, end=1.0) >> 1.0 * exponential(0.5, every=10)
    """
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return _after_warmup(init_value, peak_value, warmup_steps, decay)


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, float]]) -> Schedule:
    """Return one `warmup_cosine_decay_schedule` after another, each `decay_steps` long.

    Examples:
        >>> cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 5, "decay_steps": 10}
        >>> s = sgdr_schedule([cycle, {**cycle, "peak_value": 0.5}])
        >>> s(5), s(10), s(15), s(20)
        (1.0, 0.0, 0.5, 0.0)
    """
    cycles = [dict(kwargs) for kwargs in cosine_kwargs]
    parts = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cycles]  # type: ignore[arg-type]
    ends = list(accumulate(int(kwargs["decay_steps"]) for kwargs in cycles))
    return join_schedules(parts, ends[:-1])


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Return one schedule after another, each counted from its own boundary.

    Deviation: optax ignores surplus schedules or boundaries; here they are an error.

    Examples:
        >>> join_schedules([constant_schedule(0.1), cosine_decay_schedule(1.0, 50)], [10])
        constant(0.1, length=10) >> 1.0 * cosine(50)
    """
    if not schedules or len(boundaries) != len(schedules) - 1:
        raise BadValueError(
            f"boundaries has {len(boundaries)} steps for {len(schedules)} schedules; "
            "give one between each two schedules"
        )
    joined = None
    for part, (start, end) in zip(schedules[:-1], pairwise([0, *boundaries]), strict=True):
        if end < start:
            raise BadValueError(f"boundaries has {end} after {start}; put them in rising order")
        segment = part.take(end - start)
        joined = segment if joined is None else joined >> segment
    return schedules[-1] if joined is None else joined >> schedules[-1]


def piecewise_interpolate_schedule(
    interpolate_type: str,
    init_value: float,
    boundaries_and_scales: Mapping[int, float] | None = None,
) -> Schedule:
    """Return a curve through init at 0 and the accumulated products at the boundaries.

    Deviation: for an array of steps optax returns one wrong number; here each step has its value.

    Examples:
        >>> piecewise_interpolate_schedule("linear", 1.0, {4: 0.5, 8: 0.5})
        piecewise_interpolate((0, 4, 8), (1.0, 0.5, 0.25))
    """
    if interpolate_type not in ("linear", "cosine"):
        raise unknown_name("interpolate_type", interpolate_type, ("linear", "cosine"))
    boundaries, values = _accumulated(init_value, boundaries_and_scales)
    return piecewise_interpolate((0, *boundaries), values, shape=interpolate_type)


def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Return three straight lines: up, down to the start, and down to peak/(div·final_div).

    Examples:
        >>> linear_onecycle_schedule(100, 1.0, div_factor=4.0, final_div_factor=4.0)
        piecewise_interpolate((0, 30, 85, 100), (0.25, 1.0, 0.25, 0.0625))
    """
    divisors(div_factor, final_div_factor)
    scales = {
        int(pct_start * transition_steps): div_factor,
        int(pct_final * transition_steps): 1.0 / div_factor,
        _run(transition_steps): 1.0 / final_div_factor,
    }
    return piecewise_interpolate_schedule("linear", peak_value / div_factor, scales)


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Return one cycle of two half cosines, with its peak at ⌊pct·T⌋ and its end at T.

    Examples:
        >>> cosine_onecycle_schedule(100, 1.0, div_factor=4.0, final_div_factor=4.0)
        piecewise_interpolate((0, 30, 100), (0.25, 1.0, 0.0625), shape='cosine')
    """
    divisors(div_factor, final_div_factor)
    scales = {
        int(pct_start * transition_steps): div_factor,
        _run(transition_steps): 1.0 / (div_factor * final_div_factor),
    }
    return piecewise_interpolate_schedule("cosine", peak_value / div_factor, scales)


def reduce_on_plateau(
    factor: float = 0.1,
    patience: int = 10,
    rtol: float = 1e-4,
    atol: float = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: float = 0.0,
) -> Schedule:
    """Return the scale of optax's `contrib.reduce_on_plateau`, as a schedule of its events.

    optax reduces at the `patience`-th event without improvement, torch after it.

    Deviation: `patience=0` makes optax reduce at each improvement; here it is refused. The margin
    of `rtol` is rtol·|best|; with optax's rtol·best, a constant value below zero counts as an
    improvement.

    Raises:
        BadValueError: Both tolerances are given, or `accumulation_size` is not 1: average the
            events yourself, and report the means.

    Examples:
        >>> s = reduce_on_plateau(factor=0.5, patience=1).given([(1, 1.0), (2, 1.0)])
        >>> s(1), s(2)
        (1.0, 0.5)
    """
    if accumulation_size != 1:
        raise BadValueError(
            f"accumulation_size is {accumulation_size!r}; a schedule does not average events: "
            "average them yourself, and report the means"
        )
    if (rtol > 0.0) == (atol > 0.0):
        raise BadValueError(f"rtol is {rtol!r} and atol {atol!r}: give exactly one above 0")
    if patience < 1:
        raise BadValueError(f"patience is {patience!r}; it must be at least 1")
    return plateau(
        factor=factor,
        patience=patience - 1,
        threshold=rtol or atol,
        threshold_mode="rel" if rtol else "abs",
        cooldown=cooldown,
        floor=min_scale,
        eps=0.0,
    )


def _run(transition_steps: int) -> int:
    if transition_steps <= 0:
        raise BadValueError(f"transition_steps is {transition_steps!r}; it must be above 0")
    return int(transition_steps)


def _after_warmup(init: float, peak: float, steps: int, then: Schedule) -> Schedule:
    return linear(steps, start=init, end=peak) >> then if steps > 0 else then


def _accumulated(
    init_value: float, boundaries_and_scales: Mapping[int, float] | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the boundaries in order, and the value before each and after the last."""
    pairs = sorted((boundaries_and_scales or {}).items())
    for boundary, scale in pairs:
        if not scale >= 0.0:
            raise BadValueError(f"the scale at {boundary} is {scale!r}; it must be at least 0")
    values = accumulate((scale for _, scale in pairs), mul, initial=float(init_value))
    return tuple(boundary for boundary, _ in pairs), tuple(values)
