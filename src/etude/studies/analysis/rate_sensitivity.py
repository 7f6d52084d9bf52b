"""The sensitivity to the rate with its interval over seeds, and that of two kinds of run."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etude.studies.analysis.intervals import SHARE, Interval, drawn_means, ends
from etude.studies.measures import sensitivity


def drawn_sensitivity(losses: ArrayLike, untrained: float) -> NDArray[np.float64]:
    """Return the sensitivity of the mean losses in each draw of the seeds.

    Args:
        losses: (rates, seeds); NaN or infinite where a run diverged.
        untrained: The loss before training.

    Returns:
        (draws,); see `etude.studies.measures.sensitivity`. A draw in which no rate trained is 0:
        every rate costs the same there.
    """
    bounded = np.minimum(drawn_means(losses), untrained)
    return np.asarray(bounded.mean(0) - bounded.min(0))


def sensitivity_interval(
    losses: ArrayLike, untrained: float, *, share: float = SHARE
) -> Interval | None:
    """Return the sensitivity of the mean losses, with its interval over seeds.

    Args:
        losses: (rates, seeds); NaN or infinite where a run diverged.
        untrained: The loss before training; NaN if it is not known.
        share: The share of the interval, in (0, 1).

    Returns:
        None if the untrained loss is not known, or no rate trained at every seed.

    >>> sensitivity_interval([[1.0, 1.0], [0.5, 0.5]], untrained=2.0)
    Interval(value=0.25, low=0.25, high=0.25, seeds=2)
    """
    table = np.asarray(losses, float)
    if not table.size or not np.isfinite(untrained):
        return None
    table = np.where(np.isfinite(table), table, np.inf)
    value = sensitivity(table.mean(1), untrained)
    if not np.isfinite(value):
        return None
    low, high = ends(drawn_sensitivity(table, untrained), share)
    return Interval(value, low, high, table.shape[1])


def missed_share(losses: ArrayLike, untrained: float, *, share: float = SHARE) -> Interval | None:
    """Return what a rate of the range misses on average, as a share of the drop of the best one.

        sensitivity / (ℓ0 - ℓ*)

    It has no units, so that networks with different losses can be compared.

    Args:
        losses: (rates, seeds); NaN or infinite where a run diverged.
        untrained: ℓ0, the loss before training; NaN if it is not known.
        share: The share of the interval, in (0, 1).

    Returns:
        None if it is not known, or no rate ends below the untrained loss.

    >>> missed_share([[1.0, 1.0], [0.5, 0.5]], untrained=1.5).value
    0.25
    """
    found = sensitivity_interval(losses, untrained, share=share)
    table = np.where(np.isfinite(losses), losses, np.inf)
    if found is None or not table.mean(1).min() < untrained:
        return None
    drops = untrained - np.minimum(drawn_means(table), untrained).min(0)
    costs = drawn_sensitivity(table, untrained)
    shares = np.divide(costs, drops, out=np.ones_like(drops), where=drops > 0)
    low, high = ends(shares, share)
    return Interval(found.value / float(untrained - table.mean(1).min()), low, high, found.seeds)


def sensitivity_difference(
    first: tuple[ArrayLike, float], second: tuple[ArrayLike, float], *, share: float = SHARE
) -> Interval | None:
    """Return by how much the second kind of run is more sensitive than the first.

    Both must have been run at the same rates: the sensitivity depends on which rates were tried.
    The same draws of the seeds are used for both where they have equally many.

    Args:
        first: (rates, seeds) losses and the untrained loss.
        second: Likewise.
        share: The share of the interval, in (0, 1).

    Returns:
        None if one of them is not known.

    >>> flat, steep = [[1.0, 1.0], [1.0, 1.0]], [[1.5, 1.5], [1.0, 1.0]]
    >>> sensitivity_difference((flat, 2.0), (steep, 2.0)).value
    0.25
    """
    one = sensitivity_interval(*first, share=share)
    other = sensitivity_interval(*second, share=share)
    if one is None or other is None:
        return None
    a, b = drawn_sensitivity(*first), drawn_sensitivity(*second)
    difference = b - a if one.seeds == other.seeds else (b[:, None] - a[None, :]).ravel()
    low, high = ends(difference, share)
    return Interval(other.value - one.value, low, high, min(one.seeds, other.seeds))
