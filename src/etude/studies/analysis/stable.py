"""The range of rates that train, and where it ends, against what the curvature predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class StableRange:
    """The longest run of neighbouring rates that end below the untrained loss.

    Attributes:
        low: Its lowest rate.
        high: Its highest rate.
        open_below: Whether no lower rate was tried, so that it may go on.
        open_above: Whether no higher rate was tried.
        broken: The next rate above it, which does not train; None if none was tried.
    """

    low: float
    high: float
    open_below: bool
    open_above: bool
    broken: float | None

    @property
    def decades(self) -> float:
        """log10(high / low); a lower bound where an end is open."""
        return round(math.log10(self.high / self.low), 12)

    @property
    def bounded(self) -> bool:
        """Whether rates that do not train were tried on both sides."""
        return not self.open_below and not self.open_above


def stable_range(lrs: ArrayLike, losses: ArrayLike, untrained: float) -> StableRange | None:
    """Return the longest run of neighbouring rates whose loss is below the untrained one.

    Args:
        lrs: (rates,) in any order.
        losses: (rates,) the final loss at each; NaN or infinite where it diverged.
        untrained: The loss before training.

    Returns:
        The range, of two equally long ones the lower; None if no rate trains.

    >>> found = stable_range([1e-3, 1e-2, 1e-1, 1], [0.9, 0.4, 0.5, float("inf")], untrained=1.0)
    >>> found.low, found.high, found.open_below, found.broken
    (0.001, 0.1, True, 1.0)
    """
    rates = np.asarray(lrs, float)
    order = np.argsort(rates)
    rates = rates[order]
    trains = np.nan_to_num(np.asarray(losses, float), nan=np.inf)[order] < untrained
    best: tuple[int, int] | None = None
    start: int | None = None
    for i, good in enumerate(trains):
        start = (i if start is None else start) if good else None
        if start is not None and (
            best is None or rates[i] / rates[start] > rates[best[1]] / rates[best[0]]
        ):
            best = start, i
    if best is None:
        return None
    first, last = best
    above = last + 1 < len(rates)
    return StableRange(
        float(rates[first]),
        float(rates[last]),
        first == 0,
        not above,
        float(rates[last + 1]) if above else None,
    )


@dataclass(frozen=True)
class StudyEdge:
    """Where training breaks, between two rates of a study, against the curvature's prediction.

    Attributes:
        low: The highest rate of the stable range.
        high: The next rate that was tried, which does not train.
        limit: The rate above which the curvature before training makes a step unstable: 2/λ for
            gradient descent, (2 + 2 μ)/λ with momentum μ; see `etude.measure.threshold`.

    Source: Cohen et al. 2021, arXiv:2103.00065; that training survives rates above 2/λ of its
    beginning, Lewkowycz et al. 2020, arXiv:2003.02218.
    """

    low: float
    high: float
    limit: float

    @property
    def ratio(self) -> tuple[float, float]:
        """The found edge over the predicted one: at least, at most."""
        return self.low / self.limit, self.high / self.limit


def study_edge(found: StableRange | None, limit: float | None) -> StudyEdge | None:
    """Return the edge; None if the range does not end among the rates tried, or λ is unknown."""
    if found is None or found.broken is None or limit is None or not 0 < limit < math.inf:
        return None
    return StudyEdge(found.high, found.broken, limit)
