"""What a study measures of losses against rates: pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from etude.errors import BadValueError
from etude.studies.analysis.intervals import SHARE, drawn_means, ends
from etude.studies.analysis.stable import stable_range


def sensitivity(losses: ArrayLike, untrained: float) -> float:
    """Return the learning-rate sensitivity: what a rate of the range costs on average.

        mean over η of min(ℓ(η), ℓ0) - ℓ*,    ℓ* = the least ℓ(η)

    The rates should be evenly spaced in their logarithm. A run that diverged counts as ℓ0.

    Args:
        losses: (rates,) the final loss at each rate; NaN or infinite where it diverged.
        untrained: ℓ0, the loss before training.

    Returns:
        In units of the loss, at least 0; NaN if no rate gave a loss.

    Source: Wortsman et al., arXiv 2309.14322, section 2.

    >>> sensitivity([1.5, 0.5, float("inf"), 0.5], untrained=2.0)
    0.625
    """
    found = np.asarray(losses, float)
    if not np.isfinite(found).any():
        return float("nan")
    bounded = np.minimum(np.where(np.isfinite(found), found, untrained), untrained)
    return float(np.mean(bounded) - np.min(bounded))


def stable_decades(lrs: ArrayLike, losses: ArrayLike, untrained: float) -> float:
    """Return how wide the range of rates is that train, in decades.

    It is log10(highest / lowest) of the longest run of neighbouring rates whose loss is below the
    untrained one. 0 if one rate trains alone; NaN if none does.

    Args:
        lrs: (rates,) in any order.
        losses: (rates,) the final loss at each; NaN or infinite where it diverged.
        untrained: The loss before training.

    >>> stable_decades([1e-3, 1e-2, 1e-1, 1], [0.9, 0.4, 0.5, float("inf")], untrained=1.0)
    2.0
    """
    found = stable_range(lrs, losses, untrained)
    return float("nan") if found is None else found.decades


@dataclass(frozen=True)
class Optimum:
    """The best rate of a group of runs.

    Attributes:
        lr: The rate with the least mean loss over seeds.
        loss: This mean.
        low: The lower end of the interval of the best rate, over seeds.
        high: Its upper end.
        at_edge: Whether the best rate is the lowest or highest that was tried.
    """

    lr: float
    loss: float
    low: float
    high: float
    at_edge: bool


def optimum(lrs: ArrayLike, losses: ArrayLike, *, share: float = SHARE) -> Optimum | None:
    """Return the best rate, with an interval by drawing the seeds again.

    In each draw, as many seeds as there are are drawn with replacement, and the rate with the least
    mean loss is noted; the interval holds the given share of these rates. All draws are listed up
    to 5 seeds, and 2,000 random ones taken of more. With one seed it is the rate itself.

    Args:
        lrs: (rates,).
        losses: (rates, seeds) the final losses; NaN or infinite where a run diverged.
        share: The share of the interval, in (0, 1).

    Returns:
        The optimum; None if no rate has a finite loss at every seed.

    Raises:
        BadValueError: If the shapes do not fit, or the share is out of bounds.

    >>> optimum([0.1, 0.2, 0.4], [[1.0, 1.1], [0.5, 0.6], [0.7, 0.8]]).lr
    0.2
    """
    rates, found = np.asarray(lrs, float), np.asarray(losses, float)
    if found.ndim != 2 or len(found) != len(rates):
        raise BadValueError(
            f"losses has the shape {found.shape} for {len(rates)} rates: give (rates, seeds)"
        )
    order = np.argsort(rates)
    rates, found = rates[order], np.where(np.isfinite(found), found, np.inf)[order]
    means = found.mean(1)
    if not np.isfinite(means).any():
        return None
    best = int(np.argmin(means))
    low, high = ends(rates[np.argmin(drawn_means(found), axis=0)], share)
    return Optimum(float(rates[best]), float(means[best]), low, high, best in (0, len(rates) - 1))
