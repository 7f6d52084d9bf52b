"""Curves as plain numbers: what is finite, smoothed, and few enough to draw."""

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
"""Points above which a line is thinned: more than the page has pixels across."""


@dataclass(frozen=True)
class PlottedCurve:
    """Values over updates, all finite.

    Attributes:
        steps: Updates, ascending.
        values: One for each step.
        hidden: How many values were left out because they are NaN or infinite.
    """

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    hidden: int = 0

    def __bool__(self) -> bool:
        return bool(self.steps)


def curve(values: Sequence[float] | NDArray[np.float64], most: int = MOST) -> PlottedCurve:
    """Return a series, one value per update from update 0, as a curve of at most `most` points.

    Args:
        values: One for each update; NaN and Inf are left out and counted.
        most: Points to keep at most; at least 4.

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
        evaluations: In order.
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
    """Return the places of at most `most` values that look like all of them.

    The values are cut into stretches of equal length and of each the lowest and the highest is
    kept, besides the first and the last of all: a spike one update wide stays to be seen.

    Args:
        values: In order, finite.
        most: Places to return at most; at least 4.

    Returns:
        Ascending places; all of them where there are no more than `most`.

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
    """Return over how many updates a training loss is smoothed: a fiftieth of the full run.

    >>> window_for(1500), window_for(20)
    (30, 1)
    """
    return max(1, length // 50)


def smooth(values: Sequence[float] | NDArray[np.float64], window: float) -> NDArray[np.float64]:
    """Return the debiased exponential mean of a series.

    m_t = b m_(t-1) + (1 - b) x_t with m_(-1) = 0 and b = 1 - 1/window; the mean is
    m_t / (1 - b^(t+1)), so that the first values weigh what they should (Kingma and Ba 2015,
    section 3, for the same debiasing). A NaN or Inf leaves the mean where it stood.

    Args:
        values: One for each update.
        window: Updates that the mean reaches back, at least 1; 1 returns the values.

    Returns:
        One mean for each update; NaN before the first finite value.

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
            # The weight is a mean of ones, taken the same way: what is missing counts nowhere.
            mean = keep * mean + (1 - keep) * value
            weight = keep * weight + (1 - keep)
        means.append(mean / weight if weight else math.nan)
    return np.array(means, dtype=np.float64)
