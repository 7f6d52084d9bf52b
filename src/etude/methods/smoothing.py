"""How range tests smooth the losses of a ramp."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class SmoothedLoss:
    """The smoothed value of the losses so far; see `Smoothing`."""

    smoothing: Smoothing
    count: int = 0
    value: float = 0.0
    mean: float = field(default=0.0, repr=False)

    def add(self, loss: float) -> float:
        """Add a loss; return the smoothed value."""
        beta, debias = self.smoothing.beta, self.smoothing.debias
        if not debias and not self.count:
            self.mean = loss
        else:
            self.mean = beta * self.mean + (1 - beta) * loss
        self.value = self.mean / (1 - beta ** (self.count + debias)) if debias else self.mean
        self.count += 1
        return self.value


@dataclass(frozen=True)
class Smoothing:
    """An exponential mean of the losses.

        m_t = β m_{t-1} + (1 - β) loss_t
        with debias k > 0:  m_{-1} = 0, and the value is m_t / (1 - β^(t + k))
        with debias 0:      m_0 = loss_0, and the value is m_t

    k = 1 makes the value a weighted mean of the losses. Lightning has k = 2, so that its first
    values are too low.

    Attributes:
        beta: β.
        debias: k.

    >>> Smoothing(0.5, debias=1).of([4.0, 1.0])
    (4.0, 2.0)
    >>> Smoothing(0.5).of([4.0, 1.0])
    (4.0, 2.5)
    """

    beta: float
    debias: int = 0

    def begin(self) -> SmoothedLoss:
        """Return the state before the first loss."""
        return SmoothedLoss(self)

    def of(self, losses: Iterable[float]) -> tuple[float, ...]:
        """Return the smoothed value after each loss."""
        state = self.begin()
        return tuple(state.add(loss) for loss in losses)
