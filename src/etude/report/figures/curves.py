"""Curves for figures: finite values, smoothed, and thinned to what can be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from etude.errors import BadValueError
from etude.record import Evaluation

MOST = 1_000
"""The largest number of points of a line: more than the page has pixels across."""


@dataclass(frozen=True)
class PlottedCurve:
    """Finite values over updates.

    Attributes:
        steps: The updates, ascending.
        values: The value at each step.
        hidden: The number of values that were left out because they are NaN or infinite.
    """

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    hidden: int = 0

    def __bool__(self) -> bool:
        return bool(self.steps)


def curve(values: Sequence[float] | NDArray[np.float64], most: int = MOST) -> PlottedCurve:
    """Return a series, one value per update from update 0, as a curve of at most `most` points.

    Args:
        values: The value of each update; NaN and infinite values are left out and counted.
        most: The largest number of points, at least 4.

    >>> curve([2.0, float("nan"), 1.0])
    PlottedCurve(steps=(0, 2), values=(2.0, 1.0), hidden=1)
    """
    array = np.asarray(values, dtype=np.float64)
    steps = np.flatnonzero(np.isfinite(array))
    finite = array[steps]
    kept = thin(finite, most)
    return PlottedCurve(
        tuple(steps[kept].tolist()), tuple(finite[kept].tolist()), int(array.size - steps.size)
    )


def evaluated(evaluations: Sequence[Evaluation], what: str = "loss") -> PlottedCurve:
    """Return the validation loss, or the metric, over the updates done.

    Args:
        evaluations: The evaluations, in order.
        what: 'loss' or 'metric'.

    >>> evaluated([Evaluation(0, 2.3), Evaluation(5, 1.0)]).values
    (2.3, 1.0)
    """
    found = [(e.step, getattr(e, what)) for e in evaluations]
    known = [(step, float(value)) for step, value in found if value is not None]
    finite = [(step, value) for step, value in known if math.isfinite(value)]
    return PlottedCurve(
        tuple(step for step, _ in finite),
        tuple(value for _, value in finite),
        len(known) - len(finite),
    )


def thin(values: NDArray[np.float64], most: int = MOST) -> NDArray[np.intp]:
    """Return the indices of at most `most` values whose line looks like that of all values.

    The values are split into intervals of equal length. The lowest and the highest value of each
    are kept, and the first and last of all, so that a spike of one update remains visible.

    Args:
        values: Finite values, in order.
        most: The largest number of indices, at least 4.

    Returns:
        The indices, ascending; all of them if there are no more than `most`.

    Raises:
        BadValueError: If `most` is below 4.

    >>> thin(np.array([0.0, 1, 2, 9, 2, 1, 0, -5, 0, 1]), 6).tolist()
    [0, 3, 5, 7, 9]
    """
    if most < 4:
        raise BadValueError(f"most={most}: give at least 4, for both ends and both extremes")
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), (most - 2) // 2 + 1).astype(np.intp)
    kept = {0, len(values) - 1}
    for start, end in pairwise(edges.tolist()):
        part = values[start:end]
        kept |= {int(start + part.argmin()), int(start + part.argmax())}
    return np.array(sorted(kept), dtype=np.intp)


def window_for(length: int) -> int:
    """Return the number of updates over which a training loss is smoothed: 1/50 of the full run.

    >>> window_for(1500), window_for(20)
    (30, 1)
    """
    return max(1, length // 50)


def smooth(values: Sequence[float] | NDArray[np.float64], window: float) -> NDArray[np.float64]:
    """Return the debiased exponential mean of a series.

    m_t = b m_(t-1) + (1 - b) x_t with m_(-1) = 0 and b = 1 - 1/window; the mean is
    m_t / (1 - b^(t+1)), which corrects the weights of the first values (as in Kingma and Ba 2015,
    section 3). A NaN or infinite value leaves the mean unchanged.

    Args:
        values: The value of each update.
        window: The number of updates in the mean, at least 1; with 1 the values are returned.

    Returns:
        The mean at each update; NaN before the first finite value.

    Raises:
        BadValueError: If the window is below 1 or not finite.

    >>> smooth([4.0, 4.0, 4.0], 10).tolist()
    [4.0, 4.0, 4.0]
    """
    if not math.isfinite(window) or window < 1:
        raise BadValueError(f"window={window!r} is out of bounds: give at least 1 update")
    keep = 1 - 1 / window
    mean = weight = 0.0
    means = []
    for value in np.asarray(values, dtype=np.float64).tolist():
        if math.isfinite(value):
            # The weight is the same mean of ones, so that missing values have no weight.
            mean = keep * mean + (1 - keep) * value
            weight = keep * weight + (1 - keep)
        means.append(mean / weight if weight else math.nan)
    return np.array(means, dtype=np.float64)
