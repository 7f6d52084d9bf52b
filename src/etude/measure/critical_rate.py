"""Critical sharpness: curvature along the step that was taken, from a few forward passes.

The critical rate η_c is the smallest rate at which the step raises the loss of its own batch. Along
a step of direction d, on a quadratic loss with gradient g and Hessian H,

    η_c = 2 gᵀd / dᵀHd,        critical sharpness = 2 / η_c.

For gradient descent d = g, and 2/η_c = gᵀHg / gᵀg, which is at most the largest eigenvalue. For
another optimizer d is its own direction, with its momentum and its divisors, so that η/η_c has no
units: above 1 the step has raised the loss; far below 1 the rate is far from where the loss limits
it.

Source: Kalra et al. 2026, arXiv:2601.16979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import BadTypeError, BadValueError, shown
from etude.optimizers.classes.hessian import put
from etude.torch_internals import foreach
from etude.training.state.snapshot import Snapshot, modes_kept

PASSES = 6
"""The largest number of forward passes, unless it is given."""

GROWTH, LEAP = 3.0, 32.0
"""By how much a multiple changes where one value is known, and at most."""

CLOSE, AGREE = 1.3, 0.02
"""The search ends in a bracket as narrow as the first, or where two estimates in a row differ by
less than the second."""


@dataclass(frozen=True)
class CriticalRate:
    """How far along a step the loss lies below where the step began.

    Attributes:
        multiple: η_c / η: the step's length at which the loss is as high as before the step, over
            the length taken. 0 if every length tried raises the loss; infinite if none does; NaN
            if the step has changed nothing, or the loss before it is not finite.
        low: The largest multiple tried below the rise; 0 if there is none.
        high: The smallest multiple tried that raises the loss; infinite if there is none.
        passes: The number of forward passes.
    """

    multiple: float
    low: float
    high: float
    passes: int

    @property
    def over_critical(self) -> float:
        """η / η_c; infinite if every length tried raises the loss, 0 if none does."""
        return 1 / self.multiple if self.multiple else math.inf

    def sharpness(self, rate: float) -> float:
        """Return 2 / η_c for the rate of the step; NaN if the rate is not positive.

        >>> CriticalRate(5.0, 4.0, 6.0, 4).sharpness(0.1)
        4.0
        """
        return 2 * self.over_critical / rate if rate > 0 else math.nan


def critical_rate(
    model: nn.Module,
    loss: Callable[[], Any],
    parameters: Sequence[Tensor],
    before: Sequence[Tensor],
    *,
    guess: float = 1.0,
    passes: int = PASSES,
) -> CriticalRate:
    """Measure the critical rate of the step from `before` to the parameters' current values.

        L(s) = loss at before + s · (after - before),   η_c / η = the smallest s with L(s) > L(0)

    The search grows or shrinks s until the rise lies between two values, with L(s) - L(0) taken as
    a parabola through 0; on a quadratic loss the result is exact up to rounding. A loss that is not
    finite counts as risen.

    Every pass uses the same random numbers and buffers. Afterwards the weights, their gradients,
    the buffers, the attributes and modes of all modules, and the random state of torch, NumPy and
    Python are what they were, to the bit; so are parameters that the step has not changed, such as
    those of a momentum encoder that a forward pass moves. It takes memory for two more copies of
    the weights.

    Args:
        model: The network, in the mode in which the step was taken.
        loss: Returns the loss of the step's batch at the current weights, without calling
            `backward`.
        parameters: The parameters that the step has changed, as it left them.
        before: Their values before the step, in the same order.
        guess: The multiple to begin with, such as the one measured last.
        passes: The largest number of forward passes, at least 3.

    Raises:
        BadTypeError: If the loss is not one real number.
        BadValueError: If a number is out of bounds.

    Source: Kalra et al. 2026, arXiv:2601.16979.

    >>> w = nn.Linear(1, 1, bias=False)
    >>> nn.init.constant_(w.weight, 1.0).shape
    torch.Size([1, 1])
    >>> before = [w.weight.detach().clone()]
    >>> with torch.no_grad():
    ...     _ = w.weight.sub_(0.1 * 4 * w.weight)  # a step of rate 0.1 on 2 w²
    >>> found = critical_rate(w, lambda: 2 * w.weight.square().sum(), [w.weight], before)
    >>> round(found.multiple * 0.1, 6), round(found.sharpness(0.1), 5)
    (0.5, 4.0)
    """
    if passes < 3:
        raise BadValueError(f"passes={passes!r} is out of bounds: give at least 3")
    if not 0 < guess < math.inf:
        raise BadValueError(f"guess={guess!r} is out of bounds: give a positive number")
    with torch.no_grad(), _untouched(model, parameters) as (undo, after):
        step = foreach.sub(after, list(before)) if after else []
        if not any(bool(part.any()) for part in step):
            return CriticalRate(math.nan, 0.0, math.inf, 0)

        def at(multiple: float) -> float:
            undo.restore()
            put(parameters, before)
            if multiple:
                foreach.add_(list(parameters), step, alpha=multiple)
            return _number(loss())

        start = at(0.0)
        if not math.isfinite(start):
            return CriticalRate(math.nan, 0.0, math.inf, 1)
        grain = 8 * torch.finfo(step[0].dtype).eps * abs(start)
        search = Rise(guess, grain)
        for _ in range(passes - 1):
            search.add(search.next, at(search.next) - start)
            if search.done:
                break
        return CriticalRate(search.multiple, search.low, search.high, 1 + len(search.points))


class Rise:
    """Searches for the first s > 0 at which a function f with f(0) = 0 is above 0.

    Between two points f(s)/s is taken as a straight line, as it is for a parabola.

    Args:
        guess: Where to begin.
        grain: Values of f up to this size are rounding errors.

    Attributes:
        points: The places and values so far.
        low: The largest s below the rise at which f is not above 0.
        high: The smallest s at which f is above 0, or not finite.
        next: Where to look next.

    >>> search = Rise(2.0, 0.0)
    >>> while not search.done:
    ...     search.add(search.next, search.next**2 - 3 * search.next)
    >>> round(search.multiple, 6), len(search.points)
    (3.0, 3)
    """

    def __init__(self, guess: float, grain: float) -> None:
        self.grain = grain
        self.points: list[tuple[float, float]] = []
        self.low, self.high, self.next = 0.0, math.inf, guess
        self._last = math.nan

    @property
    def done(self) -> bool:
        """Whether the rise is known well enough."""
        if self.high <= CLOSE * self.low:
            return True
        enclosed = self.low > 0 and self.high < math.inf
        return enclosed and abs(self.multiple - self._last) <= AGREE * self.multiple

    @property
    def multiple(self) -> float:
        """The place of the rise: 0 if f is above 0 wherever it was seen, infinite if nowhere."""
        if self.high == math.inf:
            return math.inf
        root = self._root()
        if self.low == 0 or root is None:
            return math.sqrt(self.low * self.high)
        return min(max(root, self.low), self.high)

    def add(self, place: float, value: float) -> None:
        """Take the value of f at a place, and choose the next one."""
        root = self._root()
        self._last = math.nan if root is None else root
        self.points.append((place, value))
        if value > self.grain or not math.isfinite(value):
            self.high = min(self.high, place)
        self.low = max((s for s, _ in self.points if s < self.high), default=0.0)
        self.next = self._choose()

    def _choose(self) -> float:
        root, low, high = self._root(), self.low, self.high
        if high == math.inf:
            # One value of about 0 may be that of the rise itself; two are those of tiny steps.
            unresolved = sum(abs(f) <= self.grain for _, f in self.points)
            blind = GROWTH * low if unresolved < 2 else LEAP * low
            wanted = 1.1 * root if root is not None and root > low else blind
            return min(max(wanted, 1.5 * low), LEAP * low)
        if low == 0:
            wanted = 0.9 * root if root is not None and 0 < root < high else high / GROWTH
            return max(min(wanted, high / 1.5), high / LEAP)
        if root is None or not low < root < high:
            return math.sqrt(low * high)
        side = 1.05 if high / root > root / low else 1 / 1.05
        return side * root if low < side * root < high else math.sqrt(low * high)

    def _root(self) -> float | None:
        """Return where the line of f(s)/s through two points is 0; None if it is not known."""
        known = sorted((s, f / s) for s, f in self.points if math.isfinite(f))
        below = [point for point in known if point[0] < self.high]
        above = [point for point in known if point[0] >= self.high]
        ends = [*below[-1:], *above[:1]]
        if not above or not below:  # what is extrapolated must stand out of the rounding errors
            one_side = [point for point in known if abs(point[0] * point[1]) > self.grain]
            ends = one_side[-2:] if below else one_side[:2]
        if len(ends) < 2:
            return None
        (s, slope), (t, other) = ends
        return s - slope * (t - s) / (other - slope) if other > slope else None


def _number(loss: Any) -> float:
    if isinstance(loss, Tensor):
        if loss.numel() != 1 or loss.is_complex():
            raise BadTypeError(
                f"the loss is a tensor of shape {tuple(loss.shape)} and type {loss.dtype}: "
                "return one real number"
            )
        return float(loss)
    if isinstance(loss, bool) or not isinstance(loss, (int, float)):
        raise BadTypeError(f"the loss is {shown(loss)}: return a tensor with one number")
    return float(loss)


@contextmanager
def _untouched(
    model: nn.Module, parameters: Sequence[Tensor]
) -> Iterator[tuple[Snapshot, list[Tensor]]]:
    """Restore everything after a block; yield what restores it, and copies of the parameters."""
    after = [parameter.detach().clone() for parameter in parameters]
    gradients = [(parameter, parameter.grad) for parameter in parameters]
    stepped = set(map(id, parameters))
    others = [(p, p.detach().clone()) for p in model.parameters() if id(p) not in stepped]
    undo = Snapshot(model, draws=True)
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # it would keep the weights of the pass before
    for parameter in parameters:
        parameter.grad = None  # a backward pass of the user's would add to it in place
    try:
        with modes_kept(model):
            yield undo, after
    finally:
        torch.set_autocast_cache_enabled(cached)
        for module, kept in attributes:
            own = vars(module)
            for name in own.keys() - kept.keys():
                del own[name]
            own.update(kept)
        undo.restore()
        put(parameters, after)
        for parameter, value in others:
            if not torch.equal(parameter, value):
                parameter.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
