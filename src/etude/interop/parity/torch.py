"""The schedulers of `torch.optim.lr_scheduler`, by their own names.

Each takes the rate of the optimizer's group first, then the arguments of torch's class after the
optimizer. The value at step t is the group's rate after t calls of `scheduler.step()`.
"""

# ruff: noqa: N802 - the functions carry the names of torch's classes

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from etude.errors import BadValueError, unknown_name
from etude.interop.parity._shapes import between, divisors, wave, whole
from etude.schedules import (
    Schedule,
    constant,
    exponential,
    linear,
    multi_step,
    piecewise_interpolate,
    plateau,
    polynomial,
    restarts,
    step,
    triangular,
    warmup,
)


def ConstantLR(lr: float, factor: float = 1.0 / 3, total_iters: int = 5) -> Schedule:
    """Return lr·factor for the first `total_iters` steps, then lr.

    Deviation: with `total_iters=0` torch never returns to lr, and with `factor=0` it divides by
    zero; here both return to lr.

    Examples:
        >>> s = ConstantLR(0.1, factor=0.5, total_iters=4)
        >>> s(3), s(4)
        (0.05, 0.1)
    """
    return lr * warmup(total_iters, start=factor, shape="constant")


def LinearLR(
    lr: float, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5
) -> Schedule:
    """Return a straight line from lr·start_factor to lr·end_factor at `total_iters`.

    Deviation: with `total_iters=0` torch stays at lr·start_factor; here the rate is
    lr·end_factor.

    Examples:
        >>> LinearLR(0.1, start_factor=0.5, total_iters=4)
        0.1 * linear(4, start=0.5, end=1.0)
    """
    return lr * linear(total_iters, start=start_factor, end=end_factor)


def ExponentialLR(lr: float, gamma: float) -> Schedule:
    """Return lr·γ^t.

    Examples:
        >>> ExponentialLR(0.1, gamma=0.5)(1)
        0.05
    """
    return lr * exponential(gamma)


def StepLR(lr: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """Return lr·γ^⌊t/step_size⌋.

    Examples:
        >>> StepLR(0.1, step_size=30)
        0.1 * step(30, 0.1)
    """
    return lr * step(step_size, gamma)


def MultiStepLR(lr: float, milestones: Iterable[int], gamma: float = 0.1) -> Schedule:
    """Return lr·γ^(number of milestones ≤ t).

    Deviation: a milestone between two steps takes effect at the next step; torch ignores it.

    Examples:
        >>> MultiStepLR(0.1, [30, 80], gamma=0.5)
        0.1 * multi_step((30, 80), 0.5)
    """
    reached = tuple(sorted(m for m in milestones if m >= 0))
    return lr * multi_step(reached, gamma) if reached else constant(lr)


def PolynomialLR(lr: float, total_iters: int = 5, power: float = 1.0) -> Schedule:
    """Return lr·(1 − t/T)^power, then 0.

    Examples:
        >>> PolynomialLR(0.1, total_iters=50, power=2.0)
        0.1 * polynomial(50, power=2.0)
    """
    return lr * polynomial(total_iters, power=power)


def CosineAnnealingLR(lr: float, T_max: int, eta_min: float = 0.0) -> Schedule:
    """Return η_min + ½(lr − η_min)(1 + cos(πt/T_max)), which rises again after T_max.

    Use `etude.schedules.cosine` for a cosine that stays at its floor.

    Examples:
        >>> s = CosineAnnealingLR(0.5, T_max=50)
        >>> s(0), s(50), s(100)
        (0.5, 0.0, 0.5)
    """
    return between(wave(T_max), eta_min, lr)


def CosineAnnealingWarmRestarts(
    lr: float, T_0: int, T_mult: int = 1, eta_min: float = 0.0
) -> Schedule:
    """Return a cosine that restarts at T_0, T_0(1 + T_mult), and so on.

    Deviation: torch's `step(epoch)` computes the cycle by a logarithm and misses some restarts;
    here the restarts are exact integers, as in torch's `step()`.

    Examples:
        >>> s = CosineAnnealingWarmRestarts(0.5, T_0=10, T_mult=2)
        >>> s(10), s(30), s(70)
        (0.5, 0.5, 0.5)
    """
    return between(restarts(T_0, length_mult=T_mult), eta_min, lr)


def CyclicLR(
    base_lr: float,
    max_lr: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> Schedule:
    """Return cycles between base_lr and max_lr, in torch's three modes.

    Examples:
        >>> s = CyclicLR(0.25, 1.25, step_size_up=4, mode="triangular2")
        >>> s(0), s(4), s(8), s(12)
        (0.25, 1.25, 0.25, 0.75)
    """
    return between(_cycles(step_size_up, step_size_down, mode, gamma), base_lr, max_lr)


def CyclicLR_momentum(
    base_momentum: float = 0.8,
    max_momentum: float = 0.9,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> Schedule:
    """Return the momentum of `CyclicLR`, which falls while the rate rises.

    Examples:
        >>> s = CyclicLR_momentum(0.75, 1.0, step_size_up=4)
        >>> s(0), s(4), s(8)
        (1.0, 0.75, 1.0)
    """
    return between(_cycles(step_size_up, step_size_down, mode, gamma), max_momentum, base_momentum)


def OneCycleLR(
    max_lr: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Return torch's one-cycle schedule, with its peak at pct_start·T − 1 and its end at T − 1.

    Deviation: torch allows one step too many, at which the rate rises again; here the last value is
    kept. With pct_start·T = 1 torch divides by zero; here the schedule starts at the peak.

    Examples:
        >>> OneCycleLR(0.1, total_steps=100)
        piecewise_interpolate((0, 29, 99), (0.004, 0.1, 4e-07), shape='cosine')
    """
    divisors(div_factor, final_div_factor)
    first = max_lr / div_factor
    last = first / final_div_factor
    values = (first, max_lr, first, last) if three_phase else (first, max_lr, last)
    return _phases(total_steps, pct_start, anneal_strategy, values)


def OneCycleLR_momentum(
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    three_phase: bool = False,
) -> Schedule:
    """Return the momentum of `OneCycleLR`, which falls while the rate rises.

    Examples:
        >>> OneCycleLR_momentum(100)
        piecewise_interpolate((0, 29, 99), (0.95, 0.85, 0.95), shape='cosine')
    """
    held = [max_momentum] if three_phase else []
    values = [max_momentum, base_momentum, max_momentum, *held]
    return _phases(total_steps, pct_start, anneal_strategy, values)


def ReduceLROnPlateau(
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
    """Return the rate, reduced on a plateau; it reacts to the events that `given` or `record` add.

    Deviation: an infinite metric is never an improvement, and the relative margin is
    threshold·|best|; with torch's threshold·best, a constant metric below zero counts as an
    improvement.

    Examples:
        >>> s = ReduceLROnPlateau(0.5, factor=0.5, patience=0).given([(1, 1.0), (2, 1.0)])
        >>> s(1), s(2)
        (0.5, 0.25)
    """
    if min_lr >= lr:
        return constant(lr)
    return lr * plateau(
        factor=factor,
        patience=patience,
        mode=mode,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        floor=min_lr / lr,
        eps=eps / lr,
    )


def SequentialLR(schedulers: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """Return one schedule after another, each counted from its own milestone.

    Deviation: any schedule can be joined, also a plateau or a one-cycle schedule.

    Examples:
        >>> SequentialLR([LinearLR(0.1), ExponentialLR(0.1, 0.5)], milestones=[5])(6)
        0.05
    """
    if len(milestones) != len(schedulers) - 1:
        raise BadValueError(
            f"milestones has {len(milestones)} steps for {len(schedulers)} schedulers; "
            f"give {len(schedulers) - 1}, one between each two"
        )
    starts = [0, *(whole("milestones", m) for m in milestones)]
    joined: Schedule | None = None
    for part, (start, end) in zip(schedulers, pairwise(starts), strict=False):
        if end < start:
            raise BadValueError(f"milestones has {end} after {start}; put them in rising order")
        segment = part.take(end - start)
        joined = segment if joined is None else joined >> segment
    return schedulers[-1] if joined is None else joined >> schedulers[-1]


def ChainedScheduler(schedulers: Sequence[Schedule]) -> Schedule:
    """Return the product of schedules: the first in rates, the others as factors with lr=1.

    Deviation: torch lets each scheduler change the current rate in turn, which gives negative rates
    for a cosine with a floor; a product does not.

    Examples:
        >>> ChainedScheduler([ConstantLR(0.1, 0.5, 4), ExponentialLR(1.0, 0.5)])(1)
        0.025
    """
    if not schedulers:
        raise BadValueError("schedulers is empty; give at least one")
    first, *rest = schedulers
    for other in rest:
        first = first * other
    return first


def _cycles(up: float, down: float | None, mode: str, gamma: float) -> Schedule:
    match mode:
        case "triangular":
            return triangular(up, down)
        case "triangular2":
            return triangular(up, down, per_cycle=0.5)
        case "exp_range" if gamma <= 1.0:
            return triangular(up, down, per_step=gamma)
        case "exp_range":
            return triangular(up, down) * exponential(gamma)
    raise unknown_name("mode", mode, ("triangular", "triangular2", "exp_range"))


def _phases(total_steps: int, pct_start: float, anneal: str, values: Sequence[float]) -> Schedule:
    """Return the curve through the ends of the phases, which need not be whole steps.

    A phase that ends before step 0 is skipped: torch begins within the next phase.
    """
    shapes = {"cos": "cosine", "linear": "linear"}
    if anneal not in shapes:
        raise unknown_name("anneal_strategy", anneal, shapes)
    whole("total_steps", total_steps, at_least=1)
    if isinstance(pct_start, bool) or not 0.0 <= pct_start <= 1.0:
        raise BadValueError(f"pct_start is {pct_start!r}; it must be a share in [0, 1]")
    last = float(total_steps - 1)
    ends = [float(n * pct_start * total_steps) - n for n in range(1, len(values) - 1)]
    phases = zip([0.0, *ends], [*ends, last], pairwise(values), strict=True)
    points: list[float] = []
    heights: list[float] = []
    for start, end, (low, high) in phases:
        if end < 0.0:
            continue
        if not points:
            points, heights = [start], [low]
        points, heights = [*points, end], [*heights, high]
        if end >= last:
            break
    ahead = points[0]
    moved = tuple(p - ahead for p in points)
    curve: Schedule = piecewise_interpolate(moved, tuple(heights), shape=shapes[anneal])
    if ahead:
        curve = curve.shift(ahead)
    return curve if points[-1] == last else curve.take(last)
