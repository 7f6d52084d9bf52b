"""Intervals by drawing the seeds again: the bootstrap.

With few seeds a bootstrap interval is too narrow: of 2 seeds it is at most what lies between them,
of 1 seed it is nothing. Five seeds or more give it a meaning.

Source: Efron 1979, Annals of Statistics 7(1); Efron and Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etude.errors import BadValueError

SHARE = 0.9
"""The share of the draws that an interval holds."""

RESAMPLES = 2_000
"""How often seeds are drawn again, where not all draws are listed."""

MOST_LISTED = 3_125
"""Up to this number of possible draws (5 seeds) all are listed, so that nothing is random."""


@dataclass(frozen=True)
class Interval:
    """A number with its interval over seeds.

    Attributes:
        value: The number.
        low: The lower end.
        high: The upper end.
        seeds: How many seeds it comes from; with one there is no interval.
    """

    value: float
    low: float
    high: float
    seeds: int

    @property
    def known(self) -> bool:
        """Whether there is an interval: more than one seed, and finite ends."""
        return self.seeds > 1 and math.isfinite(self.low) and math.isfinite(self.high)


@cache
def draws(seeds: int) -> NDArray[np.intp]:
    """Return (draws, seeds) indices: every way to draw the seeds again, or 2,000 random ones.

    >>> draws(2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> draws(9).shape
    (2000, 9)
    """
    if seeds < 1:
        raise BadValueError(f"seeds={seeds} is out of bounds: give at least 1")
    if seeds**seeds <= MOST_LISTED:
        return np.array(list(itertools.product(range(seeds), repeat=seeds)), dtype=np.intp)
    return np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))


def ends(values: ArrayLike, share: float = SHARE) -> tuple[float, float]:
    """Return the lowest and the highest of the middle share of the values.

    They are the quantiles of `numpy.quantile(values, ..., method="nearest")`, which takes ten times
    as long for few values.

    Raises:
        BadValueError: If the share is out of bounds.

    >>> ends(range(11), 0.8)
    (1.0, 9.0)
    """
    if not 0 < share < 1:
        raise BadValueError(f"share={share} is out of bounds: give a number between 0 and 1")
    ordered = np.sort(np.asarray(values, float))
    last = len(ordered) - 1
    low, high = (round(last * side) for side in ((1 - share) / 2, (1 + share) / 2))
    return float(ordered[low]), float(ordered[high])


def drawn_means(losses: ArrayLike) -> NDArray[np.float64]:
    """Return the mean over seeds in each draw.

    Args:
        losses: (..., seeds); NaN counts as infinite.

    Returns:
        (..., draws); infinite where a drawn loss is.
    """
    table = np.asarray(losses, float)
    table = np.where(np.isfinite(table), table, np.inf)
    return np.asarray(table[..., draws(table.shape[-1])].mean(-1))


def mean_interval(values: ArrayLike, *, share: float = SHARE) -> Interval:
    """Return the mean over seeds, with its bootstrap interval.

    Args:
        values: (seeds,) one number for each seed; NaN and infinite ones count as infinite.
        share: The share of the interval, in (0, 1).

    Raises:
        BadValueError: If there is no value, or the share is out of bounds.

    >>> mean_interval([1.0, 3.0])
    Interval(value=2.0, low=1.0, high=3.0, seeds=2)
    >>> mean_interval([1.0]).known
    False
    """
    found = np.asarray(values, float)
    if found.ndim != 1 or not found.size:
        raise BadValueError(f"values has the shape {found.shape}: give one number for each seed")
    found = np.where(np.isfinite(found), found, np.inf)
    low, high = ends(drawn_means(found), share)
    return Interval(float(found.mean()), low, high, found.size)
