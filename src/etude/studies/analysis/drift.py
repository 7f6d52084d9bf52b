"""How the best rate moves with a size: width, depth, batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etude.errors import BadValueError
from etude.studies.analysis.intervals import SHARE, drawn_means, ends


@dataclass(frozen=True)
class Drift:
    """The slope of the best rate against a size, both as logarithms.

    Attributes:
        slope: 1: the best rate grows in proportion to the size; 0: it stays; -1: it falls in
            proportion. NaN where it cannot be told.
        low: The lower end of its interval.
        high: The upper end.
        reason: Why it cannot be told; empty if it can.
    """

    slope: float
    low: float
    high: float
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether the slope can be told."""
        return not self.reason

    @property
    def moves(self) -> bool:
        """Whether the interval excludes that the best rate stays where it is."""
        return self.known and not self.allows(0.0)

    def allows(self, slope: float) -> bool:
        """Return whether a slope is within the interval."""
        return self.low <= slope <= self.high


def unknown_drift(reason: str) -> Drift:
    """Return a drift that cannot be told."""
    return Drift(float("nan"), float("nan"), float("nan"), reason)


def drift(
    sizes: Sequence[float],
    rates: Sequence[ArrayLike],
    losses: Sequence[ArrayLike],
    *,
    share: float = SHARE,
) -> Drift:
    """Return how the best rate moves with a size.

        log η*(s) = a + b log s,    b by least squares

    Two things widen the interval of b: which rate is best when the seeds are drawn again, and the
    distance of the rates that were tried. The true optimum may lie half a step of rates away from
    the best one; the ends hold for the worst of these cases.

    It cannot be told with one size, and where the best rate of a size is the lowest or highest that
    was tried there: the optimum may lie outside.

    Args:
        sizes: At least two different ones, above 0, to tell anything.
        rates: For each size the rates, ascending.
        losses: For each size (rates, seeds) the final losses; NaN or infinite where a run diverged.
        share: The share of the interval over seeds, in (0, 1).

    Raises:
        BadValueError: If the shapes do not fit, or a size is not above 0.

    >>> found = drift([1, 10], [[1, 2, 4], [10, 20, 40]], [[[2], [1], [2]]] * 2)
    >>> found.slope, found.allows(1.0), found.allows(0.5)
    (1.0, True, False)
    """
    tables = [_table(r, e) for r, e in zip(rates, losses, strict=True)]
    if len(tables) != len(sizes):
        raise BadValueError(f"{len(tables)} tables of losses for {len(sizes)} sizes: give one each")
    if any(not size > 0 for size in sizes):
        raise BadValueError(f"sizes={list(sizes)}: give numbers above 0")
    if len(set(sizes)) < 2:
        return unknown_drift("there are runs of only one value")
    best, halves, picked = [], [], []
    for size, (lrs, table) in zip(sizes, tables, strict=True):
        means = table.mean(1)
        if not np.isfinite(means).any():
            return unknown_drift(f"no rate trained at {size:g}")
        at = int(np.argmin(means))
        if at in (0, len(lrs) - 1):
            end = "lowest" if at == 0 else "highest"
            return unknown_drift(f"at {size:g} the best rate is the {end} that was tried")
        best.append(np.log10(lrs[at]))
        halves.append(max(np.log10(lrs[at + 1] / lrs[at]), np.log10(lrs[at] / lrs[at - 1])) / 2)
        picked.append(np.log10(lrs[np.argmin(drawn_means(table), axis=0)]))
    weights = _weights(np.log10(np.asarray(sizes, float)))
    slope = float(weights @ np.array(best))
    if len({len(p) for p in picked}) == 1:  # the same seeds are drawn at every size
        low, high = ends(weights @ np.array(picked), share)
    else:
        each = [ends(w * p, share) for w, p in zip(weights, picked, strict=True)]
        low, high = (float(sum(side)) for side in zip(*each, strict=True))
    coarse = float(np.abs(weights) @ np.array(halves))
    return Drift(round(slope, 12) + 0.0, min(slope, low) - coarse, max(slope, high) + coarse)


def _table(rates: ArrayLike, losses: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lrs, found = np.asarray(rates, float), np.asarray(losses, float)
    if found.ndim != 2 or len(found) != len(lrs):
        raise BadValueError(
            f"losses has the shape {found.shape} for {len(lrs)} rates: give (rates, seeds)"
        )
    return lrs, np.where(np.isfinite(found), found, np.inf)


def _weights(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return w with w @ y = the slope of the least squares line of y."""
    centred = logs - logs.mean()
    return np.asarray(centred / (centred @ centred))
